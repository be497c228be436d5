"""The fold beside the xxhash package, and keys beside plain Python."""

from __future__ import annotations

from array import array

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dataplane.engine.fold import fold, gather, tally
from tests.oracles import fold as oracle

VALUES = st.one_of(st.integers(0, 3), st.integers(0, (1 << 64) - 1))


@given(st.lists(VALUES, max_size=64).filter(lambda values: len(values) % 2 == 0))
def test_fold_matches_oracle(values: list[int]) -> None:
    parents = array("Q", bytes(4 * len(values)))
    fold(array("Q", values), parents)
    assert parents.tolist() == oracle.fold(values)


@given(st.lists(VALUES, min_size=2, max_size=64).filter(lambda values: len(values) % 2 == 0))
def test_fold_in_place(values: list[int]) -> None:
    room = memoryview(array("Q", values))
    fold(room, room[: len(values) // 2])
    assert room[: len(values) // 2].tolist() == oracle.fold(values)


def test_parents_and_children_have_to_fit() -> None:
    with pytest.raises(ValueError, match="2 parents have 4 children, not 3"):
        fold(array("Q", [1, 2, 3]), array("Q", [0, 0]))
    fold(array("Q"), array("Q"))


@given(st.lists(VALUES, max_size=64), st.lists(VALUES, max_size=64), st.integers(0, 10), st.integers(0, 3), st.data())
def test_keys_match_oracle(first: list[int], second: list[int], bits: int, spare: int, data: st.DataObject) -> None:
    """Keys of two disks, one after the other, with some places left."""
    images = [data.draw(st.integers(0, (1 << bits) - 1)) for _ in range(2)]
    expected = oracle.keys(first, bits, images[0]) + oracle.keys(second, bits, images[1])
    found = array("Q", [77] * (len(expected) + spare))
    low, high = 0, len(found)
    for values, image in zip((first, second), images, strict=True):
        low, high = gather(array("Q", values), bits, image, found, low, high)
    assert high - low == spare
    assert found[:low].tolist() == [key for key in expected if key < 1 << 63]
    assert found[high:].tolist() == [key for key in reversed(expected) if key >= 1 << 63]
    assert found[low:high].tolist() == [77] * spare


def test_keys_have_to_fit() -> None:
    room = array("Q", bytes(16))
    with pytest.raises(ValueError, match="more digests than the 2 keys take"):
        gather(array("Q", [5, 1 << 63, 7]), 0, 0, room, 0, 2)
    assert gather(array("Q", [5, 1, 1 << 63]), 0, 0, room, 0, 2) == (1, 1)
    for bits, image in ((1, 2), (0, 1), (11, 0), (-1, 0)):
        with pytest.raises(ValueError, match="does not fit"):
            gather(array("Q", [5]), bits, image, room, 0, 2)
    for low, high in ((-1, 2), (0, 3), (2, 1)):
        with pytest.raises(ValueError, match="no places"):
            gather(array("Q", [5]), 0, 0, room, low, high)


@given(st.lists(st.tuples(VALUES, st.integers(1, 40)), max_size=20), st.integers(1, 8))
def test_tally_matches_oracle(runs: list[tuple[int, int]], buckets: int) -> None:
    values = sorted(value for value, count in runs for _ in range(count))
    references = array("q", bytes(8 * buckets))
    distinct = tally(array("Q", values), references)
    assert (distinct, references.tolist()) == oracle.tally(values, buckets)


def test_tally_adds_and_needs_a_place() -> None:
    references = array("q", [5])
    assert tally(array("Q", [3, 3, 4]), references) == 2
    assert references.tolist() == [7]
    with pytest.raises(ValueError, match="no place"):
        tally(array("Q"), array("q"))
