"""A memo gives what it has made, for the same value alone, and holds on to no more than it may."""

from __future__ import annotations

import gc
import weakref

from service.memo import Memo


class Value:
    """Equal to every other one, and without a hash."""

    __hash__ = None  # type: ignore[assignment]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Value)


def test_made_once_for_the_same_value() -> None:
    memo = Memo[Value, list[int]](lambda _value: [], size=2)
    one = Value()
    assert memo(one) is memo(one)


def test_equal_values_are_told_apart() -> None:
    memo = Memo[Value, list[int]](lambda _value: [], size=4)
    one, other = Value(), Value()
    assert one == other
    assert memo(one) is not memo(other)


def test_forgotten_values_are_let_go() -> None:
    memo = Memo[Value, int](id, size=2)
    first = Value()
    gone = weakref.ref(first)
    memo(first)
    del first
    for _ in range(2):
        memo(Value())
    gc.collect()
    assert gone() is None
