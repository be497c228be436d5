"""Tables of image formats decoded entry by entry, and rows made into one list that covers a disk."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from dataplane.extent import Extent, ExtentCodec, ExtentKind


class Fault(Exception):
    """A table breaks the rules; the argument is the place of the disk."""


class Clusters(NamedTuple):
    """What a qcow2 header tells of its clusters."""

    bits: int
    virtual_size: int
    data_size: int
    allows_zero: bool = True
    extended: bool = False
    external: bool = False


def covering(rows: Iterable[Extent], end: int) -> list[Extent]:
    """Return ``rows`` with holes between them and behind them, neighbours merged, up to ``end``."""
    made: list[Extent] = []
    position = 0
    for row in rows:
        if row.offset > position:
            made.append(Extent(position, row.offset - position, ExtentKind.HOLE))
        made.append(row)
        position = row.offset + row.length
    if position < end:
        made.append(Extent(position, end - position, ExtentKind.HOLE))
    return merged(made)


def merged(rows: Iterable[Extent]) -> list[Extent]:
    """Return ``rows`` without gaps with those joined that continue each other."""
    made: list[Extent] = []
    for row in rows:
        last = made[-1] if made else None
        if last and last.kind == row.kind and (row.kind != ExtentKind.DATA or follows(last, row)):
            length, stored = last.length + row.length, last.source_length + row.source_length
            made[-1] = last._replace(length=length, source_length=stored)
        else:
            made.append(row)
    return made


def follows(left: Extent, right: Extent) -> bool:
    same = left.codec == right.codec == ExtentCodec.RAW and left.reader == right.reader
    return same and left.source_offset + left.source_length == right.source_offset


def data(offset: int, length: int, place: int, reader: int = 0) -> Extent:
    return Extent(offset, length, ExtentKind.DATA, 0, reader, place, length)


def zero(offset: int, length: int) -> Extent:
    return Extent(offset, length, ExtentKind.ZERO)


def in_sectors(rows: Iterable[Extent]) -> Iterator[Extent]:
    """Yield rows of one sector each."""
    for row in rows:
        for skipped in range(0, row.length, 512):
            at = row.offset + skipped
            if row.kind != ExtentKind.DATA:
                yield Extent(at, 512, row.kind)
            elif row.codec == ExtentCodec.RAW:
                yield data(at, 512, row.source_offset + skipped, row.reader)
            else:
                yield row._replace(offset=at, length=512, decoded_offset=row.decoded_offset + skipped)


def laid_over(upper: list[Extent], lower: list[Extent]) -> list[Extent]:
    """Return what a disk shows of two layers, in sectors."""
    pairs = zip(in_sectors(upper), in_sectors(lower), strict=True)
    return [below if above.kind == ExtentKind.HOLE else above for above, below in pairs]


def clusters(table: bytes, guest: int, told: Clusters) -> Iterator[Extent]:
    """Yield the rows of an L2 table whose first cluster lies at ``guest``; raises Fault."""
    size, step = 1 << told.bits, 16 if told.extended else 8
    for at in range(0, len(table), step):
        if guest >= told.virtual_size:
            return
        (entry,) = struct.unpack_from(">Q", table, at)
        zeros, allocated = struct.unpack_from(">II", table, at + 8) if told.extended else (0, 0)
        yield from cluster(entry, allocated, zeros, guest, told)
        guest += size


def cluster(entry: int, allocated: int, zeros: int, guest: int, told: Clusters) -> Iterator[Extent]:
    size = 1 << told.bits
    length = min(size, told.virtual_size - guest)
    if entry >> 62 & 1:
        bits = 62 - (told.bits - 8)
        place, sectors = entry & ((1 << bits) - 1), ((entry & (1 << 62) - 1) >> bits) + 1
        if told.external or place >= told.data_size:
            raise Fault(guest)
        stored = min(place // 512 * 512 + sectors * 512, told.data_size) - place
        yield Extent(guest, length, ExtentKind.DATA, ExtentCodec.DEFLATE, 0, place, stored, 0, size)
        return
    place = entry & 0x00FF_FFFF_FFFF_FE00
    has_place = place > 0 or (told.external and entry >> 63 == 1)
    if entry & 0x3F00_0000_0000_01FE or place % size or (told.external and has_place and place != guest):
        raise Fault(guest)
    if not told.extended:
        if entry & 1 and not told.allows_zero:
            raise Fault(guest)
        allocated, zeros = (0, 0xFFFF_FFFF) if entry & 1 else (0xFFFF_FFFF if has_place else 0, 0)
    elif entry & 1 or allocated & zeros or (allocated and not has_place):
        raise Fault(guest)
    part = size // 32 if told.bits >= 14 else size
    for number in range(size // part):
        at = guest + number * part
        length = min(part, told.virtual_size - at)
        if length <= 0:
            return
        if allocated >> number & 1:
            # A whole cluster that is cut short is told at its start.
            whole = min(size, told.virtual_size - guest)
            if allocated == 0xFFFF_FFFF and place > told.data_size - whole:
                raise Fault(guest)
            if place + number * part > told.data_size - length:
                raise Fault(at)
            yield data(at, length, place + number * part)
        elif zeros >> number & 1:
            yield zero(at, length)


def vdi_blocks(entries: bytes, block: int, size: int, data_offset: int, file_size: int) -> Iterator[Extent]:
    """Yield the rows of a VDI's block map; raises Fault."""
    for number, (entry,) in enumerate(struct.iter_unpack("<I", entries)):
        guest = number * block
        length = min(block, size - guest)
        if entry == 0xFFFF_FFFF or length <= 0:
            continue
        if entry == 0xFFFF_FFFE:
            yield zero(guest, length)
        elif data_offset + entry * block + length > file_size:
            raise Fault(guest)
        else:
            yield data(guest, length, data_offset + entry * block)


