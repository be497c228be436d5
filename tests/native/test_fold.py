"""The fold beside the xxhash package."""

from __future__ import annotations

from array import array

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dataplane.engine.fold import fold
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
