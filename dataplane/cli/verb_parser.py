"""The parser of a verb's arguments: argparse, kept from what it does for help and errors before anybody needs them."""

from __future__ import annotations

import argparse
import os
import sys

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


def verb_parser(name: str, summary: str) -> argparse.ArgumentParser:
    """Return the parser of a verb; `summary` says what it does, with a small letter and without a full stop."""
    return argparse.ArgumentParser(
        prog=f"dataplane {name}",
        description=f"{summary[0].upper()}{summary[1:]}.",
        formatter_class=VerbFormatter,
    )
