"""What the faults happen to: scripts of commands, the store they begin with, and what must be in it at each moment."""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from dataplane.formats.probe import open_source
from dataplane.ingest.exporting import export_image
from dataplane.ingest.importing import import_image
from dataplane.store import merging
from dataplane.store.store import Store
from dataplane.upkeep.gc import collect
from dataplane.upkeep.scrub import scrub
from tests.disks import KIB, disk_bytes, write_sparse

STORE, OUT = "STORE", "OUT"
IMPORT = ("--progress", "none", "--threads", "1", "--format", "raw")
SMALL = ("small 1", "small 2", "small 3")
NOW = ("--grace", "0", "--undelete-period", "0", "--fence-after", "1s")

SCRIPTS: dict[str, list[list[str]]] = {
    "import": [["import", STORE, "DISK/new", "--name", "new", *IMPORT]],
    "import duplicates": [["import", STORE, "DISK/copy", "--name", "copy", *IMPORT]],
    "export": [["export", STORE, "a", OUT, "--progress", "none", "--threads", "1"]],
    "rm": [["rm", STORE, "b"]],
    "undelete": [["undelete", STORE, "gone"]],
    "gc": [["gc", STORE, *NOW]],
    "gc that condemns": [["gc", STORE, "--grace", "1h", "--undelete-period", "0"]],
    "import that merges": [["import", STORE, "DISK/new", "--name", "new", *IMPORT]],
    "gc that merges": [["gc", STORE, "--grace", "1h", "--undelete-period", "7d"]],
    "repair": [["repair", STORE, "--source", "DISK/a", *IMPORT]],
    "repair of the ledger": [["repair", STORE, *IMPORT]],
    "verify": [["verify", STORE, "--progress", "none", "--threads", "1"]],
    "a day": [
        ["import", STORE, "DISK/new", "--name", "new", *IMPORT],
        ["rm", STORE, "b"],
        ["gc", STORE, "--grace", "1h", "--undelete-period", "7d"],
        ["undelete", STORE, "gone"],
        ["import", STORE, "DISK/copy", "--name", "copy", *IMPORT],
        ["rm", STORE, "new"],
        ["undelete", STORE, "b"],
        ["gc", STORE, *NOW],
        ["rm", STORE, "copy"],
        ["import", STORE, "DISK/new", "--name", "new", *IMPORT],
        ["rm", STORE, "a"],
        ["gc", STORE, *NOW],
        ["verify", STORE, "--progress", "none", "--threads", "1"],
    ],
}
"""Commands by name. STORE, OUT and DISK/… stand for paths. A new verb that writes needs no more than a line here."""


def leave_runs_apart(store: Path, disks: Path) -> None:
    """Bring small images and remove them again, each of which leaves a run; merge none, though that is due then."""
    with pytest.MonkeyPatch.context() as patch, Store.open(store) as opened:
        patch.setattr(merging, "TIER_FACTOR", 100)
        for name in SMALL:
            bring(opened, name, disks / name)
            opened.unpin(name)
        assert len(opened.ledger.runs()) == 1 + len(SMALL)


def hurt_chunk_and_run(store: Path, _disks: Path) -> None:
    """Flip a bit in a chunk of image a, and one in the run that finds it."""
    with Store.open(store) as opened:
        pin, index = opened.pin("a"), opened.index()
        ((_, page),) = opened.read_pages(index, opened.read_root(index, pin.root, pin.domain))
        pack, at, _, _ = index.require(page[:32])
        run = next(name for name, packs in zip(index.names, index.packs_of_runs, strict=True) if pack in packs)
    flip_byte(opened.layout.pack(pack), at)
    flip_byte(opened.layout.run(run), 70)


def hurt_ledger(store: Path, _disks: Path) -> None:
    """Overwrite the page where the ledger's list of packs begins; names and removals stay readable.

    There is no garbage, which a repair would take for images whose names are lost.
    """
    with Store.open(store) as opened:
        collect(opened, grace_s=0, fence_s=1)
    path = store / "ledger.sqlite3"
    with sqlite3.connect(path) as connection:
        ((page,),) = connection.execute("SELECT rootpage FROM sqlite_master WHERE name = 'packs'")
        ((size,),) = connection.execute("PRAGMA page_size")
    connection.close()
    with open(path, "r+b") as file:
        file.seek((page - 1) * size)
        file.write(b"\xff" * size)


def flip_byte(path: Path, at: int) -> None:
    """Flip all bits of one byte of a file."""
    path.chmod(0o600)
    with open(path, "r+b") as file:
        file.seek(at)
        (byte,) = file.read(1)
        file.seek(at)
        file.write(bytes([byte ^ 0xFF]))


BEFORE: dict[str, Callable[[Path, Path], None]] = {
    "import that merges": leave_runs_apart,
    "gc that merges": leave_runs_apart,
    "repair": hurt_chunk_and_run,
    "repair of the ledger": hurt_ledger,
}
"""What happens to the template's store before a script, given the store and the folder with the disks."""

