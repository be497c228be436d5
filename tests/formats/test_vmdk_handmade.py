"""VMDK images that no tool would write: every rule of the format broken once, and the edges of what is legal."""

from __future__ import annotations

import random
import tracemalloc
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dataplane.errors import InvalidImage, SourceError, SourceUnavailable, Unsupported
from dataplane.extent import Extent, ExtentKind, unpack_batch
from dataplane.formats.vmdk import open_vmdk
from dataplane.readers.file import FileReader
from tests.formats.direct import MIB, content_at, damage, read_or_refused, refused
from tests.formats.helpers import qemu_content
from tests.formats.vmdk_writer import ZERO_GRAIN, Sparse, cowd, descriptor

GRAIN = 65536


def put(tmp_path: Path, image: Sparse | bytes) -> Path:
    path = tmp_path / "disk.vmdk"
    path.write_bytes(image if isinstance(image, bytes) else image.write())
    return path


def opened(tmp_path: Path, image: Sparse | bytes) -> tuple[bytes, list[Extent]]:
    return content_at(open_vmdk, put(tmp_path, image))


def reject(tmp_path: Path, image: Sparse | bytes, kind: type[SourceError], words: str, **options: Any) -> None:
    refused(open_vmdk, put(tmp_path, image), kind, words, **options)


def small(**changes: Any) -> Sparse:
    return Sparse(**{"capacity": 400, "grains": {0: b"a" * GRAIN, 2: b"b" * GRAIN}, **changes})


