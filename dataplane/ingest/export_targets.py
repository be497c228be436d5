"""Where an export goes: a file that appears whole or not at all, or a block device that is written over."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import secrets
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from dataplane.dataclass import dataclass
from dataplane.engine.blockio import punch_hole
from dataplane.errors import AlreadyExists, DataplaneError, IoFailed, UsageError
from dataplane.limits import GIB
from dataplane.store.layout import naming, sync_folder

BLKZEROOUT = 0x127F
ZERO_STEP = GIB
"""Bytes of a device that one call zeroes at most: a call cannot be interrupted."""

DEVICE_ALIGNMENT = 4096
NO_PUNCHING = frozenset({errno.EOPNOTSUPP, errno.ENOTTY, errno.EINVAL, errno.ENOSYS, errno.EPERM})
NO_ANONYMOUS = frozenset({errno.EOPNOTSUPP, errno.EISDIR, errno.ENOENT, errno.EINVAL})
DESCRIPTORS = "/proc/self/fd"


@dataclass(frozen=True, slots=True)
class OpenTarget:
    """A target being written. `path` is its final name, for messages; `reopen` opens the same bytes again."""

    fd: int
    path: Path
    reopen: Path
    is_device: bool


def check_target(path: Path, *, force: bool) -> None:
    """Raise UsageError or AlreadyExists unless `path` may be written."""
    if path.is_block_device():
        if not force:
            raise AlreadyExists(f"{path} is a block device: use --force to write over what it holds")
    elif path.exists():
        if not path.is_file():
            raise UsageError(
                f"{path} is not a regular file or block device: export to one, or to - for standard output"
            )
        if not force:
            raise AlreadyExists(f"{path} exists: use --force to replace it")
    elif not path.parent.is_dir():
        raise UsageError(f"the folder {path.parent} does not exist: create it first")


# ---------------------------------------------------------------------------------------------------- files
@contextmanager
def new_file(path: Path, *, force: bool, sync: bool) -> Iterator[OpenTarget]:
    """Give a new file that becomes `path` when all went well, durably with `sync`, and goes otherwise.

    Where the file system can, it has no name until then, so that even a killed process leaves nothing. Elsewhere a
    killed process leaves `.NAME.….partial` beside `path`. Raises AlreadyExists when, without `force`, something has
    taken the name meanwhile.
    """
    partial = partial_path(path)
    with naming(path, "creating"):
        fd, named = open_new(partial)
    try:
        yield OpenTarget(fd, path, partial if named else Path(DESCRIPTORS, str(fd)), is_device=False)
        if sync:
            with naming(path, "syncing"):
                os.fsync(fd)
        with naming(path, "naming"):
            if named:
                partial.rename(path)
                named = False
            else:
                give_name(fd, path, partial, force=force)
        if sync:
            sync_folder(path.parent)
    finally:
        os.close(fd)
        if named:
            with contextlib.suppress(OSError):
                partial.unlink()


def give_name(fd: int, path: Path, partial: Path, *, force: bool) -> None:
    """Give a file without a name the name `path`. With `force` a file of that name is replaced, by way of `partial`."""
    try:
        link(fd, path)
        return
    except FileExistsError as error:
        if not force:
            raise AlreadyExists(f"{path} has appeared meanwhile: use --force to replace it") from error
    link(fd, partial)
    try:
        partial.rename(path)
    except OSError:
        partial.unlink()
        raise


def link(fd: int, path: Path) -> None:
    """Give an open file a name that is free."""
    descriptors = os.open(DESCRIPTORS, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        # Only with a folder's descriptor does Python follow the link that stands for ours.
        os.link(str(fd), path, src_dir_fd=descriptors, follow_symlinks=True)
    finally:
        os.close(descriptors)


def partial_path(path: Path) -> Path:
    """Return a name beside `path` that nobody takes for it and that fits a folder entry."""
    start = os.fsdecode(os.fsencode(path.name)[:200])
    return path.with_name(f".{start}.{secrets.token_hex(4)}.partial")


def open_new(partial: Path) -> tuple[int, bool]:
    """Return a descriptor of a new file in the folder of `partial`, and whether it bears that name or none yet."""
    if os.path.isdir(DESCRIPTORS):  # through which it gets its name
        try:
            return os.open(partial.parent, os.O_RDWR | os.O_TMPFILE | os.O_CLOEXEC, 0o644), False
        except OSError as error:
            if error.errno not in NO_ANONYMOUS:
                raise
    return os.open(partial, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644), True


# ---------------------------------------------------------------------------------------------------- devices
@contextmanager
def opened_device(path: Path, size: int) -> Iterator[OpenTarget]:
    """Give a block device of at least `size` bytes that nobody else has mounted or claimed; it is fsynced at last.

    Raises UsageError when it is too small, in use or not writable. What goes wrong later says that it is partly
    written.
    """
    try:
        fd = os.open(path, os.O_RDWR | os.O_EXCL | os.O_CLOEXEC)
    except OSError as error:
        if error.errno == errno.EBUSY:
            raise UsageError(f"{path} is in use: unmount it, or detach what uses it") from error
        raise UsageError(f"{path} cannot be opened for writing: {error.strerror}") from error
    try:
        held = os.lseek(fd, 0, os.SEEK_END)
        if held < size:
            raise UsageError(f"{path} has {held} bytes, the image {size}: use a larger device")
        try:
            yield OpenTarget(fd, path, path, is_device=True)
            with naming(path, "syncing"):
                os.fsync(fd)
        except DataplaneError as error:
            raise type(error)(f"{error}; {path} is partly written") from error
        except BaseException as error:
            error.add_note(f"{path} is partly written")
            raise
    finally:
        os.close(fd)


def zeroing(fd: int, path: Path, *, sparse: bool, stopped: Callable[[], bool]) -> Callable[[int, int], None]:
    """Return what makes bytes [start, stop) of a device read as zeros, freeing them with `sparse` where it can."""

    def zero(start: int, stop: int) -> None:
        first = min(stop, -(-start // DEVICE_ALIGNMENT) * DEVICE_ALIGNMENT)
        last = max(first, stop // DEVICE_ALIGNMENT * DEVICE_ALIGNMENT)
        with naming(path, "zeroing"):
            for piece_start, piece_stop in ((start, first), (last, stop)):
                pwrite_all(fd, bytes(piece_stop - piece_start), piece_start)
            while first < last and not stopped():
                step = min(last - first, ZERO_STEP)
                if not (sparse and punched(fd, first, step)):
                    fcntl.ioctl(fd, BLKZEROOUT, struct.pack("=QQ", first, step))
                first += step

    return zero


def punched(fd: int, start: int, length: int) -> bool:
    """Free a range of a device so that it reads as zeros; False when the device cannot promise that."""
    try:
        punch_hole(fd, start, length)
    except OSError as error:
        if error.errno in NO_PUNCHING:
            return False
        raise
    return True


def pwrite_all(fd: int, data: bytes, offset: int) -> None:
    """Write all of `data` at `offset`."""
    view = memoryview(data)
    while view:
        count = os.pwrite(fd, view, offset)
        view, offset = view[count:], offset + count


def drop_cached(target: OpenTarget) -> None:
    """Make what is read next come from the disk: what was written is made durable, and forgotten by the page cache."""
    with naming(target.path, "syncing"):
        os.fsync(target.fd)
    with contextlib.suppress(OSError, IoFailed):
        os.posix_fadvise(target.fd, 0, 0, os.POSIX_FADV_DONTNEED)
