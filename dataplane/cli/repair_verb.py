"""dataplane repair: set aside what is damaged, put back what can be had, and name the rest."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from types import SimpleNamespace

from dataplane.cli.reporter import Reporter, add_progress_argument
from dataplane.cli.sources import SOURCE_HELP, add_source_arguments, open_argument
from dataplane.cli.verb_parser import VerbParser
from dataplane.hints import TYPE_CHECKING

if TYPE_CHECKING:
    from dataplane.upkeep.donors import Donor
    from dataplane.upkeep.repair import RepairReport

EPILOG = """\
Everything is read again. Damaged packs and runs, or a damaged ledger, are kept in STORE/quarantine and never deleted.
Runs are rebuilt from packs. A lost ledger is rebuilt from packs too: names that cannot be read of it any more become
recovered-…. A hurt chunk is taken from any other pack that holds it, or from what --source and --from name. What
stays hurt is named with the images and ranges it hurts, and the exit code is 3: repair again with a source, or remove
the image. Importing the same data again heals as well, once repair has run."""


def add_arguments(parser: VerbParser) -> None:
    """Declare the verb's arguments."""
    parser.epilog = EPILOG
    parser.add_argument("store", metavar="STORE", help="the store's folder")
    parser.add_argument(
        "--from",
        dest="others",
        metavar="STORE2",
        action="append",
        default=[],
        help="look for what is lost in the images of this other store, first in those of the same names; repeatable",
    )
    parser.add_argument(
        "--source",
        metavar="SOURCE",
        action="append",
        default=[],
        help=f"look for what is lost in this image: {SOURCE_HELP}; repeatable",
    )
    add_source_arguments(parser)
    add_progress_argument(parser)
    parser.add_argument("--json", action="store_true", help="print what was done as JSON")


def run(args: SimpleNamespace) -> int:
    """Repair, and say what is left; exit code 3 when something stays hurt."""
    from dataplane.cli.exits import MISMATCH, OK
    from dataplane.cli.output import print_json
    from dataplane.ingest.progress import Progress
    from dataplane.upkeep.repair import repair

    with ExitStack() as stack:
        donors = open_donors(args, stack)
        progress = stack.enter_context(Reporter(args.progress, f"repairing {args.store}", Progress()))
        report = repair(Path(args.store), donors, threads=args.threads, progress=progress)
    if args.json:
        print_json(fields(report))
    else:
        show(report)
    return MISMATCH if report.hurt else OK


def open_donors(args: SimpleNamespace, stack: ExitStack) -> list[Donor]:
    """Return the donors that the options name; each source is opened once here, so that a wrong one is told at once."""
    from dataplane.store.store import Store
    from dataplane.upkeep.donors import Donor
    from dataplane.upkeep.repair import images_of

    donors = []
    for location in args.source:
        open_argument(location, args).close()
        donors.append(Donor(location, lambda location=location: open_argument(location, args)))  # type: ignore[misc]
    for path in args.others:
        donors += images_of(stack.enter_context(Store.open(path)))
    return donors


def fields(report: RepairReport) -> dict[str, object]:
    """Return everything that was found and done."""
    ledger = report.ledger
    return {
        "ledger": ledger
        and {
            "problem": ledger.problem,
            "named": ledger.named,
            "recovered": ledger.recovered,
            "incomplete": [root.hex() for root in ledger.incomplete],
            "unfinished": [root.hex() for root in ledger.unfinished],
        },
        "rebuilt_runs": report.rebuilt_runs,
        "damaged_chunks": report.damaged_chunks,
        "healed_chunks": report.healed_chunks,
        "quarantined": report.quarantined,
        "donor_problems": report.donor_problems,
        "hurt": [{"name": image.name, "ranges": [list(bounds) for bounds in image.ranges]} for image in report.hurt],
        "seconds": round(report.seconds, 3),
    }


def show(report: RepairReport) -> None:
    """Print for people what was found and done."""
    if report.ledger is not None:
        images = len(report.ledger.named) + len(report.ledger.recovered)
        print(f"{report.ledger.problem}; rebuilt from packs with {images} images")
        for name in report.ledger.recovered:
            print(f"an image whose name is lost is now {name}")
        for root in report.ledger.incomplete:
            print(f"root {root.hex()} is incomplete and left alone: most likely an image that was removed")
        for root in report.ledger.unfinished:
            print(f"root {root.hex()} is what an unfinished import had stored, and no image: begin the import again")
    if report.rebuilt_runs:
        print(f"rebuilt {report.rebuilt_runs} runs from packs")
    for name in report.quarantined:
        print(f"set aside: quarantine/{name}")
    for problem in report.donor_problems:
        print(problem)
    for image in report.hurt:
        ranges = ", ".join(f"{offset}+{length}" for offset, length in image.ranges[:8])
        more = f" and {len(image.ranges) - 8} more" if len(image.ranges) > 8 else ""
        print(f"image {image.name} is still hurt at {ranges}{more}")
    print(
        f"{report.damaged_chunks} chunks damaged or missing, {report.healed_chunks} healed: "
        + (f"{len(report.hurt)} images still hurt" if report.hurt else "all images whole")
    )
