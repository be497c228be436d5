/* Reading a file where it lies in the page cache, without a copy. A page that cannot be had, because the file was cut
 * short or the disk failed, would end the process with SIGBUS: here zeros take its place, and a flag says so. */
#pragma once
#include <signal.h>
#include <stdint.h>
#include <stddef.h>
#include <sys/mman.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

typedef struct {
    uint8_t *start;
    size_t length;
    volatile sig_atomic_t hurt;
} dp_mapping;

/* What this thread reads just now. The model keeps the handler from having to allocate it. */
static __thread dp_mapping *volatile dp_mapped_now __attribute__((tls_model("initial-exec")));
static struct sigaction dp_before;
static size_t dp_page_size;

static void dp_on_bus(int signal, siginfo_t *info, void *context)
{
    dp_mapping *mapping = dp_mapped_now;
    uint8_t *at = info->si_addr;
    (void)signal, (void)context;
    if (mapping != NULL && at >= mapping->start && at < mapping->start + mapping->length) {
        uint8_t *page = (uint8_t *)((uintptr_t)at & ~(uintptr_t)(dp_page_size - 1));
        size_t rest = (size_t)(mapping->start + mapping->length - page);
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

/* Return `length` bytes of a file at `offset`, or NULL when they are not all in the page cache as far as their ends
 * tell, or cannot be mapped safely: a disk is read ahead for those that read, and not for those that map. */
static inline const uint8_t *dp_map(dp_mapping *mapping, int fd, int64_t offset, size_t length)
{
    struct sigaction now;
    size_t shift = (size_t)offset & (dp_page_size - 1);
    void *start;
    if (!dp_is_cached(fd, offset) || !dp_is_cached(fd, offset + (int64_t)length - 1))
        return NULL;
    if (sigaction(SIGBUS, NULL, &now) != 0 || now.sa_sigaction != dp_on_bus)
        return NULL;
    start = mmap(NULL, shift + length, PROT_READ, MAP_SHARED | MAP_POPULATE, fd, (off_t)(offset - (int64_t)shift));
    if (start == MAP_FAILED)
        return NULL;
    mapping->start = start;
    mapping->length = shift + length;
    mapping->hurt = 0;
    dp_mapped_now = mapping;
    return mapping->start + shift;
}

/* Let go of a mapping; return whether all of it could be read. */
static inline int dp_unmap(dp_mapping *mapping)
{
    dp_mapped_now = NULL;
    munmap(mapping->start, mapping->length);
    return !mapping->hurt;
}

/* Return the processor seconds of this thread. */
static inline double dp_thread_seconds(void)
{
    struct timespec spent;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &spent);
    return (double)spent.tv_sec + (double)spent.tv_nsec * 1e-9;
}
