"""dataplane diff: show what differs between two images of a store."""

from __future__ import annotations

from types import SimpleNamespace

from dataplane.cli.verb_parser import VerbParser


def add_arguments(parser: VerbParser) -> None:
    """Declare the verb's arguments."""
    parser.add_argument("store", metavar="STORE", help="the store's folder")
    parser.add_argument("before", metavar="A", help="an image")
    parser.add_argument("after", metavar="B", help="the image to compare it with")
    parser.add_argument("--json", action="store_true", help="print the changed ranges and sizes as JSON")


def run(args: SimpleNamespace) -> int:
    """Print the changed ranges; exit code 0 whether or not there are any."""
    from dataplane.cli.output import print_fields, print_json
    from dataplane.store.store import Store

    with Store.open(args.store) as store:
        from dataplane.analysis.differing import compare

        found = compare(store, args.before, args.after)
        sizes = {
            "changed_size": found.changed_size,
            "written_size": found.written_size,
            "added_size": found.added_size,
            "zeroed_size": found.zeroed_size,
            "chunk_size": store.chunk_size,
            "pages_read": found.pages_read,
        }
    if args.json:
        print_json({"before": args.before, "after": args.after, **sizes, "ranges": [list(one) for one in found.ranges]})
        return 0
    for offset, length in found.ranges:
        print(f"{offset}+{length}")
    print_fields(sizes)
    return 0
