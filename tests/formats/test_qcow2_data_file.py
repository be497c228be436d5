"""qcow2 with an external data file: the caller names it, clusters lie where the guest has them, nothing is guessed."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from dataplane.errors import InvalidImage, SourceUnavailable, Unsupported
from dataplane.extent import ExtentKind
from tests.formats.helpers import content_of, create, qemu_content, qemu_io
from tests.formats.qcow2_writer import EXTERNAL_DATA, Image

CLUSTER = 65536
MIB = 1 << 20
COPIED = 1 << 63


def written(tmp_path: Path, **changes: object) -> tuple[Path, Path]:
    """Return an image of three clusters whose first and last are data, and its data file."""
    settings: dict[str, object] = {
        "virtual_size": 3 * CLUSTER,
        "incompatible": EXTERNAL_DATA,
        "l2_patch": {0: COPIED, 2: COPIED | 2 * CLUSTER},
        "extensions": [(0x44415441, b"/etc/passwd")],
    }
    path, data = tmp_path / "disk", tmp_path / "data"
    path.write_bytes(Image(**{**settings, **changes}).write())  # type: ignore[arg-type]
    data.write_bytes(b"d" * 3 * CLUSTER)
    return path, data


@pytest.mark.parametrize("raw", ["off", "on"])
@pytest.mark.parametrize("extended", ["off", "on"])
def test_data_file_of_qemu(tmp_path: Path, raw: str, extended: str) -> None:
    data = tmp_path / "data.raw"
    options = {"data_file": data, "data_file_raw": raw, "extended_l2": extended}
    path = create(tmp_path / "disk", 5 * MIB + 512, **options)
    qemu_io(path, "write -P 1 0 1M", "write -z 512k 64k", "write -P 2 4M 512", "write -P 3 5M 512")
    content, extents = content_of(path, data_file=data)
    assert content == qemu_content(path)
    assert {(extent.reader, extent.offset - extent.source_offset) for extent in extents if extent.kind == 2} == {(1, 0)}


def test_first_cluster_of_the_data_file_is_data_by_its_bit(tmp_path: Path) -> None:
    path, data = written(tmp_path)
    content, extents = content_of(path, data_file=data)
    assert content == b"d" * CLUSTER + bytes(CLUSTER) + b"d" * CLUSTER
    assert [extent.kind for extent in extents] == [ExtentKind.DATA, ExtentKind.HOLE, ExtentKind.DATA]
    path, data = written(tmp_path, l2_patch={0: 0, 2: 1})
    assert [extent.kind for extent in content_of(path, data_file=data)[1]] == [ExtentKind.HOLE, ExtentKind.ZERO]


def test_data_file_over_a_base(tmp_path: Path) -> None:
    path, data = written(tmp_path, backing=b"base")
    (tmp_path / "base").write_bytes(b"b" * 2 * CLUSTER)
    content, extents = content_of(path, data_file=data, backing=[tmp_path / "base"])
    assert content == b"d" * CLUSTER + b"b" * CLUSTER + b"d" * CLUSTER
    assert [extent.reader for extent in extents] == [1, 2, 1]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"l2_patch": {1: COPIED | 2 * CLUSTER}}, "offset 65536 .* is not at that offset of the external data file"),
        ({"l2_patch": {1: COPIED | 2 * CLUSTER | 1}}, "offset 65536 .* is not at that offset"),
        ({"l2_patch": {1: 1 << 62 | CLUSTER}}, "offset 65536 .* is compressed, which an external data file"),
        ({"backing": b"base", "autoclear": 2}, "a raw external data file and a backing file exclude each other"),
    ],
)
def test_broken_rule_of_data_files_is_invalid(tmp_path: Path, changes: dict[str, object], words: str) -> None:
    path, data = written(tmp_path, **changes)
    with pytest.raises(InvalidImage, match=words):
        content_of(path, data_file=data)


def test_data_file_cut_short_is_never_zeros(tmp_path: Path) -> None:
    path, data = written(tmp_path)
    os.truncate(data, 3 * CLUSTER - 1)
    with pytest.raises(InvalidImage, match=r"offset 131072 .* is not in the data file .*data, which is cut short"):
        content_of(path, data_file=data)
    data.unlink()
    with pytest.raises(SourceUnavailable, match="data does not exist"):
        content_of(path, data_file=data)


def test_data_file_is_raw_whatever_is_in_it(tmp_path: Path) -> None:
    path, data = written(tmp_path)
    forged = Image(CLUSTER, backing=b"/etc/passwd").write().ljust(3 * CLUSTER, b"\0")
    data.write_bytes(forged)
    content, _ = content_of(path, data_file=data)
    assert content == forged[:CLUSTER] + bytes(CLUSTER) + forged[2 * CLUSTER : 3 * CLUSTER]


def test_base_with_a_data_file_of_its_own_is_refused(tmp_path: Path) -> None:
    path, _ = written(tmp_path)
    top = tmp_path / "top"
    top.write_bytes(Image(3 * CLUSTER, backing=b"disk").write())
    with pytest.raises(Unsupported, match="disk keeps its data in an external data file"):
        content_of(top, backing=[path])
