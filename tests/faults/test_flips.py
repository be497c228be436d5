"""Rot: bits that flip, files cut short, swapped, stale or written over: nothing is silent, all is attributed."""

from __future__ import annotations

import random
import shutil
import tempfile
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterator
from itertools import zip_longest
from pathlib import Path

import pytest

from dataplane.store.store import Store
from tests.disks import KIB, MIB, disk_bytes, write_sparse
from tests.faults.cut_disk import memory_folder
from tests.faults.damage import LEDGER, NOTHING, Flipper, Patient
from tests.faults.figures import Figures
from tests.faults.free_space import free_ranges
from tests.faults.scripts import bring
from tests.faults.small_store import small_patient

SLICE = 211
"""In `make test` every so-manieth byte has a bit flipped."""
LONG_WAY_EVERY = 251
"""So often bits that could be judged together are judged one by one, and where a look at the ledger would do, all of
the store is looked at and exported."""
RANDOM_FLIPS = 100_000


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Patient]:
    """A small store with everything in it, in memory."""
    place = memory_folder(tmp_path_factory.mktemp("flips"))
    with tempfile.TemporaryDirectory(prefix="dataplane-flips-", dir=place) as folder:
        yield small_patient(Path(folder))


def flip_each(patient: Patient, step: int, bit: int) -> Counter[str]:
    """Flip a bit of every `step`-th byte of every file; return how often it was noticed, or what was not.

    Bit `bit` of the first byte, the next one of the second, and so on: eight calls with 0 to 7 reach every bit.
    """
    verdicts: Counter[str] = Counter()
    for path in patient.files():
        content = patient.content(path)
        places = [8 * at + (at + bit) % 8 for at in range(bit % step, len(content), step)]
        groups = in_groups(content, places) if path.name == LEDGER else [[place] for place in places]
        with patient.flipping(path) as flipper:
            for number, group in enumerate(groups):
                verdicts += judge_group(patient, path, flipper, group, long_way=number % LONG_WAY_EVERY == 0)
    return verdicts


