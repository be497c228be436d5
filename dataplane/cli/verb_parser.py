"""The parser of a verb's arguments: reads ordinary command lines itself, and leaves all others to argparse.

Importing argparse, and ``re`` with it, takes half as long as Python's own start. Help, abbreviations, mistakes and
whatever else is not plain are argparse's, which is told then what the verb declared; so it alone decides what is right.
"""

from __future__ import annotations

from collections.abc import Iterable
from types import SimpleNamespace

from dataplane.hints import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import Any

    Declared = tuple[tuple[str, ...], dict[str, Any]]

ACTIONS = ("store", "append", "store_true", "boolean")
"""Those of argparse that verbs use; ``boolean`` is its BooleanOptionalAction, ``--x`` and ``--no-x``."""


class NotPlain(Exception):
    """A command line that argparse has to look at."""


class VerbParser:
    """Takes what a verb declares, in the words of argparse, and reads its command line.

    `title` is what the verb is called, `summary` what it does, with a small letter and without a full stop; `epilog`,
    which may be set, ends the help.
    """

    def __init__(self, title: str, summary: str) -> None:
        self.title = title
        self.summary = summary
        self.epilog: str | None = None
        self.declared: list[Declared] = []
        self.exclusive: list[list[Declared]] = []

    def add_argument(self, *names: str, **said: Any) -> None:
        """Declare an argument as ``ArgumentParser.add_argument`` does; its action is one of ACTIONS."""
        self.declared.append((names, said))

    def add_exclusive(self, *arguments: Declared) -> None:
        """Declare optional arguments, (names, what is said of them) each, of which one at most may be given."""
        self.declared.extend(arguments)
        self.exclusive.append(list(arguments))

    def parse_args(self, words: list[str]) -> SimpleNamespace:
        """Return the values; prints and raises SystemExit as argparse does for mistakes and for ``--help``."""
        try:
            return SimpleNamespace(**PlainReading(self.declared, self.exclusive).read(words))
        except NotPlain:
            from dataplane.cli.full_parser import full_parser

            return SimpleNamespace(**vars(full_parser(self).parse_args(words)))


class PlainReading:
    """One command line: options written in full, a value behind those that take one, other words side by side."""

    def __init__(self, declared: list[Declared], exclusive: list[list[Declared]]) -> None:
        self._options: dict[str, Declared] = {}
        self._positionals = [one for one in declared if not one[0][0].startswith("-")]
        self._exclusive = exclusive
        self._values: dict[str, Any] = {}
        self._given: set[str] = set()
        for names, said in declared:
            name = destination(names, said)
            self._values[name] = converted(said, said["default"]) if "default" in said else absent(said)
            if names[0].startswith("-"):
                self._options |= dict.fromkeys(names, (names, said))
                if said.get("action") == "boolean":
                    self._options |= dict.fromkeys((f"--no-{one.removeprefix('--')}" for one in names), (names, said))

    def read(self, words: list[str]) -> dict[str, Any]:
        """Return the value of every argument; raises NotPlain."""
        at, groups = 0, 0
        while at < len(words):
            end = at + 1
            if is_value(words[at]):
                while end < len(words) and is_value(words[end]):
                    end += 1
                self._take_positionals(words[at:end])
                groups += 1
            else:
                end = self._take_option(words, at)
            at = end
        if groups != bool(self._positionals) or any(self._lacks(one) for one in self._options.values()):
            raise NotPlain
        for group in self._exclusive:
            if len(self._given.intersection(destination(*one) for one in group)) > 1:
                raise NotPlain
        return self._values

    def _lacks(self, option: Declared) -> bool:
        return bool(option[1].get("required")) and destination(*option) not in self._given

    def _take_option(self, words: list[str], at: int) -> int:
        """Take the option at `at`, with its value; return where the next word is."""
        word, sign, value = words[at].partition("=")
        option = self._options.get(word)
        if option is None:
            raise NotPlain
        name, said = destination(*option), option[1]
        action = said.get("action", "store")
        self._given.add(name)
        if action in ("store_true", "boolean"):
            if sign:
                raise NotPlain
            self._values[name] = not word.startswith("--no-") or word in option[0]
            return at + 1
        values, at = [value] if sign else [], at + 1
        while not sign and at < len(words) and is_value(words[at]) and (not values or said.get("nargs") == "+"):
            values.append(words[at])
            at += 1
        if not values:
            raise NotPlain
        found = [chosen(said, one) for one in values]
        if action == "append":
            self._values[name] = [*(self._values[name] or ()), *found]
        else:
            self._values[name] = found if said.get("nargs") == "+" else found[0]
        return at

    def _take_positionals(self, words: list[str]) -> None:
        """Give all the positional words there are to the positional arguments; the last may take several or none."""
        left = list(words)
        for names, said in self._positionals:
            nargs = said.get("nargs")
            if nargs == "?" and not left:
                continue
            if not left:
                raise NotPlain
            count = len(left) if nargs == "+" else 1
            found = [chosen(said, word) for word in left[:count]]
            self._values[destination(names, said)] = found if nargs == "+" else found[0]
            del left[:count]
        if left:
            raise NotPlain


def is_value(word: str) -> bool:
    """Tell whether a word is a value wherever it stands; a lone ``-`` is one."""
    return word == "-" or not word.startswith("-")


def destination(names: Iterable[str], said: dict[str, Any]) -> str:
    """Return the name under which an argument's value is found."""
    name: str = said.get("dest") or next(iter(names)).removeprefix("--").replace("-", "_")
    return name


def absent(said: dict[str, Any]) -> Any:
    """Return the value of an argument that is not given and has no default."""
    return False if said.get("action") == "store_true" else None


def converted(said: dict[str, Any], value: Any) -> Any:
    """Return a value as what the argument's type makes of it; what is no text is a value already. Raises NotPlain."""
    if "type" not in said or not isinstance(value, str):
        return value
    try:
        return said["type"](value)
    except Exception as error:  # argparse will meet it again, and knows what to say
        raise NotPlain from error


def chosen(said: dict[str, Any], word: str) -> Any:
    """Return the value that a word stands for; raises NotPlain when it is none of the argument's choices."""
    value = converted(said, word)
    if "choices" in said and value not in said["choices"]:
        raise NotPlain
    return value


def bad_value(message: str) -> Exception:
    """Return what an argument's type raises for a text that it does not take."""
    from argparse import ArgumentTypeError

    return ArgumentTypeError(message)
