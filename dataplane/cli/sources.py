"""Arguments that say what to read and how, shared by the verbs that take a SOURCE."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dataplane.image_source import ImageSource

SOURCE_HELP = "a file, a block device, or an http(s) URL"


def add_source_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options that go with a SOURCE."""
    parser.add_argument(
        "--format",
        choices=("auto", "raw", "qcow2"),
        default="auto",
        help="how to read the source; auto goes by its first bytes, never by its name (default: auto)",
    )
    parser.add_argument(
        "--allow-source",
        metavar="HOST[:PORT]",
        action="append",
        default=[],
        help="allow URLs on this host although its address is private, link-local or loopback; repeatable",
    )
    parser.add_argument(
        "--threads", type=thread_number, metavar="N", help="how many threads work at once (default: one a core)"
    )


def thread_number(text: str) -> int:
    """Return a number of threads from 1 to 256; raises ArgumentTypeError for anything else."""
    if text.isascii() and text.isdigit() and 1 <= int(text) <= 256:
        return int(text)
    raise argparse.ArgumentTypeError(f"{text!r} is not a number of threads from 1 to 256")


def open_argument(location: str, args: argparse.Namespace) -> ImageSource:
    """Open a SOURCE as the options say; raises SourceError or UsageError."""
    from dataplane.formats.probe import open_source

    return open_source(location, format=args.format, allow_source=args.allow_source)
