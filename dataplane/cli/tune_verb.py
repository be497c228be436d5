"""dataplane tune: find the chunk size and codec that suit some images."""

from __future__ import annotations

import threading
from contextlib import ExitStack
from types import SimpleNamespace

from dataplane.cli.image_arguments import IMAGES_HELP, open_images
from dataplane.cli.reporter import Reporter, add_progress_argument
from dataplane.cli.sizes import both_ways, human_size, parse_size
from dataplane.cli.sources import add_source_arguments
from dataplane.cli.verb_parser import VerbParser, bad_value
from dataplane.hints import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import Any

    from dataplane.analysis.tuning import Tuner

AXES = ("space", "memory", "speed", "read")
TRACE_REQUESTS_MAX = 10_000_000

TRACE_HEADS = ("trace", "cached")
"""Bytes decoded for each byte that the trace asks for, with no cache and with one that forgets nothing."""

CONTENT_MARK = "~"
"""Stands before the sizes of content-defined chunks."""


def add_arguments(parser: VerbParser) -> None:
    """Declare the verb's arguments."""
    parser.add_argument("source", metavar="SOURCE", nargs="+", help=IMAGES_HELP)
    parser.add_argument(
        "--chunk-sizes",
        type=parse_chunk_sizes,
        default=tuple(1 << bits for bits in range(12, 23)),
        metavar="FROM..TO",
        help="powers of two, as a range or separated by commas (default: 4K..4M)",
    )
    parser.add_argument(
        "--codecs",
        type=lambda text: tuple(text.split(",")),
        default=("none", "zstd:-5", "zstd:-1", "zstd:1", "zstd:3"),
        metavar="CODEC,…",
        help="what to compress sampled chunks with (default: none,zstd:-5,zstd:-1,zstd:1,zstd:3)",
    )
    parser.add_argument(
        "--sample",
        type=parse_rate,
        default=1,
        metavar="1/64",
        help="keep one digest in so many (a power of two): bounded memory, an interval instead of an exact count",
    )
    parser.add_argument(
        "--cdc",
        action="store_true",
        help="try content-defined chunks of those sizes on average too: would they pay? stores have none",
    )
    parser.add_argument("--trace", metavar="FILE", help="lines of offset,length in bytes: what guests read of SOURCE")
    parser.add_argument("--ram", type=parse_size, metavar="4G", help="leave out profiles whose index needs more memory")
    parser.add_argument(
        "--weights",
        type=parse_weights,
        default={"space": 4.0, "memory": 1.0, "speed": 1.0, "read": 1.0},
        metavar="AXIS=N,…",
        help="what counts how much: space, memory, speed, read (default: space=4,memory=1,speed=1,read=1)",
    )
    parser.add_argument("--report", metavar="FILE.html", help="write everything into one file for a browser")
    parser.add_argument("--ci", action="store_true", help="exit with 6 when --min-ratio or --max-index is not met")
    parser.add_argument(
        "--min-ratio", type=float, metavar="R", help="the least that data may shrink by, dedup and codec"
    )
    parser.add_argument("--max-index", type=parse_size, metavar="BYTES", help="the most memory that the index may need")
    add_source_arguments(parser)
    add_progress_argument(parser)
    parser.add_argument("--json", action="store_true", help="print everything as JSON")


def run(args: SimpleNamespace) -> int:
    """Read every source once and print the answer; 6 when a threshold is not met, 130 when interrupted."""
    from dataplane.cli.exits import INTERRUPTED, OK, THRESHOLD
    from dataplane.cli.output import print_json
    from dataplane.errors import UsageError
    from dataplane.ingest.progress import Progress

    if not args.ci and (args.min_ratio is not None or args.max_index is not None):
        raise UsageError("--min-ratio and --max-index go with --ci")
    with ExitStack() as stack:
        names, sources = open_images(stack, args.source, args)
        from dataplane.analysis.tune_fields import tune_fields
        from dataplane.analysis.tuning import TuneOptions, Tuner

        options = TuneOptions(
            chunk_sizes=args.chunk_sizes, codecs=args.codecs, sample=args.sample, ram=args.ram, weights=args.weights,
            cdc=args.cdc, trace=read_trace(args.trace) if args.trace else (),
        )  # fmt: skip
        tuner = Tuner(names, sources, options, args.threads)
        complete = read_all(tuner, names, args)
        with Reporter(args.progress, "compressing samples", Progress()) as progress:
            fields = tune_fields(tuner.finish(progress))
    problems = broken_thresholds(fields, args.min_ratio, args.max_index) if args.ci else []
    fields["ci"] = {"passed": not problems, "problems": problems} if args.ci else None
    if args.report:
        from dataplane.analysis.report import write_report

        write_report(args.report, fields)
    if args.json:
        print_json(fields)
    else:
        show(fields)
    if not complete:
        return INTERRUPTED
    return THRESHOLD if problems else OK


