"""The check that every reader makes before it reads."""

from __future__ import annotations

from dataplane.byte_reader import ByteReader
from dataplane.errors import InvalidImage


def check_range(reader: ByteReader, offset: int, length: int) -> None:
    """Raise InvalidImage unless ``length`` bytes from ``offset`` lie inside ``reader``."""
    if offset < 0 or length < 0 or offset > reader.size - length:
        raise InvalidImage(
            f"{reader.name} is cut short or damaged: {length} bytes at {offset} are outside its {reader.size} bytes"
        )
