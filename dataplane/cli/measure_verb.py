"""dataplane measure: say what images would take in a store, without one."""

from __future__ import annotations

from contextlib import ExitStack
from types import SimpleNamespace

from dataplane.cli.image_arguments import IMAGES_HELP, open_images
from dataplane.cli.reporter import Reporter, add_progress_argument
from dataplane.cli.sizes import both_ways, parse_share, parse_size
from dataplane.cli.sources import add_source_arguments
from dataplane.cli.verb_parser import VerbParser
from dataplane.hints import TYPE_CHECKING

if TYPE_CHECKING:
    from dataplane.analysis.sampled_measuring import SampledSizes
    from dataplane.image_source import ImageSource


def add_arguments(parser: VerbParser) -> None:
    """Declare the verb's arguments."""
    parser.add_argument("source", metavar="SOURCE", nargs="+", help=IMAGES_HELP)
    parser.add_argument(
        "--chunk-size", type=parse_size, default=64 << 10, help="a power of two from 4K to 4M (default: 64K)"
    )
    parser.add_argument("--codec", default="zstd:1", help="zstd:LEVEL; or none, which is far faster (default: zstd:1)")
    parser.add_argument(
        "--sample",
        type=parse_share,
        metavar="5%",
        help="compress only a share of the distinct chunks, and fetch only a share of a URL: gives 95 %% intervals",
    )
    add_source_arguments(parser)
    add_progress_argument(parser)
    parser.add_argument("--json", action="store_true", help="print the result as JSON")


def run(args: SimpleNamespace) -> int:
    """Measure every source and, when there are several, all of them together."""
    from dataplane.cli.output import print_fields, print_json, size_fields
    from dataplane.ingest.progress import Progress

    with ExitStack() as stack:
        names, sources = open_images(stack, args.source, args)
        if args.sample is not None:
            return run_sampled(names, sources, args)
        from dataplane.analysis.measuring import Measurer

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


def run_sampled(names: list[str], sources: list[ImageSource], args: SimpleNamespace) -> int:
    """Measure with a sample, and print estimates with their intervals."""
    from dataplane.analysis.sampled_measuring import measure_sampled
    from dataplane.cli.output import print_json
    from dataplane.ingest.progress import Progress

    found = measure_sampled(
        sources, share=args.sample, chunk_size=args.chunk_size, codec=args.codec, threads=args.threads,
        progress_of=lambda number: Reporter(args.progress, f"sampling {names[number]}", Progress()),
    )  # fmt: skip
    profile = {"chunk_size": args.chunk_size, "codec": args.codec, "sample": args.sample}
    results = [
        {"name": name, "format": source.format, **sampled_fields(sizes), **profile}
        for name, source, sizes in zip(names, sources, found.sources, strict=True)
    ]
    total = None if found.total is None else {**sampled_fields(found.total), **profile}
    if args.json:
        print_json(results[0] if len(results) == 1 else {"sources": results, "total": total})
        return 0
    if len(results) > 1 and total is not None:
        results.append({"name": "all together", **total})
    for number, result in enumerate(results):
        if number:
            print()
        show_sampled(result)
    if len(names) > 1 and total is None:
        print("\nall together: not known, because what URLs share cannot be seen in samples")
    return 0


def sampled_fields(sizes: SampledSizes) -> dict[str, object]:
    """Return the estimates under the names that every verb shares, and the bounds of their intervals beside them."""
    fields: dict[str, object] = {"virtual_size": sizes.virtual_size}
    for name in ("data_size", "storage_size", "chunks", "distinct_chunks"):
        estimate = getattr(sizes, name)
        fields[name] = round(estimate.value)
        if not estimate.is_exact:
            fields[f"{name}_low"], fields[f"{name}_high"] = round(estimate.low), round(estimate.high)
    return {**fields, "seconds": round(sizes.seconds, 3), "bytes_read": sizes.bytes_read}


def show_sampled(fields: dict[str, object]) -> None:
    """Print estimates for people: a value, and between which bounds it lies with 95 % confidence."""
    from dataplane.cli.output import show

    shown = [name for name in fields if not name.endswith(("_low", "_high"))]
    width = max(map(len, shown))
    for name in shown:
        low, high = fields.get(f"{name}_low"), fields.get(f"{name}_high")
        text = show(name, fields[name])
        if isinstance(low, int) and isinstance(high, int):
            bounds = (both_ways(low), both_ways(high)) if name.endswith("_size") else (str(low), str(high))
            text += f", 95 %: {bounds[0]} to {bounds[1]}"
        print(f"{name:<{width}}  {text}")