BEGUN_AGAIN = ("repair", "repair of the ledger")
"""Scripts that are run once more after a fault: a store that is damaged stays so until a repair gets through."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Expected:
    """Images by name, each with the name of the disk that it is a copy of; and those that undelete may bring back."""

    images: dict[str, str]
    removed: dict[str, str]

    def after(self, command: list[str]) -> Expected:
        """Return what is there when `command` has succeeded."""
        images, removed = dict(self.images), dict(self.removed)
        verb, name = command[0], command[2]
        if verb == "import":
            images[command[4]] = name.removeprefix("DISK/")
        elif verb == "rm":
            removed[name] = images.pop(name)
        elif verb == "undelete":
            images[name] = removed.pop(name)
        elif verb == "gc" and command[command.index("--undelete-period") + 1] == "0":
            removed = {}
        return Expected(images=images, removed=removed)


BEGINNING = Expected(images={"a": "a", "b": "b"}, removed={"gone": "gone"})


def make_template(folder: Path) -> Path:
    """Make a store with two images, a removed one, and garbage to condemn, delete and write anew; disks beside it."""
    disks = {
        "a": disk_bytes(256 * KIB, seed=1, block=4 * KIB),
        "b": disk_bytes(128 * KIB, seed=2, block=4 * KIB),
        "gone": disk_bytes(192 * KIB, seed=3, block=4 * KIB),
        "big": disk_bytes(128 * KIB, seed=2, block=4 * KIB) + disk_bytes(512 * KIB, seed=4, block=4 * KIB),
        "new": disk_bytes(320 * KIB, seed=5, block=4 * KIB),
        "copy": disk_bytes(256 * KIB, seed=1, block=4 * KIB),
        **{name: disk_bytes(16 * KIB, seed=6 + number, block=4 * KIB) for number, name in enumerate(SMALL)},
    }
    for name, data in disks.items():
        write_sparse(folder / name, data)
    with Store.create(folder / "store", chunk_size=4 * KIB) as store:
        for name in ("big", "a", "b", "gone"):
            bring(store, name, folder / name)
        store.unpin("gone", undeletable=True)
        store.unpin("big")
    for script, change in BEFORE.items():
        shutil.copytree(folder / "store", folder / script)
        change(folder / script, folder)
    return folder


def beginning(template: Path, script: str) -> Path:
    """Return the store with which a script begins, of which tests make copies."""
    return template / (script if script in BEFORE else "store")


def bring(store: Store, name: str, path: Path) -> None:
    """Import a raw disk."""
    with open_source(path, format="raw") as source:
        import_image(store, source, name=name, threads=1)


def commands_of(script: str, store: Path, disks: Path, out: Path) -> list[list[str]]:
    """Return the commands of a script with real paths in them."""
    return [words_of(command, store, disks, out) for command in SCRIPTS[script]]


def words_of(command: list[str], store: Path, disks: Path, out: Path) -> list[str]:
    """Return a command with real paths in it."""
    paths = {STORE: str(store), OUT: str(out)}
    return [f"{disks}/{word[5:]}" if word.startswith("DISK/") else paths.get(word, word) for word in command]


def states_of(script: str) -> list[Expected]:
    """Return what is expected after 0, 1, … commands of a script."""
    states = [BEGINNING]
    for command in SCRIPTS[script]:
        states.append(states[-1].after(command))
    return states


@dataclass(frozen=True, slots=True)
class Bench:
    """A copy of the template that a fault may ruin."""

    folder: Path
    disks: Path

    @property
    def store(self) -> Path:
        """The store's folder."""
        return self.folder / "store"

    @property
    def out(self) -> Path:
        """Where the script exports to."""
        return self.folder / "out"

    def commands(self, script: str) -> list[list[str]]:
        """Return a script for this bench."""
        return commands_of(script, self.store, self.disks, self.out)


def benches(template: Path, folder: Path, script: str) -> Iterator[Bench]:
    """Yield one copy of a script's beginning after the other, each gone when the next one is asked for."""
    number = 0
    while True:
        bench = Bench(folder / f"bench-{number}", template)
        shutil.copytree(beginning(template, script), bench.store)
        yield bench
        shutil.rmtree(bench.folder)
        number += 1


def state_found(store: Store, states: list[Expected]) -> Expected:
    """Return which of the allowed states a store is in, every image compared byte by byte."""
    names = {pin.name for pin in store.pins()}
    removed = {pin.name for pin, _ in store.ledger.removed_pins()}
    found = [state for state in states if state.images.keys() == names]
    assert found, f"images {sorted(names)} instead of one of {[sorted(state.images) for state in states]}"
    # A collection that is cut off may have forgotten removed images before it deleted anything: both are right.
    kept = [state for state in found if removed == state.removed.keys()]
    assert kept, f"removed images {sorted(removed)} instead of one of {[sorted(state.removed) for state in found]}"
    return kept[0]


def assert_images(store: Store, state: Expected, disks: Path, out: Path) -> None:
    """Every image of a state reads back as its disk."""
    for name, disk in state.images.items():
        export_image(store, name, out, force=True, threads=1)
        assert out.read_bytes() == (disks / disk).read_bytes(), f"image {name} differs from its disk"


def assert_sound(path: Path, states: list[Expected], disks: Path, out: Path) -> Expected:
    """A store is in one of the allowed states, and without any help: a collection then leaves no file astray.

    What was removed can still be brought back. Returns the state that was found.
    """
    with Store.open(path) as store:
        state = state_found(store, states)
        assert_images(store, state, disks, out)
        for name in state.removed:
            if name not in state.images:
                store.undelete(name)
        everything = Expected(images={**state.removed, **state.images}, removed={})
        assert_images(store, everything, disks, out)
        assert_tidy(store, everything, disks, out)
    return state


def assert_tidy(store: Store, state: Expected, disks: Path, out: Path) -> None:
    """A collection leaves what the ledger names and nothing else; all images are still there."""
    collect(store, grace_s=0, undelete_s=0, fence_s=1)
    assert_images(store, state, disks, out)
    assert scrub(store, threads=1).damage == []
    packs = {path.stem for path in store.layout.packs.glob("*/*")}
    runs = {path.stem for path in store.layout.runs.iterdir()}
    assert packs == {name.hex() for name in store.ledger.packs()}
    assert runs == {name.hex() for name in store.ledger.runs()}
    assert [path.name for path in store.layout.temporary.iterdir()] == ["lock"]
