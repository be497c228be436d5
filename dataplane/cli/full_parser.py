"""The full parser of a verb's arguments: argparse, told what the verb declared."""

from __future__ import annotations

import argparse
import os
import sys

from dataplane.cli.verb_parser import VerbParser

COLUMNS_DEFAULT = 80

# All messages are English, so there is no translation to look for; the search imports ``locale`` and reads folders.
vars(argparse)["_"] = str


class VerbFormatter(argparse.RawDescriptionHelpFormatter):
    """Formats help as wide as the terminal. argparse makes a formatter to check each argument, and by default each
    asks ``shutil``, which imports every compressor there is, for the width."""

    def __init__(
        self, prog: str, indent_increment: int = 2, max_help_position: int = 24, width: int | None = None
    ) -> None:
        super().__init__(prog, indent_increment, max_help_position, terminal_columns() - 2 if width is None else width)


def terminal_columns() -> int:
    """Return the width of the terminal: ``$COLUMNS``, or what the terminal says, or 80."""
    said = os.environ.get("COLUMNS", "")
    if said.isdecimal() and int(said) > 0:
        return int(said)
    try:
        return os.get_terminal_size(sys.__stdout__.fileno()).columns or COLUMNS_DEFAULT if sys.__stdout__ else 80
    except (ValueError, OSError):
        return COLUMNS_DEFAULT


def full_parser(declared: VerbParser) -> argparse.ArgumentParser:
    """Return a parser that has the declared arguments."""
    parser = argparse.ArgumentParser(
        prog=f"dataplane {declared.title}",
        description=f"{declared.summary[0].upper()}{declared.summary[1:]}.",
        epilog=declared.epilog,
        formatter_class=VerbFormatter,
    )
    groups = {id(one): number for number, group in enumerate(declared.exclusive) for one in group}
    made = [parser.add_mutually_exclusive_group() for _ in declared.exclusive]
    for one in declared.declared:
        names, said = one
        target = made[groups[id(one)]] if id(one) in groups else parser
        if said.get("action") == "boolean":
            said = said | {"action": argparse.BooleanOptionalAction}
        target.add_argument(*names, **said)
    return parser
