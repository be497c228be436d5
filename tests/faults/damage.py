"""Judges a damaged store: whatever is wrong is either noticed, and its file named, or it changes nothing at all."""

from __future__ import annotations

import io
import shutil
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from dataplane.errors import DataplaneError
from dataplane.ingest.exporting import export_stream
from dataplane.store.store import Store
from dataplane.upkeep.scrub import scrub

ALMOST_ALL = 1 - 1e-15
"""The share of chunks that a scrub reads here: all of them, but it does not write to the ledger that it did."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What a store says of its images."""

    pins: tuple[object, ...]
    removed: tuple[object, ...]
    contents: dict[str, bytes]


class Patient:
    """A store that is damaged and healed again, over and over."""

    def __init__(self, template: Path, folder: Path) -> None:
        self.path = folder / "patient"
        shutil.copytree(template, self.path)
        self._kept = {path: path.read_bytes() for path in self.files()}
        self.facts = self.read_facts()
        assert self.problems() == []
        self.heal(self._kept)

    def files(self) -> list[Path]:
        """Return every file but locks, the reserve, and what SQLite keeps only while a ledger is open."""
        passing = (
            *("lock", "gc.lock", "index.lock", "counts.lock"),
            *("reserve", "ledger.sqlite3-wal", "ledger.sqlite3-shm"),
        )
        return sorted(path for path in self.path.rglob("*") if path.is_file() and path.name not in passing)

    def size(self) -> int:
        """Return the bytes in all files."""
        return sum(map(len, self._kept.values()))

    def content(self, path: Path) -> bytes:
        """Return what a file holds when it is healthy."""
        return self._kept[path]

    def write(self, path: Path, data: bytes) -> None:
        """Give a file other contents."""
        path.chmod(0o600)
        path.write_bytes(data)

    def flip(self, path: Path, bits: Iterable[int]) -> None:
        """Flip bits of a file, counted from its start."""
        data = bytearray(self._kept[path])
        for bit in bits:
            data[bit // 8] ^= 1 << bit % 8
        self.write(path, bytes(data))

    def heal(self, paths: Iterable[Path]) -> None:
        """Put files back as they were."""
        for suffix in ("-wal", "-shm"):
            (self.path / f"ledger.sqlite3{suffix}").unlink(missing_ok=True)
        for path in paths:
            path.unlink(missing_ok=True)
            path.write_bytes(self._kept[path])
            path.chmod(0o600)

    def problems(self) -> list[str]:
        """Return what a scrub of the store complains of."""
        try:
            with Store.open(self.path) as store:
                report = scrub(store, share=ALMOST_ALL, threads=1)
        except DataplaneError as error:
            return [str(error)]
        found = [f"pack {damage.pack.hex()} at {damage.offset}: {damage.problem}" for damage in report.damage]
        return [*found, *report.run_damage, *(f"stray {path}" for path in report.strays)]

    def read_facts(self) -> Facts:
        """Return what the store says now; raises DataplaneError."""
        with Store.open(self.path) as store:
            pins = store.pins()
            return Facts(
                pins=tuple(pins), removed=tuple(store.ledger.removed_pins()), contents=dict(exported(store, pins))
            )

    def assert_noticed_or_harmless(self, paths: Iterable[Path]) -> bool:
        """Judge the store after `paths` were damaged; return whether the damage was noticed (else it was harmless)."""
        problems = self.problems()
        if not problems:
            assert self.read_facts() == self.facts, "silent: verify finds nothing, and yet the store says other things"
            return False
        names = {path.stem if path.suffix in (".pack", ".run") else path.name for path in paths}
        assert any(name in problem for name in names for problem in problems), f"not attributed: {problems}"
        return True

    def assert_never_wrong(self) -> None:
        """Whatever an export of the damaged store gives, it is not wrong."""
        try:
            found = self.read_facts().contents
        except DataplaneError:
            return
        assert all(self.facts.contents.get(name) == content for name, content in found.items())


def exported(store: Store, pins: Iterable[object]) -> Iterator[tuple[str, bytes]]:
    """Yield (name, content) of every image."""
    for pin in pins:
        stream = io.BytesIO()
        name = str(pin.name)  # type: ignore[attr-defined]
        export_stream(store, name, stream)
        yield name, stream.getvalue()
