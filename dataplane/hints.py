"""The names of ``typing`` that stand where code runs, as far as this library has them there.

Importing ``typing`` takes a tenth of the time in which a whole verb has to be at work, and all that it would do here is
to be inherited from. Type checkers see the real names.
"""

from __future__ import annotations

TYPE_CHECKING = False
"""True for type checkers only: what they alone need is imported under it, from ``typing`` itself."""

if TYPE_CHECKING:
    from typing import Generic as Generic
    from typing import NamedTuple as NamedTuple
    from typing import Protocol as Protocol
    from typing import TypeVar as TypeVar
else:
    from collections import namedtuple

    class Protocol:
        """A base that asks for nothing."""

    class Generic:
        """A base that takes parameters and forgets them."""

        __slots__ = ()

        def __class_getitem__(cls, parameters):
            """Return the class itself."""
            return cls

    def TypeVar(name):  # noqa: N802 - named like what it stands for
        """Return something to be a parameter."""
        return name

    class _NamedTupleMaker(type):
        """Makes a named tuple of a class body that lists fields."""

        def __new__(cls, name, bases, body):
            if not bases:
                return super().__new__(cls, name, bases, body)
            fields = super().__new__(cls, name, (), body).__annotations__
            defaults = [body[field] for field in fields if field in body]
            made = namedtuple(name, fields, defaults=defaults, module=body["__module__"])
            made.__doc__ = body.get("__doc__")
            return made

    class NamedTuple(metaclass=_NamedTupleMaker):
        """A base whose heirs are named tuples; they have no methods of their own."""
