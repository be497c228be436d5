"""dataplane import: store a disk image under a name."""

from __future__ import annotations

from types import SimpleNamespace

from dataplane.cli.reporter import Reporter, add_progress_argument
from dataplane.cli.sources import SOURCE_HELP, add_source_arguments, open_argument
from dataplane.cli.verb_parser import VerbParser


def add_arguments(parser: VerbParser) -> None:
    """Declare the verb's arguments."""
    parser.add_argument("store", metavar="STORE", help="the store's folder")
    parser.add_argument("source", metavar="SOURCE", help=SOURCE_HELP)
    parser.add_argument("--name", required=True, help="what to call the image; must not be taken")
    add_source_arguments(parser)
    add_progress_argument(parser)
    parser.add_argument("--json", action="store_true", help="print the result as JSON")


def run(args: SimpleNamespace) -> int:
    """Import the source and print its sizes."""
    from dataplane.cli.output import print_fields, print_json, size_fields
    from dataplane.ingest.progress import Progress
    from dataplane.store.store import Store

    with (
        Store.open(args.store) as store,
        open_argument(args.source, args) as source,
        Reporter(args.progress, f"importing {args.name}", Progress()) as progress,
    ):
        from dataplane.ingest.importing import import_image  # what is wrong with store or source is seen without it

        result = import_image(store, source, name=args.name, threads=args.threads, progress=progress)
    fields = {
        "name": result.name,
        "root": result.root.hex(),
        "format": result.format,
        **size_fields(result.sizes),
        "seconds": round(result.seconds, 3),
        "bytes_read": result.bytes_read,
        "bytes_written": result.bytes_written,
    }
    (print_json if args.json else print_fields)(fields)
    return 0
