"""Random histories of a store, each made from one integer: ``python -m tests.faults.histories --seed 4711``.

Imports (also half-done, alive or standing still), exports, readers, removals, undeletes, collections, scrubs and jumps
of the clock follow one another as the seed says, against a dictionary of what must be there. No clock is waited for:
the collector's patience is played, and while it lasts those who are alive count their beats.
"""

from __future__ import annotations

import argparse
import io
import random
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from dataplane.errors import LeaseLost
from dataplane.formats.probe import open_source
from dataplane.ingest.exporting import export_stream
from dataplane.ingest.importing import PreparedImport, import_image, prepare_import
from dataplane.store import lease as leases
from dataplane.store.store import Store
from dataplane.store.stored_image import StoredImage
from dataplane.upkeep import gc
from dataplane.upkeep.gc import collect
from dataplane.upkeep.scrub import scrub
from tests.disks import KIB, disk_bytes

STEPS = 12
NAMES = "abcd"
CONTENTS = 5
NEVER_S = 1e6
FENCE_S = 60.0
DAY_NS = 86400 * 10**9
UNDELETE_S = 1e12


@dataclass
class Pending:
    """An import that lacks its pin. One that stands still shows no sign of life."""

    prepared: PreparedImport
    data: bytes
    lease: str
    stands_still: bool
    collected: bool = False


@dataclass
class Reader:
    """An export that has begun."""

    stack: ExitStack
    image: StoredImage
    data: bytes