def in_groups(ledger: bytes, places: list[int]) -> Iterator[list[int]]:
    """Yield bits of a ledger to flip at once: one in the free space of each page, and all others alone."""
    by_page = [[place for place in places if place // 8 in free] for free in free_ranges(ledger)]
    grouped = {place for page in by_page for place in page}
    yield from ([place] for place in places if place not in grouped)
    for group in zip_longest(*by_page):
        yield [place for place in group if place is not None]


def judge_group(patient: Patient, path: Path, flipper: Flipper, group: list[int], *, long_way: bool) -> Counter[str]:
    """Return the verdicts on flipped bits of a file, which are judged one by one unless none of them is read.

    A table's rows are in its own pages, and so are the entries of an index, which the ledger's check holds against
    those rows. When all of them are what they were while one bit in each of several pages is flipped, so they are with
    any of these bits alone.
    """
    try:
        if len(group) > 1 and not long_way:
            with flipper.bits(*group):
                if patient.judge_ledger() == NOTHING:
                    return Counter({NOTHING: len(group)})
        verdicts: Counter[str] = Counter()
        for place in group:
            with flipper.bits(place):
                verdicts[judge_bit(patient, path, long_way=long_way)] += 1
        return verdicts
    except Exception as error:
        raise AssertionError(f"bits {group} of {path.name}") from error


def judge_bit(patient: Patient, path: Path, *, long_way: bool) -> str:
    """Return the verdict on a store in which one bit of one file is flipped; the long way is to judge it twice."""
    if path.name == LEDGER and not long_way:
        return patient.judge_ledger()
    verdict = patient.judge([path])
    if long_way:
        patient.assert_never_wrong()
        assert path.name != LEDGER or patient.judge_ledger() == verdict
    return verdict


def test_flipped_bits_slice(small: Patient) -> None:
    verdicts = flip_each(small, SLICE, 0)
    assert verdicts["noticed"] > 20
    assert verdicts[NOTHING] > 0  # free space in the pages of the ledger


@pytest.mark.slow
@pytest.mark.parametrize("bit", range(8))
def test_flipped_bits_everywhere(small: Patient, bit: int, figures: Figures) -> None:
    for verdict, count in flip_each(small, 1, bit).items():
        figures.add("flipped bit", verdict, count)


@pytest.mark.slow
def test_random_flips_of_a_larger_store(tmp_path: Path, figures: Figures) -> None:
    """Bits anywhere in a store of 16 MiB: those in chunks many at once, one in each, and the others one by one."""
    with tempfile.TemporaryDirectory(prefix="dataplane-flips-", dir=memory_folder(tmp_path)) as at:
        folder = Path(at)
        with Store.create(folder / "store", chunk_size=16 * KIB) as store:
            for seed in range(4):
                bring(store, f"{seed}", write_sparse(folder / f"{seed}", disk_bytes(4 * MIB, seed=seed)))
        patient = Patient(folder / "store", folder)
        chunks = ChunkMap(patient)
        rnd, verdicts, in_chunks = random.Random(1), Counter[str](), list[tuple[Path, int]]()
        files, sizes = zip(*((path, len(patient.content(path))) for path in patient.files()), strict=True)
        for path in rnd.choices(files, weights=sizes, k=RANDOM_FLIPS):
            place = rnd.randrange(8 * len(patient.content(path)))
            if chunks.at(path, place // 8) is not None:
                in_chunks.append((path, place))
                continue
            with patient.flipping(path) as flipper, flipper.bits(place):
                verdicts[patient.judge_ledger() if path.name == LEDGER else patient.judge([path])] += 1
        verdicts += flip_chunks(patient, chunks, in_chunks)
    assert verdicts.total() == RANDOM_FLIPS
    for verdict, count in verdicts.items():
        figures.add("flipped bit in a larger store", verdict, count)


class ChunkMap:
    """Where chunks lie in the packs of a patient."""

    def __init__(self, patient: Patient) -> None:
        self._offsets: dict[Path, tuple[bytes, list[int], int]] = {}
        with Store.open(patient.path) as store:
            index = store.index()
            for pack in store.ledger.packs():
                _, offsets, stored, _ = index.chunks_of(pack)
                starts = sorted(offsets)
                end = max(start + length for start, length in zip(offsets, stored, strict=True))
                self._offsets[store.layout.pack(pack)] = pack, starts, end

    def at(self, path: Path, byte: int) -> str | None:
        """Return how a scrub names the chunk that a byte of a file lies in, None when it lies in no chunk."""
        if path not in self._offsets:
            return None
        pack, starts, end = self._offsets[path]
        if not starts[0] <= byte < end:
            return None
        return f"pack {pack.hex()} at {starts[bisect_right(starts, byte) - 1]}: "


def flip_chunks(patient: Patient, chunks: ChunkMap, places: list[tuple[Path, int]]) -> Counter[str]:
    """Flip bits that lie in chunks, at most one in each at a time: a scrub names exactly those, no other."""
    verdicts: Counter[str] = Counter()
    while places:
        taken: dict[str, tuple[Path, int]] = {}
        left = []
        for path, place in places:
            name = chunks.at(path, place // 8)
            assert name is not None
            if name in taken:
                left.append((path, place))
            else:
                taken[name] = path, place
        places = left
        by_file: dict[Path, list[int]] = {}
        for path, place in taken.values():
            by_file.setdefault(path, []).append(place)
        for path, bits in by_file.items():
            patient.flip(path, bits)
        found = {problem[: problem.index(": ") + 2] for problem in patient.problems()}
        assert found <= taken.keys(), "not attributed"
        # A zstd frame has a few bits that do not count: such a chunk decodes to what its id says.
        verdicts += Counter({"noticed": len(found), "decodes to the same bytes": len(taken) - len(found)})
        patient.heal(by_file)
    return verdicts


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
            if small.judge(contents) != "noticed":
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
            assert small.judge([path]) == "noticed"
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
