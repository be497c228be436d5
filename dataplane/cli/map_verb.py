"""dataplane map: show where an image has data, and what it shares."""

from __future__ import annotations

from contextlib import ExitStack
from types import SimpleNamespace

from dataplane.cli.image_arguments import IMAGES_HELP, open_images
from dataplane.cli.reporter import Reporter, add_progress_argument
from dataplane.cli.sizes import human_size, parse_size
from dataplane.cli.sources import add_source_arguments
from dataplane.cli.verb_parser import VerbParser
from dataplane.hints import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import Any

    from dataplane.analysis.mapping import DiskMap

MARKS = ".0#=+"
"""For each Content: hole, zero, unique, duplicate, shared."""

LINE_CELLS = 64


def add_arguments(parser: VerbParser) -> None:
    """Declare the verb's arguments."""
    parser.add_argument("source", metavar="SOURCE", nargs="+", help=f"one image: {IMAGES_HELP}")
    parser.add_argument(
        "--against", metavar="SOURCE", nargs="+", default=[], help="images to look for shared chunks in, named likewise"
    )
    parser.add_argument("--chunk-size", type=parse_size, default=64 << 10, help="what is compared (default: 64K)")
    parser.add_argument("--cells", type=int, default=256, metavar="N", help="how finely to draw (default: 256)")
    add_source_arguments(parser)
    add_progress_argument(parser)
    parser.add_argument("--json", action="store_true", help="print the map as JSON")


def run(args: SimpleNamespace) -> int:
    """Read the image, and what it is held against, and print the map."""
    from dataplane.cli.output import print_json
    from dataplane.errors import UsageError
    from dataplane.ingest.progress import Progress

    with ExitStack() as stack:
        names, sources = open_images(stack, args.source, args)
        if len(sources) != 1:
            raise UsageError(f"a map shows one image, not {len(sources)}: name the others behind --against")
        others, other_sources = open_images(stack, args.against, args)
        from dataplane.analysis.mapping import map_disk

        with Reporter(args.progress, f"reading {names[0]}", Progress()) as progress:
            found = map_disk(
                sources[0], other_sources,
                chunk_size=args.chunk_size, cells=args.cells, threads=args.threads, progress=progress,
            )  # fmt: skip
    fields = map_fields(names[0], others, found)
    if args.json:
        print_json(fields)
    else:
        show(fields)
    return 0


def map_fields(name: str, others: list[str], found: DiskMap) -> dict[str, Any]:
    """Return the map as fields of JSON."""
    from dataplane.analysis.mapping import Content

    kinds = [kind.name.lower() for kind in Content]
    totals = found.sizes.sum(axis=0).tolist()
    return {
        "name": name,
        "virtual_size": found.virtual_size,
        "chunk_size": found.chunk_size,
        "cell_size": found.cell_size,
        "totals": dict(zip(kinds, totals, strict=True)),
        "against": others,
        "partition_table": found.table or None,
        "partitions": [
            {
                "number": one.number, "offset": one.offset, "length": one.length, "kind": one.kind, "name": one.name,
                "filesystem": one.filesystem or None, "label": one.label or None,
            }
            for one in found.partitions
        ],
        "free_blocks": [
            {
                "partition": one.partition, "free_size": one.free_size, "junk_size": one.junk_size,
                "junk_share": round(one.junk_size / one.free_size, 4) if one.free_size else 0.0,
            }
            for one in found.junk
        ],
        "cells": [
            {
                "offset": number * found.cell_size,
                **dict(zip(kinds, row, strict=True)),
                "shared_with": others[partner] if partner >= 0 else None,
                "compressed_share": None if share != share else round(share, 4),
            }
            for number, (row, partner, share) in enumerate(
                zip(found.sizes.tolist(), found.partner.tolist(), found.compressed.tolist(), strict=True)
            )
        ],
    }  # fmt: skip


def show(fields: dict[str, Any]) -> None:
    """Print the strip, a mark a cell for what most of its data is (or for zeros, or a hole), and what it means."""
    kinds = list(fields["totals"])
    marks = []
    for cell in fields["cells"]:
        data = max(kinds[2:], key=lambda kind: cell[kind])
        zeros = max(kinds[:2], key=lambda kind: cell[kind])
        marks.append(MARKS[kinds.index(data if cell[data] else zeros)])
    for at in range(0, len(marks), LINE_CELLS):
        print(f"{human_size(at * fields['cell_size']):>11} {''.join(marks[at : at + LINE_CELLS])}")
    print(f"\na mark is {human_size(fields['cell_size'])}")
    for mark, kind in zip(MARKS, kinds, strict=True):
        print(f"  {mark} {kind:<9} {human_size(fields['totals'][kind])}")
    for one in fields["partitions"]:
        what = " ".join(filter(None, (one["filesystem"] or "not recognised", one["label"], one["name"])))
        print(f"partition {one['number']}: {human_size(one['length'])} at {one['offset']}: {what}")
    for one in fields["free_blocks"]:
        print(
            f"partition {one['partition']}: {human_size(one['junk_size'])} of {human_size(one['free_size'])} in free"
            f" blocks is not zero ({one['junk_share']:.1%})"
        )
