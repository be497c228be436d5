"""qcow2 images that no tool would write: every rule of the format broken once, and the edges of what is legal."""

from __future__ import annotations

import random
import subprocess
import tracemalloc
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dataplane.errors import InvalidImage, Unsupported
from dataplane.extent import Extent, ExtentKind
from dataplane.formats.probe import open_source
from dataplane.formats.qcow2_header import read_header
from dataplane.readers.file import FileReader
from tests.formats.helpers import content_of, qemu_content
from tests.formats.qcow2_writer import CORRUPT, DIRTY, EXTENDED_L2, EXTERNAL_DATA, Image

CLUSTER = 65536
MIB = 1 << 20


def opened(tmp_path: Path, image: Image | bytes) -> tuple[bytes, list[Extent]]:
    path = tmp_path / "disk"
    path.write_bytes(image if isinstance(image, bytes) else image.write())
    return content_of(path)


def refused(tmp_path: Path, image: Image | bytes, kind: type[Exception], words: str) -> None:
    with pytest.raises(kind, match=words) as error:
        opened(tmp_path, image)
    text = str(error.value)
    assert str(tmp_path / "disk") in text
    assert "\n" not in text
    assert text.isprintable()


def small(**changes: object) -> Image:
    settings: dict[str, object] = {"virtual_size": 3 * CLUSTER, "clusters": {0: ("data", b"a" * CLUSTER), 2: "zero"}}
    return Image(**{**settings, **changes})  # type: ignore[arg-type]


@pytest.mark.parametrize("version", [2, 3])
def test_plain_image_agrees_with_qemu(tmp_path: Path, version: int) -> None:
    image = small(version=version, clusters={0: ("data", b"a" * CLUSTER), 1: ("packed", b"b" * CLUSTER)})
    content, extents = opened(tmp_path, image)
    assert content == b"a" * CLUSTER + b"b" * CLUSTER + bytes(CLUSTER) == qemu_content(tmp_path / "disk")
    assert [extent.kind for extent in extents] == [ExtentKind.DATA, ExtentKind.DATA, ExtentKind.HOLE]


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 1 << 32))
def test_random_layouts_agree_with_qemu(tmp_path: Path, seed: int) -> None:
    draw = random.Random(seed)
    bits = draw.choice([9, 10, 12, 14, 16, 17])
    count = draw.randrange(1, 40)
    version = draw.choice([2, 3, 3])
    size = (count << bits) - 512 * draw.randrange(1 << (bits - 9))
    clusters: dict[int, str | tuple[str, bytes]] = {}
    for index in range(count):
        kind = draw.choice(["hole", "data", "data", "packed"] + ["zero", "zero-allocated"] * (version == 3))
        if kind in ("data", "packed"):
            clusters[index] = (kind, draw.choice([draw.randbytes(1 << bits), b"ab" * (1 << bits - 1)]))
        elif kind != "hole":
            clusters[index] = kind
    compression = draw.choice(["zlib", "zstd"]) if version == 3 else "zlib"
    image = Image(size, version=version, cluster_bits=bits, clusters=clusters, compression=compression)
    content, _ = opened(tmp_path, image)
    assert content == qemu_content(tmp_path / "disk")


@pytest.mark.parametrize("bits", range(9, 22))
def test_batches_end_on_windows_for_every_cluster_size(tmp_path: Path, bits: int) -> None:
    size = 1 << bits
    count = (13 * MIB) // size
    # Every second cluster is a zero one, so that as little as possible merges.
    clusters: dict[int, str | tuple[str, bytes]] = dict.fromkeys(range(0, count, 2), "zero")
    content, extents = opened(tmp_path, Image(13 * MIB, cluster_bits=bits, clusters=clusters))
    assert content == bytes(13 * MIB)
    assert len(extents) >= count - 1


