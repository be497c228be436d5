"""A file system of its own in a file, whose power can be cut: what was not synced is gone when it is mounted again."""

from __future__ import annotations

import errno
import fcntl
import gc
import os
import shutil
import struct
import subprocess
import time
from pathlib import Path

FILE_SYSTEMS = {
    # Name: (size of the image, mkfs). xfs refuses to be smaller; the image is sparse.
    "ext4": (64 << 20, ("mkfs.ext4", "-q", "-F", "-b", "4096")),
    "xfs": (300 << 20, ("mkfs.xfs", "-q", "-f")),
}
IOC_SHUTDOWN = 0x8004587D
SHUTDOWN_NOLOGFLUSH = 2
TRIES = 100


class CutDisk:
    """An ext4 or xfs in a loop-mounted file below `folder`. Needs root."""

    def __init__(self, folder: Path, kind: str) -> None:
        size, mkfs = FILE_SYSTEMS[kind]
        self._image = folder / f"{kind}.img"
        self.mount_point = folder / kind
        self.mount_point.mkdir(parents=True)
        with open(self._image, "wb") as file:
            file.truncate(size)
        run(*mkfs, self._image)
        self.mount()

    def mount(self) -> None:
        """Mount it; the file system replays its journal."""
        run("mount", "-o", "loop", self._image, self.mount_point)

    def unmount(self) -> None:
        """Unmount it."""
        gc.collect()  # stores that this process has looked at may still be mapped
        run("umount", self.mount_point)

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
        """Cut the power if that has not happened yet, and come up again.

        A process elsewhere that has just copied our mounts into a namespace of its own keeps the file system that is
        down from going away; what is mounted then is that one again.
        """
        self.cut()
        for _ in range(TRIES):
            self.unmount()
            self.mount()
            if self._is_up():
                return
            time.sleep(1.0)
        raise AssertionError(f"{self.mount_point} stays down: something holds it")

    def _is_up(self) -> bool:
        probe = self.mount_point / "probe"
        try:
            probe.touch()
            probe.unlink()
        except OSError:
            return False
        return True

    def fill(self, source: Path) -> None:
        """Make everything on the disk a copy of folder `source`, durably."""
        for path in self.mount_point.iterdir():
            if path.name != "lost+found":
                shutil.rmtree(path) if path.is_dir() else path.unlink()
        shutil.copytree(source, self.mount_point / source.name)
        run("sync", "-f", self.mount_point)


def run(*command: object) -> None:
    """Run a system command that has to succeed."""
    environment = {**os.environ, "PATH": f"{os.environ['PATH']}:/usr/sbin:/sbin"}
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, f"{' '.join(map(str, command))}: {done.stderr}"


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
