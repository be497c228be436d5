"""dataplane snapshot: store what a disk holds at this moment as an image, also while it is served."""

from __future__ import annotations

from types import SimpleNamespace

from dataplane.cli.reporter import Reporter, add_progress_argument
from dataplane.cli.sources import thread_number
from dataplane.cli.verb_parser import VerbParser


def add_arguments(parser: VerbParser) -> None:
    """Declare the verb's arguments."""
    parser.add_argument("store", metavar="STORE", help="the store's folder")
    parser.add_argument("overlay", metavar="OVERLAY", help="the disk: what dataplane nbd --overlay names")
    parser.add_argument("--name", required=True, help="what to call the image; must not be taken")
    parser.add_argument(
        "--threads", type=thread_number, metavar="N", help="how many threads work at once (default: one a core)"
    )
    add_progress_argument(parser)
    parser.add_argument("--json", action="store_true", help="print the result as JSON")


def run(args: SimpleNamespace) -> int:
    """Take the snapshot and print its sizes."""
    import time

    from dataplane.cli.output import print_fields, print_json, size_fields
    from dataplane.disks.snapshot import snapshot_disk
    from dataplane.ingest.progress import Progress
    from dataplane.store.store import Store

    started = time.monotonic()
    with Store.open(args.store) as store, Reporter(args.progress, f"storing {args.name}", Progress()) as progress:
        result = snapshot_disk(store, args.overlay, name=args.name, threads=args.threads, progress=progress)
    fields = {
        "name": result.name,
        "root": result.root.hex(),
        "format": "disk",
        **size_fields(result.sizes),
        "seconds": round(time.monotonic() - started, 3),
        "bytes_read": result.bytes_read,
        "bytes_written": result.bytes_written,
    }
    (print_json if args.json else print_fields)(fields)
    return 0
