"""Sizes as people write and read them: K, M, G and T are powers of 1024."""

from __future__ import annotations

from dataplane.cli.verb_parser import bad_value

UNITS = {"": 0, "K": 10, "M": 20, "G": 30, "T": 40}
DURATIONS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
DIGITS_MAX = 20


def parse_size(text: str) -> int:
    """Return the bytes that ``64K``, ``4M``, ``512`` … name; raises ArgumentTypeError for anything else."""
    number = text.strip().upper().removesuffix("B").removesuffix("I")
    unit = number[-1:] if number[-1:] in UNITS else ""
    digits = number.removesuffix(unit) if unit else number
    if not digits.isascii() or not digits.isdigit() or len(digits) > DIGITS_MAX:
        raise bad_value(f"{text!r} is not a size: write a number of bytes, or one with K, M, G or T")
    return int(digits) << UNITS[unit]


def parse_share(text: str) -> float:
    """Return the share that ``5%`` or ``0.05`` names, above 0 and at most 1; raises ArgumentTypeError otherwise."""
    try:
        share = float(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
    except ValueError:
        share = 0.0
    if 0 < share <= 1:
        return share
    raise bad_value(f"{text!r} is not a share: write a percentage above 0% and at most 100%")


def parse_duration(text: str) -> float:
    """Return the seconds that ``90``, ``90s``, ``10m``, ``1h`` or ``7d`` name; raises ArgumentTypeError otherwise."""
    number, unit = (text[:-1], text[-1]) if text[-1:] in DURATIONS else (text, "s")
    if number.isascii() and number.isdigit() and len(number) <= DIGITS_MAX:
        return float(int(number) * DURATIONS[unit])
    raise bad_value(f"{text!r} is not a duration: write a number with s, m, h or d")


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
