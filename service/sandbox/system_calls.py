"""The system calls that a worker may make; libseccomp, through ctypes, turns the list into a filter of the kernel.

What is not listed fails with ENOSYS, so that the C library falls back to older calls; programs, other kinds of sockets
and listening fail with EPERM. Addresses cannot be told apart here: the kernel shows a filter numbers, not what a
pointer points to. Which addresses are read from is decided in `dataplane.readers`, and by the machine's network.
"""

from __future__ import annotations

import ctypes
import errno
import os
import socket
import termios
from collections.abc import Sequence
from dataclasses import dataclass

LIBRARY = "libseccomp.so.2"

_ALLOWED = """
    read write readv writev pread64 pwrite64 preadv pwritev preadv2 pwritev2 close close_range lseek _llseek
    open openat openat2 stat fstat lstat newfstatat stat64 fstat64 lstat64 fstatat64 statx statfs fstatfs
    statfs64 fstatfs64 access faccessat faccessat2 getcwd chdir fchdir readlink readlinkat getdents getdents64
    umask mkdir mkdirat rmdir unlink unlinkat rename renameat renameat2 link linkat chmod fchmod fchmodat
    fchmodat2 utime utimes utimensat futimesat truncate ftruncate truncate64 ftruncate64 fallocate fadvise64
    fadvise64_64 fsync fdatasync sync_file_range syncfs copy_file_range sendfile sendfile64 splice flock fcntl
    fcntl64 dup dup2 dup3 pipe pipe2 eventfd eventfd2 mmap mmap2 munmap mprotect mremap madvise brk msync
    mincore membarrier mlock munlock futex futex_time64 futex_waitv set_robust_list get_robust_list rseq
    set_tid_address gettid getpid getppid exit exit_group sched_yield sched_getaffinity sched_getparam
    sched_getscheduler getcpu rt_sigaction rt_sigprocmask rt_sigreturn rt_sigpending rt_sigtimedwait sigaltstack
    sigreturn restart_syscall nanosleep clock_nanosleep clock_gettime clock_getres gettimeofday time times
    clock_nanosleep_time64 clock_gettime64 clock_getres_time64 setitimer getitimer alarm getuid getgid geteuid
    getegid getuid32 getgid32 geteuid32 getegid32 getgroups getresuid getresgid getrlimit ugetrlimit prlimit64
    getrusage sysinfo uname getrandom arch_prctl getpgrp getsid poll ppoll select pselect6 _newselect
    ppoll_time64 pselect6_time64 epoll_create epoll_create1 epoll_ctl epoll_wait epoll_pwait epoll_pwait2
    connect getpeername getsockname getsockopt setsockopt recvfrom recvmsg recvmmsg sendto sendmsg sendmmsg
    shutdown recv send
"""

_REFUSED = """
    execve execveat bind listen accept accept4 socketpair ptrace process_vm_readv process_vm_writev pidfd_open
    pidfd_getfd pidfd_send_signal mount umount2 unshare setns chroot pivot_root bpf perf_event_open userfaultfd
    keyctl add_key request_key io_uring_setup init_module finit_module kexec_load fork vfork setuid setgid
    setresuid setresgid mknod mknodat symlink symlinkat chown fchown lchown fchownat
"""

_EQUAL, _MASKED_EQUAL = 4, 7
_ALLOW = 0x7FFF0000
_ERRNO = 0x00050000
_OPTIMIZE, _TSYNC = 8, 4
_CLONE_THREAD = 0x00010000
_SOCKET_KIND_MASK = 0xF
_FIOCLEX, _FIONCLEX, _FIONBIO, _FIONREAD = 0x5451, 0x5450, 0x5421, 0x541B
_BLKGETSIZE64 = 0x80081272
_IOCTLS = (_FIOCLEX, _FIONCLEX, _FIONBIO, _FIONREAD, _BLKGETSIZE64, termios.TCGETS, termios.TIOCGWINSZ)
_PR_SET_NAME, _PR_GET_NAME, _PR_GET_DUMPABLE, _PR_CAPBSET_READ = 15, 16, 3, 23
_FAMILIES = (socket.AF_INET, socket.AF_INET6)
_KINDS = (socket.SOCK_STREAM, socket.SOCK_DGRAM)  # datagrams: the resolver


