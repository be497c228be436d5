"""Our data classes behave as the standard ones do, as far as they go."""

from __future__ import annotations

import copy
import dataclasses
import pickle
from collections.abc import Callable
from typing import Any

import pytest

from dataplane import dataclass as ours

Decorator = Callable[..., Callable[[type], Any]]


def classes(dataclass: Decorator, field: Callable[..., Any]) -> dict[str, Any]:
    """Return classes of every kind the library has, made by one of the two decorators."""

    @dataclass(frozen=True, slots=True)
    class Place:
        """A place."""

        offset: int
        length: int = 4
        name: str = field(default="it", repr=False)

        @property
        def end(self) -> int:
            return self.offset + self.length

    @dataclass(frozen=True, slots=True, kw_only=True)
    class Checked:
        size: int
        names: list[str] = field(default_factory=list)

        def __post_init__(self) -> None:
            if self.size < 0:
                raise ValueError("a size is not negative")

    @dataclass(slots=True)
    class Counter:
        count: int = 0

        def __str__(self) -> str:
            return f"{self.count} times"

    return {"Place": Place, "Checked": Checked, "Counter": Counter}


OURS = classes(ours.dataclass, ours.field)
STANDARD = classes(dataclasses.dataclass, dataclasses.field)

CALLS: tuple[tuple[str, tuple[object, ...], dict[str, object]], ...] = (
    ("Place", (1,), {}),
    ("Place", (1, 2), {}),
    ("Place", (1, 2, "here"), {}),
    ("Place", (), {"offset": 1, "name": "there"}),
    ("Place", (1,), {"length": 9}),
    ("Place", (), {}),
    ("Place", (1, 2, "here", 4), {}),
    ("Place", (1,), {"offset": 1}),
    ("Place", (1,), {"size": 1}),
    ("Checked", (), {"size": 1}),
    ("Checked", (), {"size": 1, "names": ["a"]}),
    ("Checked", (1,), {}),
    ("Checked", (), {"names": []}),
    ("Checked", (), {"size": -1}),
    ("Counter", (), {}),
    ("Counter", (3,), {}),
)


def outcome(kind: Any, values: tuple[object, ...], named: dict[str, object]) -> object:
    """Return all that can be seen of an instance, or what making it raised."""
    try:
        made = kind(*values, **named)
    except (TypeError, ValueError) as error:
        return type(error)
    try:
        hashed: object = hash(made)
    except TypeError:
        hashed = "no hash"
    shown = repr(made), str(made), hashed, kind.__slots__, kind.__match_args__
    return (*shown, [getattr(made, name) for name in kind.__slots__], hasattr(made, "__dict__"))


@pytest.mark.parametrize(("name", "values", "named"), CALLS)
def test_instances_are_those_of_the_standard_library(
    name: str, values: tuple[object, ...], named: dict[str, object]
) -> None:
    assert outcome(OURS[name], values, named) == outcome(STANDARD[name], values, named)


@pytest.mark.parametrize("made", [OURS, STANDARD], ids=["ours", "standard"])
def test_values_are_compared_by_their_fields(made: dict[str, Any]) -> None:
    place = made["Place"]
    assert place(1) == place(1, 4, "it")
    assert place(1) != place(2)
    assert place(1) != (1, 4, "it")
    assert len({place(1), place(1), place(1, 5)}) == 2
    assert place(3, 4).end == 7


@pytest.mark.parametrize("made", [OURS, STANDARD], ids=["ours", "standard"])
def test_frozen_instances_cannot_be_changed(made: dict[str, Any]) -> None:
    place, counter = made["Place"](1), made["Counter"]()
    with pytest.raises(AttributeError):
        place.offset = 2
    with pytest.raises(AttributeError):
        del place.offset
    with pytest.raises((AttributeError, TypeError)):
        place.other = 2
    counter.count += 1
    assert counter == made["Counter"](1)
    with pytest.raises(AttributeError):
        counter.other = 2


def test_each_instance_has_a_default_of_its_own() -> None:
    first, second = OURS["Checked"](size=1), OURS["Checked"](size=1)
    first.names.append("a")
    assert second.names == []


@pytest.mark.parametrize("replace", [ours.replace, dataclasses.replace], ids=["ours", "standard"])
def test_replacing_checks_anew(replace: Callable[..., Any]) -> None:
    assert replace(OURS["Place"](1, 2), length=5) == OURS["Place"](1, 5)
    with pytest.raises(ValueError, match="not negative"):
        replace(OURS["Checked"](size=1), size=-1)
    with pytest.raises(TypeError):
        replace(OURS["Place"](1), nothing=1)


def test_functions_of_the_standard_library_take_our_classes() -> None:
    place: Any = OURS["Place"](1)
    assert dataclasses.is_dataclass(type(place))
    assert dataclasses.asdict(place) == {"offset": 1, "length": 4, "name": "it"}
    assert [field.name for field in dataclasses.fields(OURS["Checked"])] == ["size", "names"]
    assert [field.kw_only for field in dataclasses.fields(OURS["Checked"])] == [True, True]


@ours.dataclass(frozen=True, slots=True)
class Kept:
    """One that pickle finds again."""

    at: int
    names: tuple[str, ...] = ()


def test_copies_are_equal() -> None:
    kept = Kept(1, ("a",))
    assert pickle.loads(pickle.dumps(kept)) == kept
    assert copy.deepcopy(kept) == kept
    assert copy.copy(kept) == kept


def test_asdict_gives_fields_in_their_order_and_values_as_they_are() -> None:
    values = {"size": 3, "names": ["a"]}
    made = OURS["Checked"](**values)
    assert list(ours.asdict(made).items()) == list(dataclasses.asdict(STANDARD["Checked"](**values)).items())
    assert ours.asdict(made)["names"] is made.names
