"""What lies on the disk is checked when it is opened: torn, cut, flipped, or of another version."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest

from dataplane.disks import format as fmt
from dataplane.disks.block_map import BlockMap
from dataplane.disks.change_log import ChangeLog
from dataplane.disks.disk import open_disk
from dataplane.disks.folder import STATE_NAME, create_overlay, delete_overlay, disk_status, read_state
from dataplane.disks.layer import Layer, log_path
from dataplane.disks.pinning import create_disk
from dataplane.errors import AlreadyExists, Corrupt, NotFound, StoreIncompatible, StoreLocked, UsageError
from dataplane.store.store import Store
from tests.disk.helpers import bring, copy_of, kill
from tests.disks import KIB, disk_bytes

SIZE = 64 * KIB
BLOCK = 4096


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store.create(tmp_path / "store")


def below(offset: int, view: memoryview) -> None:
    """What lies below the layers of these tests."""
    view[:] = b"." * len(view)


def written_layer(folder: Path) -> bytes:
    """Make a layer with blocks 0 and 2 flushed, 5 written over flushed zeros, 7 not flushed; return its log."""
    layer = Layer.create(folder, 1, SIZE)
    layer.write(0, memoryview(b"a" * BLOCK), below)
    layer.write(2 * BLOCK + 10, memoryview(b"c" * 10), below)
    layer.zero(5, 1)
    flush(layer)
    layer.write(5 * BLOCK, memoryview(b"f" * BLOCK), below)
    layer.write(7 * BLOCK + 1, memoryview(b"h"), below)
    layer.close()
    return log_path(folder, 1).read_bytes()


def flush(layer: Layer) -> None:
    position = layer.begin_flush()
    assert position is not None
    layer.sync_data()
    layer.commit(position)
    layer.sync_log()
    layer.end_flush()


def states(layer: Layer) -> str:
    return "".join(str(int(layer.blocks.state(block))) for block in range(SIZE // BLOCK))


def test_log_cut_anywhere_keeps_what_was_committed(tmp_path: Path) -> None:
    log = written_layer(tmp_path)
    whole = "1010010100000000"
    committed = "1010020000000000"
    seen = set()
    for length in range(fmt.LOG_HEADER.size, len(log) + 1):
        log_path(tmp_path, 1).write_bytes(log[:length])
        layer = Layer.open(tmp_path, 1, SIZE, may_write=True)
        seen.add(states(layer))
        found = memoryview(bytearray(30))
        layer.read_into(2 * BLOCK, found)
        layer.close()
        again = Layer.open(tmp_path, 1, SIZE, may_write=False)  # what was opened for writing is in order again
        assert states(again) in seen
        again.close()
    assert whole in seen
    assert committed in seen
    assert bytes(found) == b"." * 10 + b"c" * 10 + b"." * 10


def test_every_flipped_bit_of_a_log_is_noticed(tmp_path: Path) -> None:
    """A flipped header is damage; a flipped record ends the log, and never says anything else than it did."""
    log = written_layer(tmp_path)
    rnd = random.Random(1)
    for at in range(len(log)):
        hurt = bytearray(log)
        hurt[at] ^= 1 << rnd.randrange(8)
        log_path(tmp_path, 1).write_bytes(hurt)
        if at < fmt.LOG_HEADER.size:
            with pytest.raises((Corrupt, StoreIncompatible)):
                Layer.open(tmp_path, 1, SIZE, may_write=False)
            continue
        layer = Layer.open(tmp_path, 1, SIZE, may_write=False)
        assert all(found in ("0", right) for found, right in zip(states(layer)[:5], "10100", strict=True))
        layer.close()


def test_data_that_did_not_make_it_does_not_count(tmp_path: Path) -> None:
    written_layer(tmp_path)
    data = bytearray((tmp_path / "layer-1.data").read_bytes())
    data[7 * BLOCK : 8 * BLOCK] = bytes(BLOCK)  # never reached the disk
    data[5 * BLOCK + 100] ^= 1  # only a part of it did
    (tmp_path / "layer-1.data").write_bytes(data)
    layer = Layer.open(tmp_path, 1, SIZE, may_write=True)
    assert states(layer) == "1010020000000000"
    layer.close()


def test_log_of_another_layer_or_size_is_refused(tmp_path: Path) -> None:
    written_layer(tmp_path)
    with pytest.raises(Corrupt, match="makes no sense"):
        Layer.open(tmp_path, 1, BLOCK, may_write=False)
    log_path(tmp_path, 1).rename(log_path(tmp_path, 2))
    (tmp_path / "layer-1.data").rename(tmp_path / "layer-2.data")
    with pytest.raises(Corrupt, match="layer 1"):
        Layer.open(tmp_path, 2, SIZE, may_write=False)


def test_log_is_written_anew_when_it_is_long(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dataplane.disks.change_log.COMPACT_SIZE", 1000)
    layer = Layer.create(tmp_path, 1, SIZE)
    for number in range(100):
        layer.write(number % 10 * BLOCK, memoryview(bytes([number]) * BLOCK), below)
        if number % 3 == 0:
            layer.zero(number % 16, 1)
        flush(layer)
        assert log_path(tmp_path, 1).stat().st_size < 20_000
    before = states(layer)
    layer.close()
    layer = Layer.open(tmp_path, 1, SIZE, may_write=False)
    assert states(layer) == before
    layer.close()


def test_records_survive_a_log_that_goes_on_behind_a_torn_end(tmp_path: Path) -> None:
    written_layer(tmp_path)
    with open(log_path(tmp_path, 1), "ab") as file:
        file.write(b"half a record")
    layer = Layer.open(tmp_path, 1, SIZE, may_write=True)
    layer.write(9 * BLOCK, memoryview(b"j" * BLOCK), below)
    flush(layer)
    layer.close()
    layer = Layer.open(tmp_path, 1, SIZE, may_write=False)
    assert states(layer) == "1010010101000000"
    layer.close()


def test_record_without_sense_is_damage(tmp_path: Path) -> None:
    log = ChangeLog.create(tmp_path / "log", 1)
    log._append(fmt.RecordKind.WRITE, 3, 2, b"only one")
    log.close()
    with pytest.raises(Corrupt, match="makes no sense"):
        ChangeLog.open(tmp_path / "log", 1, BlockMap(), 16, lambda first, count: bytes(count * BLOCK), may_write=False)


# ---------------------------------------------------------------------------------------------- the folder
def test_state_that_was_touched_is_refused(tmp_path: Path, store: Store) -> None:
    create_overlay(tmp_path / "disk", size=SIZE)
    text = (tmp_path / "disk" / STATE_NAME).read_text()
    fields = json.loads(text)
    for name, value in fields.items():
        changed = {**fields, name: (value or 0) + 1 if isinstance(value, int) or value is None else value + "0"}
        (tmp_path / "disk" / STATE_NAME).write_text(json.dumps(changed))
        with pytest.raises((Corrupt, StoreIncompatible)):
            open_disk(store, tmp_path / "disk")
    for other in ("", "[]", "{}", "null", text[:-30], "\xff"):
        (tmp_path / "disk" / STATE_NAME).write_text(other)
        with pytest.raises(Corrupt):
            read_state(tmp_path / "disk")
    (tmp_path / "disk" / STATE_NAME).write_text(text)
    open_disk(store, tmp_path / "disk").close()


def test_missing_layer_is_damage(tmp_path: Path, store: Store) -> None:
    create_overlay(tmp_path / "disk", size=SIZE)
    for name in ("layer-1.data", "layer-1.log"):
        copy = copy_of(tmp_path / "disk", tmp_path / "copy")
        (copy / name).unlink()
        with pytest.raises(Corrupt, match=name):
            open_disk(store, copy)


@pytest.mark.parametrize("size", [0, 1, 511, 513, -512, 1 << 51])
def test_sizes_that_are_none_are_refused(tmp_path: Path, size: int) -> None:
    with pytest.raises(UsageError):
        create_overlay(tmp_path / "disk", size=size)
    assert list(tmp_path.iterdir()) == []


def test_creating_takes_a_new_folder_and_an_image_that_fits(tmp_path: Path, store: Store) -> None:
    bring(store, "image", disk_bytes(SIZE), tmp_path)
    with pytest.raises(UsageError, match="too small"):
        create_disk(store, tmp_path / "disk", image="image", size=SIZE - 512)
    with pytest.raises(NotFound):
        create_disk(store, tmp_path / "disk", image="other")
    assert [pin.name for pin in store.pins()] == ["image"]
    create_disk(store, tmp_path / "disk", image="image")
    with pytest.raises(AlreadyExists):
        create_disk(store, tmp_path / "disk", image="image")
    assert len(store.pins()) == 2


def test_one_process_at_a_time_but_for_readers(tmp_path: Path, store: Store) -> None:
    create_overlay(tmp_path / "disk", size=SIZE)
    with open_disk(store, tmp_path / "disk") as disk:
        for read_only in (False, True):
            with pytest.raises(StoreLocked):
                open_disk(store, tmp_path / "disk", read_only=read_only)
        with pytest.raises(StoreLocked):
            delete_overlay(tmp_path / "disk")
        disk.write(0, b"x")
    with open_disk(store, tmp_path / "disk", read_only=True) as one:
        with open_disk(store, tmp_path / "disk", read_only=True) as two:
            assert one.read(0, 1) == two.read(0, 1) == b"x"
            with pytest.raises(UsageError):
                one.write(0, b"y")
        with pytest.raises(StoreLocked):
            open_disk(store, tmp_path / "disk")
    delete_overlay(tmp_path / "disk")
    delete_overlay(tmp_path / "disk")
    assert not (tmp_path / "disk").exists()
    with pytest.raises(NotFound):
        open_disk(store, tmp_path / "disk")


def test_reader_of_what_a_crash_left_changes_nothing(tmp_path: Path, store: Store) -> None:
    create_overlay(tmp_path / "disk", size=SIZE)
    disk = open_disk(store, tmp_path / "disk")
    disk.write(100, b"not flushed")
    kill(disk)
    before = {path.name: path.read_bytes() for path in (tmp_path / "disk").iterdir()}
    with open_disk(store, tmp_path / "disk", read_only=True) as reader:
        assert reader.read(100, 11) == b"not flushed"
    assert disk_status(tmp_path / "disk").written_size == BLOCK
    assert {path.name: path.read_bytes() for path in (tmp_path / "disk").iterdir()} == before


def test_base_without_a_pin_is_refused(tmp_path: Path, store: Store) -> None:
    """Nothing would keep it alive. As long as another image has the same content the disk takes its pin from there."""
    bring(store, "image", disk_bytes(SIZE), tmp_path)
    state = create_disk(store, tmp_path / "disk", image="image", owner="disk:one")
    store.unpin("disk:one")
    open_disk(store, tmp_path / "disk").close()
    assert store.pin("disk:one").root.hex() == state.base_root
    store.unpin("disk:one")
    store.unpin("image")
    with pytest.raises(Corrupt, match="no image keeps root"):
        open_disk(store, tmp_path / "disk")


def test_ranges_that_leave_the_disk_are_refused(tmp_path: Path, store: Store) -> None:
    create_overlay(tmp_path / "disk", size=SIZE)
    with open_disk(store, tmp_path / "disk") as disk:
        for offset, length in ((-1, 1), (0, -1), (SIZE, 1), (SIZE - 1, 2), (1 << 62, 1 << 62)):
            with pytest.raises(UsageError):
                disk.trim(offset, length)
            with pytest.raises(UsageError):
                list(disk.extents(offset, length))
        with pytest.raises(UsageError):
            disk.write(SIZE - 1, b"xx")
        with pytest.raises(UsageError):
            disk.resize(SIZE - 512)
        assert [tuple(span) for span in disk.extents(0, SIZE)] == [(SIZE, True, True)]