def packed(**changes: Any) -> Sparse:
    return small(**{"packed": True, "version": 3, "redundant": False, **changes})


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 1 << 32))
def test_random_layouts_agree_with_qemu(tmp_path: Path, seed: int) -> None:
    draw = random.Random(seed)
    grain = draw.choice([1, 8, 16, 128, 256])
    count = draw.randrange(1, 40)
    size = grain * 512
    is_packed = draw.random() < 0.5
    markers = draw.random() < 0.7
    grains: dict[int, bytes | str] = {}
    for index in range(count):
        kind = draw.choice(["hole", "data", "data", "text", "zero"])
        if kind == "zero":
            grains[index] = ZERO_GRAIN
        elif kind != "hole":
            # Without markers qemu looks no further than a grain for a packed one.
            noise = kind == "data" and (markers or not is_packed)
            grains[index] = draw.randbytes(size) if noise else b"text" * (size // 4)
    image = Sparse(
        grain * count - draw.randrange(grain),
        grains,
        version=draw.choice([1, 2, 3]),
        grain=grain,
        table_entries=draw.choice([4, 16, 512]),
        flags=1 | 4,
        packed=is_packed,
        markers=markers,
        footer=draw.random() < 0.5,
        redundant=draw.random() < 0.5,
        pad_last=draw.random() < 0.5,
    )
    content, _ = opened(tmp_path, image)
    assert content == qemu_content(tmp_path / "disk.vmdk", form="vmdk")


@pytest.mark.parametrize("footer", [False, True])
@pytest.mark.parametrize("version", [1, 2, 3])
def test_several_tables_packed(tmp_path: Path, version: int, footer: bool) -> None:
    grains: dict[int, bytes | str] = {index: bytes([index + 1]) * GRAIN for index in range(0, 40, 3)}
    image = packed(capacity=40 * 128, grains=grains, version=version, footer=footer, table_entries=8)
    content, extents = opened(tmp_path, image)
    assert content == b"".join(bytes([index + 1] if index % 3 == 0 else [0]) * GRAIN for index in range(40))
    assert content == qemu_content(tmp_path / "disk.vmdk", form="vmdk")
    assert len([extent for extent in extents if extent.codec]) == 14


def test_grain_of_four_mebibytes_packed(tmp_path: Path) -> None:
    image = packed(capacity=5 * 8192, grain=8192, grains={1: b"x" * 4 * MIB, 4: b"y" * 4 * MIB})
    content, _ = opened(tmp_path, image)
    assert content == bytes(4 * MIB) + b"x" * 4 * MIB + bytes(8 * MIB) + b"y" * 4 * MIB
    reject(tmp_path, packed(grain=16384), Unsupported, "compressed grains of 8388608 bytes")


def test_primary_directory_counts_and_the_redundant_one_stands_in(tmp_path: Path) -> None:
    for changes in ({}, {"fields": {"directory": 0}}, {"redundant": False}):
        content, _ = opened(tmp_path, small(**changes))
        assert content == b"a" * GRAIN + bytes(GRAIN) + b"b" * GRAIN + bytes(400 * 512 - 3 * GRAIN)


@pytest.mark.parametrize("is_packed", [False, True])
@pytest.mark.parametrize("footer", [False, True])
def test_directory_that_counts_is_the_one_of_qemu(tmp_path: Path, is_packed: bool, footer: bool) -> None:
    """The two directories contradict each other: the primary one counts, unless there is no other than the copy."""
    changes: dict[str, Any] = {"redundant": True, "stale_copy": True, "footer": footer}
    content, _ = opened(tmp_path, (packed if is_packed else small)(**changes))
    assert content[:GRAIN] == b"a" * GRAIN
    assert content == qemu_content(tmp_path / "disk.vmdk", form="vmdk")
    # Without the primary one the copy counts, and this one says that nothing is there.
    where = {"footer_fields" if footer else "fields": {"directory": 0}}
    content, _ = opened(tmp_path, (packed if is_packed else small)(**changes, **where))
    assert content == bytes(400 * 512) == qemu_content(tmp_path / "disk.vmdk", form="vmdk")


@pytest.mark.parametrize(
    ("changes", "kind", "words"),
    [
        ({"version": 0}, Unsupported, "version 0"),
        ({"version": 4}, Unsupported, "version 4"),
        ({"newlines": b"\n \n\n"}, InvalidImage, "transfer as text"),
        ({"compression": 2}, Unsupported, "compression 2"),
        ({"packed": True, "compression": 0}, InvalidImage, "contradicts compression 0"),
        ({"fields": {"table_entries": 0}}, InvalidImage, "0 entries in a grain table"),
        ({"fields": {"table_entries": 513}}, InvalidImage, "513 entries"),
        ({"fields": {"grain": 0}}, InvalidImage, "a grain of 0 bytes"),
        ({"fields": {"grain": 3}}, InvalidImage, "a grain of 1536 bytes"),
        ({"fields": {"grain": 1 << 62}}, InvalidImage, "grain size of"),
        ({"fields": {"capacity": 0}}, Unsupported, "capacity is 0"),
        ({"fields": {"capacity": 1 << 63}}, InvalidImage, "capacity of"),
        ({"fields": {"capacity": 1 << 40}}, InvalidImage, "grain directory of"),
        ({"fields": {"capacity": 1 << 35}}, InvalidImage, "grain directory of"),
        ({"fields": {"directory": 0}, "redundant": False}, InvalidImage, "does not tell"),
        ({"fields": {"directory": 1 << 30}}, InvalidImage, "grain directory"),
        ({"fields": {"directory": (1 << 64) - 2}}, InvalidImage, "grain directory of"),
        ({"fields": {"overhead": 1 << 40}}, InvalidImage, "cut short"),
        ({"fields": {"text_size": 0}}, InvalidImage, "descriptor of 0 bytes"),
        ({"fields": {"text_size": 2049}}, InvalidImage, "descriptor of 1049088 bytes"),
        ({"fields": {"text_at": 1 << 30}}, InvalidImage, "the descriptor"),
        ({"tables": {0: 1 << 31}}, InvalidImage, "grain table 0 is not in the file"),
        ({"entries": {1: 1 << 31}}, InvalidImage, "grain for offset 65536 is not in the file"),
        ({"entries": {1: 1}}, InvalidImage, "flag for zeroed grains is not set"),
        ({"footer": True, "footer_fields": {"directory": (1 << 64) - 1}}, InvalidImage, "does not tell"),
        ({"text": None}, Unsupported, "without a descriptor"),
        ({"text": bytes(512)}, Unsupported, "without a descriptor"),
        ({"text": b"\x01garbage"}, InvalidImage, "neither createType"),
        ({"text": descriptor(parent="12345678")}, Unsupported, r"needs a parent \(parentCID 12345678\)"),
        ({"text": descriptor(parent="xyz")}, InvalidImage, "parentCID xyz"),
        ({"text": descriptor(more="parentCID=0")}, Unsupported, "needs a parent"),
        ({"text": descriptor(more='parentFileNameHint="/etc/\x1bpasswd"')}, Unsupported, r"parent, /etc/\\x1bpasswd"),
        ({"text": descriptor(kind="fullDevice")}, Unsupported, "type fullDevice"),
        ({"text": descriptor(kind="monolithicFlat")}, Unsupported, "only a part"),
        ({"text": descriptor('RW 1 SPARSE "x"', 'RW 1 SPARSE "y"')}, Unsupported, "only a part"),
    ],
)
def test_header_is_refused(tmp_path: Path, changes: dict[str, Any], kind: type[SourceError], words: str) -> None:
    reject(tmp_path, small(**changes), kind, words)


@pytest.mark.parametrize(
    ("marker", "words"),
    [
        ((1, 20), "marker of another place"),
        ((0, 0), "impossible size"),
        ((0, 2 * GRAIN + 1), "impossible size"),
        ((0, 2 * GRAIN), "ends behind the file"),
    ],
)
def test_marker_is_refused(tmp_path: Path, marker: tuple[int, int], words: str) -> None:
    reject(tmp_path, packed(marker={0: marker}, grains={0: b"a" * GRAIN}), InvalidImage, words)


def test_last_grain_that_does_not_decode_is_refused(tmp_path: Path) -> None:
    image = packed(grains={3: b"a" * GRAIN}).write()
    at = image.rindex(b"\x78\x01")
    reject(tmp_path, image[:at] + b"\x78\x02" + image[at + 2 :], InvalidImage, "last grain does not decode")


def test_table_that_many_entries_share_is_refused(tmp_path: Path) -> None:
    image = small(capacity=512 * 5000, grain=1, redundant=False, grains={}, fields={"overhead": 64})
    image.tables = dict.fromkeys(range(5000), 61)  # where the writer puts the first table
    reject(tmp_path, image.write()[: 100 * 512], InvalidImage, "more grain tables than the file can hold")


@pytest.mark.parametrize("is_packed", [False, True])
def test_grain_that_many_entries_share_is_refused(tmp_path: Path, is_packed: bool) -> None:
    image = (packed if is_packed else small)(capacity=128 * 5000, markers=False, grains={0: b"a" * GRAIN})
    first = image.write().index(b"\x78\x01" if is_packed else b"a" * 64) // 512
    image.entries = dict.fromkeys(range(5000), first)
    reject(tmp_path, image, InvalidImage, "some overlap")


@pytest.mark.parametrize("footer", [False, True])
@pytest.mark.parametrize("is_packed", [False, True])
def test_image_cut_short_is_never_zeros(tmp_path: Path, is_packed: bool, footer: bool) -> None:
    noise = random.Random(1).randbytes(GRAIN)
    whole = (packed if is_packed else small)(grains={0: b"a" * GRAIN, 2: noise}, footer=footer).write()
    for length in (4, 78, 79, 512, 2000, 11264, 20000, len(whole) - GRAIN, len(whole) - 1024):
        kind = "cut short|damaged|directory|neither createType"
        reject(tmp_path, whole[:length], InvalidImage, kind)


def test_memory_is_bounded_for_a_long_directory(tmp_path: Path) -> None:
    path = tmp_path / "disk.vmdk"
    image = small(redundant=False, fields={"capacity": 8 * 512 * (1 << 22), "grain": 8})
    with path.open("wb") as file:
        file.write(image.write())
        file.truncate(64 * MIB)
    with open_vmdk(FileReader(path)) as source:
        tracemalloc.start()
        try:
            for _ in source.extents():
                pass
        except InvalidImage:
            pass
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    assert peak < 32 * MIB


def listed(tmp_path: Path, *extents: str, kind: str = "custom", **options: Any) -> Path:
    return put(tmp_path, descriptor(*extents, kind=kind, **options))


def test_descriptor_with_every_kind_of_extent(tmp_path: Path) -> None:
    (tmp_path / "flat").write_bytes(b"0" * 1024 + b"f" * 1024 + b"g" * 512)
    (tmp_path / "a b.vmdk").write_bytes(small(text=None).write())
    (tmp_path / "packed").write_bytes(packed(text=None).write())
    (tmp_path / "cow").write_bytes(cowd(5000, {1: b"c" * 512, 4500: b"d" * 512}))
    extents = [
        'RW 128 FLAT "flat" 2',
        'RW 2 FLAT "flat" 2',
        "RW 126 ZERO",
        'RDONLY 400 SPARSE "a b.vmdk"',
        'RW 112 ZERO "ignored"',
        'RW 399 SPARSE "packed"',
        'rw 5000 VMFSSPARSE "cow"',
        'RW 1 VMFS "flat"',
    ][1:]
    path = listed(tmp_path, *extents)
    content, rows = content_at(open_vmdk, path, extent_dir=tmp_path)
    sparse = b"a" * GRAIN + bytes(GRAIN) + b"b" * GRAIN + bytes(400 * 512 - 3 * GRAIN)
    cow = bytes(512) + b"c" * 512 + bytes(4498 * 512) + b"d" * 512 + bytes(499 * 512)
    assert content == b"f" * 1024 + bytes(126 * 512) + sparse + bytes(112 * 512) + sparse[:-512] + cow + b"0" * 512
    assert ExtentKind.ZERO in {row.kind for row in rows}


@pytest.mark.parametrize(
    ("kind", "extents"),
    [
        ("vmfs", ['RW 5 VMFS "flat"']),
        ("vmfs", ['RW 3 VMFS "flat"', 'RW 4 VMFS "flat b"']),
        ("vmfsSparse", ['RW 5000 VMFSSPARSE "cow"']),
        ("monolithicFlat", ['RW 3 FLAT "flat" 2']),
        ("twoGbMaxExtentFlat", ['RW 5 FLAT "flat" 0', 'RW 2 FLAT "flat b" 1']),
        ("twoGbMaxExtentSparse", ['RW 400 SPARSE "sparse"', 'RW 400 SPARSE "sparse b"']),
    ],
)
def test_descriptor_of_every_type_reads_as_in_qemu(tmp_path: Path, kind: str, extents: list[str]) -> None:
    (tmp_path / "flat").write_bytes(random.Random(1).randbytes(5 * 512))
    (tmp_path / "flat b").write_bytes(random.Random(2).randbytes(4 * 512))
    (tmp_path / "cow").write_bytes(cowd(5000, {1: b"c" * 512, 4500: b"d" * 512}))
    (tmp_path / "sparse").write_bytes(small(text=None).write())
    (tmp_path / "sparse b").write_bytes(small(text=None, grains={1: b"z" * GRAIN}).write())
    path = listed(tmp_path, *extents, kind=kind)
    content, _ = content_at(open_vmdk, path, extent_dir=tmp_path)
    assert any(content)
    assert content == qemu_content(path, form="vmdk")


def test_descriptor_without_a_folder_says_what_to_give(tmp_path: Path) -> None:
    path = listed(tmp_path, 'RW 2 FLAT "flat" 0')
    refused(open_vmdk, path, Unsupported, "--extent-dir")


@pytest.mark.parametrize(
    ("line", "kind", "words"),
    [
        ('RW 2 FLAT "/etc/passwd" 0', Unsupported, "no plain file name"),
        ('RW 2 FLAT "../flat" 0', Unsupported, "no plain file name"),
        ('RW 2 FLAT ".." 0', Unsupported, "no plain file name"),
        ('RW 2 FLAT "a\\b" 0', Unsupported, "no plain file name"),
        ('RW 2 FLAT "link" 0', Unsupported, "link out of"),
        ('RW 2 FLAT "loop" 0', SourceUnavailable, "is not in --extent-dir"),
        ('RW 2 FLAT "missing" 0', SourceUnavailable, "is not in --extent-dir"),
        ('RW 2 FLAT "' + "x" * 3000 + '" 0', SourceUnavailable, "is not in --extent-dir"),
        ('RW 2 FLAT "folder" 0', SourceUnavailable, "a directory"),
        ('RW 2 FLAT "" 0', InvalidImage, "lacks a file name"),
        ("RW 2 FLAT", InvalidImage, "lacks a file name"),
        ("RW two FLAT", InvalidImage, "not understood"),
        ('RW 0 FLAT "flat" 0', InvalidImage, "0 sectors"),
        ('RW 3 FLAT "flat" 0', InvalidImage, "cut short"),
        ('RW 2 FLAT "flat" 1', InvalidImage, "cut short"),
        ('RW 2 FLAT "flat" 9999999999999999999', InvalidImage, "cut short"),
        ('RW 9999999999999999999 FLAT "flat" 0', InvalidImage, "no part of a disk"),
        ('RW 9999999999999999999999 FLAT "flat" 0', InvalidImage, "not understood"),
        ('RW 2 SPARSE "flat"', InvalidImage, "not a sparse VMDK extent"),
        ('RW 2 VMFSSPARSE "flat"', InvalidImage, "not a COWD extent"),
        ('RW 2 SPARSE "disk.vmdk"', InvalidImage, "not a sparse VMDK extent"),
        ('RW 2 SPARSE "sparse"', InvalidImage, "has a capacity of"),
        ('NOACCESS 2 FLAT "flat" 0', Unsupported, "forbids access"),
        ('RW 2 VMFSRDM "flat"', Unsupported, "type VMFSRDM"),
        ('RW 2 VMFSRAW "/dev/sda"', Unsupported, "type VMFSRAW"),
        ('RW 2 SESPARSE "flat"', Unsupported, "type SESPARSE"),
        ('RW 2 ODD "flat"', Unsupported, "type ODD"),
    ],
)
def test_listed_extent_is_refused(tmp_path: Path, line: str, kind: type[SourceError], words: str) -> None:
    folder = tmp_path / "given"
    (folder / "folder").mkdir(parents=True)
    (tmp_path / "flat").write_bytes(bytes(4096))
    (folder / "flat").write_bytes(bytes(1024))
    (folder / "sparse").write_bytes(small().write())
    (folder / "link").symlink_to(tmp_path / "flat")
    (folder / "loop").symlink_to("loop")
    path = listed(folder, line)
    reader = FileReader(path)
    with pytest.raises(kind, match=words) as error:
        open_vmdk(reader, extent_dir=folder)
    reader.close()
    assert str(error.value).isprintable()


def test_link_that_stays_in_the_folder_is_followed(tmp_path: Path) -> None:
    (tmp_path / "flat").write_bytes(b"x" * 1024)
    (tmp_path / "link").symlink_to("flat")
    content, _ = content_at(open_vmdk, listed(tmp_path, 'RW 2 FLAT "link" 0'), extent_dir=tmp_path)
    assert content == b"x" * 1024


def test_folder_that_is_missing_is_refused(tmp_path: Path) -> None:
    path = listed(tmp_path, 'RW 2 FLAT "flat" 0')
    refused(open_vmdk, path, SourceUnavailable, "--extent-dir", extent_dir=tmp_path / "disk.vmdk-none")


@pytest.mark.parametrize(
    ("text", "kind", "words"),
    [
        (descriptor('RW 2 FLAT "flat" 0', parent="0"), Unsupported, "needs a parent"),
        (descriptor('RW 2 FLAT "flat" 0', kind="vmfsRawDeviceMap"), Unsupported, "type vmfsRawDeviceMap"),
        (descriptor('RW 2 FLAT "flat" 0', kind="seSparse"), Unsupported, "type seSparse"),
        (descriptor().replace(b"version=1", b"version=9"), Unsupported, "version 9"),
        (descriptor(), InvalidImage, "lists no extents"),
        (descriptor(*["RW 1 ZERO"] * 10_001), InvalidImage, "more than 10000 extents"),
        (descriptor(*["RW 2199023255552 ZERO"] * 2), InvalidImage, "are more than"),
        (b"words", InvalidImage, "neither createType"),
        (bytes(2 * MIB), InvalidImage, "too long for a descriptor"),
        (b"COWD" + bytes(512), Unsupported, "COWD"),
        (b"\xbe\xba\xfe\xca" + bytes(512), Unsupported, "seSparse"),
        (b"", InvalidImage, "neither createType"),
    ],
)
def test_descriptor_is_refused(tmp_path: Path, text: bytes, kind: type[SourceError], words: str) -> None:
    (tmp_path / "flat").write_bytes(bytes(1024))
    reject(tmp_path, text, kind, words, extent_dir=tmp_path)


def test_ten_thousand_extents_are_read(tmp_path: Path) -> None:
    with open_vmdk(FileReader(listed(tmp_path, *["RW 8192 ZERO"] * 10_000)), extent_dir=tmp_path) as source:
        assert source.virtual_size == 10_000 * 4 * MIB
        assert sum(row.length for batch in source.extents() for row in unpack_batch(batch)) == source.virtual_size


def test_flat_extents_over_one_another_are_refused(tmp_path: Path) -> None:
    (tmp_path / "flat").write_bytes(bytes(MIB))
    path = listed(tmp_path, *['RW 2048 FLAT "flat" 0'] * 2)
    with open_vmdk(FileReader(path), extent_dir=tmp_path) as source, pytest.raises(InvalidImage, match="some overlap"):
        list(source.extents())


BASES = [
    small(flags=5, grains={0: b"a" * GRAIN, 1: ZERO_GRAIN, 3: b"b" * GRAIN}).write(),
    packed(flags=5, grains={0: b"a" * GRAIN, 1: ZERO_GRAIN, 3: b"b" * GRAIN}).write(),
    packed(grains={0: b"a" * GRAIN, 2: b"b" * GRAIN}, footer=True, table_entries=2).write(),
    descriptor('RW 400 SPARSE "sparse"', "RW 7 ZERO", 'RW 2 FLAT "flat" 1', 'RW 5000 VMFSSPARSE "cow"', kind="custom"),
]


@settings(max_examples=400, deadline=3000, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(base=st.sampled_from(BASES), damages=st.one_of(damage(100), damage(16384)))
def test_damaged_image_is_read_or_refused(
    tmp_path: Path, base: bytes, damages: tuple[list[tuple[int, bytes]], int]
) -> None:
    (tmp_path / "sparse").write_bytes(BASES[0])
    (tmp_path / "flat").write_bytes(bytes(4096))
    (tmp_path / "cow").write_bytes(cowd(5000, {1: b"c" * 512}))
    read_or_refused(open_vmdk, tmp_path / "disk.vmdk", base, damages, extent_dir=tmp_path)


@settings(max_examples=100, deadline=3000, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(damages=damage(4096))
def test_damaged_cowd_is_read_or_refused(tmp_path: Path, damages: tuple[list[tuple[int, bytes]], int]) -> None:
    listing = listed(tmp_path, 'RW 5000 VMFSSPARSE "cow"')

    def opener(reader: FileReader, **_: Any) -> Any:
        reader.close()
        return open_vmdk(FileReader(listing), extent_dir=tmp_path)

    read_or_refused(opener, tmp_path / "cow", cowd(5000, {1: b"c" * 512}), damages)
