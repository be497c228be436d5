"""dataplane ls: list the images of a store."""

from __future__ import annotations

from types import SimpleNamespace

from dataplane.cli.verb_parser import VerbParser


def add_arguments(parser: VerbParser) -> None:
    """Declare the verb's arguments."""
    parser.add_argument("store", metavar="STORE", help="the store's folder")
    parser.add_argument("--json", action="store_true", help="print the list as JSON")


def run(args: SimpleNamespace) -> int:
    """Print one line an image."""
    from dataplane.cli.output import print_json, print_table, utc
    from dataplane.cli.sizes import human_size
    from dataplane.store.store import Store

    with Store.open(args.store, may_write=False) as store:
        pins = store.pins()
    rows = [
        {
            "name": pin.name,
            "root": pin.root.hex(),
            "format": pin.format,
            "virtual_size": pin.virtual_size,
            "data_size": pin.data_size,
            "storage_size": pin.storage_size,
            "created_at": utc(pin.created_at / 1e6),
        }
        for pin in pins
    ]
    if args.json:
        print_json(rows)
    elif rows:
        sizes = ("virtual_size", "data_size", "storage_size")
        print_table(
            ("NAME", "FORMAT", "VIRTUAL", "DATA", "STORED", "CREATED"),
            [
                (pin.name, pin.format, *(human_size(int(str(row[size]))) for size in sizes), str(row["created_at"]))
                for pin, row in zip(pins, rows, strict=True)
            ],
        )
    return 0
