"""Internal snapshots of qcow2: one is read when it is asked for, and its table is bounded."""

from __future__ import annotations

from pathlib import Path

import pytest

from dataplane.errors import DataplaneError, InvalidImage, UsageError
from tests.formats.helpers import content_of, create, qemu_content, qemu_io, run
from tests.formats.qcow2_writer import EXTERNAL_DATA, Image, Snapshot

CLUSTER = 65536
MIB = 1 << 20


def written(tmp_path: Path, *snapshots: Snapshot, **changes: object) -> Path:
    settings: dict[str, object] = {"virtual_size": 2 * CLUSTER, "clusters": {0: ("data", b"a" * CLUSTER)}}
    image = Image(**{**settings, "snapshots": list(snapshots), **changes})  # type: ignore[arg-type]
    path = tmp_path / "disk"
    path.write_bytes(image.write())
    return path


def test_snapshots_of_qemu(tmp_path: Path) -> None:
    path = create(tmp_path / "disk", 4 * MIB)
    states = {}
    for number, name in enumerate(["first", "second", "2"], 1):
        qemu_io(path, f"write -P {number} {number * 256}k 1M")
        run("qemu-img", "snapshot", "-c", name, path)
        states[str(number)] = qemu_content(path)
    qemu_io(path, "write -P 9 0 4M")
    assert content_of(path)[0] == b"\x09" * 4 * MIB
    assert content_of(path, snapshot="first")[0] == content_of(path, snapshot="1")[0] == states["1"]
    assert content_of(path, snapshot="second")[0] == states["2"]
    # An id goes before a name that looks like it, as with qemu-img.
    assert content_of(path, snapshot="2")[0] == states["2"] != states["3"]


def test_snapshot_taken_before_the_disk_grew(tmp_path: Path) -> None:
    path = create(tmp_path / "disk", 2 * MIB)
    qemu_io(path, "write -P 1 1M 1M")
    run("qemu-img", "snapshot", "-c", "small", path)
    run("qemu-img", "resize", "-q", "-f", "qcow2", path, "5M")
    qemu_io(path, "write -P 2 0 5M")
    assert content_of(path, snapshot="small")[0] == bytes(MIB) + b"\x01" * MIB
    assert content_of(path)[0] == b"\x02" * 5 * MIB


def test_snapshot_without_a_size_has_that_of_the_image(tmp_path: Path) -> None:
    path = written(tmp_path, Snapshot(b"1"), Snapshot(b"2", virtual_size=CLUSTER - 512), Snapshot(b"3", virtual_size=0))
    assert content_of(path, snapshot="1")[0] == b"a" * CLUSTER + bytes(CLUSTER)
    assert content_of(path, snapshot="2")[0] == b"a" * (CLUSTER - 512)
    assert content_of(path, snapshot="3")[0] == b""


def test_table_of_many_snapshots_is_read_in_pieces(tmp_path: Path) -> None:
    many = [Snapshot(b"%d" % number, b"n" * (number % 60000), virtual_size=512) for number in range(1, 60000, 997)]
    path = written(tmp_path, *many, Snapshot(b"last" * 16383, b"x" * 65535))
    assert content_of(path, snapshot="x" * 65535)[0] == content_of(path)[0]
    assert content_of(path, snapshot=str(1 + 997 * 59))[0] == b"a" * 512


@pytest.mark.parametrize(
    ("wanted", "words"),
    [("none", "has no snapshot 'none' among its 3"), ("", "has no snapshot ''"), ("twin", "several snapshots named")],
)
def test_snapshot_that_is_not_one(tmp_path: Path, wanted: str, words: str) -> None:
    path = written(tmp_path, Snapshot(b"1", b"twin"), Snapshot(b"2", b"twin"), Snapshot(b"3", b"other"))
    with pytest.raises(UsageError, match=words):
        content_of(path, snapshot=wanted)


@pytest.mark.parametrize(
    ("snapshot", "changes", "words"),
    [
        (Snapshot(b"1"), {"snapshot_count": 65537}, "65537 snapshots are more than 65536"),
        (Snapshot(b"1"), {"snapshot_count": 65536}, "entry 1638 of its snapshot table leaves the file"),
        (Snapshot(b"1"), {"snapshots_offset": CLUSTER + 8}, "does not begin at a cluster"),
        (Snapshot(b"1"), {"snapshots_offset": 1 << 40}, "entry 0 of its snapshot table leaves the file"),
        (Snapshot(b"1"), {"snapshots_offset": (1 << 64) - CLUSTER}, "entry 0 of its snapshot table leaves"),
        (Snapshot(b"1", extra_size=1025), {}, "1025 bytes of extra data"),
        (Snapshot(b"1", extra_size=(1 << 32) - 1), {}, "bytes of extra data"),
        (Snapshot(b"1", l1_offset=0), {}, "snapshot '1': the L1 table at 0"),
        (Snapshot(b"1", l1_offset=2 * CLUSTER + 8), {}, "snapshot '1': the L1 table at 131080"),
        (Snapshot(b"1", l1_offset=1 << 50), {}, "cut short or damaged: its L1 table"),
        (Snapshot(b"1", l1_entries=0), {}, "0 L1 entries, but the virtual size takes 1"),
        (Snapshot(b"1", l1_entries=(1 << 32) - 1), {}, "L1 table of 34359738360 bytes"),
        (Snapshot(b"1", virtual_size=1 << 60), {}, "virtual size of 1152921504606846976"),
        (Snapshot(b"1", virtual_size=1 << 40), {}, "1 L1 entries, but the virtual size takes 2048"),
    ],
)
def test_broken_snapshot_is_invalid(tmp_path: Path, snapshot: Snapshot, changes: dict[str, object], words: str) -> None:
    path = written(tmp_path, snapshot, **changes)
    with pytest.raises(InvalidImage, match=words) as error:
        content_of(path, snapshot="1" if "65536" not in str(changes) else "none")
    assert "\n" not in str(error.value)
    if "snapshot_count" not in changes:
        assert len(content_of(path)[0]) == 2 * CLUSTER  # the active disk does not need the table


def test_snapshot_and_data_file_exclude_each_other(tmp_path: Path) -> None:
    path = written(tmp_path, Snapshot(b"1"), incompatible=EXTERNAL_DATA, clusters={})
    (tmp_path / "data").write_bytes(bytes(2 * CLUSTER))
    with pytest.raises(DataplaneError, match="exclude each other"):
        content_of(path, snapshot="1", data_file=tmp_path / "data")
