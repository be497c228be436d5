"""make demo-boot: an image boots over NBD, is written to, and becomes an image that a second machine boots from."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks import boot

NOTE = "hello-from-the-first-machine"


def main() -> int:
    """Show it; return the exit code."""
    missing = boot.missing_tools()
    if missing:
        print(f"demo-boot: not installed: {', '.join(missing)}: run make setup", file=sys.stderr)
        return 1
    with tempfile.TemporaryDirectory(prefix="dataplane-boot-") as folder:
        found = show(Path(folder))
    print(f"\nthe second machine said: {found}")
    return 0 if found == f"FOUND {NOTE}" else 1


def show(folder: Path) -> str:
    """Go the whole way in `folder`; return what the second machine has to say of what the first wrote."""
    kernel, initrd = boot.corpus_kernel(), boot.build_initrd(folder / "initrd")
    disk, store, socket = boot.build_disk(folder / "disk.raw"), folder / "store", folder / "nbd.sock"
    dataplane("init", store)
    dataplane("import", store, disk, "--name", "system", "--progress", "none")
    with serving(store, "system", folder / "first", socket):
        say(f"{timed(kernel, initrd, socket, f'write={NOTE}')}")
    dataplane("snapshot", store, folder / "first", "--name", "configured", "--progress", "none")
    with serving(store, "configured", folder / "second", socket):
        told = timed(kernel, initrd, socket, "read")
        say(told)
    dataplane("ls", store)
    return next((line.strip() for line in told.splitlines() if "FOUND" in line), told)[-len(NOTE) - 6 :]


def timed(kernel: Path, initrd: Path, socket: Path, word: str) -> str:
    """Boot a machine, and return what it said and how long that took."""
    started = time.monotonic()
    told = boot.boot(kernel, initrd, f"nbd+unix:///?socket={socket}", word)
    lines = [line for line in told.splitlines() if "WROTE" in line or "FOUND" in line or "Power down" in line]
    return "\n".join([*lines, f"({time.monotonic() - started:.0f} s, emulated)"])


@contextmanager
def serving(store: Path, image: str, overlay: Path, socket: Path) -> Iterator[None]:
    """Serve a disk made of an image."""
    words = ["nbd", store, image, "--overlay", overlay, "--socket", socket]
    say(f"$ dataplane {' '.join(map(str, words))}")
    command = [sys.executable, "-m", "dataplane", *map(str, words)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    try:
        assert process.stdout is not None
        say(process.stdout.readline().strip())
        yield
    finally:
        process.terminate()
        process.wait()


def dataplane(*words: object) -> None:
    """Run a command and show it."""
    say(f"$ dataplane {' '.join(map(str, words))}")
    subprocess.run([sys.executable, "-m", "dataplane", *map(str, words)], check=True)


def say(text: str) -> None:
    """Show a line."""
    print(text, flush=True)


if __name__ == "__main__":
    sys.exit(main())
