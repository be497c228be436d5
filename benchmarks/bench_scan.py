"""The scan kernel in cache, beside the packages that do the same and beside copying."""

from __future__ import annotations

import mmap
import os

import blake3
import pytest
import xxhash

from benchmarks.beside import Beside
from dataplane.engine import scan
from dataplane.limits import KIB

PIECE = 256 * KIB  # stays in a second-level cache
CHUNK = 64 * KIB
TURNS = 2000
SIZE = TURNS * PIECE
KEY = bytes(range(32))


def aligned(content: bytes) -> mmap.mmap:
    """Return writable memory that starts on a page, as the buffer of a window starts on a cache line."""
    room = mmap.mmap(-1, len(content))
    room[:] = content
    return room


def repeat_scan(data: mmap.mmap, key: bytes | None) -> None:
    digests, states = bytearray((16 if key is None else 32) * (PIECE // CHUNK)), bytearray(PIECE // CHUNK)
    for _ in range(TURNS):
        scan.scan_chunks(data, CHUNK, digests, states, key)


def copy(data: mmap.mmap) -> None:
    target = memoryview(aligned(bytes(PIECE)))
    for _ in range(TURNS):
        target[:] = data


def package_xxh3(data: mmap.mmap) -> None:
    pieces = [memoryview(data)[at : at + CHUNK] for at in range(0, PIECE, CHUNK)]
    for _ in range(TURNS):
        for piece in pieces:
            xxhash.xxh3_128_digest(piece)


def package_blake3(data: mmap.mmap) -> None:
    pieces = [memoryview(data)[at : at + CHUNK] for at in range(0, PIECE, CHUNK)]
    for _ in range(TURNS // 8):
        for piece in pieces:
            blake3.blake3(piece, key=KEY).digest()


@pytest.mark.parametrize("variant", scan.variants())
def test_scan_xxh3(beside: Beside, variant: str) -> None:
    data = aligned(os.urandom(PIECE))
    chosen = scan.chosen_variant()
    scan.choose_variant(variant)
    beside(lambda: repeat_scan(data, None), lambda: package_xxh3(data), named="the xxhash package", size=SIZE)
    scan.choose_variant(chosen)


def test_scan_xxh3_beside_copying(beside: Beside) -> None:
    data = aligned(os.urandom(PIECE))
    beside(lambda: repeat_scan(data, None), lambda: copy(data), named="memcpy", size=SIZE)


@pytest.mark.parametrize("variant", scan.variants())
def test_scan_zeros(beside: Beside, variant: str) -> None:
    data = aligned(bytes(PIECE))
    chosen = scan.chosen_variant()
    scan.choose_variant(variant)
    beside(lambda: repeat_scan(data, None), lambda: copy(data), named="memcpy", size=SIZE)
    scan.choose_variant(chosen)


def test_scan_blake3(beside: Beside) -> None:
    data = aligned(os.urandom(PIECE))

    def subject() -> None:
        digests, states = bytearray(32 * (PIECE // CHUNK)), bytearray(PIECE // CHUNK)
        for _ in range(TURNS // 8):
            scan.scan_chunks(data, CHUNK, digests, states, KEY)

    beside(subject, lambda: package_blake3(data), named="the blake3 package", size=SIZE // 8)
