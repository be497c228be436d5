"""A file system of its own in a file, whose power can be cut: what was not synced is gone when it is mounted again."""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import shutil
import struct
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Self

FILE_SYSTEMS = {
    # Name: (size of the image, mkfs). xfs refuses to be smaller; the image is sparse.
    "ext4": (64 << 20, ("mkfs.ext4", "-q", "-F", "-b", "4096")),
    "xfs": (300 << 20, ("mkfs.xfs", "-q", "-f")),
}
IOC_SHUTDOWN = 0x8004587D
SHUTDOWN_NOLOGFLUSH = 2
CLONE_FS, CLONE_NEWNS, MS_REC, MS_PRIVATE = 0x00000200, 0x00020000, 1 << 14, 1 << 18


class LibC:
    """System calls that Python does not have; they raise OSError."""

    def __init__(self) -> None:
        self._library = ctypes.CDLL(None, use_errno=True)

    def __getattr__(self, name: str) -> Callable[..., None]:
        function = getattr(self._library, name)

        def call(*arguments: object) -> None:
            if function(*arguments) != 0:
                number = ctypes.get_errno()
                raise OSError(number, f"{name}{arguments}: {os.strerror(number)}")

        return call


LIBC = LibC()


@contextmanager
def private_mounts() -> Iterator[None]:
    """Let this thread, and what it starts, mount in a namespace of their own. Needs root.

    Any process that makes itself a namespace, as sandboxes do all the time, copies the mounts it sees, and such a copy
    keeps a file system that was shut down from going away: mounting the disk again would give it back as it was.
    """
    with open("/proc/thread-self/ns/mnt", "rb") as before:
        LIBC.unshare(CLONE_NEWNS)
        try:
            LIBC.mount(None, b"/", None, MS_REC | MS_PRIVATE, None)
            yield
        finally:
            LIBC.unshare(CLONE_FS)  # setns refuses a thread that shares it with one that was started meanwhile
            LIBC.setns(before.fileno(), CLONE_NEWNS)


def memory_folder(otherwise: Path) -> Path:
    """Return where files are quick: nothing that these disks show needs the file below them to be on one."""
    return Path("/dev/shm") if Path("/dev/shm").is_dir() else otherwise


class CutDisk:
    """An ext4 or xfs in a file below `folder`, on a loop device. Needs root; a context manager."""

    def __init__(self, folder: Path, kind: str) -> None:
        size, mkfs = FILE_SYSTEMS[kind]
        self._kind = kind
        self.mount_point = folder / kind
        self.mount_point.mkdir(parents=True)
        image = folder / f"{kind}.img"
        with open(image, "wb") as file:
            file.truncate(size)
        run(*mkfs, image)
        self._device = run("losetup", "--find", "--show", image).strip()
        try:
            self.mount()
        except BaseException:
            run("losetup", "--detach", self._device)
            raise

    def mount(self) -> None:
        """Mount it; the file system replays its journal."""
        LIBC.mount(self._device.encode(), bytes(self.mount_point), self._kind.encode(), 0, None)

    def unmount(self) -> None:
        """Unmount it, and forget what the kernel has kept of the device."""
        LIBC.umount2(bytes(self.mount_point), 0)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self.unmount()
        finally:
            run("losetup", "--detach", self._device)

    def cut(self) -> None:
        """Shut the file system down at once, without writing out its log; a second time does nothing."""
        try:
            fd = os.open(self.mount_point, os.O_RDONLY | os.O_DIRECTORY)
        except OSError as error:
            if error.errno == errno.EIO:  # an xfs that is down
                return
            raise
        try:
            fcntl.ioctl(fd, IOC_SHUTDOWN, struct.pack("I", SHUTDOWN_NOLOGFLUSH))
        finally:
            os.close(fd)

    def restart(self) -> None:
        """Cut the power if that has not happened yet, and come up again."""
        self.cut()
        self.unmount()
        self.mount()
        probe = self.mount_point / "probe"
        probe.touch()  # fails where the file system that is down was mounted again, because somebody held it
        probe.unlink()

    def fill(self, source: Path, name: str) -> None:
        """Make everything on the disk a copy of folder `source`, called `name`, durably."""
        for path in self.mount_point.iterdir():
            if path.name != "lost+found":
                shutil.rmtree(path) if path.is_dir() else path.unlink()
        shutil.copytree(source, self.mount_point / name)
        fd = os.open(self.mount_point, os.O_RDONLY | os.O_DIRECTORY)
        try:
            LIBC.syncfs(fd)
        finally:
            os.close(fd)


def run(*command: object) -> str:
    """Run a system command that has to succeed, and return what it printed."""
    environment = {**os.environ, "PATH": f"{os.environ['PATH']}:/usr/sbin:/sbin"}
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, f"{' '.join(map(str, command))}: {done.stderr}"
    return done.stdout


def why_not(kind: str) -> str | None:
    """Return why no such disk can be had here, None when it can."""
    if os.geteuid() != 0:
        return "only root may mount a loop device"
    if not Path("/dev/loop-control").exists():
        return "this machine has no loop devices"
    if kind not in Path("/proc/filesystems").read_text():
        return f"this kernel has no {kind}"
    mkfs = FILE_SYSTEMS[kind][1][0]
    if shutil.which(mkfs, path=f"{os.environ['PATH']}:/usr/sbin:/sbin") is None:
        return f"{mkfs} is not installed: run make setup"
    return None