@dataclass
class History:
    """A store and what must be in it."""

    seed: int
    folder: Path
    images: dict[str, bytes] = field(default_factory=dict)
    removed: dict[str, list[bytes]] = field(default_factory=dict)
    pending: list[Pending] = field(default_factory=list)
    readers: list[Reader] = field(default_factory=list)
    trace: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.rnd = random.Random(self.seed)
        self.store = Store.create(self.folder / "store", chunk_size=4 * KIB)
        self.clock_ns = 0

    def run(self) -> None:
        """Take all steps, and look at everything at the end."""
        steps: list[Callable[[], str]] = [
            self.bring, self.bring, self.begin, self.begin, self.end, self.end, self.remove, self.remove, self.undelete,
            self.collect, self.collect, self.collect, self.read, self.stop_reading, self.scrub, self.move_clock,
        ]  # fmt: skip
        with moved_clock(lambda: self.clock_ns):
            for _ in range(STEPS):
                step = self.rnd.choice(steps)
                self.trace.append(step.__name__)
                self.trace[-1] += f" {step()}"
                self.look()
            self.finish()

    # ------------------------------------------------------------------------------------------ steps
    def bring(self) -> str:
        name, data = self.rnd.choice(NAMES), self.disk()
        if name not in self.images:
            with open_source(self.file(data), format="raw") as source:
                import_image(self.store, source, name=name, threads=1)
            self.images[name] = data
        return name

    def begin(self) -> str:
        data, stands_still = self.disk(), self.rnd.random() < 0.4
        before = {row.id for row in leases.lease_rows(self.store.ledger)}
        with open_source(self.file(data), format="raw") as source:
            prepared = prepare_import(self.store, source, threads=1)
        (lease,) = {row.id for row in leases.lease_rows(self.store.ledger)} - before
        self.pending.append(Pending(prepared, data, lease, stands_still))
        return f"standing still: {stands_still}"

    def end(self) -> str:
        if not self.pending:
            return "nothing"
        pending = self.pending.pop(self.rnd.randrange(len(self.pending)))
        name = next((name for name in NAMES if name not in self.images), None)
        with pending.prepared:
            if name is None or self.rnd.random() < 0.2:
                return "given up"
            try:
                pending.prepared.pin(name)
            except LeaseLost:
                assert pending.stands_still, "a writer that shows signs of life was fenced"
                assert pending.collected, "a writer was fenced by nobody"
                return "fenced"
            self.images[name] = pending.data
        return name

    def remove(self) -> str:
        if not self.images:
            return "nothing"
        name, undeletable = self.rnd.choice(sorted(self.images)), self.rnd.random() < 0.6
        self.store.unpin(name, undeletable=undeletable)
        data = self.images.pop(name)
        if undeletable:
            self.removed.setdefault(name, []).append(data)
        return f"{name} undeletable: {undeletable}"

    def undelete(self) -> str:
        names = [name for name, kept in self.removed.items() if kept and name not in self.images]
        if not names:
            return "nothing"
        name = self.rnd.choice(names)
        pin = self.store.undelete(name)
        # The clock may have gone back between two removals: whichever is taken for the last is a removed one.
        data = next(data for data in self.removed[name] if len(data) == pin.virtual_size and self.reads(name) == data)
        self.removed[name].remove(data)
        self.images[name] = data
        return name

    def collect(self) -> str:
        grace, forget = self.rnd.choice((0.0, 0.0, 3600.0)), self.rnd.random() < 0.3
        with played_patience(self.beat):
            report = collect(self.store, grace_s=grace, undelete_s=0 if forget else UNDELETE_S, fence_s=FENCE_S)
        for pending in self.pending:
            pending.collected = True
        if forget:
            self.forget()
        return f"grace {grace} forget {forget}: deleted {report.deleted_packs} fenced {report.fenced_leases}"

    def beat(self) -> None:
        """Let everybody who does not stand still count a beat."""
        still = {pending.lease for pending in self.pending if pending.stands_still}
        alive = [row.id for row in leases.lease_rows(self.store.ledger) if row.id not in still]
        with self.store.ledger.transaction() as connection:
            connection.executemany("UPDATE leases SET beats = beats + 1 WHERE id = ?", [(id,) for id in alive])

    def forget(self) -> None:
        """With a clock that went back, a removal may lie in the future, and is kept: the store says what is left."""
        left = [pin.name for pin, _ in self.store.ledger.removed_pins()]
        for name, kept in self.removed.items():
            assert left.count(name) <= len(kept)
        if not left:
            self.removed.clear()

    def read(self) -> str:
        if not self.images:
            return "nothing"
        name = self.rnd.choice(sorted(self.images))
        stack = ExitStack()
        pin = stack.enter_context(self.store.reading(name))
        image = stack.enter_context(StoredImage(self.store, pin.root, pin.domain))
        self.readers.append(Reader(stack, image, self.images[name]))
        return name

    def stop_reading(self) -> str:
        if not self.readers:
            return "nothing"
        reader = self.readers.pop(self.rnd.randrange(len(self.readers)))
        with reader.stack:
            assert content_of(self.store, reader.image) == reader.data, "a reader lost its image"
        return "whole"

    def scrub(self) -> str:
        report = scrub(self.store, threads=1)
        assert report.damage == []
        assert report.run_damage == []
        return f"{report.chunks} chunks"

    def move_clock(self) -> str:
        self.clock_ns = self.rnd.choice((0, 3600 * 10**9, 30 * DAY_NS, 3650 * DAY_NS, -DAY_NS, -3650 * DAY_NS))
        return f"{self.clock_ns // 10**9} s"

    # ------------------------------------------------------------------------------------------ looking
    def look(self) -> None:
        """Compare one image that chance chooses, and the names of all."""
        assert {pin.name for pin in self.store.pins()} == self.images.keys()
        if self.images:
            name = self.rnd.choice(sorted(self.images))
            assert self.reads(name) == self.images[name], f"image {name} is not what it was"

    def finish(self) -> None:
        """End what is pending, collect everything, and compare all."""
        while self.readers:
            self.stop_reading()
        while self.pending:
            self.end()
        self.clock_ns = 0
        for name, data in self.images.items():
            assert self.reads(name) == data, f"image {name} is not what it was"
        with played_patience(self.beat):
            collect(self.store, grace_s=0, undelete_s=-UNDELETE_S, fence_s=FENCE_S)
        for name, data in self.images.items():
            assert self.reads(name) == data, f"image {name} is not what it was"
        self.scrub()
        packs = {path.stem for path in self.store.layout.packs.glob("*/*")}
        assert packs == {name.hex() for name in self.store.ledger.packs()}, "files and ledger disagree"
        assert bool(packs) == bool(self.images), "garbage stays"

    def reads(self, name: str) -> bytes:
        """Return the content of an image."""
        stream = io.BytesIO()
        export_stream(self.store, name, stream)
        return stream.getvalue()

    def disk(self) -> bytes:
        """Disks of neighbouring numbers share half their content."""
        number = self.rnd.randrange(CONTENTS)
        return disk_bytes(48 * KIB, seed=number, block=4 * KIB) + disk_bytes(48 * KIB, seed=number + 1, block=4 * KIB)

    def file(self, data: bytes) -> Path:
        """Return a file with these contents."""
        path = self.folder / "disk"
        path.write_bytes(data)
        return path

    def close(self) -> None:
        """Let go of everything, also after a failure."""
        for reader in self.readers:
            reader.stack.close()
        for pending in self.pending:
            pending.prepared.__exit__(None, None, None)
        self.store.close()


