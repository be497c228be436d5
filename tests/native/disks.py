"""Random disks for the window and the sweep: extents of every kind over readers of every kind."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from hypothesis import strategies as st

from dataplane.engine.codec import Codec
from dataplane.engine.plan import Plan
from dataplane.extent import Extent, ExtentCodec, ExtentKind, pack_batch
from dataplane.limits import DECODED_SIZE_MAX
from tests.native.shapes import int64_rows
from tests.oracles.codecs import COMPRESSED, compress

READERS = 3


@dataclass(frozen=True, slots=True)
class Run:
    """What hypothesis chooses for one extent; the bytes follow from `fill` and the run's place."""

    kind: ExtentKind
    length: int
    codec: Codec = Codec.RAW
    reader: int = 0
    fill: str = "random"
    before: int = 0  # decoded bytes in front of and behind those that the extent shows
    behind: int = 0
    again: bool = False  # another extent on the same compressed bytes


@dataclass(slots=True)
class Sample:
    """Extents, and the bytes of the readers that they name."""

    extents: list[Extent] = field(default_factory=list)
    readers: list[bytearray] = field(default_factory=lambda: [bytearray() for _ in range(READERS)])

    @property
    def end(self) -> int:
        """Where the last extent ends."""
        return self.extents[-1].offset + self.extents[-1].length

    def plan(self, window_size: int) -> Plan:
        """Return the plan of the extents."""
        return Plan(pack_batch(self.extents), window_size, DECODED_SIZE_MAX)


def runs(length_max: int) -> st.SearchStrategy[list[Run]]:
    """Return a strategy for the runs of a disk."""
    lengths = st.integers(1, length_max)
    empty = st.builds(Run, st.sampled_from([ExtentKind.HOLE, ExtentKind.ZERO]), lengths)
    data = st.builds(
        Run,
        st.just(ExtentKind.DATA),
        lengths,
        st.sampled_from(Codec),
        st.integers(0, READERS - 1),
        st.sampled_from(["random", "zeros", "few", "text"]),
        st.sampled_from([0, 0, 1, 77]),
        st.sampled_from([0, 0, 1, 50]),
        st.booleans(),
    )
    return st.lists(st.one_of(data, data, empty), min_size=1, max_size=12)


def sample(chosen: Sequence[Run], start: int = 0) -> Sample:
    """Return the disk of `chosen` from offset `start` on."""
    made = Sample()
    position = start
    for number, run in enumerate(chosen):
        if run.kind != ExtentKind.DATA:
            made.extents.append(Extent(position, run.length, run.kind))
            position += run.length
            continue
        plain = content(run, number)
        row = store(made.readers[run.reader], run, plain)._replace(offset=position)
        made.extents.append(row)
        position += run.length
        if run.again and row.codec != ExtentCodec.RAW:
            made.extents.append(row._replace(offset=position))
            position += run.length
    return made


def content(run: Run, number: int) -> bytes:
    """Return what the stored bytes of a run decode to."""
    length = run.length if run.codec == Codec.RAW else run.before + run.length + run.behind
    chance = random.Random(f"{number} {run.fill}")
    if run.fill == "random":
        return chance.randbytes(length)
    plain = bytearray(length)
    if run.fill == "few":
        plain[chance.randrange(length)] = 1
    elif run.fill == "text":
        plain[:] = (b"the same words again and again; " * (1 + length // 32))[:length]
    return bytes(plain)


def store(reader: bytearray, run: Run, plain: bytes) -> Extent:
    """Append a run's stored bytes to its reader, with some that belong to nobody behind them; return its row."""
    encoded = compress(run.codec, plain) + (b"\xa5" * (run.behind % 7) if run.codec in COMPRESSED else b"")
    row = Extent(0, run.length, ExtentKind.DATA, run.codec, run.reader, len(reader), len(encoded))
    reader += encoded + b"\x5a" * (run.before % 5)
    return row if run.codec == Codec.RAW else row._replace(decoded_offset=run.before, decoded_length=len(plain))


@contextmanager
def opened(readers: Sequence[bytes | bytearray]) -> Iterator[list[int]]:
    """Give a file descriptor for the bytes of each reader, which live in memory."""
    fds = []
    try:
        for reader in readers:
            fds.append(os.memfd_create("reader"))
            os.write(fds[-1], reader)
        yield fds
    finally:
        for fd in fds:
            os.close(fd)


def stage(plan: Plan, index: int, readers: Sequence[bytes | bytearray], fds: Sequence[int]) -> tuple[memoryview, bytes]:
    """Return the rows and bytes that a window needs of the readers without a descriptor, in an order of chance."""
    wanted = [row for row in plan.source_ranges(index) if fds[row[0]] < 0]
    random.Random(index).shuffle(wanted)
    rows, pieces, position = [], [], 0
    for reader, offset, length in wanted:
        pieces.append(bytes(readers[reader][offset : offset + length]))
        rows.append((reader, offset, length, position))
        position += length
    return int64_rows(rows, 4), b"".join(pieces)
