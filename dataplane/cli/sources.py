"""Arguments that say what to read and how, shared by the verbs that take a SOURCE."""

from __future__ import annotations

from types import SimpleNamespace

from dataplane.cli.verb_parser import VerbParser, bad_value
from dataplane.hints import TYPE_CHECKING

if TYPE_CHECKING:
    from dataplane.image_source import ImageSource

SOURCE_HELP = "a file, a block device, or an http(s) URL"

FORMATS = ("auto", "raw", "qcow2", "vmdk", "vhd", "vhdx", "vdi")
"""Those of ``dataplane.formats.probe``, written out because importing it costs start-up time."""


def add_source_arguments(parser: VerbParser) -> None:
    """Add the options that go with a SOURCE."""
    parser.add_argument(
        "--format",
        choices=FORMATS,
        default="auto",
        help="how to read the source; auto goes by its first bytes, never by its name (default: auto)",
    )
    parser.add_argument(
        "--backing",
        metavar="FILE",
        action="append",
        default=[],
        help="the image below SOURCE; repeat it for the one below that, and so on: what images name is never opened",
    )
    parser.add_argument("--data-file", metavar="FILE", help="the external data file of a qcow2 image")
    parser.add_argument("--extent-dir", metavar="DIR", help="the folder with the extents that a VMDK descriptor names")
    parser.add_argument(
        "--snapshot", metavar="ID", help="read this internal snapshot of a qcow2 image, by id or name, not its disk"
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
    raise bad_value(f"{text!r} is not a number of threads from 1 to 256")


def open_argument(location: str, args: SimpleNamespace) -> ImageSource:
    """Open a SOURCE as the options say; raises SourceError or UsageError."""
    from dataplane.errors import UsageError
    from dataplane.formats.probe import open_source

    beside = {"--backing": args.backing, "--data-file": args.data_file, "--snapshot": args.snapshot}
    used = [option for option, value in beside.items() if value]
    if used and isinstance(args.source, list) and len(args.source) > 1:
        raise UsageError(f"{used[0]} belongs to one image; give it with a single SOURCE")
    return open_source(
        location,
        format=args.format,
        backing=args.backing,
        data_file=args.data_file,
        extent_dir=args.extent_dir,
        snapshot=args.snapshot,
        allow_source=args.allow_source,
    )
