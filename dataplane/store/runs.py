"""The index of a store: its live run files, mapped and looked up as one; and the making of new runs from packs."""

from __future__ import annotations

import mmap
import os
from array import array
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TypeVar

from dataplane.engine.runs import Run, RunBuilder, RunCorrupt, RunSet, build_filter
from dataplane.errors import Corrupt
from dataplane.limits import MIB
from dataplane.store import format as fmt
from dataplane.store.layout import Layout, naming, write_file
from dataplane.store.pack import read_table

ENTRIES_PER_RUN_MAX = MIB
"""Entries in a run that an import makes: bounds the memory that sorting takes (48 MiB, twice while sorting)."""

Result = TypeVar("Result")


class Index:
    """Finds chunk ids in the runs that were live when it was opened. Safe for concurrent use."""

    def __init__(self, layout: Layout, names: Sequence[bytes]) -> None:
        self._paths = [layout.run(name) for name in names]
        self.packs: list[bytes] = []
        runs = []
        for path in self._paths:
            data = map_file(path)
            run_layout, packs = fmt.parse_run(data, f"run {path.name}")
            runs.append(open_run(data, run_layout))
            self.packs += packs
        self._runs = RunSet(runs)

    def __len__(self) -> int:
        return len(self._runs)

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
        if pack not in self.packs:
            return b"", array("q"), array("I"), array("I")
        number = self.packs.index(pack)
        return self._named(lambda: self._runs.chunks_of(number))

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
            name = self._paths[error.run].name
            raise Corrupt(f"run {name} is damaged: the block at {error.offset} does not match its checksum") from error


def map_file(path: Path) -> memoryview:
    """Return the read-only mapping of a whole file; raises Corrupt when it is missing or empty, IoFailed otherwise."""
    with naming(path, "mapping"):
        try:
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError as error:
            raise Corrupt(f"run {path.name} is missing from the store") from error
        try:
            if os.fstat(fd).st_size == 0:
                raise Corrupt(f"run {path.name} is empty")
            return memoryview(mmap.mmap(fd, 0, prot=mmap.PROT_READ))
        finally:
            os.close(fd)


def open_run(data: memoryview, layout: fmt.RunLayout) -> Run:
    """Return the look-up of a mapped and checked run."""
    return Run(
        data,
        filter_offset=layout.filter_offset,
        filter_blocks=layout.filter_blocks,
        entries_offset=layout.entries_offset,
        entry_count=layout.entry_count,
        sums_offset=layout.sums_offset,
        covered=layout.covered,
        pack_count=layout.pack_count,
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
            yield write_run(builder, names, folder)
            builder, names = RunBuilder(), []
        builder.add(len(names), fmt.PACK_HEADER.size, table.ids, table.stored_lengths, table.plain_lengths)
        names.append(name)
    if names:
        yield write_run(builder, names, folder)


def write_run(builder: RunBuilder, packs: Sequence[bytes], folder: Path) -> tuple[bytes, Path, int]:
    """Write one durable run file into `folder`; return its name, path and number of entries."""
    entries = builder.finish()
    layout = fmt.RunLayout.plan(len(packs), len(entries) // fmt.RUN_ENTRY_SIZE)
    run = fmt.build_run(layout, packs, bytes(build_filter(entries, layout.filter_blocks)), entries)
    name = fmt.run_name(run)
    path = folder / f"{name.hex()}.run"
    write_file(path, run, 0o444)
    return name, path, layout.entry_count
