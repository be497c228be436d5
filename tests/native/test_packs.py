"""The choice of a pack's chunks, against a loop that can be believed by reading."""

from __future__ import annotations

from array import array
from itertools import accumulate

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dataplane.engine.packs import select_chunks
from dataplane.engine.scan import ChunkState, blake3
from dataplane.engine.table import DigestTable
from dataplane.extent import Extent, ExtentCodec, ExtentKind, unpack_batch

CHUNK_SIZE = 4096
LENGTHS = st.lists(
    st.tuples(
        st.one_of(st.just(CHUNK_SIZE), st.integers(1, CHUNK_SIZE)),
        st.sampled_from([CHUNK_SIZE, CHUNK_SIZE, CHUNK_SIZE, 100, 32768]),
    ),
    max_size=40,
)


def columns(lengths: list[tuple[int, int]]) -> tuple[bytes, array[int], array[int], array[int]]:
    ids = b"".join(blake3(str(n).encode()) for n in range(len(lengths)))
    offsets = array("q", accumulate((one[0] for one in lengths), initial=64))
    offsets.pop()
    return ids, offsets, array("I", [one[0] for one in lengths]), array("I", [one[1] for one in lengths])


@given(LENGTHS, st.sets(st.integers(0, 39)))
def test_select_chunks_matches_oracle(lengths: list[tuple[int, int]], chosen: set[int]) -> None:
    ids, offsets, stored, plain = columns(lengths)
    wanted = DigestTable(32)
    for n in chosen:
        wanted.claim(blake3(str(n).encode()), bytearray([ChunkState.DATA]))
    batch, kept, others = select_chunks(ids, offsets, stored, plain, CHUNK_SIZE, 1 << 20, 3, wanted)
    rows: list[Extent] = []
    expected_ids, expected_others = b"", []
    for n in sorted(chosen & set(range(len(lengths)))):
        if plain[n] != CHUNK_SIZE:
            expected_others.append(n)
            continue
        raw = stored[n] == plain[n]
        row = Extent(
            offset=(1 << 20) + CHUNK_SIZE * (len(expected_ids) // 32),
            length=CHUNK_SIZE,
            kind=ExtentKind.DATA,
            codec=ExtentCodec.RAW if raw else ExtentCodec.ZSTD,
            reader=3,
            source_offset=offsets[n],
            source_length=stored[n],
            decoded_length=0 if raw else CHUNK_SIZE,
        )
        before = rows[-1] if rows else None
        if raw and before and before.codec == ExtentCodec.RAW and before.source_offset + before.length == offsets[n]:
            rows[-1] = before._replace(length=before.length + CHUNK_SIZE, source_length=before.length + CHUNK_SIZE)
        else:
            rows.append(row)
        expected_ids += ids[32 * n : 32 * n + 32]
    assert (kept, others) == (expected_ids, expected_others)
    assert (list(unpack_batch(batch)) if batch is not None else []) == rows


def test_select_chunks_share_is_a_random_share() -> None:
    ids, offsets, stored, plain = columns([(10, CHUNK_SIZE)] * 4000)
    samples = [
        select_chunks(ids, offsets, stored, plain, CHUNK_SIZE, 0, 0, None, 0.25, seed)[1] for seed in (1, 2, 1 << 63)
    ]
    assert all(800 < len(sample) // 32 < 1200 for sample in samples)
    assert len(set(samples)) == 3


def test_select_chunks_refuses_what_does_not_fit() -> None:
    ids, offsets, stored, plain = columns([(10, CHUNK_SIZE)] * 3)
    for bad in (
        (ids[:-1], offsets, stored, plain, CHUNK_SIZE, 0, 0),
        (ids, offsets[:-1], stored, plain, CHUNK_SIZE, 0, 0),
        (ids, offsets, stored, plain[:-1], CHUNK_SIZE, 0, 0),
        (ids, array("q", [-1, 0, 0]), stored, plain, CHUNK_SIZE, 0, 0),
        (ids, offsets, stored, plain, 0, 0, 0),
        (ids, offsets, stored, plain, CHUNK_SIZE, -1, 0),
        (ids, offsets, stored, plain, CHUNK_SIZE, 0, 0, None, 1.5),
    ):
        with pytest.raises(ValueError, match=r"differ in length|cannot choose|lies at"):
            select_chunks(*bad)
