"""dataplane undelete: bring back an image that was removed."""

from __future__ import annotations

from types import SimpleNamespace

from dataplane.cli.verb_parser import VerbParser


def add_arguments(parser: VerbParser) -> None:
    """Declare the verb's arguments."""
    parser.add_argument("store", metavar="STORE", help="the store's folder")
    parser.add_argument("name", metavar="NAME", help="the image; when it was removed several times, the last one")


def run(args: SimpleNamespace) -> int:
    """Pin the image again."""
    from dataplane.cli.output import say
    from dataplane.store.store import Store
    from dataplane.store.tidying import tidy

    with Store.open(args.store) as store:
        store.undelete(args.name)
        tidy(store)
    say(f"restored {args.name}")
    return 0
