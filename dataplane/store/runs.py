"""The index of a store: its live run files, mapped and looked up as one; and the making of new runs from packs."""

from __future__ import annotations

import contextlib
import mmap
import os
from array import array
from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path

from dataplane.engine.run_builder import RunBuilder
from dataplane.engine.runs import Run, RunCorrupt, RunSet
from dataplane.engine.table import DigestTable
from dataplane.errors import Corrupt
from dataplane.hints import TypeVar
from dataplane.limits import MIB
from dataplane.store import format as fmt
from dataplane.store.layout import Layout, naming
from dataplane.store.pack import read_table
from dataplane.store.run_file import write_entries

INDEX_TRIES = 8
"""The collector may replace runs between reading their names and opening them."""

ENTRIES_PER_RUN_MAX = MIB
"""Entries in a run that an import makes: bounds the memory that sorting takes (48 MiB, twice while sorting)."""

Result = TypeVar("Result")


class RunVanished(Corrupt):
    """A run that the ledger named is not there: lost, or replaced a moment ago."""


class Index:
    """Finds chunk ids in the runs that were live when it was opened. Safe for concurrent use."""

    def __init__(
        self, layout: Layout, names: Sequence[bytes], dead: Collection[bytes] = (), *, fall_back: bool = False
    ) -> None:
        """Open the runs with these names. Raises RunVanished or Corrupt.

        Chunks are not found in packs of `dead`; with `fall_back` they are, when no other pack has them.
        """
        self.names = list(names)
        self._paths = [layout.run(name) for name in names]
        self.packs: list[bytes] = []
        self._numbers: dict[bytes, int] = {}
        self.runs: list[Run] = []
        self.packs_of_runs: list[list[bytes]] = []
        last_resort = []
        for path in self._paths:
            data = map_file(path)
            run_layout, packs = fmt.parse_run(data, f"run {path.name}")
            flags = bytes(pack in dead for pack in packs)
            self.runs.append(open_run(data, run_layout, flags))
            self.packs_of_runs.append(packs)
            if fall_back and any(flags):
                last_resort.append((path, packs, open_run(data, run_layout, b"")))
        found = zip(self._paths, self.packs_of_runs, self.runs, strict=True)
        searched = [*found, *last_resort]
        self._searched_paths = [path for path, _, _ in searched]
        for _, packs, _ in searched:
            for pack in packs:
                # A dead pack's place is its last: where look-ups that fall back find it.
                if pack in dead or pack not in self._numbers:
                    self._numbers[pack] = len(self.packs)
                self.packs.append(pack)
        self._runs = RunSet([run for _, _, run in searched])

    def __len__(self) -> int:
        return sum(map(len, self.runs))

    def mark_stored(self, ids: memoryview, states: memoryview) -> tuple[int, int]:
        """Turn NEW states whose id is stored into STORED; return (how many, sum of their stored lengths in bytes)."""
        return self._named(lambda: self._runs.mark_stored(ids, states))

    def find(self, id: bytes) -> tuple[bytes, int, int, int] | None:
        """Return (pack, offset, stored length, plain length) of a chunk, lengths in bytes, or None."""
        found = self._named(lambda: self._runs.find(id))
        return None if found is None else (self.packs[found[0]], *found[1:])

    def require(self, id: bytes) -> tuple[bytes, int, int, int]:
        """Return what ``find`` does; raises Corrupt when the chunk is in no run."""
        found = self.find(id)
        if found is None:
            raise Corrupt(f"chunk {id.hex()} is named by a manifest but is in no run of the store")
        return found

    def chunks_of(self, pack: bytes) -> tuple[bytes, array[int], array[int], array[int]]:
        """Return (ids, offsets, stored lengths, plain lengths) of what the index knows in a pack; reads all of it."""
        number = self._numbers.get(pack)
        if number is None:
            return b"", array("q"), array("I"), array("I")
        return self._named(lambda: self._runs.chunks_of(number))

    def resolve(self, ids: bytes, wanted: DigestTable, pack: bytes) -> bytes:
        """Return a byte for each id (32 bytes each): 1 when it is in `wanted` and a look-up of it ends in `pack`."""
        number = self._numbers.get(pack)
        if number is None:
            return bytes(len(ids) // fmt.ID_SIZE)
        return self._named(lambda: self._runs.resolve(ids, wanted, number))

    def locate(self, ids: memoryview, offset: int, chunk_size: int, end: int) -> memoryview:
        """Return the extents of neighbouring chunks, readers indexing `packs`; raises Corrupt for a lost one."""
        try:
            return self._named(lambda: self._runs.locate(ids, offset, chunk_size, end))
        except KeyError as error:
            at = offset + error.args[0] * chunk_size
            raise Corrupt(f"the chunk at {at} is named by its manifest but is in no run of the store") from error
        except ValueError as error:
            raise Corrupt(f"the index does not fit the manifest: {error}") from error

    def _named(self, look_up: Callable[[], Result]) -> Result:
        try:
            return look_up()
        except RunCorrupt as error:
            name = self._searched_paths[error.run].name
            raise Corrupt(f"run {name} is damaged: the block at {error.offset} does not match its checksum") from error


def open_again(open_once: Callable[[], Index]) -> Index:
    """Open the index of what is live, and once more when a run went between its naming and its opening."""
    for _ in range(INDEX_TRIES - 1):
        with contextlib.suppress(RunVanished):
            return open_once()
    return open_once()


def map_file(path: Path) -> memoryview:
    """Return the read-only mapping of a whole file; raises Corrupt when it is missing or empty, IoFailed otherwise."""
    with naming(path, "mapping"):
        try:
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError as error:
            raise RunVanished(f"run {path.name} is missing from the store") from error
        try:
            if os.fstat(fd).st_size == 0:
                raise Corrupt(f"run {path.name} is empty")
            return memoryview(mmap.mmap(fd, 0, prot=mmap.PROT_READ))
        finally:
            os.close(fd)


def check_run(layout: Layout, name: bytes) -> int:
    """Read all of a run again and return its entries; raises Corrupt unless it is what its name says."""
    path = layout.run(name)
    data = map_file(path)
    if fmt.run_name(data) != name:  # which covers the padding too
        raise Corrupt(f"run {path.name} is damaged: its content has another name")
    return fmt.parse_run(data, f"run {path.name}")[0].entry_count


def open_run(data: memoryview, layout: fmt.RunLayout, dead: bytes) -> Run:
    """Return the look-up of a mapped and checked run; `dead` has a flag for each of its packs."""
    return Run(
        data,
        filter_offset=layout.filter_offset,
        filter_blocks=layout.filter_blocks,
        entries_offset=layout.entries_offset,
        entry_count=layout.entry_count,
        sums_offset=layout.sums_offset,
        covered=layout.covered,
        pack_count=layout.pack_count,
        dead=dead if any(dead) else None,
    )


def write_runs(packs: Sequence[tuple[bytes, Path]], folder: Path) -> Iterator[tuple[bytes, Path, int]]:
    """Write runs over sealed packs, given as (name, path), into `folder`; yield (name, path, entries) of each.

    The packs' own tables are read back: what the index says is what the disk holds.
    """
    builder = RunBuilder()
    names: list[bytes] = []
    for name, path in packs:
        table = read_table(path)
        if names and len(builder) + len(table) > ENTRIES_PER_RUN_MAX:
            yield write_run(builder.finish(), names, folder)
            builder, names = RunBuilder(), []
        builder.add(len(names), fmt.PACK_HEADER.size, table.ids, table.stored_lengths, table.plain_lengths)
        names.append(name)
    if names:
        yield write_run(builder.finish(), names, folder)


def write_run(entries: bytes, packs: Sequence[bytes], folder: Path) -> tuple[bytes, Path, int]:
    """Write sorted entries over `packs` as one durable run file into `folder`; return its name, path and entries."""
    return write_entries(folder, packs, len(entries) // fmt.RUN_ENTRY_SIZE, [entries])
