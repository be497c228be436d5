"""VHDX for a fuzzer: a file as the few pages of it that are not zero, and its checksums put right after a change.

Every VHDX has MiBs of zeros between a few pages, and whatever changes a header or region table without its CRC-32C is
refused before anything else is looked at.
"""

from __future__ import annotations

import functools
import struct
import tempfile
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from unittest import mock

from dataplane.formats import vhdx_header
from dataplane.formats.crc32c import crc32c
from tests.formats import vhdx_writer as writer

PAGE_SIZE = 4096
PIECE_SIZE = 2 + PAGE_SIZE
"""Bytes of an input for one page: its number and its content."""
IMAGE_SIZE_MAX = 16 << 20
PAGES_MAX = IMAGE_SIZE_MAX // PAGE_SIZE

KIB = 1 << 10
SEALED = [(64 * KIB, 4 * KIB, b"head"), (128 * KIB, 4 * KIB, b"head")] + [
    (at, 64 * KIB, b"regi") for at in (192 * KIB, 256 * KIB)
]
"""Offset, size and signature of what has a checksum."""

cached_crc32c = functools.lru_cache(maxsize=64)(crc32c)


def remembering_sums() -> AbstractContextManager[object]:
    """Let the parser's own checksums be remembered too: most mutants leave most tables alone."""
    return mock.patch.object(vhdx_header, "crc32c", cached_crc32c)


def file_of_pages(content: bytes) -> bytes:
    """Return the file that the pieces of an input make."""
    pages = [
        (struct.unpack_from("<H", content, at)[0] % PAGES_MAX, content[at + 2 : at + PIECE_SIZE])
        for at in range(0, len(content) - PIECE_SIZE + 1, PIECE_SIZE)
    ]
    file = bytearray(PAGE_SIZE * (1 + max((number for number, _ in pages), default=0)))
    for number, page in pages:
        file[number * PAGE_SIZE : (number + 1) * PAGE_SIZE] = page
    return bytes(file)


def pages_of(image: bytes) -> bytes:
    """Return the input that makes ``image``: its pages that are not zero, each behind its number."""
    numbers = range(-(-len(image) // PAGE_SIZE))
    pages = [(number, image[number * PAGE_SIZE : (number + 1) * PAGE_SIZE]) for number in numbers]
    # The last page is there whatever it holds, because it gives the file its length.
    kept = [(number, page) for number, page in pages if any(page) or number == numbers[-1]]
    return b"".join(struct.pack("<H", number) + page.ljust(PAGE_SIZE, b"\0") for number, page in kept)


def sealed(file: bytes) -> bytes:
    """Return ``file`` with the right checksum in each header and region table that has its signature."""
    made = bytearray(file)
    for at, size, signature in SEALED:
        table = file[at : at + size]
        if len(table) == size and table.startswith(signature):
            total = cached_crc32c(table[:4] + bytes(4) + table[8:])
            made[at + 4 : at + 8] = total.to_bytes(4, "little")
    return bytes(made)


def own_images() -> Iterator[bytes]:
    """Yield images that qemu-img does not make: every state of a block, optional items, blocks out of order."""

    def block(content: bytes) -> bytes:
        return content.ljust(1 << 20, b"\0")  # pages of zeros take no room in an input

    states: dict[int, bytes | int] = {1: writer.ZERO, 2: writer.UNDEFINED, 3: writer.UNMAPPED | 7 << 20}
    images = [
        writer.Vhdx(7 << 20, {6: block(b"y"), 0: block(b"x"), 5: writer.DRAFT_UNMAPPED, **states}),
        writer.Vhdx(3 << 20, {0: block(b"a")}, sector_size=4096, headers=(writer.header(1), bytes(4096))),
        writer.Vhdx(
            (1 << 20) + 512,
            {1: block(b"end")},
            more_items=[(writer.IDENTIFIER[:-1] + "7", b"anything", 1), (writer.DISK_SIZE, b"mine", 1)],
        ),
    ]
    with tempfile.TemporaryDirectory() as folder:
        for image in images:
            yield image.write(Path(folder) / "disk").read_bytes()