def read_all(tuner: Tuner, names: list[str], args: SimpleNamespace) -> bool:
    """Read the sources; an interrupt ends that, and what was read until then is kept. Return whether all was read."""
    import signal

    from dataplane.ingest.progress import Progress

    cancelled = threading.Event()
    before = signal.signal(signal.SIGINT, lambda _signal, _frame: cancelled.set())
    try:
        for name in names:
            with Reporter(args.progress, f"reading {name}", Progress()) as progress:
                if not tuner.read(progress, cancelled):
                    return False
    finally:
        signal.signal(signal.SIGINT, before)
    return True


def broken_thresholds(fields: dict[str, Any], min_ratio: float | None, max_index: int | None) -> list[str]:
    """Return what the recommended profile does not meet."""
    chosen = recommended(fields)
    if chosen is None:
        return ["no profile fits the memory"]
    problems = []
    if min_ratio is not None and chosen["ratio"] < min_ratio:
        problems.append(f"data shrinks {chosen['ratio']:.2f} times, not {min_ratio:.2f}")
    if max_index is not None and chosen["index_memory"] > max_index:
        problems.append(
            f"the index needs {both_ways(chosen['index_memory'])} of memory, more than {both_ways(max_index)}"
        )
    return problems


def recommended(fields: dict[str, Any]) -> dict[str, Any] | None:
    """Return the recommended profile."""
    choice = fields["verdict"]["recommended"]
    if choice is None:
        return None
    found: dict[str, Any] = next(
        one
        for one in fields["profiles"]
        if (one["chunk_size"], one["codec"]) == (choice["chunk_size"], choice["codec"])
    )
    return found


def show(fields: dict[str, Any]) -> None:
    """Print the answer for people."""
    from dataplane.cli.output import print_table

    if not fields["complete"]:
        print("INTERRUPTED: these figures are about what was read until then")
    content = fields["content_defined"] or {"sizes": [], "profiles": []}
    traced = TRACE_HEADS if "trace" in fields["sizes"][0] else ()
    print_table(
        ["chunk", "zero", "duplicate", "shared", "unique", "dedup", *traced],
        [
            *(size_row(one, "") for one in fields["sizes"]),
            *(size_row(one, CONTENT_MARK) for one in content["sizes"]),
        ],
    )
    print()
    print_table(
        [
            "chunk, codec",
            "stored",
            "± 95 %",
            "ratio",
            "index RAM",
            "index disk",
            "manifests",
            "import",
            "4K read",
            "64K read",
        ],
        [
            *(profile_row(one, "") for one in fields["profiles"]),
            *(profile_row(one, CONTENT_MARK) for one in content["profiles"]),
        ],
    )
    if content["sizes"]:
        print(f"{CONTENT_MARK}: content-defined chunks of so many bytes on average, which no store has")
    print()
    for one in fields["alignment"]:
        show_alignment(one)
    show_verdict(fields)


def size_row(one: dict[str, Any], mark: str) -> list[str]:
    """Return one line of the table of sizes."""
    return [
        mark + short(one["chunk_size"]),
        *(human_size(one[f"{kind}_size"]) for kind in ("zero", "duplicate", "shared", "unique")),
        f"{one['dedup_ratio'] or 0:.2f}" + interval(one["distinct_chunks_low"], one["distinct_chunks_high"]),
        *(times(one["trace"][kind]) for kind in ("amplification", "amplification_cached") if "trace" in one),
    ]


def times(factor: float | None) -> str:
    """Return a factor; a trace that asks for nothing has none."""
    return "" if factor is None else f"{factor:.1f}x"


def profile_row(one: dict[str, Any], mark: str) -> list[str]:
    """Return one line of the table of profiles."""
    half = (one["stored_size_high"] - one["stored_size_low"]) / 2
    return [
        f"{mark}{short(one['chunk_size'])} {one['codec']}" + ("" if one["fits"] else " (too large)"),
        human_size(one["stored_size"]),
        f"{half / one['stored_size']:.1%}" if half and one["stored_size"] else "exact",
        f"{one['ratio']:.2f}",
        human_size(one["index_memory"]),
        human_size(one["index_disk"]),
        human_size(one["manifest_size"]),
        f"{human_size(one['import_rate'])}/s",
        f"{one['read_amplification_4k']:.0f}x",
        f"{one['read_amplification_64k']:.1f}x",
    ]


def show_alignment(one: dict[str, Any]) -> None:
    """Print what the first partition's place does."""
    if one["warning"] and not one["measured"]:
        print(
            f"warning: {one['source']}: the first partition begins at {one['first_partition']}, not on a 4 KiB boundary"
        )
    for size, gain in one["gains"].items():
        if abs(gain) > 0.05:
            print(
                f"warning: {one['source']}: chunks of {short(int(size))} that began at its first partition"
                f" ({one['first_partition']}) would take {abs(gain):.1%} {'less' if gain > 0 else 'more'}"
            )


