"""dataplane init: create a store."""

from __future__ import annotations

from types import SimpleNamespace

from dataplane.cli.sizes import both_ways, parse_size
from dataplane.cli.verb_parser import VerbParser


def add_arguments(parser: VerbParser) -> None:
    """Declare the verb's arguments."""
    parser.add_argument("store", metavar="STORE", help="the folder to create; it must not exist or be empty")
    parser.add_argument(
        "--chunk-size", type=parse_size, default=64 << 10, help="a power of two from 4K to 4M (default: 64K)"
    )
    parser.add_argument("--codec", default="zstd:1", help="zstd:LEVEL, or none (default: zstd:1)")
    parser.add_argument(
        "--ledger",
        metavar="URL",
        help="keep the ledger in a PostgreSQL database, postgresql://USER@HOST/DATABASE, instead of the store's folder",
    )
    parser.add_argument("--json", action="store_true", help="print the result as JSON")


def run(args: SimpleNamespace) -> int:
    """Create the store."""
    from dataplane.cli.output import print_json
    from dataplane.store.store import Store

    with Store.create(args.store, chunk_size=args.chunk_size, codec=args.codec, ledger_url=args.ledger) as store:
        if args.json:
            fields = {"path": str(store.path), "store_id": store.store_id}
            print_json({**fields, "chunk_size": store.chunk_size, "codec": str(store.codec)})
        else:
            print(f"created store {store.path}: chunks of {both_ways(store.chunk_size)}, codec {store.codec}")
            print(f"its ledger is {store.ledger.name.removeprefix('the ledger ').removeprefix('ledger ')}")
            print(f"keep {store.layout.secret} safe: without it the store can be neither added to nor read")
    return 0
