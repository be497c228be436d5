"""Sizes as people write and read them: K, M, G and T are powers of 1024."""

from __future__ import annotations

from argparse import ArgumentTypeError

UNITS = {"": 0, "K": 10, "M": 20, "G": 30, "T": 40}
DIGITS_MAX = 20


def parse_size(text: str) -> int:
    """Return the bytes that ``64K``, ``4M``, ``512`` … name; raises ArgumentTypeError for anything else."""
    number = text.strip().upper().removesuffix("B").removesuffix("I")
    unit = number[-1:] if number[-1:] in UNITS else ""
    digits = number.removesuffix(unit) if unit else number
    if not digits.isascii() or not digits.isdigit() or len(digits) > DIGITS_MAX:
        raise ArgumentTypeError(f"{text!r} is not a size: write a number of bytes, or one with K, M, G or T")
    return int(digits) << UNITS[unit]


def human_size(size: float) -> str:
    """Return a size of at most five characters and its unit: ``1.50 GiB``."""
    for unit in ("B", "KiB", "MiB", "GiB", "TiB"):
        if size < 1024 or unit == "TiB":
            break
        size /= 1024
    return f"{size:.0f} {unit}" if unit == "B" else f"{size:.2f} {unit}"


def both_ways(size: int) -> str:
    """Return a size for people and for copying: ``1.50 GiB (1610612736)``."""
    return f"{human_size(size)} ({size})" if size >= 1024 else f"{size} B"
