"""Images laid over one another, sector by sector."""

from __future__ import annotations

from collections.abc import Sequence

from dataplane.extent import ExtentKind
from dataplane.image_source import ImageSource
from tests.oracles.extents import checked_extents, read_all

SECTOR = 512


def read_layers(layers: Sequence[ImageSource]) -> bytes:
    """Return the disk that ``layers``, the topmost first, make together."""
    size = layers[0].virtual_size
    shown: list[bytes | None] = [None] * (size // SECTOR)
    for layer in layers:
        content = read_all(layer)
        mapped = bytearray(len(content) // SECTOR)
        for extent in checked_extents(layer):
            if extent.kind != ExtentKind.HOLE:
                start, end = extent.offset // SECTOR, (extent.offset + extent.length) // SECTOR
                mapped[start:end] = b"\1" * (end - start)
        for sector, held in enumerate(shown):
            if held is None and sector >= len(mapped):
                shown[sector] = bytes(SECTOR)  # a short image reads as zeros behind its end
            elif held is None and mapped[sector]:
                shown[sector] = content[sector * SECTOR : (sector + 1) * SECTOR]
    return b"".join(held or bytes(SECTOR) for held in shown)
