"""dataplane rm: remove an image from a store."""

from __future__ import annotations

from types import SimpleNamespace

from dataplane.cli.verb_parser import VerbParser


def add_arguments(parser: VerbParser) -> None:
    """Declare the verb's arguments."""
    parser.add_argument("store", metavar="STORE", help="the store's folder")
    parser.add_argument("name", metavar="NAME", help="the image")


def run(args: SimpleNamespace) -> int:
    """Remove the name."""
    from dataplane.cli.output import say
    from dataplane.store.store import Store
    from dataplane.store.tidying import tidy

    with Store.open(args.store) as store:
        store.unpin(args.name, undeletable=True)
        tidy(store)
    say(f"removed {args.name}; dataplane undelete brings it back until gc forgets it")
    return 0
