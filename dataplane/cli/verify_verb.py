"""dataplane verify: read stored chunks again, and say what is hurt."""

from __future__ import annotations

from types import SimpleNamespace

from dataplane.cli.reporter import Reporter, add_progress_argument
from dataplane.cli.sizes import human_size, parse_duration, parse_share
from dataplane.cli.sources import thread_number
from dataplane.cli.verb_parser import VerbParser
from dataplane.hints import TYPE_CHECKING

if TYPE_CHECKING:
    from dataplane.upkeep.hurt_images import HurtImage
    from dataplane.upkeep.scrub import ScrubReport


def add_arguments(parser: VerbParser) -> None:
    """Declare the verb's arguments."""
    parser.add_argument("store", metavar="STORE", help="the store's folder")
    parser.add_argument("name", metavar="NAME", nargs="?", help="an image; without it everything is read")
    parser.add_argument(
        "--sample", type=parse_share, default=1.0, metavar="5%", help="read a random share of the chunks only"
    )
    parser.add_argument(
        "--for",
        dest="seconds_max",
        type=parse_duration,
        metavar="10m",
        help="begin no further pack after this time; the next run goes on with what was checked longest ago",
    )
    parser.add_argument(
        "--threads", type=thread_number, metavar="N", help="how many threads work at once (default: one a core)"
    )
    add_progress_argument(parser)
    parser.add_argument("--json", action="store_true", help="print the findings as JSON")


def run(args: SimpleNamespace) -> int:
    """Scrub, and name what is hurt; exit code 3 when anything is."""
    from dataplane.cli.exits import MISMATCH, OK
    from dataplane.cli.output import print_json
    from dataplane.ingest.progress import Progress
    from dataplane.store.store import Store

    with Store.open(args.store) as store:
        from dataplane.upkeep.hurt_images import hurt_images
        from dataplane.upkeep.scrub import scrub

        with Reporter(args.progress, f"verifying {args.name or args.store}", Progress()) as progress:
            report = scrub(
                store,
                args.name,
                share=args.sample,
                seconds_max=args.seconds_max,
                threads=args.threads,
                progress=progress,
            )
        pins = store.pins() if args.name is None else [store.pin(args.name)]
        hurt = hurt_images(store, store.index(), {damage.id for damage in report.damage}, pins)
    if args.json:
        print_json(fields(report, hurt))
    else:
        show(report, hurt)
    return MISMATCH if report.damage or report.run_damage or hurt else OK


def fields(report: ScrubReport, hurt: list[HurtImage]) -> dict[str, object]:
    """Return everything that was found."""
    return {
        "packs": report.packs,
        "packs_total": report.packs_total,
        "unkeyed_packs": report.unkeyed_packs,
        "chunks": report.chunks,
        "bytes_read": report.bytes_read,
        "bytes_checked": report.bytes_checked,
        "complete": report.complete,
        "seconds": round(report.seconds, 3),
        "damage": [
            {
                "pack": damage.pack.hex(),
                "chunk": damage.id.hex(),
                "offset": damage.offset,
                "length": damage.length,
                "problem": damage.problem,
            }
            for damage in report.damage
        ],
        "run_damage": report.run_damage,
        "strays": [str(path) for path in report.strays],
        "hurt": [{"name": image.name, "ranges": [list(bounds) for bounds in image.ranges]} for image in hurt],
    }


def show(report: ScrubReport, hurt: list[HurtImage]) -> None:
    """Print the findings for people."""
    for damage in report.damage:
        what = f"chunk {damage.id.hex()}" if damage.id else "its own table or header"
        print(f"pack {damage.pack.hex()} at {damage.offset}: {what}: {damage.problem}")
    for problem in report.run_damage:
        print(problem)
    for path in report.strays:
        print(f"{path} is named by nothing: a crash left it, or the ledger is older than it is; gc removes it")
    for image in hurt:
        ranges = ", ".join(f"{offset}+{length}" for offset, length in image.ranges[:8])
        more = f" and {len(image.ranges) - 8} more" if len(image.ranges) > 8 else ""
        print(f"image {image.name} is hurt at {ranges}{more}")
    rest = "" if report.complete else "; time ran out before the rest"
    print(
        f"{report.chunks} chunks in {report.packs} of {report.packs_total} packs, {human_size(report.bytes_checked)}"
        f" decoded and hashed from {human_size(report.bytes_read)} in {report.seconds:.2f} s{rest}: "
        + (
            f"{len(report.damage) + len(report.run_damage)} damaged, {len(hurt)} images hurt"
            if report.damage or report.run_damage or hurt
            else "all good"
        )
    )
