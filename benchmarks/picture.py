"""Draws what a run of the benchmarks reached: ``python -m benchmarks.picture FILE.json FILE.svg``.

FILE.json is what ``--benchmark-json`` wrote. Each goal is a bar on a logarithmic scale, of which the line in the middle
is what was asked and the right is the good side. Its text can be selected, and its colours suit light and dark pages.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Iterable
from html import escape
from pathlib import Path

from benchmarks.report import Row, is_reached

WIDTH = 1020
LINE = 24
TOP = 48
LABEL_WIDTH = 620
SCALE_WIDTH = 230
MIDDLE = LABEL_WIDTH + SCALE_WIDTH // 2
FACTOR_MAX = 8.0
"""Bars end at this many times what was asked, and at this part of it."""

STYLE = """
text { font: 12px system-ui, sans-serif; fill: #1f2328; }
.title { font-weight: 600; font-size: 14px; }
.met { fill: #1a7f37; }
.missed { fill: #bc4c00; }
.line { stroke: #57606a; }
@media (prefers-color-scheme: dark) {
  text { fill: #e6edf3; } .met { fill: #3fb950; } .missed { fill: #f0883e; } .line { stroke: #9198a1; }
}
"""


def main(arguments: list[str]) -> int:
    """Draw the goals of one file; return the exit code."""
    if len(arguments) != 2:
        print("usage: python -m benchmarks.picture FILE.json FILE.svg", file=sys.stderr)
        return 2
    kept = json.loads(Path(arguments[0]).read_text())
    Path(arguments[1]).write_text(picture(entry["extra_info"] for entry in kept["benchmarks"]))
    return 0


def picture(rows: Iterable[Row]) -> str:
    """Return an SVG with a bar for each row that has a goal."""
    goals = [row for row in rows if row.get("goal")]
    height = TOP + LINE * len(goals) + 16
    met = sum(map(is_reached, goals))
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}" '
        'role="img">',
        f"<title>{met} of {len(goals)} goals met</title>",
        f"<style>{STYLE}</style>",
        f'<text class="title" x="8" y="20">{met} of {len(goals)} goals met</text>',
        f'<text x="{MIDDLE}" y="36" text-anchor="middle">worse ◄ asked ► better</text>',
    ]
    for number, row in enumerate(goals):
        lines += bar(row, TOP + LINE * number)
    lines += [f'<line class="line" x1="{MIDDLE}" y1="{TOP - 6}" x2="{MIDDLE}" y2="{height - 10}"/>', "</svg>"]
    return "\n".join(lines) + "\n"


def bar(row: Row, top: int) -> list[str]:
    """Return the elements of one goal: its words, the bar with a mark at its end, and both figures."""
    reached, kind = is_reached(row), "met" if is_reached(row) else "missed"
    end = MIDDLE + round(share(row) * SCALE_WIDTH / 2, 1)
    middle = top + LINE // 2
    sign = "≥" if row["goal_sense"] == "at least" else "≤"
    if reached:
        mark = f'<circle class="{kind}" cx="{end}" cy="{middle}" r="6"/>'
    else:
        mark = f'<path class="{kind}" d="M{end - 7} {middle}l7 -7l7 7l-7 7z"/>'
    start, width = min(end, MIDDLE), round(abs(end - MIDDLE), 1)
    return [
        f'<text x="8" y="{middle + 4}">{escape(row["goal"])}</text>',
        f'<rect class="{kind}" x="{start}" y="{middle - 3}" width="{width}" height="6"/>',
        mark,
        f'<text x="{LABEL_WIDTH + SCALE_WIDTH + 16}" y="{middle + 4}">'
        f"{row['ratio']:.2f} ({sign} {row['goal_value']:g}){'' if reached else ' missed'}</text>",
    ]


def share(row: Row) -> float:
    """Return how far a bar goes, from -1 to 1: the logarithm of how much better than asked it is."""
    found, asked = max(row["ratio"], 1e-9), row["goal_value"]
    better = found / asked if row["goal_sense"] == "at least" else asked / found
    return min(1.0, max(-1.0, math.log(better) / math.log(FACTOR_MAX)))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
