"""The window beside extents executed one by one in Python."""

from __future__ import annotations

import contextlib
import errno
import os
import random
from array import array
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dataplane.engine.codec import Codec
from dataplane.engine.plan import Plan
from dataplane.engine.scan import ChunkState
from dataplane.engine.window import LoadFailure, Window
from dataplane.extent import Extent, ExtentKind, pack_batch
from dataplane.limits import DECODED_SIZE_MAX
from tests.native.disks import Run, Sample, opened, runs, sample, stage
from tests.native.shapes import int64_rows
from tests.oracles.codecs import COMPRESSED, compress
from tests.oracles.disks import Chunk, Disk, execute

KEY = bytes(range(100, 132))
DATA = ExtentKind.DATA


def check_window(window: Window, loaded: int, chunks: Sequence[Chunk], disk: Disk) -> None:
    """Compare everything that a window shows with the chunks of the oracle."""
    size = window.chunk_size
    assert window.chunk_count == len(chunks)
    assert list(window.states) == [chunk.state for chunk in chunks]
    assert bytes(window.digests) == b"".join(chunk.digest for chunk in chunks)
    plain = window.plain
    for number, chunk in enumerate(chunks):
        if chunk.plain is not None:
            assert plain[number * size : (number + 1) * size] == chunk.plain, number
    part = Disk(list(chunks), size, disk.end)
    assert loaded == window.data_chunks == part.count(ChunkState.DATA)
    assert window.zero_chunks == part.count(ChunkState.ZERO)
    assert window.data_bytes == part.data_bytes()


def check_disk(made: Sample, window_size: int, chunk_size: int, key: bytes | None, staged: Sequence[int] = ()) -> None:
    """Load every window of a disk, in an order of chance, and compare it; readers in `staged` have no descriptor."""
    plan = made.plan(window_size)
    disk = execute(made.extents, made.readers, window_size=window_size, chunk_size=chunk_size, key=key)
    window = Window(window_size, chunk_size, key)
    with opened(made.readers) as fds:
        given_fds = array("i", [-1 if number in staged else fd for number, fd in enumerate(fds)])
        for index in random.Random(7).sample(range(plan.window_count), plan.window_count):
            rows, data = stage(plan, index, made.readers, given_fds)
            loaded = window.load(plan, index, given_fds, rows, data)
            offset, length = plan.window(index)
            assert (window.offset, window.length) == (offset, length)
            check_window(window, loaded, disk.between(offset, offset + length), disk)


@given(
    chosen=runs(300),
    start=st.integers(0, 3),
    window_bits=st.integers(4, 11),
    chunk_bits=st.integers(0, 11),
    key=st.sampled_from([None, KEY]),
    staged=st.sets(st.integers(0, 2)),
)
def test_window_matches_oracle(
    chosen: list[Run], start: int, window_bits: int, chunk_bits: int, key: bytes | None, staged: set[int]
) -> None:
    window_size = 1 << window_bits
    made = sample(chosen, start * window_size)
    check_disk(made, window_size, 1 << min(chunk_bits, window_bits), key, sorted(staged))


@given(chosen=runs(200_000), chunk_bits=st.integers(12, 20), staged=st.sets(st.integers(0, 2)))
def test_window_matches_oracle_across_pieces(chosen: list[Run], chunk_bits: int, staged: set[int]) -> None:
    """Sizes as they are in use: reads of 256 KiB, chunks smaller and larger than one."""
    check_disk(sample(chosen), 1 << 20, 1 << chunk_bits, KEY, sorted(staged))


def test_window_shows_what_was_read() -> None:
    made = sample([Run(DATA, 5000), Run(ExtentKind.HOLE, 9000), Run(DATA, 100, fill="zeros", reader=1)])
    window = Window(16384, 4096)
    with opened(made.readers) as fds:
        assert window.load(made.plan(16384), 0, array("i", fds)) == 2
    assert list(window.states) == [ChunkState.DATA, ChunkState.DATA, ChunkState.ABSENT, ChunkState.ZERO]
    assert (window.read_bytes, window.data_bytes, window.zero_chunks) == (5100, 8192, 1)


