"""FileReader: the bytes of a local regular file or block device."""

from __future__ import annotations

import contextlib
import errno
import os
import stat

from dataplane.byte_reader import ByteReader
from dataplane.engine import blockio
from dataplane.errors import SourceUnavailable
from dataplane.readers.checks import check_range

_REFUSED_KINDS = {
    stat.S_IFDIR: "a directory",
    stat.S_IFIFO: "a FIFO",
    stat.S_IFCHR: "a character device",
    stat.S_IFSOCK: "a socket",
}

_STAT_BLOCK_SIZE = 512
"""Of what ``st_blocks`` counts, whatever the file system's blocks are; stat(2)."""

_OPEN_ADVICE = {
    errno.ENOENT: "does not exist",
    errno.ENOTDIR: "does not exist: a part of the path is not a directory",
    errno.EACCES: "is not readable for this user: permission denied",
    errno.EPERM: "is not readable for this user: operation not permitted",
    errno.ELOOP: "goes through too many symbolic links",
}


class FileReader(ByteReader):
    """A local regular file or block device, opened for reading only. Safe to use from several threads at once."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        """Open ``path``; raises SourceUnavailable when it is missing, forbidden or no file or block device."""
        self.name = printable(os.fspath(path))
        self._fd = -1
        self._fd = _open(path, self.name)
        try:
            self._opened = os.fstat(self._fd)
            # A FIFO or device may have taken the place of the file that was looked at before opening.
            _check_kind(self._opened.st_mode, self.name)
            os.set_blocking(self._fd, True)
            # Seeking to the end gives the size of block devices too, where st_size is 0.
            self.size = os.lseek(self._fd, 0, os.SEEK_END)
            allocated = self._opened.st_blocks * _STAT_BLOCK_SIZE
            self.has_holes = stat.S_ISREG(self._opened.st_mode) and allocated < self.size
        except OSError as error:
            self.close()
            raise unreadable(self.name, error) from error
        except SourceUnavailable:
            self.close()
            raise
        with contextlib.suppress(OSError):  # advice only: some file systems have none to take
            os.posix_fadvise(self._fd, 0, 0, os.POSIX_FADV_SEQUENTIAL)

    def fileno(self) -> int | None:
        """Return the descriptor, valid until ``close``."""
        return self._fd

    def read_at(self, offset: int, length: int) -> bytes:
        """Return exactly ``length`` bytes from ``offset``.

        Raises InvalidImage when the range is not wholly inside the file, SourceUnavailable when reading fails or the
        file has become shorter since it was opened.
        """
        check_range(self, offset, length)
        pieces = []
        while length > 0:
            try:
                piece = os.pread(self._fd, length, offset)
            except OSError as error:
                raise unreadable(self.name, error) from error
            if not piece:
                raise SourceUnavailable(
                    f"{self.name} has become shorter while it was read; try again when it is at rest"
                )
            pieces.append(piece)
            offset += len(piece)
            length -= len(piece)
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def data_ranges(self, offset: int, end: int, limit: int) -> memoryview:
        """Return up to ``limit`` allocated ranges in ``[offset, end)`` as the file system reports them.

        A device or file system without a map of holes yields the whole range. Raises SourceUnavailable when the map
        cannot be read.
        """
        try:
            return blockio.data_ranges(self._fd, offset, end, limit)
        except OSError as error:
            raise unreadable(self.name, error) from error

    def version(self) -> str | None:
        """Return what tells this state of a regular file from others; None for a device, which anyone may write to."""
        if not stat.S_ISREG(self._opened.st_mode):
            return None
        opened = self._opened
        # The time of the inode's change, unlike that of the content's, is nobody's to set.
        return f"file {opened.st_dev} {' '.join(map(str, _identity(opened)))} {opened.st_ctime_ns}"

    def check_unchanged(self) -> None:
        """Raise SourceUnavailable when a regular file's size, modification time or inode have changed."""
        if not stat.S_ISREG(self._opened.st_mode):
            return
        try:
            now = os.fstat(self._fd)
        except OSError as error:
            raise unreadable(self.name, error) from error
        if _identity(now) != _identity(self._opened):
            raise SourceUnavailable(f"{self.name} has changed while it was read; try again when it is at rest")

    def close(self) -> None:
        """Close the descriptor; a second call does nothing."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)


def unreadable(name: str, error: OSError) -> SourceUnavailable:
    """Return the error that says in words that the operating system could not read ``name``."""
    code = errno.errorcode.get(error.errno or 0, "no errno")
    return SourceUnavailable(f"{name} cannot be read: {error.strerror or error} ({code})")


def printable(text: str) -> str:
    """Return ``text`` fit for one line of a message: control characters and undecodable bytes are escaped."""
    return text if text.isprintable() else text.encode("unicode_escape").decode("ascii")


def _open(path: str | os.PathLike[str], name: str) -> int:
    try:
        # Looked at first, because merely opening some character devices has effects.
        _check_kind(os.stat(path).st_mode, name)
        # O_NONBLOCK so that a FIFO that takes the file's place meanwhile cannot hold us here.
        return os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)
    except ValueError as error:  # a null byte in the path
        raise SourceUnavailable(f"{name} is not a path") from error
    except OSError as error:
        advice = _OPEN_ADVICE.get(error.errno or 0)
        raise (SourceUnavailable(f"{name} {advice}") if advice else unreadable(name, error)) from error


def _check_kind(mode: int, name: str) -> None:
    if not (stat.S_ISREG(mode) or stat.S_ISBLK(mode)):
        kind = _REFUSED_KINDS.get(stat.S_IFMT(mode), "of an unknown kind")
        raise SourceUnavailable(f"{name} is {kind}; give a regular file or a block device")


def _identity(status: os.stat_result) -> tuple[int, int, int]:
    return status.st_size, status.st_mtime_ns, status.st_ino
