"""Rot: bits that flip, files cut short, swapped, stale or written over: nothing is silent, all is attributed."""

from __future__ import annotations

import random
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from dataplane.store.store import Store
from tests.disks import KIB, MIB, disk_bytes, write_sparse
from tests.faults.damage import Patient
from tests.faults.figures import Figures
from tests.faults.scripts import bring

SLICE = 211
"""In `make test` every so-manieth byte has a bit flipped."""
EXPORT_EVERY = 16
RANDOM_FLIPS = 100_000


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Patient:
    """A store of less than 256 KiB with an image, a removed one, and a chunk that both have."""
    folder = tmp_path_factory.mktemp("small")
    with Store.create(folder / "store", chunk_size=4 * KIB) as store:
        for seed, name in enumerate(("kept", "removed")):
            data = disk_bytes(24 * KIB, seed=seed, block=4 * KIB) + b"shared" * 4096
            bring(store, name, write_sparse(folder / name, data))
        store.unpin("removed", undeletable=True)
    patient = Patient(folder / "store", folder)
    assert patient.size() <= 256 * KIB
    return patient


def flip_each(patient: Patient, step: int, bit: int) -> tuple[int, int]:
    """Flip a bit of every `step`-th byte of every file; return (noticed, harmless).

    Bit `bit` of the first byte, the next one of the second, and so on: eight calls with 0 to 7 reach every bit.
    """
    noticed, count = 0, 0
    for path in patient.files():
        for at in range(bit % step, len(patient.content(path)), step):
            place = 8 * at + (at + bit) % 8
            patient.flip(path, [place])
            try:
                noticed += patient.assert_noticed_or_harmless([path])
                if count % EXPORT_EVERY == 0:
                    patient.assert_never_wrong()
            except Exception as error:
                raise AssertionError(f"bit {place % 8} of byte {at} of {path.name}") from error
            count += 1
            patient.heal([path])
    return noticed, count - noticed


def test_flipped_bits_slice(small: Patient) -> None:
    noticed, harmless = flip_each(small, SLICE, 0)
    assert noticed > 20
    assert harmless > 0  # free space in the pages of the ledger


@pytest.mark.slow
@pytest.mark.parametrize("bit", range(8))
def test_flipped_bits_everywhere(small: Patient, bit: int, figures: Figures) -> None:
    noticed, harmless = flip_each(small, 1, bit)
    figures.add("flipped bit", "noticed", noticed)
    figures.add("flipped bit", "in the ledger's free space, harmless", harmless)


@pytest.mark.slow
def test_random_flips_of_a_larger_store(tmp_path: Path, figures: Figures) -> None:
    """One bit in each of many chunks at once: a scrub names exactly those chunks, or they decode as they should."""
    with Store.create(tmp_path / "store", chunk_size=16 * KIB) as store:
        for seed in range(4):
            bring(store, f"{seed}", write_sparse(tmp_path / f"{seed}", disk_bytes(4 * MIB, seed=seed)))
    rnd, flips, unseen = random.Random(1), 0, 0
    with Store.open(tmp_path / "store") as store:
        patient = Patient(tmp_path / "store", tmp_path)
        index = store.index()
        chunks = {name: index.chunks_of(name) for name in store.ledger.packs()}
        while flips < RANDOM_FLIPS:
            expected = set()
            for name, (_, offsets, stored, _) in chunks.items():
                chosen = rnd.sample(range(len(offsets)), len(offsets) // 2)
                places = [8 * offsets[i] + rnd.randrange(8 * stored[i]) for i in chosen]
                patient.flip(patient.path / store.layout.pack(name).relative_to(store.path), places)
                expected |= {f"pack {name.hex()} at {offsets[i]}: " for i in chosen}
                flips += len(places)
            found = {problem[: problem.index(": ") + 2] for problem in patient.problems()}
            # A zstd frame has a few bits that do not count: such a chunk decodes to what its id says.
            assert found <= expected
            unseen += len(expected - found)
    assert unseen < flips / 50
    figures.add("flipped bit in a larger store", "named", flips - unseen)
    figures.add("flipped bit in a larger store", "decoded to the same bytes", unseen)


def damages(patient: Patient) -> Iterator[tuple[str, dict[Path, bytes]]]:
    """Yield what may happen to whole files, as (description, new contents by path)."""
    files = patient.files()
    for path in files:
        data = patient.content(path)
        for length in sorted({0, 1, len(data) // 3, len(data) // 2, len(data) - 64, len(data) - 1} - {len(data)}):
            if length >= 0:
                yield f"{path.name} cut to {length}", {path: data[:length]}
        yield f"{path.name} grown", {path: data + bytes(512)}
        for at in range(0, len(data), 512):
            if data[at : at + 512].strip(b"\0"):
                yield (
                    f"{path.name} lost a sector at {at}",
                    {path: data[:at] + bytes(len(data[at : at + 512])) + data[at + 512 :]},
                )
        other = next(file for file in files if file != path and len(patient.content(file)) > 400)
        block = patient.content(other)[:512]
        for at in range(0, len(data), 4096):
            yield (
                f"{path.name} has a sector of {other.name} at {at}",
                {path: data[:at] + block + data[at + len(block) :]},
            )
    for suffix in (".pack", ".run"):
        first, second, *_ = [path for path in files if path.suffix == suffix]
        yield f"{suffix}s swapped", {first: patient.content(second), second: patient.content(first)}
        yield f"one {suffix} in place of another", {first: patient.content(second)}


def test_whole_files_damaged(small: Patient) -> None:
    harmless = []
    for what, contents in damages(small):
        for path, data in contents.items():
            small.write(path, data)
        try:
            if not small.assert_noticed_or_harmless(contents):
                harmless.append(what)
            small.assert_never_wrong()
        except Exception as error:
            raise AssertionError(what) from error
        small.heal(contents)
    # What may change without harm: free space of the ledger's pages, and the last newline of store.json.
    assert [what for what in harmless if not what.startswith(("ledger.sqlite3", "store.json cut"))] == []
    assert len(harmless) < 10


@pytest.mark.parametrize("name", ["packs", "runs"])
def test_missing_files(small: Patient, name: str) -> None:
    for path in small.files():
        if name in path.parts:
            path.unlink()
            assert small.assert_noticed_or_harmless([path])
            small.heal([path])


def test_stale_ledger_is_noticed(tmp_path: Path) -> None:
    """An older ledger, whole in itself, names less than there is: files without a name are reported."""
    first = write_sparse(tmp_path / "first", disk_bytes(64 * KIB, seed=1, block=4 * KIB))
    second = write_sparse(tmp_path / "second", disk_bytes(64 * KIB, seed=2, block=4 * KIB))
    with Store.create(tmp_path / "store", chunk_size=4 * KIB) as store:
        bring(store, "disk", first)
        ledger = store.ledger_path
        store.close()
    shutil.copy(ledger, tmp_path / "stale")
    with Store.open(tmp_path / "store") as store:
        store.unpin("disk")
        bring(store, "disk", second)
    patient = Patient(tmp_path / "store", tmp_path)
    patient.write(patient.path / "ledger.sqlite3", (tmp_path / "stale").read_bytes())
    problems = patient.problems()
    assert len([problem for problem in problems if problem.startswith("stray ")]) == 2  # a pack and a run
