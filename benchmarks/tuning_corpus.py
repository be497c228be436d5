"""Six disks for docs/tuning.md: two versions each of a system, of a database and of compressed media.

``python -m benchmarks.tuning_corpus`` builds them once in ``.corpus/`` and prints their paths. Equal for equal
machines: the system disk holds the machine's own files.
"""

from __future__ import annotations

import random
import zlib
from collections.abc import Callable
from pathlib import Path

from benchmarks.inputs import MIB, corpus_changed, corpus_disk, kept, key

DISK_SIZE = 256 * MIB
PAGE_SIZE = 8192
ROW_SIZE = 100


def corpus() -> list[Path]:
    """Return the six disks, building those that are missing."""
    system = corpus_disk(512 * MIB, fill=0.4, seed=3)
    return [
        system,
        corpus_changed(system, seed=4),
        named("database-1", lambda path: database(path, updates=0)),
        named("database-2", lambda path: database(path, updates=1500)),
        named("media-1", lambda path: media(path, range(60))),
        named("media-2", lambda path: media(path, [*range(5, 60), *range(100, 112)])),
    ]


def named(name: str, build: Callable[[Path], Path]) -> Path:
    """Return a disk of the corpus."""
    return kept(f"tuning-{name}-{key(DISK_SIZE, PAGE_SIZE)}.raw", build)


def database(path: Path, updates: int) -> Path:
    """Write pages of 8 KiB with rows of text and counters, two thirds of the disk; then rewrite some pages in place."""
    chance = random.Random(1)
    count = DISK_SIZE // PAGE_SIZE * 2 // 3
    with path.open("wb") as file:
        for number in range(count):
            file.write(page(number, 0, chance.random()))
        for _ in range(updates):
            number = chance.randrange(count)
            file.seek(number * PAGE_SIZE)
            file.write(page(number, 1, chance.random()))
        file.truncate(DISK_SIZE)
    return path


def page(number: int, version: int, filled: float) -> bytes:
    """Return one page: a header with its number and version, rows, and zeros behind them."""
    chance = random.Random(number << 8 | version)
    rows = [
        b"%08d|%012x|%-60s|" % (number * 80 + row, chance.getrandbits(48), b"customer %d" % chance.randrange(5000))
        for row in range(int(filled * (PAGE_SIZE - 64) / ROW_SIZE))
    ]
    head = number.to_bytes(8, "little") + version.to_bytes(8, "little")
    return (head + bytes(48) + b"".join(rows)).ljust(PAGE_SIZE, b"\0")[:PAGE_SIZE]


def media(path: Path, files: range | list[int]) -> Path:
    """Write files that do not compress, of one to six megabytes, each on a multiple of 4 KiB."""
    with path.open("wb") as file:
        for number in files:
            chance = random.Random(number)
            content = zlib.compress(chance.randbytes(chance.randrange(MIB, 6 * MIB)), 1)
            if file.tell() + len(content) > DISK_SIZE:
                break
            file.write(content)
            file.seek(-(-file.tell() // 4096) * 4096)
        file.truncate(DISK_SIZE)
    return path


if __name__ == "__main__":
    print(*corpus(), sep="\n")
