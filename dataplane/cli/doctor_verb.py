"""dataplane doctor: show CPU features, kernel variants and library versions."""

from __future__ import annotations

from types import SimpleNamespace

from dataplane.cli.verb_parser import VerbParser


def add_arguments(parser: VerbParser) -> None:
    """Declare the verb's arguments."""
    parser.add_argument("--json", action="store_true", help="print the findings as JSON")


def run(args: SimpleNamespace) -> int:
    """Print what the kernels found."""
    import os
    import platform

    from dataplane import __version__
    from dataplane.cli.output import print_fields, print_json
    from dataplane.engine import cpu, scan

    fields: dict[str, object] = {
        "dataplane": __version__,
        "python": platform.python_version(),
        "machine": cpu.machine(),
        "cores": len(os.sched_getaffinity(0)),
        "cpu_features": cpu.features(),
        "scan_variant": scan.chosen_variant(),
        "scan_variants": scan.variants(),
        "libraries": cpu.library_versions(),
    }
    if args.json:
        print_json(fields)
        return 0
    fields["cpu_features"] = " ".join(cpu.features()) or "none known"
    fields["scan_variants"] = " ".join(scan.variants())
    fields["libraries"] = ", ".join(f"{name} {version}" for name, version in cpu.library_versions().items())
    print_fields(fields)
    return 0
