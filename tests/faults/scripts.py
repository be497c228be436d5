"""What the faults happen to: scripts of commands, the store they begin with, and what must be in it at each moment."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from dataplane.formats.probe import open_source
from dataplane.ingest.exporting import export_image
from dataplane.ingest.importing import import_image
from dataplane.store.store import Store
from dataplane.upkeep.gc import collect
from dataplane.upkeep.scrub import scrub
from tests.disks import KIB, disk_bytes, write_sparse

STORE, OUT = "STORE", "OUT"
IMPORT = ("--progress", "none", "--threads", "1", "--format", "raw")
NOW = ("--grace", "0", "--undelete-period", "0", "--fence-after", "1s")

SCRIPTS: dict[str, list[list[str]]] = {
    "import": [["import", STORE, "DISK/new", "--name", "new", *IMPORT]],
    "import duplicates": [["import", STORE, "DISK/copy", "--name", "copy", *IMPORT]],
    "export": [["export", STORE, "a", OUT, "--progress", "none", "--threads", "1"]],
    "rm": [["rm", STORE, "b"]],
    "undelete": [["undelete", STORE, "gone"]],
    "gc": [["gc", STORE, *NOW]],
    "gc that condemns": [["gc", STORE, "--grace", "1h", "--undelete-period", "0"]],
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
    }
    for name, data in disks.items():
        write_sparse(folder / name, data)
    with Store.create(folder / "store", chunk_size=4 * KIB) as store:
        for name in ("big", "a", "b", "gone"):
            bring(store, name, folder / name)
        store.unpin("gone", undeletable=True)
        store.unpin("big")
    return folder


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


def benches(template: Path, folder: Path) -> Iterator[Bench]:
    """Yield one copy of the template after the other, each gone when the next one is asked for."""
    number = 0
    while True:
        bench = Bench(folder / f"bench-{number}", template)
        shutil.copytree(template / "store", bench.store)
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
