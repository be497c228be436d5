"""Content-defined chunks of whole disks, cut byte by byte in plain Python."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass

from tests.oracles.fold import digest_64

MASK = 0xFFFFFFFF
WINDOW = 32
QUIET = 64
BLOCK = 4096
GRID = 16384
GAP = 4 * BLOCK


def gear(byte: int) -> int:
    """Return the number that stands for a byte: 24 bits of splitmix64, and the byte itself moved on in the low ones."""
    state = (byte + 0x9E3779B97F4A7C15) & (1 << 64) - 1
    state = (state ^ state >> 30) * 0xBF58476D1CE4E5B9 & (1 << 64) - 1
    state = (state ^ state >> 27) * 0x94D049BB133111EB & (1 << 64) - 1
    state ^= state >> 31
    return state >> 32 & 0xFFFFFF00 | (byte + 0x63) & 0xFF


GEAR = [gear(byte) for byte in range(256)]


def places(data: bytes, context: int = 0) -> list[tuple[int, int]]:
    """Return (place, bits) of all places behind the first `context` bytes; zeros are in front of `data`."""
    found = []
    value, last = 0, -1000
    for byte in bytes(WINDOW):
        value = (value << 1) + GEAR[byte] & MASK
    for at, byte in enumerate(data):
        value = (value << 1) + GEAR[byte] & MASK
        if value & 0x3FF == 0:
            if at - last > QUIET and at >= context:
                found.append((at + 1, min(24, 10 + 32 - value.bit_length())))
            last = at
    return found


@dataclass(frozen=True, slots=True)
class Piece:
    """Bytes of a disk; `bits` of the place at its end, or None for a gap."""

    start: int
    end: int
    bits: int | None
    digest: int


def pieces(disk: bytes) -> list[Piece]:
    """Cut a whole disk into pieces, gaps among them; zeros at its end are left out."""
    disk = disk.ljust(-(-len(disk) // BLOCK) * BLOCK, b"\0")
    found: list[Piece] = []
    at = 0
    for start, end in gaps(disk):
        found += cut(disk, at, start)
        found.append(Piece(start, end, None, end - start))
        at = end
    last = len(disk)
    while last > at and not any(disk[last - BLOCK : last]):
        last -= BLOCK
    return (found + cut(disk, at, last)) if last > at else found[:-1]


def gaps(disk: bytes) -> list[tuple[int, int]]:
    """Return the runs of four or more zero blocks."""
    found = []
    start = None
    for at in range(0, len(disk) + BLOCK, BLOCK):
        zero = at < len(disk) and not any(disk[at : at + BLOCK])
        if zero and start is None:
            start = at
        elif not zero and start is not None:
            if at - start >= GAP:
                found.append((start, at))
            start = None
    return found


def cut(disk: bytes, start: int, stop: int) -> list[Piece]:
    """Cut the bytes between gaps."""
    before = max(0, start - 200)  # enough to know the hash and places too near
    ends = {before + place: bits for place, bits in places(disk[before:stop]) if before + place > start}
    ends.setdefault(stop, 0)
    found = []
    at = start
    for end in sorted(ends):
        grid = -(-(at + GRID) // GRID) * GRID
        while grid < end:
            found.append(Piece(at, grid, 0, digest_64(disk[at:grid])))
            at, grid = grid, grid + GRID
        if end > at:
            found.append(Piece(at, end, ends[end], digest_64(disk[at:end])))
        at = end
    return found


def chunks(disk: Sequence[Piece], average: int) -> list[tuple[int, int, int]]:
    """Return (offset, length, digest) of the chunks of a disk, of which the pieces are given."""
    bits, least, most = average.bit_length() - 1, average // 4, average * 8
    gap_min = max(least, GAP)
    found: list[tuple[int, int, int]] = []
    held: list[Piece] = []

    def end_chunk() -> None:
        if held:
            digest = digest_64(struct.pack(f"={len(held)}Q", *(piece.digest for piece in held)))
            found.append((held[0].start, held[-1].end - held[0].start, digest))
            held.clear()

    for piece in disk:
        if piece.bits is None and piece.end - piece.start >= gap_min:
            end_chunk()
            continue
        if held and piece.end - held[0].start > most:
            end_chunk()
        held.append(piece)
        size = piece.end - held[0].start
        wanted = bits + 2 if size < average else bits - 2
        if piece.bits is not None and size >= least and piece.bits >= wanted:
            end_chunk()
    end_chunk()
    return found
