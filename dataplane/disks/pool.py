"""Pools: the chunks of an image that are read first, kept decoded in a file, so that reading them is one read.

A pool is a copy of what the store has, and nothing depends on it: what is missing in one, or damaged, is read from the
store. Entries are found by the id of a chunk or manifest page, so a pool also serves disks that have moved on to
another root but for what has changed, and can never give one chunk for another.
"""

from __future__ import annotations

import contextlib
import os
import struct
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from dataplane.disks.base import StoredBase
from dataplane.disks.chunk_cache import ChunkCache
from dataplane.engine.scan import xxh3
from dataplane.errors import Corrupt, DataplaneError, StoreIncompatible
from dataplane.limits import CHUNK_SIZE_MAX, KIB, MIB, PAGE_CHUNKS
from dataplane.store import format as fmt
from dataplane.store.layout import naming, sync_folder
from dataplane.store.store import Store

POOL_SIZE_DEFAULT = 64 * MIB
"""Bytes of a pool's file."""

ALIGNMENT = 4 * KIB
TABLE_SIZE_MAX = 64 * MIB
BUILDING_SUFFIX = ".building"

_MAGIC = b"dp-pool\n"
_VERSION = 1
_HEADER = struct.Struct("<8sHHIIIQ32s")  # magic, version, flags, entries, chunk size, zero, size of the file, root
_ENTRY = struct.Struct("<32s16sQI4x")  # id, XXH3-128 of the bytes, where they are, how many
_TABLE_AT = _HEADER.size + fmt.SUM_SIZE


class _Wanted(NamedTuple):
    """What goes into a pool: a manifest page, or else a chunk, by its number."""

    number: int
    is_page: bool


class Pool:
    """An open pool. Safe for concurrent use; its file closes with its last user."""

    def __init__(self, path: Path, root: bytes, report: Callable[[str], None]) -> None:
        """Open the pool of `root`; raises FileNotFoundError, IoFailed, Corrupt or StoreIncompatible."""
        self.path = path
        self.hits = 0
        """How many reads it has served."""
        self._report = report
        self._is_damaged = False
        self._file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        with naming(path, "reading"):
            self._table = self._checked_table(root)
        self.count = len(self._table) // _ENTRY.size

    def __del__(self) -> None:
        file, self._file = getattr(self, "_file", -1), -1
        if file >= 0:
            os.close(file)

    def _checked_table(self, root: bytes) -> bytes:
        """Return the table, once heading, root and sums are found to be right."""
        head = os.pread(self._file, _TABLE_AT, 0)
        if len(head) < _TABLE_AT or head[:8] != _MAGIC:
            raise Corrupt(f"{self.path} is no pool")
        _, version, flags, count, _, _, size, of = _HEADER.unpack_from(head)
        if (version, flags) != (_VERSION, 0):
            raise StoreIncompatible(f"{self.path} is a pool of version {version}: this program reads {_VERSION}")
        length = count * _ENTRY.size
        if length > TABLE_SIZE_MAX or size != os.fstat(self._file).st_size:
            raise Corrupt(f"pool {self.path} is cut short or damaged")
        table = os.pread(self._file, length, _TABLE_AT)
        if len(table) != length or xxh3(head[: _HEADER.size] + table) != head[_HEADER.size :]:
            raise Corrupt(f"the table of pool {self.path} is damaged")
        if of != root:
            raise Corrupt(f"pool {self.path} is one of another image")
        return table

    def get(self, id: bytes) -> bytes | None:
        """Return the chunk or manifest page of this id, verified; None when it is not here, or damaged."""
        low, high = 0, self.count
        while low < high:
            middle = (low + high) // 2
            at = middle * _ENTRY.size
            if self._table[at : at + fmt.ID_SIZE] < id:
                low = middle + 1
            else:
                high = middle
        if low == self.count:
            return None
        found, digest, offset, length = _ENTRY.unpack_from(self._table, low * _ENTRY.size)
        if found != id or length > CHUNK_SIZE_MAX:
            return None
        try:
            data = os.pread(self._file, length, offset)
        except (OSError, OverflowError):
            data = b""
        if len(data) != length or xxh3(data) != digest:
            self._say_damaged(offset)
            return None
        self.hits += 1
        return data

    def _say_damaged(self, offset: int) -> None:
        if not self._is_damaged:
            self._is_damaged = True
            self._report(f"pool {self.path} is damaged or unreadable at {offset}: the store is read instead")


def _say_nothing(_message: str) -> None:
    """Do nothing."""


def open_pool(path: str | os.PathLike[str], root: bytes, report: Callable[[str], None] = _say_nothing) -> Pool | None:
    """Return the pool of `root` in file `path`; None when there is none, or one that cannot be used.

    `report` is told why it cannot be, or when a part of it turns out to be damaged later.
    """
    try:
        return Pool(Path(path), root, report)
    except FileNotFoundError:
        return None
    except (DataplaneError, OSError) as error:
        report(f"{error}: the store is read instead")
        return None


