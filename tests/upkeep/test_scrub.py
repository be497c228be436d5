"""Scrubbing: a healthy store is all good, and whatever is hurt is named, with whom it hurts."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from pathlib import Path

import pytest

from dataplane.errors import Corrupt, NotFound, UsageError
from dataplane.formats.probe import open_source
from dataplane.ingest.exporting import export_image
from dataplane.ingest.importing import import_image
from dataplane.store import format as fmt
from dataplane.store.pack import read_table
from dataplane.store.store import Store
from dataplane.upkeep.hurt_images import hurt_images
from dataplane.upkeep.scrub import ScrubReport, scrub
from tests.disks import KIB, MIB, disk_bytes, write_sparse

CHUNK_SIZE = 16 * KIB


@pytest.fixture(params=["zstd:1", "none"])
def store(tmp_path: Path, request: pytest.FixtureRequest) -> Store:
    """A store with images ``a`` and ``b``, which share a third of their chunks, and ``c`` of another domain.

    Uncompressed, neighbours in a pack are read as one extent and scanned where they lie.
    """
    store = Store.create(tmp_path / "store", chunk_size=CHUNK_SIZE, codec=request.param)
    first = disk_bytes(5 * MIB, seed=1)
    disks = {"a": first, "b": first[: 2 * MIB] + disk_bytes(3 * MIB, seed=2), "c": disk_bytes(MIB, seed=3)}
    for name, data in disks.items():
        with open_source(write_sparse(tmp_path / name, data), format="raw") as source:
            import_image(store, source, name=name, domain="other" if name == "c" else "")
    return store


def pack_paths(store: Store) -> list[Path]:
    return [store.layout.pack(name) for name in store.ledger.packs()]


def damage(path: Path, at: int) -> None:
    """Flip one bit of a file."""
    path.chmod(0o600)
    data = bytearray(path.read_bytes())
    data[at] ^= 0x10
    path.write_bytes(data)


def hurt(store: Store, report: ScrubReport) -> dict[str, tuple[tuple[int, int], ...]]:
    found = hurt_images(store, store.index(), {one.id for one in report.damage}, store.pins())
    return {image.name: image.ranges for image in found}


def test_healthy_store_is_all_good(store: Store) -> None:
    report = scrub(store)
    assert (report.damage, report.complete, hurt(store, report)) == ([], True, {})
    assert report.packs == report.packs_total == 3
    assert report.chunks == sum(len(read_table(path)) for path in pack_paths(store))
    assert report.bytes_read == sum(sum(read_table(path).stored_lengths) for path in pack_paths(store))


def test_one_image_is_read_once_a_chunk(store: Store) -> None:
    report = scrub(store, "a")
    pin = store.pin("a")
    assert report.chunks == pin.distinct_chunks + 2  # one manifest page and the root
    assert report.damage == []
    with pytest.raises(NotFound):
        scrub(store, "nobody")


@pytest.mark.parametrize("seed", range(12))
def test_flipped_bit_in_a_chunk_is_named_with_whom_it_hurts(store: Store, seed: int) -> None:
    rnd = random.Random(seed)
    path = rnd.choice(pack_paths(store))
    table = read_table(path)
    end = fmt.PACK_HEADER.size + sum(table.stored_lengths)
    at = rnd.randrange(fmt.PACK_HEADER.size, end)
    damage(path, at)
    (found,) = scrub(store).damage
    assert found.pack.hex() == path.stem
    assert found.offset <= at < found.offset + found.length
    index = table.ids.index(found.id) // fmt.ID_SIZE
    assert found.offset == fmt.PACK_HEADER.size + sum(table.stored_lengths[:index])
    report = scrub(store)
    ranges = hurt(store, report)
    for name in "abc":
        data = (store.path.parent / name).read_bytes()
        broken = False
        try:
            export_image(store, name, store.path.parent / "out", force=True)
        except Corrupt:
            broken = True
        assert broken == (name in ranges), name
        for offset, length in ranges.get(name, ()):
            assert offset % CHUNK_SIZE == 0
            assert offset + length <= len(data)


def test_hurt_ranges_are_exact(store: Store) -> None:
    """The chunk that disks ``a`` and ``b`` repeat all over hurts both in exactly those places."""
    data = (store.path.parent / "a").read_bytes()
    chunks = [data[at : at + CHUNK_SIZE] for at in range(0, len(data), CHUNK_SIZE)]
    repeated = max((chunk for chunk in chunks if any(chunk)), key=chunks.count)
    places = [n * CHUNK_SIZE for n, chunk in enumerate(chunks) if chunk == repeated]
    assert len(places) > 10
    from dataplane.engine.scan import blake3

    found = store.index().find(blake3(repeated, store.domain_key("")))
    assert found is not None
    damage(store.layout.pack(found[0]), found[1] + found[2] // 2)
    ranges = hurt(store, scrub(store))
    assert set(ranges) == {"a", "b"}
    covered = [at for offset, length in ranges["a"] for at in range(offset, offset + length, CHUNK_SIZE)]
    assert covered == places


@pytest.mark.parametrize("part", ["table", "footer", "header"])
def test_damage_outside_chunks_hurts_no_image(store: Store, part: str) -> None:
    path = pack_paths(store)[0]
    size = path.stat().st_size
    damage(path, {"table": size - 64 - 100, "footer": size - 10, "header": 3}[part])
    report = scrub(store)
    assert report.damage
    assert {(one.pack.hex(), one.id) for one in report.damage} == {(path.stem, b"")}
    assert hurt(store, report) == {}


def test_missing_pack_hurts_its_images(store: Store) -> None:
    pin = store.pin("c")
    index = store.index()
    (pack,) = {index.require(id)[0] for id in [pin.root]}
    store.layout.pack(pack).unlink()
    report = scrub(store)
    assert {one.pack for one in report.damage} == {pack}
    assert all("missing" in one.problem for one in report.damage)
    assert hurt(store, report) == {"c": ((0, pin.virtual_size),)}


def test_lost_run_is_corrupt(store: Store) -> None:
    next(store.layout.runs.iterdir()).unlink()
    with pytest.raises(Corrupt, match="missing"):
        scrub(store)


def test_garbage_of_a_gone_domain_is_counted_apart(store: Store) -> None:
    store.unpin("c")
    report = scrub(store)
    assert (report.packs, report.unkeyed_packs, report.complete, report.damage) == (2, 1, True, [])


def test_sample_reads_a_share(store: Store) -> None:
    total = scrub(store).chunks
    counts = [scrub(store, share=0.3).chunks for _ in range(20)]
    assert 0.2 * total < sum(counts) / len(counts) < 0.4 * total
    assert len(set(counts)) > 1
    with pytest.raises(UsageError):
        scrub(store, share=0.0)


def test_time_box_goes_on_where_it_stopped(store: Store) -> None:
    assert scrub(store, seconds_max=0.0).packs == 0
    done = [scrub(store, seconds_max=0.0).complete for _ in range(2)]
    assert done == [False, False]
    before = store.ledger.packs_to_verify()
    scrub(store)
    store.ledger.mark_verified([before[0]])
    assert store.ledger.packs_to_verify()[-1] == before[0]


def test_command_exits_3_when_something_is_hurt(store: Store) -> None:
    command = [sys.executable, "-m", "dataplane", "verify", str(store.path)]
    healthy = subprocess.run([*command, "--json"], capture_output=True, check=True)
    assert json.loads(healthy.stdout)["complete"] is True
    damage(pack_paths(store)[0], 5000)
    done = subprocess.run([*command, "--json"], capture_output=True, check=False)
    assert done.returncode == 3
    found = json.loads(done.stdout)
    assert len(found["damage"]) == 1
    for_people = subprocess.run([*command, "--sample", "100%", "--for", "10m"], capture_output=True, check=False)
    assert for_people.returncode == 3
    assert b"1 damaged" in for_people.stdout