@pytest.mark.parametrize("size", [1, 511, 513, 1000, CLUSTER - 1, CLUSTER + 1, 3 * CLUSTER - 100])
def test_virtual_size_between_sectors_is_rounded_up_with_zeros(tmp_path: Path, size: int) -> None:
    clusters: dict[int, str | tuple[str, bytes]] = dict.fromkeys(range(-(-size // CLUSTER)), ("data", b"a" * CLUSTER))
    content, extents = opened(tmp_path, Image(size, clusters=clusters))
    rounded = -(-size // 512) * 512
    assert content == b"a" * size + bytes(rounded - size)
    assert extents[-1].kind == ExtentKind.ZERO


def test_header_extensions_of_unknown_kinds_are_skipped(tmp_path: Path) -> None:
    extensions = [(0x12345678, b"abc"), (0xE2792ACA, b"raw"), (0x23852875, b"\xff" * 24), (1, b"")]
    content, _ = opened(tmp_path, small(extensions=extensions))
    assert content[:CLUSTER] == b"a" * CLUSTER


def test_compatible_and_autoclear_and_dirty_bits_are_accepted(tmp_path: Path) -> None:
    every = (1 << 64) - 1
    content, _ = opened(tmp_path, small(compatible=every, autoclear=every, incompatible=DIRTY))
    assert content[:CLUSTER] == b"a" * CLUSTER


def test_longer_header_and_bare_104_bytes_are_accepted(tmp_path: Path) -> None:
    for length in (104, 112, 120, 4096):
        content, _ = opened(tmp_path, small(header_length=length))
        assert content[:CLUSTER] == b"a" * CLUSTER


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"incompatible": CORRUPT}, "marked corrupt"),
        ({"incompatible": EXTERNAL_DATA}, "external data file"),
        ({"incompatible": 1 << 5}, "feature bit 5 is not known"),
        ({"incompatible": 1 << 63}, "feature bit 63 is not known"),
        ({"backing": b"base.img"}, "needs a backing file, which it calls 'base.img'"),
        ({"backing": b"\x1b[31m\n" + b"x" * 500}, r"which it calls '\?\[31m\?x{90,}\.\.\.'"),
        ({"backing": b"base.img", "version": 2}, "needs a backing file"),
        ({"encryption": 1}, r"encrypted \(AES\)"),
        ({"encryption": 2}, r"encrypted \(LUKS\)"),
        ({"version": 1}, "version 1"),
        ({"version": 4}, "version 4"),
        ({"version": 0}, "version 0"),
        ({"compression_type": 2, "incompatible": 8}, "compression type 2 is not known"),
    ],
)
def test_feature_is_refused_by_name(tmp_path: Path, changes: dict[str, object], words: str) -> None:
    refused(tmp_path, small(**changes), Unsupported, words)


def test_unknown_feature_is_called_what_the_image_calls_it(tmp_path: Path) -> None:
    table = bytes([0, 7]) + b"new \x1b[31mthing".ljust(46, b"\0") + bytes([1, 7]) + b"other".ljust(46, b"\0")
    image = small(incompatible=1 << 7, extensions=[(0x6803F857, table)])
    refused(tmp_path, image, Unsupported, r"bit 7 \(new \?\[31mthing\) is not known")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"cluster_bits": 8}, "cluster_bits is 8"),
        ({"cluster_bits": 22}, "cluster_bits is 22"),
        ({"header_length": 96}, "header of 96 bytes"),
        ({"cluster_bits": 9, "header_length": 520}, "header of 520 bytes"),
        ({"refcount_order": 7}, "refcount_order is 7"),
        ({"encryption": 3}, "encryption method 3"),
        ({"compression_type": 1}, "contradicts the feature bit"),
        ({"incompatible": 8}, "contradicts the feature bit"),
        ({"extensions": [(1, b"x" * CLUSTER)]}, "header extension"),
        (
            {"incompatible": EXTENDED_L2, "cluster_bits": 13, "clusters": {}},
            "extended L2 entries need clusters of 16384",
        ),
        ({"backing": b"x" * 1024}, "backing file name of 1024 bytes"),
        ({"l1_entries": 0}, "0 L1 entries, but the virtual size takes 1"),
        ({"l1_entries": (32 << 20) // 8 + 1}, "L1 table of 33554440 bytes"),
        ({"l1_entries": (1 << 32) - 1}, "L1 table of"),
        ({"l1_entries": 1 << 20}, "cut short or damaged: its L1 table"),
        ({"l1_offset": 0}, "does not begin at a cluster"),
        ({"l1_offset": 2 * CLUSTER + 512}, "does not begin at a cluster"),
        ({"l1_offset": 1 << 62}, "cut short or damaged: its L1 table"),
        ({"l1_offset": (1 << 64) - CLUSTER}, "cut short or damaged: its L1 table"),
        ({"l1_patch": {0: 1 << 62}}, "L1 entry 0 has reserved bits"),
        ({"l1_patch": {0: 4 * CLUSTER | 1}}, "L1 entry 0 has reserved bits"),
        ({"l1_patch": {0: 3 * CLUSTER + 512}}, "L1 entry 0 does not point at a cluster"),
        ({"l1_patch": {0: 1 << 50}}, "the L2 table of L1 entry 0 is not in the file"),
        ({"l2_patch": {1: 1 << 1}}, "offset 65536 .* reserved bits"),
        ({"l2_patch": {1: 1 << 56}}, "offset 65536 .* reserved bits"),
        ({"l2_patch": {1: 1 << 61 | CLUSTER}}, "offset 65536 .* reserved bits"),
        ({"l2_patch": {1: CLUSTER + 512}}, "offset 65536 .* does not begin at a cluster"),
        ({"l2_patch": {1: CLUSTER + 512 | 1}}, "offset 65536 .* does not begin at a cluster"),
        ({"l2_patch": {1: 1 << 40}}, "offset 65536 .* not in the file"),
        ({"l2_patch": {1: 1 << 62 | 1 << 40}}, "offset 65536 .* compressed and not in the file"),
        ({"version": 2}, "offset 131072 .* zero cluster, which version 2 does not have"),
    ],
)
def test_broken_rule_is_invalid(tmp_path: Path, changes: dict[str, object], words: str) -> None:
    refused(tmp_path, small(**changes), InvalidImage, words)


