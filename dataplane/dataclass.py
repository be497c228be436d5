"""Data classes that cost a short command nothing: the part of ``dataclasses`` that this library uses.

Importing the standard module takes a fifth of the time in which a whole verb has to be at work, and it compiles a
program for each class. Here the methods are written once and shared by all classes; making an instance takes about
twice as long for it. Type checkers see the standard decorator, and the functions of the standard module
take these classes as they take their own.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

_NOTHING = object()


class Field:
    """What a class body says of a field beside its type."""

    __slots__ = ("default", "default_factory", "shown")

    def __init__(self, default: object, default_factory: Callable[[], object] | None, shown: bool) -> None:
        self.default = default
        self.default_factory = default_factory
        self.shown = shown


def _field(
    *, default: object = _NOTHING, default_factory: Callable[[], object] | None = None, repr: bool = True
) -> Field:
    """Return a field with a default, with one that is made for each instance, or one that ``repr`` leaves out."""
    return Field(default, default_factory, repr)


def _dataclass(*, frozen: bool = False, slots: bool, kw_only: bool = False) -> Callable[[type], type]:
    """Make a class a data class. `slots` is always true: instances have no other attributes than their fields."""

    def make(plain: type) -> type:
        body = {name: value for name, value in vars(plain).items() if name not in ("__dict__", "__weakref__")}
        fields = {name: _as_field(body.pop(name, _NOTHING)) for name in plain.__annotations__}
        methods = _FROZEN_METHODS if frozen else _METHODS
        made = type(plain)(
            plain.__name__,
            plain.__bases__,
            {
                **methods,
                **body,
                "__slots__": tuple(fields),
                "__match_args__": () if kw_only else tuple(fields),
                "__own_fields__": fields,
                "__dataclass_fields__": _STANDARD_FIELDS,
            },
        )
        made.__qualname__ = plain.__qualname__
        return made

    return make


def _replace(instance: Any, /, **changes: object) -> Any:
    """Return a copy of a data class's instance in which some fields have other values."""
    kind = type(instance)
    return kind(**{name: getattr(instance, name) for name in kind.__slots__} | changes)


def _asdict(instance: Any) -> dict[str, Any]:
    """Return the fields of a data class's instance by name, their values as they are."""
    return dict(zip(type(instance).__slots__, _values(instance), strict=True))


def _as_field(said: object) -> Field:
    return said if isinstance(said, Field) else Field(said, None, True)


# -------------------------------------------------------------------------------------------- what all classes share
def _init(self: Any, /, *values: object, **named: object) -> None:
    kind = type(self)
    if values:
        names = kind.__match_args__
        if len(values) > len(names):
            raise TypeError(f"{kind.__name__}() takes {len(names)} positional arguments, not {len(values)}")
        for name, value in zip(names, values, strict=False):
            if name in named:
                raise TypeError(f"{kind.__name__}() got several values for {name!r}")
            named[name] = value
    for name, field in kind.__own_fields__.items():
        if name in named:
            value = named.pop(name)
        elif field.default_factory is not None:
            value = field.default_factory()
        elif field.default is not _NOTHING:
            value = field.default
        else:
            raise TypeError(f"{kind.__name__}() lacks a value for {name!r}")
        object.__setattr__(self, name, value)
    if named:
        raise TypeError(f"{kind.__name__}() has no field {next(iter(named))!r}")
    check = getattr(kind, "__post_init__", None)
    if check is not None:
        check(self)


def _values(self: Any) -> tuple[object, ...]:
    return tuple([getattr(self, name) for name in type(self).__slots__])


def _eq(self: object, other: object) -> bool:
    return _values(self) == _values(other) if type(other) is type(self) else NotImplemented


def _hash(self: object) -> int:
    return hash(_values(self))


def _repr(self: Any) -> str:
    kind = type(self)
    shown = [f"{name}={getattr(self, name)!r}" for name, field in kind.__own_fields__.items() if field.shown]
    return f"{kind.__qualname__}({', '.join(shown)})"


def _refuse_to_set(self: object, name: str, value: object) -> None:
    raise AttributeError(f"cannot assign to field {name!r}")


def _refuse_to_delete(self: object, name: str) -> None:
    raise AttributeError(f"cannot delete field {name!r}")


def _reduce(self: object) -> tuple[object, ...]:
    return _restored, (type(self), _values(self))


def _restored(kind: Any, values: tuple[object, ...]) -> object:
    """Make a copy, as ``pickle`` and ``copy`` do it: what was checked once is not checked again."""
    made = object.__new__(kind)
    for name, value in zip(kind.__slots__, values, strict=True):
        object.__setattr__(made, name, value)
    return made


class _StandardFields:
    """Tells the functions of the standard module what they want to know of a class, when they ask."""

    def __get__(self, instance: object, kind: Any) -> dict[str, Any]:
        from dataclasses import field, make_dataclass

        told: list[tuple[str, Any, Any]] = []
        for name, own in kind.__own_fields__.items():
            extras = {"repr": own.shown, "kw_only": not kind.__match_args__}
            if own.default_factory is not None:
                extras["default_factory"] = own.default_factory
            elif own.default is not _NOTHING:
                extras["default"] = own.default
            told.append((name, kind.__annotations__[name], field(**extras)))
        standard: Any = make_dataclass(kind.__name__, told)
        return dict(standard.__dataclass_fields__)


_STANDARD_FIELDS = _StandardFields()
_METHODS = {"__init__": _init, "__eq__": _eq, "__repr__": _repr, "__reduce__": _reduce, "__hash__": None}
_FROZEN_METHODS = {
    **_METHODS, "__hash__": _hash, "__setattr__": _refuse_to_set, "__delattr__": _refuse_to_delete
}  # fmt: skip

if TYPE_CHECKING:
    from dataclasses import asdict as asdict
    from dataclasses import dataclass as dataclass
    from dataclasses import field as field
    from dataclasses import replace as replace
else:
    asdict, dataclass, field, replace = _asdict, _dataclass, _field, _replace
