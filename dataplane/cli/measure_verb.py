"""dataplane measure: say what images would take in a store, without one."""

from __future__ import annotations

import argparse
from contextlib import ExitStack

from dataplane.cli.reporter import Reporter, add_progress_argument
from dataplane.cli.sizes import parse_size
from dataplane.cli.sources import SOURCE_HELP, add_source_arguments, open_argument


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's arguments."""
    parser.add_argument("source", metavar="SOURCE", nargs="+", help=SOURCE_HELP)
    parser.add_argument(
        "--chunk-size", type=parse_size, default=64 << 10, help="a power of two from 4K to 4M (default: 64K)"
    )
    parser.add_argument("--codec", default="zstd:1", help="zstd:LEVEL; or none, which is far faster (default: zstd:1)")
    add_source_arguments(parser)
    add_progress_argument(parser)
    parser.add_argument("--json", action="store_true", help="print the result as JSON")


def run(args: argparse.Namespace) -> int:
    """Measure every source and, when there are several, all of them together."""
    from dataplane.analysis.measuring import Measurer
    from dataplane.cli.output import print_fields, print_json, size_fields
    from dataplane.ingest.progress import Progress

    with ExitStack() as stack:
        sources = [stack.enter_context(open_argument(location, args)) for location in args.source]
        names = [source.readers[0].name for source in sources]
        measurer = Measurer(sources, chunk_size=args.chunk_size, codec=args.codec)
        for name, source in zip(names, sources, strict=True):
            with Reporter(args.progress, f"measuring {name}", Progress()) as progress:
                measurer.add(source, threads=args.threads, progress=progress)
    measurement = measurer.finish()
    results: list[dict[str, object]] = [
        {
            "name": name,
            "format": one.format,
            **size_fields(one.sizes),
            "seconds": round(one.seconds, 3),
            "bytes_read": one.bytes_read,
        }
        for name, one in zip(names, measurement.sources, strict=True)
    ]
    if len(results) == 1:
        (print_json if args.json else print_fields)(results[0])
        return 0
    total = size_fields(measurement.total)
    if args.json:
        print_json({"sources": results, "total": total})
        return 0
    for result in results:
        print_fields(result)
        print()
    print_fields({"name": "all together", **total})
    return 0
