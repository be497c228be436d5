#pragma once
#include <signal.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

/* A stretch of a file, mapped once and looked at piece by piece. Mapping each piece by itself would make two threads wait
 * for one lock of their address space, and pieces that do not begin where a large page does are mapped by small ones. */
typedef struct {
    uint8_t *start;   /* NULL when nothing is mapped */
    size_t length;
    int64_t offset;   /* of the stretch in its file */
    dev_t device, special;
    ino_t inode;
    size_t looked_at; /* bytes since pages were last given back */
    uint8_t *from, *to; /* what is being read just now */
    volatile sig_atomic_t hurt;
} dp_mapping;
