"""The `filter` of lists: conditions joined by AND, each a field, an operator and quoted values.

    filter    = condition { AND condition }
    condition = field ( "=" | "!=" ) value  |  field [ NOT ] IN "(" value { "," value } ")"
    value     = text in double or single quotes, where a backslash stands before a quote or a backslash, or a number

Operators may be written in either case.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from service.faults import InvalidRequest, Violation, shown

_TOKEN = re.compile(
    r"""\s*(?:
      (?P<text>"(?:[^"\\]|\\.)*" | '(?:[^'\\]|\\.)*')
    | (?P<sign>!=|=|\(|\)|,)
    | (?P<word>[A-Za-z_][-A-Za-z0-9_./@]*)
    | (?P<number>[0-9]{1,19})
    )""",
    re.VERBOSE | re.DOTALL,
)
_ESCAPED = re.compile(r"""\\(?P<character>["'\\])|(?P<other>\\)""", re.DOTALL)


@dataclass(frozen=True, slots=True, kw_only=True)
class Condition:
    """The field is one of the values; with `negated` it is none of them."""

    field: str
    values: tuple[str, ...]
    negated: bool


@dataclass(frozen=True, slots=True)
class _Token:
    kind: str
    text: str


def parse(text: str) -> list[Condition]:
    """Return the conditions of a filter, none for an empty one. Raises InvalidRequest that says where it goes wrong."""
    if not text.strip():
        return []
    tokens = _Tokens(text)
    found = [_condition(tokens)]
    while not tokens.at_end():
        tokens.keyword("AND")
        found.append(_condition(tokens))
    return found


def wrong(problem: str) -> InvalidRequest:
    """Return the refusal of a filter."""
    return InvalidRequest([Violation("filter", problem)])


class _Tokens:
    """The tokens of a filter, read from left to right."""

    def __init__(self, text: str) -> None:
        self._tokens = list(_split(text))
        self._next = 0

    def at_end(self) -> bool:
        """Say whether all were read."""
        return self._next == len(self._tokens)

    def take(self, wanted: str) -> _Token:
        """Return the next token; `wanted` says what should come in the message when there is none."""
        if self.at_end():
            raise wrong(f"ends where {wanted} should be")
        self._next += 1
        return self._tokens[self._next - 1]

    def peek(self) -> str:
        """Return the next token's text in upper case, empty at the end."""
        return "" if self.at_end() else self._tokens[self._next].text.upper()

    def keyword(self, word: str) -> None:
        """Read one word or sign."""
        token = self.take(word)
        if token.kind == "text" or token.text.upper() != word:
            raise wrong(f"{shown(token.text)} stands where {word} should be")

    def value(self) -> str:
        """Read one value."""
        token = self.take("a value in quotes")
        if token.kind == "number":
            return token.text
        if token.kind != "text":
            raise wrong(f"{shown(token.text)} stands where a value in quotes should be")
        return _ESCAPED.sub(_unescape, token.text[1:-1])


def _split(text: str) -> Iterator[_Token]:
    position, end = 0, len(text.rstrip())
    while position < end:
        match = _TOKEN.match(text, position)
        if match is None or match.lastgroup is None:
            raise wrong(f"is not understood at character {position + 1}: {shown(text[position:].strip(), 20)}")
        yield _Token(match.lastgroup, match[match.lastgroup])
        position = match.end()


def _unescape(match: re.Match[str]) -> str:
    if match["other"] is not None:
        raise wrong("a backslash may stand before a quote or a backslash only")
    return match["character"]


def _condition(tokens: _Tokens) -> Condition:
    field = tokens.take("a field")
    if field.kind != "word":
        raise wrong(f"{shown(field.text)} stands where a field should be")
    operator = tokens.take("an operator").text.upper()
    if operator in ("=", "!="):
        return Condition(field=field.text, values=(tokens.value(),), negated=operator == "!=")
    negated = operator == "NOT"
    if negated:
        tokens.keyword("IN")
    elif operator != "IN":
        raise wrong(f"{shown(operator)} is none of the operators =, !=, IN and NOT IN")
    return Condition(field=field.text, values=_values(tokens), negated=negated)


def _values(tokens: _Tokens) -> tuple[str, ...]:
    tokens.keyword("(")
    found = [tokens.value()]
    while tokens.peek() == ",":
        tokens.keyword(",")
        found.append(tokens.value())
    tokens.keyword(")")
    return tuple(found)
