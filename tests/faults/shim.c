/* Stands between a process and the kernel (LD_PRELOAD): counts the calls that change what a disk holds, and at the k-th
 * kills the process, tears or fails the call, or cuts the power of the file system. It also lets a test move the clock.
 *
 * Nothing happens until `fault_arm` is called; only calls on files below the armed folder count. Every one of them is
 * noted in the log, a line of its name and path, with a system call of its own so that the log survives the kill.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

/* The same numbers are in shim.py. */
enum kind { WRITE = 1, SYNC = 2, RENAME = 4, REMOVE = 8, LINK = 16, MAKE = 32, CREATE = 64, RESIZE = 128 };
enum mode { COUNT, KILL, TEAR, FAIL, FAIL_ON, SHORTEN, CUT, CUT_AFTER };

#define SHUTDOWN_NOLOGFLUSH 2u
#define IOC_SHUTDOWN _IOR('X', 125, uint32_t) /* ext4, xfs, f2fs */

static struct {
    int armed, kinds, mode, error, log, mount;
    long at;
    char folder[4096];
} plan;
static atomic_long calls;

static void cut_power(void)
{
    uint32_t flags = SHUTDOWN_NOLOGFLUSH;
    syscall(SYS_ioctl, plan.mount, IOC_SHUTDOWN, &flags);
}

