"""Rot, and then a repair: the store is sound again, every image is there, and nearly always by its name."""

from __future__ import annotations

import random
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from dataplane.errors import StoreIncompatible
from dataplane.formats.probe import open_source
from dataplane.store.store import Store
from dataplane.upkeep.donors import Donor
from dataplane.upkeep.repair import repair
from tests.faults.cut_disk import memory_folder
from tests.faults.damage import LEDGER, Patient
from tests.faults.figures import Figures
from tests.faults.small_store import IMAGES, small_patient

SLICE = 12
FLIPS = 1000
SHARE_NAMED = 0.8
"""So many of the ledgers that had to be made anew kept all names; with others that page is lost which holds them."""


@pytest.fixture
def healthy(tmp_path: Path) -> Iterator[Patient]:
    """A small store with everything in it, in memory."""
    with tempfile.TemporaryDirectory(prefix="dataplane-repairs-", dir=memory_folder(tmp_path)) as folder:
        yield small_patient(Path(folder))


def repair_flips(patient: Patient, flips: int) -> tuple[int, int]:
    """Flip a bit that holds something, repair, and judge, `flips` times; return (repaired, of these all names kept).

    Only what nothing can tell but a backup is left out: the store's header and secret, and whose ledger it is.
    """
    rnd, repaired, named = random.Random(flips), 0, 0
    files = [path for path in patient.files() if path.name not in ("store.json", "secret")]
    pristine = shutil.copytree(patient.path, patient.path.with_name("pristine"))
    donors = [Donor(name, lambda name=name: open_source(patient.path.with_name(name), format="raw")) for name in IMAGES]  # type: ignore[misc]
    for _ in range(flips):
        path = rnd.choice(files)
        content = patient.content(path)
        place = rnd.choice([at for at, byte in enumerate(content) if byte or path.name != LEDGER]) * 8 + rnd.randrange(
            8
        )
        shutil.rmtree(patient.path)
        shutil.copytree(pristine, patient.path)
        patient.flip(path, [place])
        if patient.problems():
            try:
                kept = is_repaired(patient, donors)
            except StoreIncompatible:
                assert path.name == LEDGER
                continue
            except Exception as error:
                raise AssertionError(f"bit {place % 8} of byte {place // 8} of {path.name}") from error
            repaired += 1
            named += kept
            assert kept or path.name == LEDGER
    return repaired, named


def is_repaired(patient: Patient, donors: list[Donor]) -> bool:
    """Repair a store and judge it; return whether all names are what they were."""
    repair(patient.path, donors, threads=1)
    assert patient.problems() == []
    found = patient.read_facts().contents
    assert patient.facts.contents["kept"] in found.values()
    with Store.open(patient.path) as store:
        return "kept" in found and [pin.name for pin, _ in store.ledger.removed_pins()] == ["removed"]


def test_repair_slice(healthy: Patient) -> None:
    repaired, _ = repair_flips(healthy, SLICE)
    assert repaired > SLICE / 2


@pytest.mark.slow
def test_repairs(healthy: Patient, figures: Figures) -> None:
    repaired, named = repair_flips(healthy, FLIPS)
    assert named > SHARE_NAMED * repaired
    figures.add("flipped bit, repaired", "all names kept", named)
    figures.add("flipped bit, repaired", "some images found under other names", repaired - named)
