"""Small disks for tests: seeded, with holes, zeros, duplicates, text-like and random data."""

from __future__ import annotations

import random
import subprocess
from pathlib import Path

KIB = 1 << 10
MIB = 1 << 20


def disk_bytes(size: int, seed: int = 1, block: int = 16 * KIB) -> bytes:
    """Return a disk of `size` bytes: about a third zeros, and the rest random, compressible or repeated blocks."""
    rnd = random.Random(seed)
    repeated = rnd.randbytes(block)
    parts = []
    for _ in range(-(-size // block)):
        kind = rnd.randrange(6)
        if kind < 2:
            parts.append(bytes(block))
        elif kind == 2:
            parts.append(repeated)
        elif kind == 3:
            parts.append((b"%06d " % rnd.randrange(10**6) * (block // 7 + 1))[:block])
        elif kind == 4:
            parts.append(bytes(block - 1) + b"\x01")
        else:
            parts.append(rnd.randbytes(block))
    return b"".join(parts)[:size]


def write_sparse(path: Path, data: bytes, block: int = 4 * KIB) -> Path:
    """Write `data` with a hole wherever a whole block is zero."""
    zero = bytes(block)
    with open(path, "wb") as file:
        for at in range(0, len(data), block):
            piece = data[at : at + block]
            if piece != zero[: len(piece)]:
                file.seek(at)
                file.write(piece)
        file.truncate(len(data))
    return path


def convert(source: Path, target: Path, *options: str) -> Path:
    """Convert a raw disk with qemu-img; `options` come before the file names."""
    subprocess.run(["qemu-img", "convert", "-f", "raw", *options, str(source), str(target)], check=True)
    return target