/* Arms the shim in this process. `mount` is the folder whose file system CUT shuts down, or NULL. */
int fault_arm(const char *folder, int kinds, int mode, long at, int error, const char *log, const char *mount)
{
    if (strlen(folder) >= sizeof plan.folder)
        return -1;
    strcpy(plan.folder, folder);
    plan.kinds = kinds;
    plan.mode = mode;
    plan.at = at;
    plan.error = error;
    plan.log = syscall(SYS_openat, AT_FDCWD, log, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
    plan.mount = mount ? syscall(SYS_openat, AT_FDCWD, mount, O_RDONLY | O_DIRECTORY | O_CLOEXEC) : -1;
    if (plan.log < 0 || (mount && plan.mount < 0))
        return -1;
    atomic_store(&calls, 0);
    plan.armed = 1;
    return 0;
}

static void path_of(char *out, size_t size, int fd, const char *name)
{
    char link[64];
    ssize_t got = 0;
    if (!name || name[0] != '/') {
        if (fd == AT_FDCWD)
            strcpy(link, "/proc/self/cwd");
        else
            snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
        got = syscall(SYS_readlinkat, AT_FDCWD, link, out, size - 1);
        if (got < 0)
            got = 0;
    }
    out[got] = 0;
    if (name)
        snprintf(out + got, size - got, "%s%s", got ? "/" : "", name);
}

/* Returns what shall happen to a call: COUNT (let it pass), or the mode when it is this call's turn. */
static int turn(int kind, const char *what, int fd, const char *name)
{
    char path[4096], line[4224];
    if (!plan.armed || !(kind & plan.kinds))
        return COUNT;
    path_of(path, sizeof path, fd, name);
    if (strncmp(path, plan.folder, strlen(plan.folder)) != 0)
        return COUNT;
    long number = atomic_fetch_add(&calls, 1) + 1;
    int length = snprintf(line, sizeof line, "%s %s\n", what, path);
    syscall(SYS_write, plan.log, line, (size_t)length);
    /* Without power nothing becomes durable. An xfs that was shut down has been seen to say so all the same, when the
       shutdown took back what its log held of a folder. */
    if (kind == SYNC && number > plan.at && (plan.mode == CUT || plan.mode == CUT_AFTER)) {
        errno = EIO;
        return FAIL;
    }
    if (number != plan.at && !(plan.mode == FAIL_ON && number > plan.at))
        return COUNT;
    switch (plan.mode) {
    case KILL:
        syscall(SYS_kill, syscall(SYS_getpid), SIGKILL);
        pause();
        break;
    case CUT:
        cut_power();
        if (kind != SYNC)
            return COUNT;
        errno = EIO;
        return FAIL;
    case FAIL:
    case FAIL_ON:
        errno = plan.error;
        return FAIL;
    }
    return plan.mode;
}

/* What remains to be done after a call that had its turn. */
static long after(int what, long result)
{
    int error = errno;
    if (what == TEAR) {
        syscall(SYS_kill, syscall(SYS_getpid), SIGKILL);
        pause();
    }
    if (what == CUT_AFTER)
        cut_power();
    errno = error;
    return result;
}

#define PASS(kind, fd, name, call)                      \
    do {                                                \
        int what = turn(kind, __func__, fd, name);      \
        if (what == FAIL)                               \
            return -1;                                  \
        return after(what, call);                       \
    } while (0)

/* A torn or shortened write reaches half of its bytes. */
static size_t part(int what, size_t count)
{
    return (what == TEAR || what == SHORTEN) && count > 1 ? count / 2 : count;
}

ssize_t write(int fd, const void *data, size_t count)
{
    int what = turn(WRITE, __func__, fd, NULL);
    return what == FAIL ? -1 : after(what, syscall(SYS_write, fd, data, part(what, count)));
}

ssize_t pwrite(int fd, const void *data, size_t count, off_t offset)
{
    int what = turn(WRITE, __func__, fd, NULL);
    return what == FAIL ? -1 : after(what, syscall(SYS_pwrite64, fd, data, part(what, count), offset));
}

ssize_t pwrite64(int fd, const void *data, size_t count, off64_t offset) { return pwrite(fd, data, count, offset); }

ssize_t writev(int fd, const struct iovec *rows, int count)
{
    int what = turn(WRITE, __func__, fd, NULL);
    return what == FAIL ? -1 : after(what, syscall(SYS_writev, fd, rows, (int)part(what, count)));
}

ssize_t pwritev(int fd, const struct iovec *rows, int count, off_t offset)
{
    int what = turn(WRITE, __func__, fd, NULL);
    return what == FAIL ? -1 : after(what, syscall(SYS_pwritev, fd, rows, (int)part(what, count), offset, 0));
}

ssize_t pwritev64(int fd, const struct iovec *rows, int count, off64_t offset)
{
    return pwritev(fd, rows, count, offset);
}

ssize_t copy_file_range(int in, off64_t *from, int out, off64_t *to, size_t count, unsigned flags)
{
    PASS(WRITE, out, NULL, syscall(SYS_copy_file_range, in, from, out, to, count, flags));
}

ssize_t sendfile(int out, int in, off_t *offset, size_t count)
{
    PASS(WRITE, out, NULL, syscall(SYS_sendfile, out, in, offset, count));
}

int fsync(int fd) { PASS(SYNC, fd, NULL, syscall(SYS_fsync, fd)); }
int fdatasync(int fd) { PASS(SYNC, fd, NULL, syscall(SYS_fdatasync, fd)); }

int sync_file_range(int fd, off64_t offset, off64_t count, unsigned flags)
{
    PASS(SYNC, fd, NULL, syscall(SYS_sync_file_range, fd, offset, count, flags));
}

int rename(const char *from, const char *to) { PASS(RENAME, AT_FDCWD, to, syscall(SYS_rename, from, to)); }

int renameat(int from_fd, const char *from, int to_fd, const char *to)
{
    PASS(RENAME, to_fd, to, syscall(SYS_renameat, from_fd, from, to_fd, to));
}

int renameat2(int from_fd, const char *from, int to_fd, const char *to, unsigned flags)
{
    PASS(RENAME, to_fd, to, syscall(SYS_renameat2, from_fd, from, to_fd, to, flags));
}

int unlink(const char *name) { PASS(REMOVE, AT_FDCWD, name, syscall(SYS_unlink, name)); }
int rmdir(const char *name) { PASS(REMOVE, AT_FDCWD, name, syscall(SYS_rmdir, name)); }
int unlinkat(int fd, const char *name, int flags) { PASS(REMOVE, fd, name, syscall(SYS_unlinkat, fd, name, flags)); }

int link(const char *from, const char *to) { PASS(LINK, AT_FDCWD, to, syscall(SYS_link, from, to)); }
int symlink(const char *text, const char *name) { PASS(LINK, AT_FDCWD, name, syscall(SYS_symlink, text, name)); }

int linkat(int from_fd, const char *from, int to_fd, const char *to, int flags)
{
    PASS(LINK, to_fd, to, syscall(SYS_linkat, from_fd, from, to_fd, to, flags));
}

int mkdir(const char *name, mode_t mode) { PASS(MAKE, AT_FDCWD, name, syscall(SYS_mkdir, name, mode)); }
int mkdirat(int fd, const char *name, mode_t mode) { PASS(MAKE, fd, name, syscall(SYS_mkdirat, fd, name, mode)); }

int ftruncate(int fd, off_t size) { PASS(RESIZE, fd, NULL, syscall(SYS_ftruncate, fd, size)); }
int ftruncate64(int fd, off64_t size) { return ftruncate(fd, size); }
int truncate(const char *name, off_t size) { PASS(RESIZE, AT_FDCWD, name, syscall(SYS_truncate, name, size)); }

int fallocate(int fd, int mode, off_t offset, off_t count)
{
    PASS(RESIZE, fd, NULL, syscall(SYS_fallocate, fd, mode, offset, count));
}

int fallocate64(int fd, int mode, off64_t offset, off64_t count) { return fallocate(fd, mode, offset, count); }

int posix_fallocate(int fd, off_t offset, off_t count)
{
    int before = errno, result = fallocate(fd, 0, offset, count) == 0 ? 0 : errno;
    errno = before;
    return result;
}

int posix_fallocate64(int fd, off64_t offset, off64_t count) { return posix_fallocate(fd, offset, count); }

static int open_counted(int fd, const char *name, int flags, mode_t mode)
{
    /* A file that is there already is opened, not created. */
    int creates = (flags & O_CREAT) && syscall(SYS_faccessat, fd, name, F_OK) != 0;
    if (!creates)
        return syscall(SYS_openat, fd, name, flags, mode);
    int what = turn(CREATE, "open", fd, name);
    return what == FAIL ? -1 : after(what, syscall(SYS_openat, fd, name, flags, mode));
}

#define MODE(flags, last)                       \
    mode_t mode = 0;                            \
    if ((flags) & (O_CREAT | __O_TMPFILE)) {    \
        va_list more;                           \
        va_start(more, last);                   \
        mode = va_arg(more, mode_t);            \
        va_end(more);                           \
    }

int open(const char *name, int flags, ...)
{
    MODE(flags, flags)
    return open_counted(AT_FDCWD, name, flags, mode);
}

int open64(const char *name, int flags, ...)
{
    MODE(flags, flags)
    return open_counted(AT_FDCWD, name, flags, mode);
}

int openat(int fd, const char *name, int flags, ...)
{
    MODE(flags, flags)
    return open_counted(fd, name, flags, mode);
}

int openat64(int fd, const char *name, int flags, ...)
{
    MODE(flags, flags)
    return open_counted(fd, name, flags, mode);
}

/* ------------------------------------------------------------------------------------------------ the clock */

/* Nanoseconds to add to the time of day: 8 bytes of the file named by FAULT_CLOCK, which a test may rewrite. */
static volatile int64_t *clock_offset;

__attribute__((constructor)) static void map_clock(void)
{
    const char *name = getenv("FAULT_CLOCK");
    int fd = name ? syscall(SYS_openat, AT_FDCWD, name, O_RDONLY | O_CLOEXEC) : -1;
    void *map = fd >= 0 ? mmap(NULL, sizeof(int64_t), PROT_READ, MAP_SHARED, fd, 0) : MAP_FAILED;
    if (name && map == MAP_FAILED)
        _exit(125);
    if (name)
        clock_offset = map;
}

int clock_gettime(clockid_t clock, struct timespec *now)
{
    int result = syscall(SYS_clock_gettime, clock, now);
    if (result == 0 && clock_offset && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE)) {
        int64_t moved = (int64_t)now->tv_sec * 1000000000 + now->tv_nsec + *clock_offset;
        now->tv_sec = moved / 1000000000;
        now->tv_nsec = moved % 1000000000;
    }
    return result;
}

int gettimeofday(struct timeval *now, void *zone)
{
    struct timespec exact;
    (void)zone;
    int result = clock_gettime(CLOCK_REALTIME, &exact);
    now->tv_sec = exact.tv_sec;
    now->tv_usec = exact.tv_nsec / 1000;
    return result;
}

time_t time(time_t *out)
{
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    if (out)
        *out = now.tv_sec;
    return now.tv_sec;
}