def show_verdict(fields: dict[str, Any]) -> None:
    """Print the recommendation."""
    verdict, chosen = fields["verdict"], recommended(fields)
    if chosen is None:
        print(f"no profile has an index that fits {both_ways(verdict['ram'])}: allow more with --ram")
        return
    print(
        f"use --chunk-size {short(chosen['chunk_size'])} --codec {chosen['codec']}:"
        f" {human_size(chosen['total_size'])} in all, {chosen['ratio']:.2f} times less than the data;"
        f" index {human_size(chosen['index_memory'])} of memory"
    )
    if verdict["knee"] is not None:
        print(f"the curve of size over chunk size has its knee at {short(verdict['knee'])}")
    for one in verdict["neighbours"]:
        print(
            f"  {short(one['chunk_size'])}: {signed(one['total_size'])} in all,"
            f" {signed(one['index_memory'])} of memory, {one['import_seconds']:+.2f} s of import,"
            f" {one['read_amplification_64k']:+.1f} of 64 KiB read amplification"
            + (" (give or take: the 95 % intervals overlap)" if one["intervals_overlap"] else "")
        )
    if fields["content_defined"] is not None:
        print(content_sentence(fields["content_defined"]["verdict"]))
    if fields["ci"] is not None:
        print("ci: passed" if fields["ci"]["passed"] else "ci: " + "; ".join(fields["ci"]["problems"]))


def content_sentence(verdict: dict[str, Any]) -> str:
    """Return whether content-defined chunks would pay."""
    best = verdict["best"]
    if best is None:
        return "content-defined chunks would not pay: no index of theirs fits the memory"
    saved = verdict["saved_share"]
    beside = "" if saved is None else f", {abs(saved):.1%} {'less' if saved >= 0 else 'more'} than the fixed ones above"
    if verdict["intervals_overlap"]:
        beside += ", give or take: their 95 % intervals overlap"
    return (
        f"content-defined chunks would {'' if verdict['pays'] else 'not '}pay: the best of them,"
        f" {short(best['chunk_size'])} on average with {best['codec']}, would take"
        f" {human_size(verdict['total_size'])} in all{beside}; index {human_size(verdict['index_memory'])} of memory"
    )


def interval(low: int, high: int) -> str:
    """Return the relative half of an interval, or nothing when it is exact."""
    return f" ±{(high - low) / (high + low):.1%}" if high > low else ""


def signed(size: float) -> str:
    """Return a difference of sizes."""
    return f"{'-' if size < 0 else '+'}{human_size(abs(size))}"


def short(size: int) -> str:
    """Return a chunk size as it is written on the command line."""
    return f"{size >> 20}M" if size >= 1 << 20 else f"{size >> 10}K"


def parse_chunk_sizes(text: str) -> tuple[int, ...]:
    """Return the powers of two in ``4K..4M``, or those listed; raises ArgumentTypeError for anything else."""
    first, dots, last = text.partition("..")
    if dots:
        low, high = parse_size(first), parse_size(last)
        found = tuple(1 << bits for bits in range(12, 23) if low <= 1 << bits <= high)
        if low & (low - 1) == 0 and high & (high - 1) == 0 and found and found[0] == low and found[-1] == high:
            return found
    else:
        found = tuple(sorted({parse_size(part) for part in text.split(",")}))
        if all(size & (size - 1) == 0 and 1 << 12 <= size <= 1 << 22 for size in found):
            return found
    raise bad_value(f"{text!r} are not chunk sizes: write 4K..4M, or 16K,64K (powers of two, 4K to 4M)")


def parse_rate(text: str) -> int:
    """Return 64 for ``1/64``; raises ArgumentTypeError unless it is a power of two."""
    number = text.removeprefix("1/")
    rate = int(number) if number.isascii() and number.isdigit() and len(number) < 10 else 0
    if rate < 1 or rate & (rate - 1) or rate > 1 << 20:
        raise bad_value(f"{text!r} is not a rate: write 1/64, with a power of two up to 1/1048576")
    return rate


def parse_weights(text: str) -> dict[str, float]:
    """Return the weights in ``space=4,speed=2``; what is not named weighs nothing. Raises ArgumentTypeError."""
    weights = dict.fromkeys(AXES, 0.0)
    for part in text.split(","):
        axis, _, value = part.partition("=")
        try:
            weights[axis.strip()] = float(value)
        except ValueError:
            weights[""] = -1.0
    if (
        set(weights) != set(AXES)
        or not all(0 <= value < 1e6 for value in weights.values())
        or not any(weights.values())
    ):
        raise bad_value(f"{text!r} are not weights: write {','.join(f'{axis}=1' for axis in AXES)}")
    return weights


def read_trace(path: str) -> tuple[tuple[int, int], ...]:
    """Return the requests of a trace; raises UsageError when a line is not offset,length."""
    from dataplane.errors import UsageError

    requests = []
    try:
        with open(path, encoding="ascii") as file:
            for number, line in enumerate(file, 1):
                if not line.strip() or line.startswith("#"):
                    continue
                offset, _, length = line.strip().partition(",")
                if not (offset.isdigit() and length.isdigit() and len(line) < 40 and int(length) > 0
                        and int(offset) + int(length) < 1 << 63):  # fmt: skip
                    raise UsageError(f"{path}, line {number}: write offset,length in bytes")
                requests.append((int(offset), int(length)))
                if len(requests) > TRACE_REQUESTS_MAX:
                    raise UsageError(f"{path} has more than {TRACE_REQUESTS_MAX} requests")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"the trace {path} cannot be read: {error}") from error
    return tuple(requests)
