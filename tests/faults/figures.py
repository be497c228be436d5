"""How many faults of each kind a run survived: the figures that docs/reliability.md gives."""

from __future__ import annotations

from collections import defaultdict


class Figures:
    """Counts, by kind of fault and what it happened to."""

    def __init__(self) -> None:
        self._counts: dict[str, dict[str, int]] = defaultdict(dict)

    def add(self, fault: str, where: str, count: int) -> None:
        """Note that `count` faults happened and did no harm."""
        self._counts[fault][where] = self._counts[fault].get(where, 0) + count

    def lines(self) -> list[str]:
        """Return a line for each kind of fault: the sum, and what it consists of."""
        return [
            f"{fault}: {sum(places.values()):,} ("
            + ", ".join(f"{where} {count:,}" for where, count in places.items())
            + ")"
            for fault, places in self._counts.items()
        ]
