"""Changes to valid inputs that are more likely than noise to reach what lies behind the first checks."""

from __future__ import annotations

import random

NUMBERS = [0, 1, 0x7F, 0xFF, 1 << 31, (1 << 32) - 1, 1 << 62, (1 << 63) - 1, (1 << 64) - 1]
HEAD_SIZE = 256
"""Bytes at the beginning of a piece among which most of its fields are."""


def mutant(draw: random.Random, seed: bytes, piece_size: int | None = None) -> bytes:
    """Return ``seed`` with a few numbers, bits and lengths changed, more often near its beginning.

    An input made of pieces of ``piece_size`` bytes is more often changed near the beginning of each.
    """
    made = bytearray(seed)
    for _ in range(draw.randrange(1, 5)):
        if not made:
            break
        at = _place(draw, len(made), piece_size)
        how = draw.randrange(4 if piece_size is None else 12) % 5
        if how == 0:
            made[at] ^= 1 << draw.randrange(8)
        elif how == 1:
            width, order = draw.choice([1, 2, 4, 8]), draw.choice(["big", "little"])
            made[at : at + width] = (draw.choice(NUMBERS) % (1 << 8 * width)).to_bytes(width, order)  # type: ignore[arg-type]
        elif how == 2:
            made[at : at + 8] = draw.randbytes(8)
        elif how == 3:
            del made[draw.choice([at, len(made) - 1]) :]
        else:
            made[at] = draw.randrange(8)
    return bytes(made)


def _place(draw: random.Random, size: int, piece_size: int | None) -> int:
    if piece_size is None or draw.random() < 0.2:
        return draw.randrange(min(size, draw.choice([128, 1024, 8192, size])))
    return min(size - 1, draw.randrange(-(-size // piece_size)) * piece_size + draw.randrange(HEAD_SIZE))
