"""kill -9 during a repair, at each call that makes something durable: begun again, it ends as if nothing had been."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from dataplane.store.store import Store
from tests.disks import KIB
from tests.faults.figures import Figures
from tests.faults.forker import KILLED, Forker
from tests.faults.shim import Fault, Kind, Mode
from tests.upkeep.test_repair import PACK_HARM, assert_whole, bring, disk, flip, hurt_chunk, place_of

HARM: dict[str, Callable[[Path], object]] = {
    "chunk": lambda path: hurt_chunk(path, "a", 0),
    "pack": lambda path: PACK_HARM["table"](place_of(path, "a", 0)[0]),
    "runs": lambda path: flip(min(path.glob("runs/*.run")), 70),
    "ledger": lambda path: (path / "ledger.sqlite3").write_bytes(b"junk" * 5000),
}
SLICE = 3
"""In `make test` every repair is killed at so many points, evenly spread."""

TRIES = 4
"""A repair that finds the folder of a pack there already, whose name is random, has two calls fewer than one that does
not: it may be through before one of the last calls of the other."""


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("template")
    with Store.create(folder / "store", chunk_size=4 * KIB) as store:
        bring(store, folder, "a")
        bring(store, folder, "b")
        bring(store, folder, "c", domain="folder")
    return folder


def kill_everywhere(
    forker: Forker, template: Path, folder: Path, harm: str, fault: Fault, points: int | None = None
) -> int:
    """Kill a repair at each of its calls, or at `points` of them, then let another one run; return the kills."""
    folder.mkdir()
    total = len(repair_killed(forker, template, folder / "0", harm, Fault(kinds=fault.kinds)))
    step = 1 if points is None else max(1, total // points)
    for at in range(1, total + 1, step):
        planned = Fault(mode=fault.mode, at=at, kinds=fault.kinds)
        for _ in range(TRIES):
            calls = repair_killed(forker, template, folder / str(at), harm, planned)
            if len(calls) == at:
                break
        else:
            raise AssertionError(f"{TRIES} times it was through before call {at}, when it was to be killed")
    return len(range(1, total + 1, step))


def repair_killed(forker: Forker, template: Path, folder: Path, harm: str, fault: Fault) -> tuple[str, ...]:
    """Repair from a source with a fault in it, again without, and judge; return the calls of the first one."""
    shutil.copytree(template, folder)
    HARM[harm](folder / "store")
    source = ["--source", disk(folder, "a"), "--format", "raw", "--threads", "1", "--progress", "none"]
    command = ["repair", folder / "store", *source]
    first = forker.run([command], folder, fault)
    assert first.code in (0, KILLED), first.errors
    again = forker.run([command], folder)
    assert again.code == 0, again.errors
    try:
        assert_whole(folder / "store", *(("a", "b", "c") if harm != "ledger" else ()))
        with Store.open(folder / "store") as store:
            assert len(store.pins()) == 3
    except Exception as error:
        raise AssertionError(f"killed at {first.calls[-1]}, call {len(first.calls)}") from error
    shutil.rmtree(folder)
    return first.calls


@pytest.mark.parametrize("harm", HARM)
def test_kill_slice(forker: Forker, template: Path, tmp_path: Path, harm: str) -> None:
    assert kill_everywhere(forker, template, tmp_path / "kills", harm, Fault(mode=Mode.KILL), SLICE) > 0


@pytest.mark.slow
@pytest.mark.parametrize("harm", HARM)
def test_kill_everywhere(forker: Forker, template: Path, tmp_path: Path, harm: str, figures: Figures) -> None:
    kills = kill_everywhere(forker, template, tmp_path / "kills", harm, Fault(mode=Mode.KILL))
    torn = kill_everywhere(forker, template, tmp_path / "torn", harm, Fault(mode=Mode.TEAR, kinds=Kind.WRITE))
    assert kills > torn > 0
    figures.add("killed at a call", f"repair of {harm}", kills)
    figures.add("killed in a write", f"repair of {harm}", torn)
