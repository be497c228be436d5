"""A small machine that boots from a disk over NBD: Debian's kernel and busybox, emulated in software by qemu."""

from __future__ import annotations

import os
import re
import shutil
import stat
import subprocess
import tempfile
from pathlib import Path

from benchmarks.inputs import CORPUS

KERNEL_PACKAGE = "linux-image-cloud-amd64"
"""Of Debian's kernels the one with NVMe and ext4 built in: the initial RAM disk needs no modules."""

BUSYBOX = Path("/bin/busybox")
DISK_SIZE = 64 << 20
BOOT_S = 900
"""How long a boot may take: software emulation on a machine that does other things too."""

DISK_INIT = """#!/bin/busybox sh
busybox mount -t proc proc /proc
for word in $(busybox cat /proc/cmdline); do
    case $word in
        write=*) busybox echo "${word#write=}" > /note; busybox sync; busybox echo "WROTE ${word#write=}" ;;
        read) busybox echo "FOUND $(busybox cat /note)" ;;
    esac
done
busybox mount -o remount,ro /
busybox poweroff -f
"""

INITRD_INIT = """#!/busybox sh
/busybox mount -t devtmpfs dev /dev
/busybox mount -t ext4 /dev/nvme0n1 /root && exec /busybox switch_root /root /sbin/init
/busybox echo "NO DISK"
/busybox poweroff -f
"""

TOOLS = ("qemu-system-x86_64", "cpio", "mke2fs", "dpkg-deb", "apt-get")


def missing_tools() -> list[str]:
    """Return what has to be installed before anything boots."""
    path = f"{os.environ['PATH']}:/usr/sbin:/sbin"
    missing = [tool for tool in TOOLS if shutil.which(tool, path=path) is None]
    return missing if BUSYBOX.exists() else [*missing, "busybox-static"]


def corpus_kernel() -> Path:
    """Return Debian's kernel, taken out of its package once: nothing is installed, and no boot loader is touched."""
    kernel = CORPUS / "boot" / "vmlinuz"
    if kernel.exists():
        return kernel
    kernel.parent.mkdir(parents=True, exist_ok=True)
    told = run("apt-cache", "depends", KERNEL_PACKAGE).stdout
    found = re.search(r"Depends: (linux-image-\S+-cloud-amd64)\b", told)
    assert found, f"{KERNEL_PACKAGE} names no kernel: {told}"
    with tempfile.TemporaryDirectory(dir=kernel.parent) as work:
        run("apt-get", "-q", "download", found[1], cwd=work)
        (package,) = Path(work).glob("*.deb")
        run("dpkg-deb", "-x", package, f"{work}/tree")
        (taken,) = Path(work, "tree", "boot").glob("vmlinuz-*")
        taken.rename(kernel)
    return kernel


def build_initrd(path: Path) -> Path:
    """Make an initial RAM disk of busybox and nothing else, which goes on from the disk."""
    with tempfile.TemporaryDirectory(dir=path.parent) as work:
        for folder in ("dev", "root"):
            Path(work, folder).mkdir()
        shutil.copy(BUSYBOX, Path(work, "busybox"))
        write_program(Path(work, "init"), INITRD_INIT)
        names = "\n".join(str(found.relative_to(work)) for found in sorted(Path(work).rglob("*")))
        packed = subprocess.run(
            ["cpio", "--quiet", "-o", "-H", "newc"], input=names.encode(), capture_output=True, cwd=work, check=True
        )
        path.write_bytes(packed.stdout)
    return path


def build_disk(path: Path) -> Path:
    """Make a raw disk with ext4 and a system on it that does what the kernel's command line says, and powers off."""
    with tempfile.TemporaryDirectory(dir=path.parent) as work:
        for folder in ("bin", "sbin", "proc", "dev"):
            Path(work, folder).mkdir()
        shutil.copy(BUSYBOX, Path(work, "bin", "busybox"))
        write_program(Path(work, "sbin", "init"), DISK_INIT)
        run("mke2fs", "-q", "-F", "-t", "ext4", "-d", work, path, str(DISK_SIZE >> 10))
    return path


def boot(kernel: Path, initrd: Path, url: str, *words: str) -> str:
    """Boot from an NBD URL with words for the system on the disk; return what it says once it has powered off."""
    done = run(
        *("qemu-system-x86_64", "-accel", "tcg", "-machine", "q35", "-cpu", "max", "-m", "256", "-nographic"),
        *("-no-reboot", "-nodefaults", "-serial", "stdio", "-kernel", kernel, "-initrd", initrd),
        *("-append", " ".join(["console=ttyS0 quiet panic=-1", *words])),
        *("-drive", f"if=none,id=disk,format=raw,discard=unmap,file={url}", "-device", "nvme,serial=1,drive=disk"),
    )
    return done.stdout


def write_program(path: Path, text: str) -> None:
    """Write an executable file."""
    path.write_text(text)
    path.chmod(path.stat().st_mode | stat.S_IXUSR | stat.S_IXGRP | stat.S_IXOTH)


def run(*command: object, cwd: str | None = None) -> subprocess.CompletedProcess[str]:
    """Run a command that has to succeed."""
    words = [str(word) for word in command]
    environment = {**os.environ, "PATH": f"{os.environ['PATH']}:/usr/sbin:/sbin"}
    done = subprocess.run(
        words, capture_output=True, text=True, errors="replace", cwd=cwd, env=environment, timeout=BOOT_S, check=False
    )
    assert done.returncode == 0, f"{' '.join(words)}: {done.stdout[-2000:]}{done.stderr[-2000:]}"
    return done