def test_virtual_size_of_zero_is_an_empty_disk(tmp_path: Path) -> None:
    assert opened(tmp_path, Image(0, l1_entries=0, l1_offset=0)) == (b"", []) == opened(tmp_path, Image(0))


def test_l1_table_longer_than_needed_is_accepted(tmp_path: Path) -> None:
    content, _ = opened(tmp_path, small(l1_entries=7))
    assert content == b"a" * CLUSTER + bytes(2 * CLUSTER) == qemu_content(tmp_path / "disk")


def test_entries_behind_the_needed_l1_table_mean_nothing(tmp_path: Path) -> None:
    """As in an image that was shrunk: entries that would be refused, in a table that goes on."""
    file = bytearray(small(l1_entries=9).write())
    for number, entry in enumerate([1 << 62, (1 << 64) - 1, 1 << 50, CLUSTER + 512, 1 << 63 | 3 * CLUSTER], 1):
        at = 2 * CLUSTER + 8 * number
        file[at : at + 8] = entry.to_bytes(8, "big")
    content, _ = opened(tmp_path, bytes(file))
    assert content == b"a" * CLUSTER + bytes(2 * CLUSTER) == qemu_content(tmp_path / "disk")


@pytest.mark.parametrize("over", [-512, -1, 0, 1, 512])
@pytest.mark.parametrize("extended", [0, EXTENDED_L2])
def test_virtual_size_around_the_end_of_the_last_l1_entry(tmp_path: Path, over: int, extended: int) -> None:
    """An entry more is needed from the first byte behind; qemu-img refuses such a table too."""
    bits = 14 if extended else 9
    span = (1 << bits) * ((1 << bits) // (16 if extended else 8))
    last = (2 * span >> bits) - 1
    image = Image(2 * span + over, cluster_bits=bits, clusters={last: ("data", b"z" * (1 << bits))}, l1_entries=2)
    image.incompatible = extended
    if over <= 0:
        content, _ = opened(tmp_path, image)
        assert len(content) == -(-image.virtual_size // 512) * 512
        assert content[: image.virtual_size] == bytes(last << bits) + b"z" * (image.virtual_size - (last << bits))
        judged = qemu_content(tmp_path / "disk")  # without the part sector
        assert judged == content[: len(judged)]
        return
    refused(tmp_path, image, InvalidImage, "2 L1 entries, but the virtual size takes 3")
    if over == 512:  # of a part sector qemu does not know
        done = subprocess.run(["qemu-img", "info", tmp_path / "disk"], capture_output=True, text=True, check=False)
        assert "L1 table is too small" in done.stderr


@pytest.mark.parametrize("size", [(1 << 50) + 1, 1 << 62, (1 << 64) - 1])
def test_virtual_size_out_of_bounds(tmp_path: Path, size: int) -> None:
    file = bytearray(small().write())
    file[24:32] = size.to_bytes(8, "big")
    refused(tmp_path, bytes(file), InvalidImage, "virtual size of")


def test_largest_l1_table_is_read_in_pieces(tmp_path: Path) -> None:
    """32 MiB of L1 table, nearly all of it empty, take a few MiB of memory."""
    path = tmp_path / "disk"
    entries = (32 << 20) // 8
    header = Image(entries * 512 * 64, cluster_bits=9, l1_entries=entries, l1_offset=1024)
    with path.open("wb") as file:
        file.write(header._header(entries, 1024))
        file.truncate(1024 + 8 * entries)
    with open_source(path) as source:
        tracemalloc.start()
        covered = sum(int(batch.cast("B").cast("q")[1]) for batch in source.extents())
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    assert covered == entries * 512 * 64
    assert peak < 16 * MIB


@pytest.mark.parametrize(
    "length", [0, 4, 71, 72, 103, 104, 111, 200, CLUSTER, 2 * CLUSTER, 3 * CLUSTER, 4 * CLUSTER, -1]
)
def test_image_cut_short_is_never_zeros(tmp_path: Path, length: int) -> None:
    whole = small(clusters={0: ("data", b"a" * CLUSTER), 1: ("data", b"b" * CLUSTER)}).write()
    refused(tmp_path, whole[:length], InvalidImage, "cut short|empty")


def test_last_cluster_may_end_with_the_disk(tmp_path: Path) -> None:
    size = CLUSTER + 1024
    whole = Image(size, clusters={0: ("data", b"a" * CLUSTER), 1: ("data", b"b" * 1024)}).write()
    cut = whole[: -(CLUSTER - 1024)]
    content, _ = opened(tmp_path, cut)
    assert content == b"a" * CLUSTER + b"b" * 1024 == qemu_content(tmp_path / "disk")
    refused(tmp_path, cut[:-1], InvalidImage, "cut short")


@pytest.mark.parametrize("compression", ["zlib", "zstd"])
@pytest.mark.parametrize("bits", [9, 12, 16, 21])
def test_compressed_last_cluster_ends_with_the_file(tmp_path: Path, compression: str, bits: int) -> None:
    size = 1 << bits
    clusters: dict[int, str | tuple[str, bytes]] = {
        0: ("packed", b"0123456789abcdef" * (size // 16)),
        1: ("packed", random.Random(3).randbytes(size // 2)),
        3: ("packed", b"end"),
    }
    image = Image(4 * size, cluster_bits=bits, compression=compression, clusters=clusters, pad=False)
    content, extents = opened(tmp_path, image)
    assert content == qemu_content(tmp_path / "disk")
    with open_source(tmp_path / "disk") as source:
        assert source.decoded_size_max == size
        packed = [extent for extent in extents if extent.codec]
        assert packed[-1].source_offset + packed[-1].source_length == source.readers[0].size
    # Bounds end with a sector, not a sector's length behind wherever the data begins, and never behind the file.
    ends = {extent.source_offset + extent.source_length for extent in packed}
    assert all(end % 512 == 0 for end in ends - {(tmp_path / "disk").stat().st_size})


def test_compressed_last_cluster_is_clipped_to_the_disk(tmp_path: Path) -> None:
    image = Image(CLUSTER + 512, clusters={1: ("packed", b"x" * CLUSTER)})
    content, extents = opened(tmp_path, image)
    assert content == bytes(CLUSTER) + b"x" * 512
    assert (extents[-1].length, extents[-1].decoded_length) == (512, CLUSTER)


def test_compressed_descriptor_with_every_sector_is_clipped_to_the_file(tmp_path: Path) -> None:
    image = small(clusters={0: ("packed", b"x" * CLUSTER)}, pad=False)
    sectors_at = 62 - (16 - 8)
    image.l2_patch = {0: 1 << 62 | 255 << sectors_at | 4 * CLUSTER}
    content, extents = opened(tmp_path, image)
    assert content[:CLUSTER] == b"x" * CLUSTER
    assert extents[0].source_length < 512


def test_compressed_cluster_that_does_not_decode_is_left_to_the_engine(tmp_path: Path) -> None:
    image = small(clusters={0: ("data", b"\xff" * CLUSTER)}, l2_patch={1: 1 << 62 | 4 * CLUSTER})
    with pytest.raises(InvalidImage, match="decode"):
        opened(tmp_path, image)


def test_entries_behind_the_end_of_the_disk_mean_nothing(tmp_path: Path) -> None:
    content, _ = opened(tmp_path, small(l2_patch={3: 1 << 1, 4: 1 << 50, 8191: (1 << 64) - 1}))
    assert content[:CLUSTER] == b"a" * CLUSTER


def test_table_that_many_l1_entries_share_is_refused(tmp_path: Path) -> None:
    image = Image(1 << 40, clusters={0: "zero"})
    entries = image.virtual_size // (CLUSTER * 8192)
    image.l1_patch = dict.fromkeys(range(entries), 3 * CLUSTER)  # where the writer puts the first table
    refused(tmp_path, image, InvalidImage, "more L2 tables than the file can hold; some overlap")


def test_cluster_that_many_entries_share_is_refused(tmp_path: Path) -> None:
    image = Image(8000 * CLUSTER, clusters={0: ("data", b"a" * CLUSTER)})
    image.l2_patch = dict.fromkeys(range(1, 8000), 1 << 63 | 4 * CLUSTER)
    refused(tmp_path, image, InvalidImage, "more clusters than the file can hold; some overlap")


def test_compressed_cluster_that_many_entries_share_is_refused(tmp_path: Path) -> None:
    count = 1 << 18  # all of one L2 table of 2 MiB
    image = Image(count << 21, cluster_bits=21, clusters={0: ("packed", b"")})
    entry = image.descriptor(4 << 21, 100)
    image.l2_patch = dict.fromkeys(range(count), entry)
    refused(tmp_path, image, InvalidImage, "more compressed clusters than the file can hold")


def test_header_knows_what_it_read(tmp_path: Path) -> None:
    path = tmp_path / "disk"
    path.write_bytes(small().write())
    reader = FileReader(path)
    header = read_header(reader)
    assert (header.version, header.cluster_size, header.l2_entries) == (3, CLUSTER, 8192)
    active = header.active
    assert (active.virtual_size, active.l1_entries, active.l1_offset) == (3 * CLUSTER, 1, 2 * CLUSTER)
    reader.close()


BASES = [
    Image(
        300 << 10,
        version=version,
        cluster_bits=bits,
        clusters={
            0: ("data", b"a" * (1 << bits)),
            1: ("packed", b"b" * (1 << bits)),
            **({} if version == 2 else {2: "zero", 3: "zero-allocated"}),
            4: ("data", b"c" * (1 << bits)),
        },
        extensions=[(0x6803F857, bytes(96)), (7, b"x" * 20)],
    ).write()
    for version, bits in [(2, 9), (3, 9), (3, 12), (3, 16)]
]


@settings(max_examples=400, deadline=3000, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    base=st.sampled_from(BASES),
    changes=st.lists(
        st.tuples(
            st.one_of(st.integers(0, 112), st.integers(0, 6 << 9), st.integers(0, 6 << 16)),
            st.one_of(
                st.binary(min_size=1, max_size=8),
                st.sampled_from([(1 << bit).to_bytes(8, "big") for bit in range(64)] + [b"\xff" * 8]),
            ),
        ),
        min_size=1,
        max_size=4,
    ),
    length=st.one_of(st.just(1 << 30), st.integers(0, 5 << 16)),
)
def test_damaged_image_is_read_or_refused(
    tmp_path: Path, base: bytes, changes: list[tuple[int, bytes]], length: int
) -> None:
    file = bytearray(base)
    for at, change in changes:
        at %= len(file)
        file[at : at + len(change)] = change
    path = tmp_path / "disk"
    path.write_bytes(file[:length])
    try:
        with open_source(path, format="qcow2") as source:
            rows = 0
            position = 0
            for batch in source.extents():
                flat = batch.cast("B").cast("q")
                assert flat[0] == position
                position = flat[len(flat) - 9] + flat[len(flat) - 8]
                rows += len(flat) // 9
                assert rows < 100_000
            assert position == source.virtual_size
    except (InvalidImage, Unsupported):
        pass  # any other error fails the test