def content_of(store: Store, image: StoredImage) -> bytes:
    """Return what a reader of an image that may be removed by now reads."""
    index = store.index()
    content = bytearray(image.virtual_size)
    for number, page in store.read_pages(index, image.root):
        for i in range(0, len(page), 32):
            id, at = page[i : i + 32], (number * len(page) // 32 + i // 32) * store.chunk_size
            if id != bytes(32):
                content[at : at + store.chunk_size] = store.read_chunk(index, id, image.key, f"the chunk at {at}")
    return bytes(content[: image.virtual_size])


@contextmanager
def moved_clock(offset_ns: Callable[[], int]) -> Iterator[None]:
    """Let the time of day be off by what `offset_ns` says."""
    real = time.time_ns
    time.time_ns = lambda: real() + offset_ns()
    try:
        yield
    finally:
        time.time_ns = real


class Patience:
    """What the collector takes for the module `time`: seconds pass only while it sleeps."""

    time_ns = staticmethod(lambda: time.time_ns())

    def __init__(self, passing: Callable[[], None]) -> None:
        self._now = 0.0
        self._passing = passing

    def monotonic(self) -> float:
        return self._now

    def sleep(self, seconds: float) -> None:
        self._now += seconds
        self._passing()


@contextmanager
def played_patience(passing: Callable[[], None]) -> Iterator[None]:
    """Let the collector wait for others without any time passing; `passing` is called whenever it sleeps."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(gc, "time", Patience(passing))
        yield


def replay(seed: int) -> None:
    """Run the history of a seed; an AssertionError tells the seed and the steps."""
    beat_s, leases.BEAT_S = leases.BEAT_S, NEVER_S
    place = "/dev/shm" if Path("/dev/shm").is_dir() else None
    folder = Path(tempfile.mkdtemp(prefix="dataplane-history-", dir=place))
    history = History(seed, folder)
    try:
        history.run()
    except Exception as error:
        steps = "\n  ".join(history.trace)
        raise AssertionError(f"python -m tests.faults.histories --seed {seed}: {error!r} after\n  {steps}") from error
    finally:
        history.close()
        leases.BEAT_S = beat_s
        shutil.rmtree(folder)


def main() -> None:
    """Replay one seed, or many."""
    parser = argparse.ArgumentParser(description="Replay random histories of a store.")
    parser.add_argument("--seed", type=int, required=True, help="the first seed")
    parser.add_argument("--count", type=int, default=1, help="how many seeds follow one another (default: 1)")
    args = parser.parse_args()
    for seed in range(args.seed, args.seed + args.count):
        replay(seed)
    print(f"{args.count} histories, none lost a chunk")


if __name__ == "__main__":
    main()
