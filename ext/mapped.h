/* Reading a file where it lies in the page cache, without a copy. A page that cannot be had, because the file was cut
 * short or the disk failed, would end the process with SIGBUS: here zeros take its place, and a flag says so. */
#pragma once
#include <signal.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>
#include "mapping.h"

enum {
    DP_STRETCH = 64 << 20,
    DP_LARGE_PAGE = 2 << 20,
    DP_GIVE_BACK = 4 << 20, /* the most that stays in the process: giving pages back interrupts the other processors */
};

/* What this thread reads just now. The model keeps the handler from having to allocate it. */
static __thread dp_mapping *volatile dp_mapped_now __attribute__((tls_model("initial-exec")));
static struct sigaction dp_before;
static size_t dp_page_size;

static void dp_on_bus(int signal, siginfo_t *info, void *context)
{
    dp_mapping *mapping = dp_mapped_now;
    uint8_t *at = info->si_addr;
    (void)signal, (void)context;
    if (mapping != NULL && at >= mapping->from && at < mapping->to) {
        uint8_t *page = (uint8_t *)((uintptr_t)at & ~(uintptr_t)(dp_page_size - 1));
        size_t rest = (size_t)(mapping->to - page);
        if (mmap(page, rest, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) != MAP_FAILED) {
            mapping->hurt = 1;
            return;
        }
    }
    sigaction(SIGBUS, &dp_before, NULL); /* not ours: whoever was there before meets it as soon as we return */
}

/* Take SIGBUS, once; what others do with it goes on. Called with the GIL. */
static inline void dp_mapping_begin(void)
{
    struct sigaction action = {.sa_sigaction = dp_on_bus, .sa_flags = SA_SIGINFO | SA_ONSTACK};
    if (dp_page_size != 0)
        return;
    dp_page_size = (size_t)sysconf(_SC_PAGESIZE);
    sigemptyset(&action.sa_mask);
    sigaction(SIGBUS, &action, &dp_before);
}

static inline int dp_is_cached(int fd, int64_t offset)
{
    uint8_t byte;
    struct iovec one = {&byte, 1};
    return preadv2(fd, &one, 1, (off_t)offset, RWF_NOWAIT) == 1;
}

/* Let go of the stretch. */
static inline void dp_unmap(dp_mapping *mapping)
{
    if (mapping->start != NULL)
        munmap(mapping->start, mapping->length);
    mapping->start = NULL;
}

/* Have a stretch of the file of `fd` mapped that holds `length` bytes at `offset`; return whether there is one. A number
 * of a file descriptor may stand for another file than the last time, so files are known by what fstat says. */
static inline int dp_have_stretch(dp_mapping *mapping, int fd, int64_t offset, size_t length)
{
    struct stat file;
    size_t skipped = (size_t)offset & (DP_LARGE_PAGE - 1);
    void *start;
    if (fstat(fd, &file) != 0)
        return 0;
    if (mapping->start != NULL && mapping->inode == file.st_ino && mapping->device == file.st_dev
        && mapping->special == file.st_rdev && offset >= mapping->offset
        && (uint64_t)(offset - mapping->offset) + length <= mapping->length)
        return 1;
    dp_unmap(mapping);
    mapping->length = skipped + length > DP_STRETCH ? skipped + length : DP_STRETCH;
    mapping->offset = offset - (int64_t)skipped;
    start = mmap(NULL, mapping->length, PROT_READ, MAP_SHARED, fd, (off_t)mapping->offset);
    if (start == MAP_FAILED)
        return 0;
    mapping->start = start;
    mapping->inode = file.st_ino;
    mapping->device = file.st_dev;
    mapping->special = file.st_rdev;
    mapping->looked_at = 0;
    return 1;
}

/* Return `length` bytes of a file at `offset`, until dp_let_go, or NULL when they are not all in the page cache as far
 * as their ends tell, or cannot be mapped safely: a disk is read ahead for those that read, and not for those that map. */
static inline const uint8_t *dp_look_at(dp_mapping *mapping, int fd, int64_t offset, size_t length)
{
    struct sigaction now;
    if (!dp_is_cached(fd, offset) || !dp_is_cached(fd, offset + (int64_t)length - 1))
        return NULL;
    if (sigaction(SIGBUS, NULL, &now) != 0 || now.sa_sigaction != dp_on_bus)
        return NULL;
    if (!dp_have_stretch(mapping, fd, offset, length))
        return NULL;
    mapping->from = mapping->start + (offset - mapping->offset);
    mapping->to = mapping->from + length;
    mapping->looked_at += length;
    mapping->hurt = 0;
    dp_mapped_now = mapping;
    return mapping->from;
}

/* End the look that dp_look_at began; return whether all of it could be read. */
static inline int dp_let_go(dp_mapping *mapping)
{
    dp_mapped_now = NULL;
    if (mapping->hurt) { /* zeros lie where the file was */
        dp_unmap(mapping);
        return 0;
    }
    if (mapping->looked_at >= DP_GIVE_BACK) {
        madvise(mapping->start, mapping->length, MADV_DONTNEED);
        mapping->looked_at = 0;
    }
    return 1;
}

/* Return the processor seconds of this thread. */
static inline double dp_thread_seconds(void)
{
    struct timespec spent;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &spent);
    return (double)spent.tv_sec + (double)spent.tv_nsec * 1e-9;
}
