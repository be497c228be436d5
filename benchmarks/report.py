"""Prints what a run of the benchmarks reached: ``python -m benchmarks.report FILE.json``.

FILE.json is what ``--benchmark-json`` wrote. The first table has the goals, the second everything else.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

Row = Mapping[str, Any]


def main(arguments: list[str]) -> int:
    """Print the tables of one file; return the exit code."""
    if len(arguments) != 1:
        print("usage: python -m benchmarks.report FILE.json", file=sys.stderr)
        return 2
    kept = json.loads(Path(arguments[0]).read_text())
    rows = [entry["extra_info"] for entry in kept["benchmarks"] if "ratio" in entry["extra_info"]]
    print("\n".join(tables(rows)))
    return 0


def tables(rows: Iterable[Row]) -> list[str]:
    """Return the lines of both tables, as Markdown."""
    rows = list(rows)
    goals = [row for row in rows if row.get("goal")]
    others = [row for row in rows if not row.get("goal")]
    lines = []
    if goals:
        lines += [
            "| goal | asked | reached | best rounds | processor time | rate | beside |",
            "|---|---|---|---|---|---|---|",
        ]
        lines += [goal_line(row) for row in goals] + [""]
    if others:
        lines += ["| benchmark | rate | ratio | beside |", "|---|---|---|---|"]
        lines += [other_line(row) for row in others]
    return lines


def goal_line(row: Row) -> str:
    """Return one line of the table of goals."""
    asked, found, best, cpu = row["goal_value"], row["ratio"], row["ratio_best"], row.get("ratio_cpu")
    mark = "" if is_reached(row) else " (missed)"
    sign = "≥" if row["goal_sense"] == "at least" else "≤"
    ratios = f"{found:.2f}{mark} | {best:.2f} | {'' if cpu is None else f'{cpu:.2f}'}"
    return f"| {row['goal']} | {sign} {asked:g} | {ratios} | {rate(row['rate'])} | {baseline(row)} |"


def is_reached(row: Row) -> bool:
    """Return whether what was found is on the good side of what was asked."""
    found, asked = row["ratio"], row["goal_value"]
    return bool(found >= asked if row["goal_sense"] == "at least" else found <= asked)


def other_line(row: Row) -> str:
    """Return one line of the table of everything else."""
    return f"| {row['name']} | {rate(row['rate'])} | {row['ratio']:.2f} | {baseline(row)} |"


def baseline(row: Row) -> str:
    """Return what the baseline is, and how quick."""
    return row["baseline"] if row["baseline_rate"] is None else f"{row['baseline']}: {rate(row['baseline_rate'])}"


def rate(bytes_per_second: float | None) -> str:
    """Return a rate the way people read it."""
    if bytes_per_second is None:
        return ""
    return f"{bytes_per_second / 1e9:.1f} GB/s" if bytes_per_second >= 2e9 else f"{bytes_per_second / 1e6:.0f} MB/s"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
