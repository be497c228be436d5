"""dataplane export: write a stored image to a file, or to standard output."""

from __future__ import annotations

import argparse

from dataplane.cli.reporter import Reporter, add_progress_argument
from dataplane.cli.sources import thread_number


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's arguments."""
    parser.add_argument("store", metavar="STORE", help="the store's folder")
    parser.add_argument("name", metavar="NAME", help="the image")
    parser.add_argument("target", metavar="TARGET", help="the file to write, as raw; - for standard output")
    parser.add_argument("--force", action="store_true", help="replace TARGET when it exists")
    parser.add_argument(
        "--sparse",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="leave holes where the image is zero, or occupy the disk there too (default: --sparse)",
    )
    parser.add_argument(
        "--threads", type=thread_number, metavar="N", help="how many threads work at once (default: one a core)"
    )
    add_progress_argument(parser)


def run(args: argparse.Namespace) -> int:
    """Export the image."""
    import sys

    from dataplane.cli.output import say
    from dataplane.cli.sizes import human_size
    from dataplane.ingest.exporting import export_image, export_stream
    from dataplane.ingest.progress import Progress
    from dataplane.store.store import Store

    with Store.open(args.store) as store, Reporter(args.progress, f"exporting {args.name}", Progress()) as progress:
        if args.target == "-":
            result = export_stream(store, args.name, sys.stdout.buffer, progress=progress)
        else:
            result = export_image(
                store,
                args.name,
                args.target,
                force=args.force,
                sparse=args.sparse,
                threads=args.threads,
                progress=progress,
            )
    say(
        f"exported {result.name}: {human_size(result.virtual_size)}, of which {human_size(result.bytes_written)} "
        f"written, in {result.seconds:.2f} s"
    )
    return 0