class _Comparison(ctypes.Structure):
    _fields_ = (
        ("argument", ctypes.c_uint),
        ("operator", ctypes.c_int),
        ("a", ctypes.c_uint64),
        ("b", ctypes.c_uint64),
    )


@dataclass(frozen=True, slots=True)
class _Rule:
    """An action for one call, when its arguments compare as given."""

    action: int
    call: str
    comparisons: Sequence[_Comparison] = ()


def available() -> bool:
    """Say whether libseccomp is installed."""
    try:
        ctypes.CDLL(LIBRARY)
    except OSError:
        return False
    return True


def restrict(*, unix_sockets: bool = False) -> None:
    """Filter the system calls of this process from now on; needs no_new_privs.

    `unix_sockets` lets it connect to those of this machine, such as the one by which a disk's owner is asked. Raises
    OSError when there is no libseccomp, or the kernel takes no filters.
    """
    library = _library()
    families = (*_FAMILIES, socket.AF_UNIX) if unix_sockets else _FAMILIES
    context = library.seccomp_init(_ERRNO | errno.ENOSYS)
    if not context:
        raise OSError("libseccomp makes no filter")
    try:
        _check(library.seccomp_attr_set(context, _TSYNC, 1))
        library.seccomp_attr_set(context, _OPTIMIZE, 2)  # a tree instead of a list, where the library can
        for rule in _rules(families):
            number = library.seccomp_syscall_resolve_name(rule.call.encode())
            if number < 0:  # a call of another architecture, or newer than the library
                continue
            comparisons = (_Comparison * max(1, len(rule.comparisons)))(*rule.comparisons)
            count = len(rule.comparisons)
            _check(library.seccomp_rule_add_array(context, rule.action, number, count, comparisons))
        _check(library.seccomp_load(context))
    finally:
        library.seccomp_release(context)


def _rules(families: Sequence[int]) -> list[_Rule]:
    own = os.getpid()
    rules = [_Rule(_ALLOW, call) for call in _ALLOWED.split()]
    rules += [_Rule(_ERRNO | errno.EPERM, call) for call in _REFUSED.split()]
    rules += [_Rule(_ALLOW, "ioctl", [_Comparison(1, _EQUAL, request, 0)]) for request in _IOCTLS]
    rules += [
        _Rule(_ALLOW, "prctl", [_Comparison(0, _EQUAL, option, 0)])
        for option in (_PR_SET_NAME, _PR_GET_NAME, _PR_GET_DUMPABLE, _PR_CAPBSET_READ)
    ]
    rules += [
        _Rule(_ALLOW, "socket", [_Comparison(0, _EQUAL, family, 0), _Comparison(1, _MASKED_EQUAL, 0xF, kind)])
        for family in families
        for kind in (_KINDS if family in _FAMILIES else _KINDS[:1])
    ]
    # Threads, not processes. clone3 hides its flags behind a pointer; its ENOSYS sends the C library to clone.
    rules.append(_Rule(_ALLOW, "clone", [_Comparison(0, _MASKED_EQUAL, _CLONE_THREAD, _CLONE_THREAD)]))
    rules += [_Rule(_ALLOW, call, [_Comparison(0, _EQUAL, own, 0)]) for call in ("kill", "tgkill")]
    return rules


def _library() -> ctypes.CDLL:
    try:
        library = ctypes.CDLL(LIBRARY)
    except OSError as error:
        raise OSError(f"{LIBRARY} is missing: install libseccomp2") from error
    library.seccomp_init.restype = ctypes.c_void_p
    library.seccomp_init.argtypes = [ctypes.c_uint32]
    library.seccomp_attr_set.argtypes = [ctypes.c_void_p, ctypes.c_int, ctypes.c_uint32]
    library.seccomp_syscall_resolve_name.argtypes = [ctypes.c_char_p]
    library.seccomp_rule_add_array.argtypes = [
        ctypes.c_void_p,
        ctypes.c_uint32,
        ctypes.c_int,
        ctypes.c_uint,
        ctypes.POINTER(_Comparison),
    ]
    library.seccomp_load.argtypes = [ctypes.c_void_p]
    library.seccomp_release.argtypes = [ctypes.c_void_p]
    return library


def _check(result: int) -> None:
    if result < 0:
        raise OSError(-result, f"libseccomp: {os.strerror(-result)}")
