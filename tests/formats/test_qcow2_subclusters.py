"""qcow2 with extended L2 entries: clusters of 32 parts, each allocated, zero or absent on its own."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dataplane.errors import InvalidImage
from dataplane.extent import Extent, ExtentKind
from dataplane.formats import qcow2
from tests.formats.helpers import content_of, create, qemu_content, qemu_io
from tests.formats.qcow2_writer import EXTENDED_L2, Image
from tests.formats.test_qcow2_qemu import compare_map, scribble

CLUSTER = 65536
MIB = 1 << 20


def opened(tmp_path: Path, image: Image) -> tuple[bytes, list[Extent]]:
    path = tmp_path / "disk"
    path.write_bytes(image.write())
    return content_of(path)


@pytest.mark.parametrize("bits", [14, 16, 17, 21])
def test_image_of_qemu_with_subclusters(tmp_path: Path, bits: int) -> None:
    path = create(tmp_path / "disk", 9 * MIB + 512, extended_l2="on", cluster_size=1 << bits)
    scribble(path, 9 * MIB)
    part = (1 << bits) // 32
    qemu_io(path, f"write -P 1 {5 * MIB + part} {part}", f"write -z {5 * MIB} {part}", f"discard {5 * MIB} {part}")
    content, extents = content_of(path)
    assert content == qemu_content(path)
    compare_map(path, extents)


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 1 << 32))
def test_random_subclusters_agree_with_qemu(tmp_path: Path, seed: int) -> None:
    draw = random.Random(seed)
    bits = draw.choice([14, 15, 16])
    count = draw.randrange(1, 20)
    clusters: dict[int, str | tuple[str, bytes]] = {}
    for index in range(count):
        kind = draw.choice(["hole", "data", "packed", "zero", "zero-allocated", "parts", "parts", "parts"])
        if kind in ("data", "packed"):
            clusters[index] = (kind, draw.choice([draw.randbytes(1 << bits), b"ab" * (1 << bits - 1)]))
        elif kind == "parts":
            letters = "".join(draw.choice("..00abc") for _ in range(32))
            clusters[index] = (kind, letters.encode())
        elif kind != "hole":
            clusters[index] = kind
    size = (count << bits) - 512 * draw.randrange(1 << (bits - 9))
    content, _ = opened(tmp_path, Image(size, cluster_bits=bits, clusters=clusters, incompatible=EXTENDED_L2))
    assert content == qemu_content(tmp_path / "disk")


def test_parts_keep_their_kinds(tmp_path: Path) -> None:
    letters = "aa..00bb" + "." * 24
    _, extents = opened(tmp_path, Image(CLUSTER, clusters={0: ("parts", letters.encode())}, incompatible=EXTENDED_L2))
    assert [(extent.length, extent.kind) for extent in extents] == [
        (4096, ExtentKind.DATA),
        (4096, ExtentKind.HOLE),
        (4096, ExtentKind.ZERO),
        (4096, ExtentKind.DATA),
        (49152, ExtentKind.HOLE),
    ]


def test_many_mixed_clusters_come_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Few entries at a time, so that the table comes in many pieces."""
    monkeypatch.setattr(qcow2, "_ENTRIES_AT_ONCE", 64)
    draw = random.Random(7)
    clusters: dict[int, str | tuple[str, bytes]] = {
        index: ("parts", "".join(draw.choice(".0ab") for _ in range(32)).encode()) for index in range(0, 1100, 3)
    }
    image = Image(1100 << 14, cluster_bits=14, clusters=clusters, incompatible=EXTENDED_L2)
    content, _ = opened(tmp_path, image)
    assert content == qemu_content(tmp_path / "disk")


@pytest.mark.parametrize(
    ("entry", "bitmap", "words"),
    [
        (4 * CLUSTER, 1 << 32 | 1, "subclusters that are allocated and zero at once"),
        (0, 1, "allocated subclusters and no place in the file"),
        (1, 0, "reserved bits"),
        (4 * CLUSTER | 1, 0xFFFFFFFF, "reserved bits"),
        (4 * CLUSTER + 512, 1, "does not begin at a cluster"),
        (1 << 40, 1, "offset 65536 .* not in the file"),
        (1 << 40, 0xFFFFFFFF, "offset 65536 .* not in the file"),
    ],
)
def test_broken_extended_entry_is_invalid(tmp_path: Path, entry: int, bitmap: int, words: str) -> None:
    image = Image(3 * CLUSTER, clusters={0: ("data", b"a" * CLUSTER)}, incompatible=EXTENDED_L2)
    image.l2_patch, image.bitmap_patch = {1: entry}, {1: bitmap}
    with pytest.raises(InvalidImage, match=words):
        opened(tmp_path, image)


def test_bitmap_of_a_compressed_cluster_means_nothing(tmp_path: Path) -> None:
    image = Image(CLUSTER, clusters={0: ("packed", b"p" * CLUSTER)}, incompatible=EXTENDED_L2)
    image.bitmap_patch = {0: 5}
    content, _ = opened(tmp_path, image)
    assert content == b"p" * CLUSTER == qemu_content(tmp_path / "disk")
