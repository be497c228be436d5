"""dataplane gc: delete what no image uses."""

from __future__ import annotations

from types import SimpleNamespace

from dataplane.cli.sizes import parse_duration
from dataplane.cli.verb_parser import VerbParser

EPILOG = """\
A collection looks twice. Packs of which no image, removed image within the undelete period, or export at work uses
anything are condemned; packs of which less than half is used are written anew. A later collection deletes what was
condemned at least the grace period ago and is still unused. Then runs of like size are merged. Imports, exports and
removals go on meanwhile. What is deleted cannot be brought back; --dry-run shows what would be condemned."""


def add_arguments(parser: VerbParser) -> None:
    """Declare the verb's arguments."""
    parser.epilog = EPILOG
    parser.add_argument("store", metavar="STORE", help="the store's folder")
    parser.add_argument("--dry-run", action="store_true", help="only say what would be condemned")
    parser.add_argument(
        "--grace",
        type=parse_duration,
        default=3600.0,
        metavar="1h",
        help="how long condemned packs are kept before a second look deletes them; 0 looks twice at once (default: 1h)",
    )
    parser.add_argument(
        "--undelete-period",
        type=parse_duration,
        default=7 * 86400.0,
        metavar="7d",
        help="how long removed images are kept for undelete (default: 7d)",
    )
    parser.add_argument(
        "--checkpoint-period",
        type=parse_duration,
        default=86400.0,
        metavar="1d",
        help="how long what an interrupted import has stored is kept for starting it again (default: 1d)",
    )
    parser.add_argument(
        "--fence-after",
        type=parse_duration,
        default=60.0,
        metavar="60s",
        help="give up a process that stands in the way and shows no sign of life for this long (default: 60s)",
    )
    parser.add_argument("--json", action="store_true", help="print the result as JSON")


def run(args: SimpleNamespace) -> int:
    """Collect, and print what was done."""
    from dataplane.cli.output import print_fields, print_json
    from dataplane.store.store import Store

    with Store.open(args.store) as store:
        from dataplane.upkeep.gc import collect

        report = collect(
            store,
            dry_run=args.dry_run,
            grace_s=args.grace,
            undelete_s=args.undelete_period,
            checkpoint_s=args.checkpoint_period,
            fence_s=args.fence_after,
        )
    fields = {**{name: getattr(report, name) for name in report.__slots__}, "seconds": round(report.seconds, 3)}
    (print_json if args.json else print_fields)(fields)
    return 0
