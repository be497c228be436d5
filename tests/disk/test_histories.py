"""Random histories of a disk against plain bytes: writes, trims, flushes, snapshots, kills, power cuts, growth."""

from __future__ import annotations

import random
import shutil
import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from dataplane.disks import change_log
from dataplane.disks.disk import open_disk
from dataplane.disks.pinning import NEXT, create_disk, delete_disk
from dataplane.disks.snapshot import prepare_snapshot, snapshot_disk
from dataplane.store.store import Store
from dataplane.upkeep.gc import collect
from tests.disk.helpers import bring, copy_of, cut_power, exported, kill
from tests.disks import KIB, disk_bytes

BLOCK = 4 * KIB
CHUNK = 16 * KIB
SIZE = 176 * KIB + 512  # ends inside a block and a chunk
SIZE_MAX = 4 * SIZE
OFFSETS = st.one_of(st.integers(0, SIZE_MAX), st.integers(0, SIZE_MAX // BLOCK).map(lambda block: block * BLOCK))
LENGTHS = st.one_of(st.sampled_from([1, 511, 512, 4095, BLOCK, BLOCK + 1, CHUNK, 3 * CHUNK]), st.integers(1, 70 * KIB))


class Disks(RuleBasedStateMachine):
    """A disk and the bytes that it must hold."""

    @initialize(seed=st.integers(0, 3))
    def create(self, seed: int) -> None:
        self.folder = Path(tempfile.mkdtemp())
        self.store = Store.create(self.folder / "store", chunk_size=CHUNK)
        self.content = bytearray()
        image = None
        size = SIZE
        if seed:
            self.content += disk_bytes(SIZE - 100 * seed, seed=seed, block=BLOCK)
            bring(self.store, "image", bytes(self.content), self.folder)
            image = "image"
        create_disk(self.store, self.folder / "disk", image=image, size=size)
        self.content += bytes(size - len(self.content))
        self.disk = open_disk(self.store, self.folder / "disk")
        self.snapshots: dict[str, bytes] = {}
        self.made = 0
        self.note_durable()

    def note_durable(self) -> None:
        """Everything is synced."""
        self.durable = copy_of(self.folder / "disk", self.folder / "durable")
        self.since = [bytes(self.content)]

    def clip(self, offset: int, length: int) -> tuple[int, int]:
        offset %= len(self.content)
        return offset, min(length, len(self.content) - offset)

    @rule(offset=OFFSETS, length=LENGTHS, seed=st.integers(0, 2**16))
    def write(self, offset: int, length: int, seed: int) -> None:
        offset, length = self.clip(offset, length)
        data = random.Random(seed).randbytes(length)
        self.disk.write(offset, data)
        self.content[offset : offset + length] = data
        self.since.append(bytes(self.content))

    @rule(offset=OFFSETS, length=LENGTHS)
    def write_zeroes(self, offset: int, length: int) -> None:
        offset, length = self.clip(offset, length)
        self.disk.write_zeroes(offset, length)
        self.content[offset : offset + length] = bytes(length)
        self.since.append(bytes(self.content))

    @rule(offset=OFFSETS, length=LENGTHS)
    def trim(self, offset: int, length: int) -> None:
        """Whole blocks of what is trimmed read as zeros; the one in which the disk ends is whole at its end."""
        offset, length = self.clip(offset, length)
        self.disk.trim(offset, length)
        end = offset + length
        first = -(-offset // BLOCK) * BLOCK
        last = end if end == len(self.content) else end // BLOCK * BLOCK
        if first < last:
            self.content[first:last] = bytes(last - first)
        self.since.append(bytes(self.content))

    @rule()
    def flush(self) -> None:
        self.disk.flush()
        self.note_durable()

    @rule(more=st.integers(1, 40))
    def grow(self, more: int) -> None:
        if len(self.content) + 512 * more <= SIZE_MAX:
            self.disk.resize(len(self.content) + 512 * more)
            self.content += bytes(512 * more)
            self.disk.flush()
            self.note_durable()

    @rule()
    def snapshot(self) -> None:
        name = f"snapshot-{self.made}"
        self.made += 1
        result = snapshot_disk(self.store, self.disk, name=name, threads=1)
        self.snapshots[name] = bytes(self.content)
        again = bring(self.store, f"{name}-again", bytes(self.content), self.folder)
        assert result.root == again.root
        assert result.sizes == again.sizes
        self.store.unpin(f"{name}-again")
        self.note_durable()

    @rule()
    def give_up_a_snapshot(self) -> None:
        """Whoever takes it fails after everything is stored, or dies before."""
        with pytest.raises(ZeroDivisionError), prepare_snapshot(self.store, self.disk, threads=1):
            raise ZeroDivisionError
        self.note_durable()

    @rule(data=st.data())
    def remove_a_snapshot(self, data: st.DataObject) -> None:
        if self.snapshots:
            name = data.draw(st.sampled_from(sorted(self.snapshots)))
            del self.snapshots[name]
            self.store.unpin(name)

    @rule()
    def collect(self) -> None:
        collect(self.store, grace_s=0, undelete_s=0, fence_s=1)

    @rule()
    def close_and_open(self) -> None:
        self.disk.close()
        self.disk = open_disk(self.store, self.folder / "disk")
        self.note_durable()

    @rule()
    def kill_and_open(self) -> None:
        """What was acknowledged is there, flushed or not."""
        kill(self.disk)
        self.disk = open_disk(self.store, self.folder / "disk")
        self.note_durable()

    @rule(seed=st.integers(0, 2**16))
    def cut_power_and_open(self, seed: int) -> None:
        """Every block is what it was at the last flush, or what it was at some moment since."""
        kill(self.disk)
        cut_power(self.folder / "disk", self.durable, random.Random(seed))
        self.disk = open_disk(self.store, self.folder / "disk")
        found = bytes(self.disk.read(0, self.disk.size))
        assert len(found) == len(self.content)
        for at in range(0, len(found), BLOCK):
            block = found[at : at + BLOCK]
            assert any(block == state[at : at + BLOCK] for state in self.since), f"block at {at}"
        self.content = bytearray(found)
        self.note_durable()

    @invariant()
    def holds_what_it_should(self) -> None:
        assert self.disk.read(0, self.disk.size) == self.content
        position = 0
        for span in self.disk.extents(0, self.disk.size):
            assert not span.zero or not any(self.content[position : position + span.length])
            position += span.length
        assert position == len(self.content)

    def teardown(self) -> None:
        if not hasattr(self, "disk"):
            return
        for name, content in self.snapshots.items():
            assert exported(self.store, name, self.folder) == content
        assert not self.store.ledger.has_pin(self.disk.state.owner + NEXT) or self.disk.state.sealed is not None
        self.disk.close()
        delete_disk(self.store, self.folder / "disk")
        assert {pin.name for pin in self.store.pins()} - {"image"} == set(self.snapshots)
        self.store.close()
        shutil.rmtree(self.folder)


def run_histories(monkeypatch: pytest.MonkeyPatch, examples: int, steps: int) -> None:
    monkeypatch.setattr(change_log, "COMPACT_SIZE", 2000)
    run_state_machine_as_test(
        Disks,
        settings=settings(
            max_examples=examples,
            stateful_step_count=steps,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )


def test_histories(monkeypatch: pytest.MonkeyPatch) -> None:
    run_histories(monkeypatch, examples=15, steps=25)


@pytest.mark.slow
def test_many_histories(monkeypatch: pytest.MonkeyPatch) -> None:
    run_histories(monkeypatch, examples=100, steps=40)
