"""Judges a damaged store: what is wrong is either noticed, and its file named, or it changes nothing that is read."""

from __future__ import annotations

import gc
import io
import os
import re
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from dataplane.errors import DataplaneError
from dataplane.ingest.exporting import export_stream
from dataplane.store.ledger import Ledger
from dataplane.store.ledger_file import LedgerFile
from dataplane.store.ledger_schema import STEPS
from dataplane.store.store import Store
from dataplane.upkeep.scrub import scrub

ALMOST_ALL = 1 - 1e-15
"""The share of chunks that a scrub reads here: all of them, but it does not write to the ledger that it did."""

LEDGER = "ledger.sqlite3"
PASSING = ("lock", "gc.lock", "index.lock", "counts.lock", "reserve", f"{LEDGER}-wal", f"{LEDGER}-shm")
"""Locks, the reserve, and what SQLite keeps only while a ledger is open."""

TABLES = re.findall(r"CREATE TABLE (\w+)", " ".join(statement for step in STEPS for statement in step))
NOTHING = "nothing that is read"
Rows = dict[str, list[tuple[object, ...]]]

UNSEEN = {
    "ledger_meta": {"value"},  # of the epoch: opening and verify check the others
    "packs": {"created_at", "verified_at"},
    "runs": {"created_at"},
    "leases": {"beats"},
    "count_files": {"created_at"},
}
"""Columns in which a flipped bit may stay unseen, and why no image and no chunk hangs on them: docs/reliability.md."""


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
        with Store.open(self.path) as store:
            self._store_id = store.store_id
        self.facts = self.read_facts()
        self.rows = self.read_rows()
        self._rows = repr(self.rows)
        assert self.problems() == []
        self.heal(self._kept)

    def files(self) -> list[Path]:
        """Return every file that lasts."""
        return sorted(path for path in self.path.rglob("*") if path.is_file() and path.name not in PASSING)

    def size(self) -> int:
        """Return the bytes in all files."""
        return sum(map(len, self._kept.values()))

    def content(self, path: Path) -> bytes:
        """Return what a file holds when it is healthy."""
        return self._kept[path]

    # ------------------------------------------------------------------------------------------ damage
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

    @contextmanager
    def flipping(self, path: Path) -> Iterator[Flipper]:
        """Open a file whose bits are flipped one by one, each back again before the next."""
        path.chmod(0o600)
        fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        try:
            yield Flipper(fd, self._kept[path])
        finally:
            os.close(fd)
            self.heal([path])

    def heal(self, paths: Iterable[Path]) -> None:
        """Put files back as they were."""
        for suffix in ("-wal", "-shm"):
            (self.path / f"{LEDGER}{suffix}").unlink(missing_ok=True)
        for path in paths:
            path.unlink(missing_ok=True)
            path.write_bytes(self._kept[path])
            path.chmod(0o600)

    # ------------------------------------------------------------------------------------------ looking
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
        """Return what the store says now; raises DataplaneError. The ledger is left as it was: exports write to it."""
        ledger = self.path / LEDGER
        before = ledger.read_bytes() if ledger.exists() else None
        try:
            return self._read_facts()
        finally:
            if before is not None:
                if ledger.with_name(f"{LEDGER}-wal").exists():
                    gc.collect()  # a statement in the traceback of an earlier failure keeps its connection half open
                ledger.with_name(f"{LEDGER}-wal").unlink(missing_ok=True)
                ledger.write_bytes(before)

    def _read_facts(self) -> Facts:
        with Store.open(self.path) as store:
            pins = store.pins()
            return Facts(
                pins=tuple(pins), removed=tuple(store.ledger.removed_pins()), contents=dict(exported(store, pins))
            )

    def read_rows(self) -> Rows:
        """Return everything that the ledger holds, after its own check; raises DataplaneError."""
        ledger = Ledger.open(LedgerFile(self.path / LEDGER), self._store_id)
        try:
            ledger.check()
            return {table: ledger.query(f"SELECT * FROM {table}") for table in (*TABLES, "sqlite_master")}
        finally:
            ledger.close()

    # ------------------------------------------------------------------------------------------ judging
    def judge(self, paths: Iterable[Path]) -> str:
        """Judge the store after `paths` were damaged: return "noticed", or what it is that stays unseen.

        What may stay unseen is an empty place in the ledger, or a value in one of the columns of UNSEEN; and images,
        removed ones and their contents are what they were.
        """
        problems = self.problems()
        if problems:
            names = {path.stem if path.suffix in (".pack", ".run") else path.name for path in paths}
            assert any(name in problem for name in names for problem in problems), f"not attributed: {problems}"
            return "noticed"
        assert self.read_facts() == self.facts, "silent: verify finds nothing, and yet the store says other things"
        places = list(self._differences(self.read_rows()))
        for table, column in places:
            assert column in UNSEEN.get(table, ()), f"silent: {column} of {table}"
        return ", ".join(f"{table}.{column}" for table, column in places) or NOTHING

    def _differences(self, after: Rows) -> Iterator[tuple[str, str]]:
        """Yield (table, column) of every value that has changed; the column is "rows" when their number has."""
        with Store.open(self.path) as store:
            for table, rows in self.rows.items():
                columns = [name for (name,) in store.ledger.query("SELECT name FROM pragma_table_info(?)", (table,))]
                if len(rows) != len(after[table]):
                    yield table, "rows"
                for old, new in zip(rows, after[table], strict=False):
                    for column, was, is_now in zip(columns, old, new, strict=True):
                        if repr(was) != repr(is_now):
                            yield table, str(column)

    def judge_ledger(self) -> str:
        """Judge a store of which nothing but the ledger's file was damaged, as ``judge`` does but in less time.

        What the store does hangs on its other files, which are sound, and on what SQL statements give. When the ledger
        passes its check (which is how every scrub begins), and all rows of all tables and the schema are what they
        were, so is everything else.
        """
        problem = ""
        try:
            if repr(self.read_rows()) == self._rows:
                return NOTHING
        except DataplaneError as error:
            problem = str(error)
        if problem:
            assert LEDGER in problem, f"not attributed: {problem}"
            return "noticed"
        return self.judge([self.path / LEDGER])

    def assert_never_wrong(self) -> None:
        """Whatever an export of the damaged store gives, it is not wrong."""
        try:
            found = self.read_facts().contents
        except DataplaneError:
            return
        assert all(self.facts.contents.get(name) == content for name, content in found.items())


class Flipper:
    """Flips bits of an open file in place."""

    def __init__(self, fd: int, healthy: bytes) -> None:
        self._fd = fd
        self._healthy = healthy

    @contextmanager
    def bits(self, *places: int) -> Iterator[None]:
        """Let bits, counted from the file's start, be flipped; nobody may write to the file meanwhile."""
        hurt = bytearray(self._healthy)
        for at in places:
            hurt[at // 8] ^= 1 << at % 8
            os.pwrite(self._fd, hurt[at // 8 : at // 8 + 1], at // 8)
        try:
            yield
            assert os.pread(self._fd, len(hurt) + 1, 0) == hurt, "whoever looked has written"
        finally:
            for at in places:
                os.pwrite(self._fd, self._healthy[at // 8 : at // 8 + 1], at // 8)


def exported(store: Store, pins: Iterable[object]) -> Iterator[tuple[str, bytes]]:
    """Yield (name, content) of every image."""
    for pin in pins:
        stream = io.BytesIO()
        name = str(pin.name)  # type: ignore[attr-defined]
        export_stream(store, name, stream)
        yield name, stream.getvalue()
