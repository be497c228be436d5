"""dataplane export: write a stored image to a file or block device, or to standard output."""

from __future__ import annotations

from types import SimpleNamespace

from dataplane.cli.reporter import Reporter, add_progress_argument
from dataplane.cli.sources import thread_number
from dataplane.cli.verb_parser import VerbParser
from dataplane.hints import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import BinaryIO

    from dataplane.ingest.exporting import ExportResult

FORMATS = ("raw", "qcow2")
"""Those of ``dataplane.ingest.exporting``, written out because importing it costs start-up time."""

PIPE_SIZE = 1 << 20


def add_arguments(parser: VerbParser) -> None:
    """Declare the verb's arguments."""
    parser.add_argument("store", metavar="STORE", help="the store's folder")
    parser.add_argument("name", metavar="NAME", help="the image")
    parser.add_argument(
        "target", metavar="TARGET", help="the file or block device to write; - for standard output (raw, in order)"
    )
    parser.add_argument("--format", choices=FORMATS, default="raw", help="what to write (default: raw)")
    parser.add_argument(
        "--compressed",
        action="store_true",
        help="qcow2 with zstd clusters (qemu 5.1 or newer): the store's own frames where it has them, so very quick",
    )
    parser.add_argument(
        "--force", action="store_true", help="replace TARGET when it exists; needed for every block device"
    )
    parser.add_argument(
        "--sparse",
        action="boolean",
        default=True,
        help="leave holes where the image is zero (on a device: free it), or occupy the disk there too"
        " (default: --sparse)",
    )
    parser.add_argument(
        "--sync",
        action="boolean",
        default=True,
        help="wait until the disk has all of a file before it gets its name, or leave that to the system as cp does"
        " (default: --sync)",
    )
    parser.add_argument(
        "--verify", action="store_true", help="read TARGET again and compare; exit code 3 when it differs"
    )
    parser.add_argument(
        "--threads", type=thread_number, metavar="N", help="how many threads work at once (default: one a core)"
    )
    add_progress_argument(parser)
    parser.add_argument("--json", action="store_true", help="print what was written as JSON")


def run(args: SimpleNamespace) -> int:
    """Export the image."""
    from dataplane.cli.output import print_json, say
    from dataplane.cli.sizes import human_size
    from dataplane.ingest.progress import Progress
    from dataplane.store.store import Store

    stream = standard_output(args) if args.target == "-" else None
    with Store.open(args.store) as store, Reporter(args.progress, f"exporting {args.name}", Progress()) as progress:
        if stream is not None:
            from dataplane.ingest.exporting import export_stream

            result = export_stream(store, args.name, stream, threads=args.threads, progress=progress)
        else:
            from dataplane.ingest.exporting import export_image

            result = export_image(
                store,
                args.name,
                args.target,
                format=args.format,
                force=args.force,
                sparse=args.sparse,
                compressed=args.compressed,
                sync=args.sync,
                verify=args.verify,
                threads=args.threads,
                progress=progress,
            )
    if args.json:
        print_json(fields(result, args.target))
        return 0
    say(
        f"exported {result.name}: {human_size(result.virtual_size)}, of which {human_size(result.bytes_written)} "
        f"written{' and read back' if result.verified else ''}, in {result.seconds:.2f} s"
    )
    return 0


def fields(result: ExportResult, target: str) -> dict[str, object]:
    """Return everything there is to say of an export."""
    return {
        "name": result.name,
        "root": result.root.hex(),
        "target": target,
        "format": result.format,
        "virtual_size": result.virtual_size,
        "bytes_written": result.bytes_written,
        "verified": result.verified,
        "seconds": round(result.seconds, 3),
    }


def standard_output(args: SimpleNamespace) -> BinaryIO:
    """Return standard output without a buffer, whose rest Python would write at exit; raises UsageError.

    A pipe is made as large as is allowed without asking.
    """
    import contextlib
    import fcntl
    import os
    import sys

    from dataplane.errors import UsageError

    refused = {
        "--format qcow2": args.format != "raw",
        "--compressed": args.compressed,
        "--verify": args.verify,
        "--json": args.json,
        "--no-sparse": not args.sparse,
    }
    used = [option for option, given in refused.items() if given]
    if used:
        raise UsageError(f"{used[0]} does not go with standard output: name a file")
    if sys.stdout is None:
        raise UsageError("standard output is closed: name a file, or redirect it")
    if sys.stdout.isatty():
        raise UsageError("standard output is a terminal: name a file, or redirect it")
    fd = sys.stdout.fileno()
    with contextlib.suppress(OSError):
        fcntl.fcntl(fd, fcntl.F_SETPIPE_SZ, PIPE_SIZE)
    return os.fdopen(fd, "wb", buffering=0, closefd=False)
