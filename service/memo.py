"""What was made of a value once, for as long as the same value, not merely an equal one, is asked about."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Generic, TypeVar

T = TypeVar("T")
R = TypeVar("R")


class Memo(Generic[T, R]):
    """Calls `make` for values it has not seen lately. Values need no hash: they are told apart by identity.

    Neither values nor results are to be changed, because others hold them too. Safe to share between threads.
    """

    def __init__(self, make: Callable[[T], R], *, size: int) -> None:
        """`size` is how many values are remembered, with their results."""
        self._made = lru_cache(maxsize=size)(lambda same: make(same.value))

    def __call__(self, value: T) -> R:
        """Return what `make` makes of `value`, or has made of it."""
        return self._made(_Same(value))


class _Same:
    """A value that equals itself alone. It is held, so nothing else can have its place in memory meanwhile."""

    __slots__ = ("value",)

    def __init__(self, value: object) -> None:
        self.value = value

    def __hash__(self) -> int:
        return id(self.value)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Same) and self.value is other.value
