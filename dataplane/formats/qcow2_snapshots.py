"""Internal snapshots of qcow2: their table, read only when one of them is asked for."""

from __future__ import annotations

import struct
from collections.abc import Iterator

from dataplane.byte_reader import ByteReader
from dataplane.dataclass import dataclass
from dataplane.errors import InvalidImage, UsageError
from dataplane.formats.qcow2_extensions import printable_ascii
from dataplane.formats.qcow2_header import DiskState, Qcow2Header, check_state
from dataplane.limits import KIB, MIB

_COUNT_MAX = 65536
_TABLE_SIZE_MAX = 64 * MIB
"""Bytes; both bounds are those of qemu."""

# offset and entries of the L1 table, length of id and name, date (s, ns), clock, size of the machine's state, length
# of the extra data: 40 bytes; then extra data, id and name, padded to 8 bytes
_ENTRY = struct.Struct(">QIHHIIQII")
_EXTRA = struct.Struct(">QQ")  # size of the machine's state again, virtual size of the disk
_EXTRA_SIZE_MAX = KIB
_ENTRY_SIZE_MAX = _ENTRY.size + _EXTRA_SIZE_MAX + 2 * 0xFFFF + 8
_READ_SIZE = 2 * _ENTRY_SIZE_MAX
"""Bytes read at a time."""


@dataclass(frozen=True, slots=True)
class _Snapshot:
    id: bytes
    name: bytes
    virtual_size: int
    l1_offset: int
    l1_entries: int


def find_snapshot(reader: ByteReader, header: Qcow2Header, wanted: str) -> DiskState:
    """Return the state that snapshot ``wanted`` keeps: its id or, when no id matches, its name.

    Raises UsageError when there is none or several have the name, InvalidImage when the table or the snapshot
    breaks the rules of the format.
    """
    if header.has_data_file and header.snapshot_count:
        raise InvalidImage(f"{reader.name}: internal snapshots and an external data file exclude each other")
    sought = wanted.encode("utf-8", "surrogateescape")
    named: list[_Snapshot] = []
    for snapshot in _snapshots(reader, header):
        if snapshot.id == sought:
            return _state(reader, header, snapshot)
        if snapshot.name == sought and len(named) < 2:
            named.append(snapshot)
    shown = printable_ascii(sought)
    if not named:
        raise UsageError(
            f"{reader.name} has no snapshot {shown!r} among its {header.snapshot_count}; see qemu-img snapshot -l"
        )
    if len(named) > 1:
        raise UsageError(
            f"{reader.name} has several snapshots named {shown!r}; give an id instead, see qemu-img snapshot -l"
        )
    return _state(reader, header, named[0])


def _state(reader: ByteReader, header: Qcow2Header, snapshot: _Snapshot) -> DiskState:
    state = DiskState(
        what=f"{reader.name}, snapshot {printable_ascii(snapshot.id)!r}",
        virtual_size=snapshot.virtual_size,
        l1_offset=snapshot.l1_offset,
        l1_entries=snapshot.l1_entries,
    )
    check_state(reader, header, state)
    return state


def _snapshots(reader: ByteReader, header: Qcow2Header) -> Iterator[_Snapshot]:
    """Yield the entries of the table, in its order."""
    name, count, start = reader.name, header.snapshot_count, header.snapshots_offset
    if count > _COUNT_MAX:
        raise InvalidImage(f"{name}: {count} snapshots are more than {_COUNT_MAX}")
    if count and start % header.cluster_size:
        raise InvalidImage(f"{name}: the snapshot table at {start} does not begin at a cluster")
    table_end = min(reader.size, start + _TABLE_SIZE_MAX)
    held, at = b"", 0  # bytes of the table from ``start`` on, and where the next entry is in them
    for index in range(count):
        if len(held) - at < _ENTRY_SIZE_MAX and start + len(held) < table_end:
            start, at, held = start + at, 0, reader.read_at(start + at, min(_READ_SIZE, table_end - start - at))
        if len(held) - at < _ENTRY.size:
            raise _leaves(name, index)
        l1_offset, l1_entries, id_length, name_length, *_, extra_size = _ENTRY.unpack_from(held, at)
        if extra_size > _EXTRA_SIZE_MAX:
            raise InvalidImage(
                f"{name}: snapshot {index} of the table has {extra_size} bytes of extra data, more than "
                f"{_EXTRA_SIZE_MAX}"
            )
        id_at = at + _ENTRY.size + extra_size
        end = id_at + id_length + name_length
        if end > len(held):
            raise _leaves(name, index)
        virtual_size = header.active.virtual_size
        if extra_size >= _EXTRA.size:
            virtual_size = _EXTRA.unpack_from(held, at + _ENTRY.size)[1]
        yield _Snapshot(
            held[id_at : id_at + id_length], held[id_at + id_length : end], virtual_size, l1_offset, l1_entries
        )
        at += -(-(end - at) // 8) * 8


def _leaves(name: str, index: int) -> InvalidImage:
    return InvalidImage(f"{name} is cut short or damaged: entry {index} of its snapshot table leaves the file")