@pytest.mark.parametrize("codec", COMPRESSED)
def test_compressed_rows_side_by_side_are_read_once(codec: Codec) -> None:
    made = sample([Run(DATA, 4096, codec, fill="text") for _ in range(16)])
    window = Window(65536, 4096)
    with opened(made.readers) as fds:
        window.load(made.plan(65536), 0, array("i", fds))
    assert window.read_bytes == len(made.readers[0])


def test_reused_window_forgets_the_plan_before() -> None:
    """Two plans name the same place of the same reader, whose bytes are not the same any more."""
    window = Window(4096, 4096)
    for number in range(3):
        made = sample([Run(DATA, 1000, Codec.ZSTD, before=10, behind=5), Run(ExtentKind.HOLE, 3096)])
        plain = random.Random(number).randbytes(1015)
        made.readers[0][:] = compress(Codec.ZSTD, plain)
        made.extents[0] = made.extents[0]._replace(source_length=len(made.readers[0]))
        with opened(made.readers) as fds:
            window.load(made.plan(4096), 0, array("i", fds))
        assert bytes(window.plain[:1000]) == plain[10:1010]


# ------------------------------------------------------------------------------------------ into other memory
@given(
    chosen=runs(3000),
    chunk_bits=st.integers(4, 10),
    first=st.integers(0, 7),
    key=st.sampled_from([None, KEY]),
    shift=st.integers(0, 63),
)
def test_load_into_gives_what_load_does(
    chosen: list[Run], chunk_bits: int, first: int, key: bytes | None, shift: int
) -> None:
    """The same plan twice: the target holds the chunks with data, what lies around it and between them is untouched."""
    chunk_size = 1 << chunk_bits
    made = sample(chosen, first * chunk_size)
    if made.end % chunk_size:
        made.extents.append(Extent(made.end, -made.end % chunk_size, ExtentKind.HOLE))
    plan = made.plan(1 << 17)
    beside, window = Window(1 << 17, chunk_size, key), Window(1 << 17, chunk_size, key)
    length = plan.end - plan.offset
    around = bytearray(b"\xa5" * (length + 128))
    target = memoryview(around)[shift : shift + length]
    with opened(made.readers) as fds:
        if plan.window_count != 1:
            with pytest.raises(ValueError, match="does not fit one target"):
                window.load_into(plan, array("i", fds), target)
            return
        assert beside.load(plan, 0, array("i", fds)) == window.load_into(plan, array("i", fds), target)
    assert bytes(window.states) == bytes(beside.states)
    assert bytes(window.digests) == bytes(beside.digests)
    skipped = plan.offset - window.offset
    for number, state in enumerate(bytes(window.states)[skipped // chunk_size :]):
        start = number * chunk_size
        found = target[start : start + chunk_size]
        if state == ChunkState.ABSENT:
            assert found == b"\xa5" * chunk_size
        else:
            assert found == beside.plain[skipped + start : skipped + start + chunk_size]
    assert set(around[:shift] + around[shift + length :]) <= {0xA5}


@pytest.mark.parametrize(
    ("offset", "length", "room"), [(0, 4096, 4095), (0, 4096, 4097), (100, 3996, 3996), (0, 4000, 4000)]
)
def test_load_into_takes_whole_chunks_that_fit_only(offset: int, length: int, room: int) -> None:
    plan = Plan(pack_batch([Extent(offset, length, DATA, 0, 0, 0, length)]), 8192, DECODED_SIZE_MAX)
    with opened([bytearray(8192)]) as fds, pytest.raises(ValueError, match="not the whole chunks"):
        Window(8192, 4096).load_into(plan, array("i", fds), bytearray(room))


def test_load_into_wants_every_reader_and_a_plan_of_its_window_size() -> None:
    plan = Plan(pack_batch([Extent(0, 4096, DATA, 0, 1, 0, 4096)]), 4096, DECODED_SIZE_MAX)
    with pytest.raises(ValueError, match="names reader 1"):
        Window(4096, 4096).load_into(plan, array("i", [-1]), bytearray(4096))
    with pytest.raises(ValueError, match="does not fit a window"):
        Window(8192, 4096).load_into(plan, array("i", [-1, -1]), bytearray(4096))


# ------------------------------------------------------------------------------------------ failures
def failure(extents: Sequence[Extent], fds: Sequence[int], **more: object) -> LoadFailure:
    window = Window(4096, 4096)
    plan = Plan(pack_batch(extents), 4096, DECODED_SIZE_MAX)
    with pytest.raises(LoadFailure) as caught:
        window.load(plan, 0, array("i", fds), **more)  # type: ignore[arg-type]
    return caught.value


def test_failure_read_names_reader_place_and_errno() -> None:
    with open("/proc/self/mem", "rb", buffering=0) as memory:
        fd = memory.fileno()
        found = failure([Extent(0, 100, DATA, 0, 1, 50, 100)], [-1, fd])
        assert (found.kind, found.reader, found.offset, found.error) == ("read", 1, 50, errno.EIO)
        found = failure([Extent(0, 100, DATA, 3, 1, 50, 60, 0, 100)], [-1, fd])
        assert (found.kind, found.reader, found.offset, found.error) == ("read", 1, 50, errno.EIO)


def test_failure_of_a_closed_descriptor_is_ebadf() -> None:
    fd = os.memfd_create("gone")
    os.close(fd)
    assert failure([Extent(0, 100, DATA, 0, 0, 0, 100)], [fd]).error == errno.EBADF


@pytest.mark.parametrize("codec", [Codec.RAW, *COMPRESSED])
def test_failure_cut_names_the_place(codec: Codec) -> None:
    made = sample([Run(ExtentKind.HOLE, 10), Run(DATA, 500, codec), Run(DATA, 600, codec)])
    last = made.extents[-1]
    with opened([made.readers[0][: last.source_offset + last.source_length - 1]]) as fds:
        found = failure(made.extents, fds)
    assert (found.kind, found.reader, found.offset, found.error) == ("cut", 0, last.source_offset, 0)


@pytest.mark.parametrize("codec", COMPRESSED)
@pytest.mark.parametrize("part", [False, True])
def test_failure_decode_names_the_place(codec: Codec, part: bool) -> None:
    made = sample([Run(DATA, 500, codec), Run(DATA, 600, codec, before=3 * part)])
    last = made.extents[-1]
    made.readers[0][last.source_offset] ^= 0xFF
    with opened(made.readers) as fds:
        found = failure(made.extents, fds)
    assert (found.kind, found.reader, found.offset) == ("decode", 0, last.source_offset)


def test_failure_stage_when_bytes_were_not_handed_over() -> None:
    row = Extent(0, 100, DATA, 0, 0, 1000, 100)
    assert failure([row], [-1]).kind == "stage"
    for staged in [(0, 1001, 100, 0), (0, 1000, 99, 0), (1, 1000, 100, 0), (0, 900, 199, 0), (0, 2000, 100, 0)]:
        found = failure([row], [-1], staged=int64_rows([staged], 4), staging=bytes(300))
        assert (found.kind, found.reader, found.offset) == ("stage", 0, 1000), staged
    found = failure([row._replace(codec=1, decoded_length=100)], [-1], staged=int64_rows([], 4), staging=b"")
    assert found.kind == "stage"


def test_load_goes_on_after_a_failure() -> None:
    made = sample([Run(DATA, 4096), Run(DATA, 4096, Codec.ZSTD), Run(DATA, 4096)])
    made.readers[0][made.extents[1].source_offset] ^= 0xFF
    plan, window = made.plan(4096), Window(4096, 4096)
    with opened(made.readers) as fds:
        assert window.load(plan, 0, array("i", fds)) == 1
        with pytest.raises(LoadFailure):
            window.load(plan, 1, array("i", fds))
        assert window.load(plan, 2, array("i", fds)) == 1
        assert bytes(window.plain) == made.readers[0][-4096:]


@pytest.mark.parametrize("codec", COMPRESSED)
@pytest.mark.parametrize("part", [False, True])
def test_bomb_writes_nothing_outside_its_range(codec: Codec, part: bool) -> None:
    bomb = compress(codec, b"\x11" * (8 << 20), level=9)
    before = 5 * part
    rows = [
        Extent(0, 1000, DATA, Codec.RAW, 0, 0, 1000),
        Extent(1000, 500, DATA, codec, 1, 0, len(bomb), before, 500 + before),
        Extent(1500, 2596, DATA, Codec.RAW, 0, 1500, 2596),
    ]
    window = Window(4096, 4096)
    with opened([b"\xaa" * 4096, bomb]) as fds:
        window.load(Plan(pack_batch([Extent(0, 4096, DATA, 0, 0, 0, 4096)]), 4096, 1 << 20), 0, array("i", fds))
        with pytest.raises(LoadFailure, match="decode"):
            window.load(Plan(pack_batch(rows), 4096, 1 << 20), 0, array("i", fds))
    assert bytes(window.plain[:1000]) == b"\xaa" * 1000
    assert bytes(window.plain[1500:]) == b"\xaa" * 2596


@given(flips=st.lists(st.tuples(st.integers(0, 1 << 20), st.integers(0, 7)), min_size=1, max_size=5), chosen=runs(400))
def test_damaged_readers_never_crash(flips: list[tuple[int, int]], chosen: list[Run]) -> None:
    made = sample(chosen)
    for place, bit in flips:
        reader = made.readers[place % 3]
        if reader:
            reader[place % len(reader)] ^= 1 << bit
    plan, window = made.plan(1024), Window(1024, 256, KEY)
    with opened(made.readers) as fds:
        for index in range(plan.window_count):
            with contextlib.suppress(LoadFailure):
                window.load(plan, index, array("i", fds))


# ------------------------------------------------------------------------------------------ first_mismatch
@pytest.mark.parametrize("key", [None, KEY])
def test_first_mismatch_finds_the_first_of_each_kind(key: bytes | None) -> None:
    chosen = [Run(DATA, 512), Run(ExtentKind.HOLE, 512), Run(DATA, 512, fill="zeros"), Run(DATA, 400)]
    made = sample(chosen)
    window = Window(2048, 512, key)
    with opened(made.readers) as fds:
        window.load(made.plan(2048), 0, array("i", fds))
    right = bytes(window.digests)
    size = window.digest_size
    assert window.first_mismatch(right) == -1
    for chunk in range(4):
        for place in (chunk * size, chunk * size + size - 1):
            wrong = bytearray(right)
            wrong[place] ^= 1
            assert window.first_mismatch(wrong) == chunk
            wrong[-1] ^= 0x80
            assert window.first_mismatch(wrong) == chunk
    for expected in (b"", right[:-1], right + b"\0"):
        with pytest.raises(ValueError, match="bytes of digests"):
            window.first_mismatch(expected)


# ------------------------------------------------------------------------------------------ arguments
@pytest.mark.parametrize(("size", "chunk_size"), [(0, 1), (4096, 0), (4096, 8192), (4095, 1), (4096, 3), (-8, -8)])
def test_window_of_odd_size_is_refused(size: int, chunk_size: int) -> None:
    with pytest.raises(ValueError, match="does not hold whole chunks"):
        Window(size, chunk_size)


def test_window_key_of_other_length_is_refused() -> None:
    with pytest.raises(ValueError, match="32 bytes"):
        Window(4096, 4096, b"short")


def test_load_arguments_that_do_not_fit_are_refused() -> None:
    plan = Plan(pack_batch([Extent(0, 100, DATA, 0, 2, 0, 100)]), 4096, DECODED_SIZE_MAX)
    window = Window(4096, 4096)
    three = array("i", [-1, -1, -1])
    with pytest.raises(ValueError, match="reader 2"):
        window.load(plan, 0, three[:2])
    with pytest.raises(ValueError, match="reader 2"):
        window.load(plan, 0, array("i"))
    with pytest.raises(ValueError, match="does not fit"):
        Window(8192, 4096).load(plan, 0, three)
    for index in (-1, 1):
        with pytest.raises(IndexError, match="with 1"):
            window.load(plan, index, three)
    with pytest.raises(ValueError, match="4 columns"):
        window.load(plan, 0, three, int64_rows([(2, 0, 100)], 3), bytes(100))


@pytest.mark.parametrize(
    "row", [(2, 0, 101, 0), (2, 0, 100, 1), (2, -1, 100, 0), (2, 0, -1, 0), (2, 0, 1, -1), (2, 0, 1, 1 << 62)]
)
def test_staged_range_outside_of_what_was_handed_over_is_refused(row: tuple[int, int, int, int]) -> None:
    plan = Plan(pack_batch([Extent(0, 100, DATA, 0, 2, 0, 100)]), 4096, DECODED_SIZE_MAX)
    with pytest.raises(ValueError, match="staged range 0"):
        Window(4096, 4096).load(plan, 0, array("i", [-1] * 3), int64_rows([row], 4), bytes(100))