def vhdx_blocks(entries: bytes, block: int, ratio: int, size: int, file_size: int) -> Iterator[Extent]:
    """Yield the rows of a VHDX's block allocation table; raises Fault."""
    numbers = [entry for at, (entry,) in enumerate(struct.iter_unpack("<Q", entries)) if (at + 1) % (ratio + 1)]
    for number, entry in enumerate(numbers):
        guest, state, place = number * block, entry & 7, entry >> 20 << 20
        length = min(block, size - guest)
        if length <= 0:
            return
        if state in (4, 7) or entry & 0xFFFF8:
            raise Fault(guest)
        if state == 2:
            yield zero(guest, length)
        elif state == 6:
            if not (1 << 20) <= place <= file_size - length:
                raise Fault(guest)
            yield data(guest, length, place)


def vhd_sectors(bits: bytes, guest: int, place: int, sectors: int, size: int) -> Iterator[Extent]:
    """Yield a row for each sector of a VHD's block that is on the disk."""
    for sector in range(sectors):
        at = guest + 512 * sector
        length = min(512, size - at)
        if length <= 0:
            return
        stored = bits[sector // 8] >> (7 - sector % 8) & 1
        yield data(at, length, place + 512 * sector) if stored else zero(at, length)


class Extents(NamedTuple):
    """What a sparse VMDK header tells of its grains."""

    size: int
    grain: int
    entries: int
    file_size: int
    zeros: bool


def grains(table: bytes, number: int, told: Extents, room: int) -> list[tuple[int, int]]:
    """Return (offset, place) of the grains of one grain table, place 0 for zeros; raises Fault."""
    found = []
    for at, (entry,) in enumerate(struct.iter_unpack("<I", table)):
        guest = (number * told.entries + at) * told.grain
        if entry == 0 or guest >= told.size:
            continue
        needed = room or min(told.grain, told.size - guest)
        if (entry == 1 and not told.zeros) or (entry != 1 and entry * 512 > told.file_size - needed):
            raise Fault(guest)
        found.append((guest, 0 if entry == 1 else entry * 512))
    return found


def bounded(found: list[tuple[int, int]], told: Extents, skipped: int) -> list[tuple[int, int]]:
    """Return (start, length) of compressed grains, each up to the next place in the file; raises Fault."""
    places = [*sorted({place for _, place in found if place}), told.file_size]
    stored = []
    for guest, place in found:
        if place:
            behind = next(other for other in places if other > place)
            length = min(behind - place - skipped, 2 * told.grain)
            if length <= 0:
                raise Fault(guest)
            stored.append((place + skipped, length))
    return stored
