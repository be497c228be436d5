"""The disks that demo and benchmarks work on are what they say: sound file systems, and the same each time."""

from __future__ import annotations

import filecmp
import random
from pathlib import Path

import pytest

from benchmarks import inputs
from benchmarks.range_server import RangeServer, asked_range

DISK_SIZE = 32 << 20


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small tree of files: two levels, names with spaces, sizes from empty to megabytes."""
    tree = tmp_path_factory.mktemp("source")
    chance = random.Random(7)
    for place in range(60):
        path = tree / f"folder {place % 5}" / f"file {place}"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(chance.randbytes([0, 1, 700, 5000, 1 << 16, 1 << 21][place % 6]))
    return tree


@pytest.fixture(scope="module")
def disk(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A disk that holds about half of the tree."""
    return inputs.ext4_disk(tmp_path_factory.mktemp("disk") / "a.raw", DISK_SIZE, 0.3, 1, source)


def check_file_system(disk: Path) -> None:
    inputs.run("e2fsck", "-f", "-n", f"{disk}?offset={inputs.PARTITION_OFFSET}")


def test_ext4_disk_is_sound_sparse_and_filled(disk: Path, source: Path) -> None:
    check_file_system(disk)
    assert disk.stat().st_size == DISK_SIZE
    assert disk.stat().st_blocks * 512 < 0.4 * DISK_SIZE
    held = dict(inputs.files_in(disk))
    total = sum(held.values())
    assert 0.15 * DISK_SIZE < total <= 0.3 * DISK_SIZE
    assert all(size == Path(name).stat().st_size for name, size in held.items())


def test_ext4_disk_same_options_same_bytes(disk: Path, source: Path, tmp_path: Path) -> None:
    again = inputs.ext4_disk(tmp_path / "again.raw", DISK_SIZE, 0.3, 1, source)
    assert filecmp.cmp(disk, again, shallow=False)


def test_ext4_disk_other_seed_other_files(disk: Path, source: Path, tmp_path: Path) -> None:
    other = inputs.ext4_disk(tmp_path / "other.raw", DISK_SIZE, 0.3, 2, source)
    assert set(inputs.files_in(other)) != set(inputs.files_in(disk))


def test_changed_version_is_sound_and_mostly_the_same(disk: Path, tmp_path: Path) -> None:
    changed = inputs.changed_version(disk, tmp_path / "changed.raw", share=0.25)
    check_file_system(changed)
    before, after = dict(inputs.files_in(disk)), dict(inputs.files_in(changed))
    assert before.keys() > after.keys(), "some files are deleted"
    assert any(before[name] != size for name, size in after.items()), "some files are rewritten"
    old_bytes, new_bytes = disk.read_bytes(), changed.read_bytes()
    pairs = [(old_bytes[at : at + 4096], new_bytes[at : at + 4096]) for at in range(0, DISK_SIZE, 1 << 20)]
    assert sum(old == new for old, new in pairs) > len(pairs) / 2


@pytest.mark.parametrize("compression", [None, "zlib", "zstd"])
def test_convert_is_the_same_disk(disk: Path, tmp_path: Path, compression: str | None) -> None:
    qcow2 = inputs.convert(disk, tmp_path / "disk.qcow2", "qcow2", compression=compression, cluster_size="64K")
    inputs.run("qemu-img", "compare", "-f", "raw", "-F", "qcow2", disk, qcow2)


def test_corpus_builds_once(monkeypatch: pytest.MonkeyPatch, source: Path, tmp_path: Path) -> None:
    monkeypatch.setattr(inputs, "CORPUS", tmp_path / "corpus")
    first = inputs.corpus_disk(DISK_SIZE, 0.3, 1, source)
    converted = inputs.corpus_converted(first, "qcow2")
    monkeypatch.setattr(inputs, "run", None)  # from here on nothing can be built
    assert inputs.corpus_disk(DISK_SIZE, 0.3, 1, source) == first
    assert inputs.corpus_converted(first, "qcow2") == converted
    assert sorted((tmp_path / "corpus").iterdir()) == sorted([first, converted])


def test_failing_tool_is_named(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="qemu-img failed"):
        inputs.convert(tmp_path / "missing", tmp_path / "out", "qcow2")


@pytest.mark.parametrize(
    ("header", "span"),
    [
        ("", (0, 100)),
        ("bytes=0-9", (0, 10)),
        ("bytes=90-199", (90, 10)),
        ("bytes=99-", (99, 1)),
        ("bytes=100-", None),
        ("bytes=5-4", None),
    ],
)
def test_asked_range(header: str, span: tuple[int, int] | None) -> None:
    assert asked_range(header, 100) == span


def test_range_server_sends_what_is_asked(tmp_path: Path) -> None:
    import urllib3

    content = random.Random(1).randbytes(100_000)
    (tmp_path / "file").write_bytes(content)
    with RangeServer({"file": tmp_path / "file"}) as server:
        part = urllib3.request("GET", server.url("file"), headers={"Range": "bytes=1000-1999"})
        whole = urllib3.request("GET", server.url("file"))
        absent = urllib3.request("GET", server.url("nothing"))
        assert (part.status, part.data, part.headers["Content-Range"]) == (
            206,
            content[1000:2000],
            "bytes 1000-1999/100000",
        )
        assert (whole.status, whole.data, whole.headers["ETag"]) == (200, content, part.headers["ETag"])
        assert absent.status == 404
        assert (server.requests, server.sent_bytes) == (2, 101_000)