def build_pool(
    store: Store,
    name: str,
    path: str | os.PathLike[str],
    *,
    size_max: int = POOL_SIZE_DEFAULT,
    ranges: Iterable[tuple[int, int]] = (),
) -> int:
    """Make the file `path` the pool of image `name`, in the place of an older one, and return its size in bytes.

    In it are the chunks of `ranges`, (offset, length) on the disk as ``load_trace`` returns them, in that order, as far
    as `size_max` bytes of a file go; without any the first chunks of the disk. Zeros take no room. Every chunk is
    compared with its id. Durable on return. Raises NotFound, Corrupt, NoSpace or IoFailed, and leaves what was there
    before; a kill may leave a file with the suffix ``.building`` beside it.
    """
    target = Path(path)
    building = target.with_name(f"{target.name}.{os.urandom(4).hex()}{BUILDING_SUFFIX}")
    with store.reading(name) as pin:
        base = StoredBase(store, pin.root, pin.domain, ChunkCache(0))
        wanted = _wanted(base, list(ranges) or [(0, base.size)], size_max)
        try:
            with naming(building, "writing"), open(building, "xb", opener=_private) as file:
                size = _write(file.fileno(), base, wanted)
                os.fsync(file.fileno())
            with naming(target, "replacing"):
                os.rename(building, target)
        except BaseException:
            with contextlib.suppress(OSError):
                building.unlink(missing_ok=True)
            raise
    sync_folder(target.parent)
    return size


def _private(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_CLOEXEC, 0o600)


def _wanted(base: StoredBase, ranges: list[tuple[int, int]], size_max: int) -> dict[bytes, _Wanted]:
    """Return, by id, what goes into a pool of so many bytes: chunks, and the manifest pages that name them."""
    room = size_max - _TABLE_AT - ALIGNMENT
    wanted: dict[bytes, _Wanted] = {}
    page_ids = dict(base.root.pages)
    for number, id in _chunks(base, ranges):
        if id in wanted:
            continue
        page = number // PAGE_CHUNKS
        cost = _aligned(base.chunk_size) + _ENTRY.size
        if page_ids[page] not in wanted:
            cost += _aligned(fmt.PAGE_SIZE) + _ENTRY.size
        if cost > room or (len(wanted) + 2) * _ENTRY.size > TABLE_SIZE_MAX:
            break
        room -= cost
        wanted.setdefault(page_ids[page], _Wanted(page, is_page=True))
        wanted[id] = _Wanted(number, is_page=False)
    return wanted


def _chunks(base: StoredBase, ranges: list[tuple[int, int]]) -> Iterator[tuple[int, bytes]]:
    """Yield number and id of the chunks in ranges of a disk that are not zero."""
    for offset, length in ranges:
        end = -(-min(offset + length, base.size) // base.chunk_size)
        number = offset // base.chunk_size
        while number < end:
            page, place = divmod(number, PAGE_CHUNKS)
            stop = min(end, (page + 1) * PAGE_CHUNKS)
            ids = base.page(page)
            if ids is not None:
                for at in range(place, place + stop - number):
                    id = ids[at * fmt.ID_SIZE : (at + 1) * fmt.ID_SIZE]
                    if id != fmt.ZERO_ID:
                        yield page * PAGE_CHUNKS + at, id
            number = stop


def _write(file: int, base: StoredBase, wanted: dict[bytes, _Wanted]) -> int:
    """Write a pool and return its size; the heading comes last."""
    entries = []
    offset = _aligned(_TABLE_AT + len(wanted) * _ENTRY.size)
    chunk = memoryview(bytearray(base.chunk_size))
    for id, (number, is_page) in wanted.items():
        if is_page:
            data = memoryview(base.page(number) or b"")
        else:
            data = chunk
            base.read_into(number * base.chunk_size, data)
        entries.append(_ENTRY.pack(id, xxh3(data), offset, len(data)))
        _write_at(file, data, offset)
        offset += _aligned(len(data))
    os.truncate(file, offset)
    table = b"".join(sorted(entries))
    heading = _HEADER.pack(_MAGIC, _VERSION, 0, len(entries), base.chunk_size, 0, offset, base.id)
    _write_at(file, memoryview(heading + xxh3(heading + table) + table), 0)
    return offset


def _write_at(file: int, data: memoryview, offset: int) -> None:
    while data:
        written = os.pwrite(file, data, offset)
        data, offset = data[written:], offset + written


def _aligned(length: int) -> int:
    return -(-length // ALIGNMENT) * ALIGNMENT
