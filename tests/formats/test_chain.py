"""Backing chains: what shows through, what is clipped, and which files may take part."""

from __future__ import annotations

import os
import random
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dataplane.errors import DataplaneError, InvalidImage, SourceUnavailable, Unsupported, UsageError
from dataplane.extent import WINDOW_SIZE, Extent, ExtentCodec, ExtentKind, pack_batch
from dataplane.formats import probe
from dataplane.formats.chain import ChainSource
from dataplane.formats.probe import open_source
from dataplane.image_source import ImageSource
from dataplane.ingest.importing import import_image
from dataplane.store.store import Store
from tests.formats.helpers import checked_content, content_of, convert, create, qemu_content, qemu_io, run
from tests.formats.qcow2_writer import EXTENDED_L2, Image
from tests.oracles.layers import read_layers

CLUSTER = 65536
MIB = 1 << 20
HOLE, ZERO, DATA = ExtentKind.HOLE, ExtentKind.ZERO, ExtentKind.DATA


def overlay(path: Path, base: Path, size: int | str = "", form: str = "qcow2", **options: object) -> Path:
    arguments = ",".join(f"{key}={value}" for key, value in options.items())
    extra = ["-o", arguments] if arguments else []
    sizes = [str(size)] if size else []
    run("qemu-img", "create", "-q", "-f", "qcow2", "-F", form, "-b", base, *extra, path, *sizes)
    return path


def scribbled(path: Path, size: int, seed: int) -> Path:
    draw = random.Random(seed)
    commands = []
    for _ in range(10):
        at = draw.randrange(size // 512) * 512
        length = min(draw.choice([512, 4096, 65536, 300 * 1024]), size - at)
        commands.append(f"write {draw.choice(['-z', '-P 1', f'-P {draw.randrange(2, 256)}'])} {at} {length}")
    qemu_io(path, *commands)
    return path


@pytest.mark.parametrize(
    ("size", "base_size"), [(6 * MIB, 6 * MIB), (9 * MIB, 5 * MIB + 512), (3 * MIB + 512, 8 * MIB)]
)
@pytest.mark.parametrize("base_form", ["qcow2", "raw"])
def test_overlay_on_shorter_and_longer_bases(tmp_path: Path, size: int, base_size: int, base_form: str) -> None:
    base = scribbled(create(tmp_path / "base", base_size, cluster_size=4096), base_size, 1)
    if base_form == "raw":
        base = convert(base, tmp_path / "base.raw", to="raw")
    top = scribbled(overlay(tmp_path / "top", base, size, base_form), size, 2)
    content, _ = content_of(top, backing=[base])
    assert content == qemu_content(top)


@pytest.mark.parametrize("seed", range(4))
def test_chains_of_several_images_of_all_kinds(tmp_path: Path, seed: int) -> None:
    draw = random.Random(seed)
    size = 7 * MIB
    paths = [convert(scribbled(create(tmp_path / "0.plain", size), size, seed), tmp_path / "0", "-c")]
    for number in range(1, 5):
        size = draw.choice([4 * MIB, 6 * MIB + 512 * draw.randrange(99), 9 * MIB])
        cluster_size = draw.choice([4096, 65536, MIB])
        extended = "on" if cluster_size != 4096 and draw.randrange(2) else "off"
        top = overlay(tmp_path / str(number), paths[0], size, cluster_size=cluster_size, extended_l2=extended)
        paths.insert(0, scribbled(top, size, seed * 10 + number))
    content, _ = content_of(paths[0], backing=paths[1:])
    assert content == qemu_content(paths[0])


def test_short_image_in_the_middle_hides_what_lies_below_its_end(tmp_path: Path) -> None:
    base = create(tmp_path / "base", 3 * MIB)
    qemu_io(base, "write -P 7 0 3M")
    middle = overlay(tmp_path / "middle", base, MIB)
    top = overlay(tmp_path / "top", middle, 3 * MIB)
    content, extents = content_of(top, backing=[middle, base])
    assert content == b"\x07" * MIB + bytes(2 * MIB) == qemu_content(top)
    assert [extent.kind for extent in extents] == [DATA, ZERO]
    assert extents[0].reader == 2


def test_compressed_clusters_show_in_parts(tmp_path: Path) -> None:
    draw = random.Random(5)
    plain = draw.randbytes(CLUSTER // 2) * 2
    (tmp_path / "base").write_bytes(Image(2 * CLUSTER, clusters={0: ("packed", plain), 1: ("packed", plain)}).write())
    top = overlay(tmp_path / "top", tmp_path / "base", CLUSTER + 4096, cluster_size=4096)
    qemu_io(top, "write -P 3 4k 4k", "write -z 16k 8k")
    content, extents = content_of(top, backing=[tmp_path / "base"])
    assert content == qemu_content(top)
    packed = [extent for extent in extents if extent.codec == ExtentCodec.DEFLATE]
    assert [(extent.offset, extent.length, extent.decoded_offset) for extent in packed] == [
        (0, 4096, 0),
        (8192, 8192, 8192),
        (24576, CLUSTER - 24576, 24576),
        (CLUSTER, 4096, 0),
    ]


def test_store_gives_back_what_a_chain_reads(tmp_path: Path) -> None:
    base = convert(scribbled(create(tmp_path / "plain", 9 * MIB), 9 * MIB, 3), tmp_path / "base", "-c")
    top = scribbled(overlay(tmp_path / "top", base, 9 * MIB, cluster_size=4096), 9 * MIB, 4)
    flat = convert(top, tmp_path / "flat", to="raw")
    with Store.create(tmp_path / "store") as store:
        roots = []
        for name, path, backing in (("chain", top, [base]), ("flat", flat, [])):
            with open_source(path, backing=backing) as source:
                roots.append(import_image(store, source, name=name).root)
    assert roots[0] == roots[1]


def test_snapshot_of_an_overlay_shows_the_base(tmp_path: Path) -> None:
    base = create(tmp_path / "base", MIB)
    qemu_io(base, "write -P 1 0 1M")
    top = overlay(tmp_path / "top", base)
    qemu_io(top, "write -P 2 0 64k")
    run("qemu-img", "snapshot", "-c", "s", top)
    qemu_io(top, "write -P 3 0 128k")
    content, _ = content_of(top, backing=[base], snapshot="s")
    assert content == b"\x02" * CLUSTER + b"\x01" * (MIB - CLUSTER)


class FakeSource(ImageSource):
    """Extents as given, in batches that are cut at random windows. Not to be read."""

    format = "fake"
    decoded_size_max = 65536

    def __init__(self, size: int, extents: list[Extent], cuts: list[int], readers: ImageSource) -> None:
        self.virtual_size = size
        self.readers = readers.readers
        self._extents = extents
        self._cuts = [*cuts, size]

    def extents(self) -> Iterator[memoryview]:
        rest = list(self._extents)
        for cut in self._cuts:
            rows = []
            while rest and rest[0].offset < cut:
                first = rest.pop(0)
                over = first.offset + first.length - cut
                if over > 0:
                    rest.insert(0, _part(first, cut, over))
                    first = _part(first, first.offset, first.length - over)
                rows.append(first)
            if rows:
                yield pack_batch(rows)


def _part(extent: Extent, offset: int, length: int) -> Extent:
    if extent.kind != DATA:
        return Extent(offset, length, extent.kind)
    moved = extent.source_offset + offset - extent.offset
    return extent._replace(offset=offset, length=length, source_offset=moved, source_length=length)


def _random_layer(draw: random.Random, readers: ImageSource) -> FakeSource:
    sectors = draw.choice([1, 8192, 8193, 16384, 20000, draw.randrange(1, 40000)])
    extents: list[Extent] = []
    position = 0
    while position < sectors:
        length = min(sectors - position, draw.choice([1, 2, 7, 100, 5000, 9000]))
        kind = draw.choice([HOLE, ZERO, DATA])
        if kind == DATA:
            at = 512 * draw.randrange(readers.readers[0].size // 512 - length)
            new = Extent(512 * position, 512 * length, DATA, 0, 0, at, 512 * length)
        else:
            new = Extent(512 * position, 512 * length, kind)
        if extents and kind != DATA and extents[-1].kind == kind:
            extents[-1] = extents[-1]._replace(length=extents[-1].length + new.length)
        else:
            extents.append(new)
        position += length
    cuts = [WINDOW_SIZE * number for number in range(1, 512 * sectors // WINDOW_SIZE + 1) if draw.randrange(2)]
    return FakeSource(512 * sectors, extents, cuts, readers)


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 1 << 32))
def test_random_layers_agree_with_the_oracle(tmp_path: Path, seed: int) -> None:
    draw = random.Random(seed)
    stored = tmp_path / "stored"
    if not stored.exists():
        stored.write_bytes(random.Random(1).randbytes(6 * MIB))
    with open_source(stored, format="raw") as readers:
        layers = [_random_layer(draw, readers) for _ in range(draw.randrange(1, 5))]
        content, _ = checked_content(ChainSource(layers))
        assert content == read_layers(layers)


def test_large_chain_is_mapped_in_bounded_memory(tmp_path: Path) -> None:
    """A dozen images over one with a million clusters: maps are held a piece at a time."""
    paths = [create(tmp_path / "0", "64G", preallocation="metadata")]
    for number in range(1, 12):
        paths.insert(0, overlay(tmp_path / str(number), paths[0]))
    with open_source(paths[0], backing=paths[1:]) as source:
        tracemalloc.start()
        rows = sum(len(batch) for batch in source.extents())
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    assert rows > 64  # data of the lowest image, cut by its tables
    assert peak < 32 * MIB


@pytest.mark.parametrize(
    ("form", "options"),
    [
        ("vmdk", "subformat=monolithicSparse"),
        ("vmdk", "subformat=streamOptimized"),
        ("vpc", "subformat=dynamic,force_size=on"),
        ("vdi", "static=off"),
    ],
)
def test_overlay_on_the_image_of_another_hypervisor(tmp_path: Path, form: str, options: str) -> None:
    plain = scribbled(create(tmp_path / "plain", 5 * MIB), 5 * MIB, 8)
    base = convert(plain, tmp_path / "base", "-o", options, to=form)
    top = scribbled(overlay(tmp_path / "top", base, 6 * MIB, form, cluster_size=4096), 6 * MIB, 9)
    assert content_of(top, backing=[base])[0] == qemu_content(top)


def test_number_of_files_has_to_fit_the_chain(tmp_path: Path) -> None:
    base = create(tmp_path / "base", MIB)
    middle = overlay(tmp_path / "middle", base)
    top = overlay(tmp_path / "top", middle)
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(Unsupported, match=r"top needs a backing file, which it calls '.*middle'.* with --backing"):
        open_source(top)
    with pytest.raises(Unsupported, match=r"middle needs a backing file, which it calls '.*base'"):
        open_source(top, backing=[middle])
    with pytest.raises(
        UsageError, match=r"base is a qcow2 image without a backing file; leave --backing .*middle.* out"
    ):
        open_source(top, backing=[middle, base, middle])
    with pytest.raises(SourceUnavailable, match="none does not exist"):
        open_source(top, backing=[middle, tmp_path / "none"])
    with pytest.raises(UsageError, match="65 images in one chain are more than 64"):
        open_source(top, backing=[base] * 64)
    assert len(os.listdir("/proc/self/fd")) == before


def test_longest_chain_is_read_and_a_loop_is_none(tmp_path: Path) -> None:
    loop = overlay(tmp_path / "loop", create(tmp_path / "base", MIB))
    qemu_io(loop, "write -P 1 0 64k")
    content, _ = content_of(loop, backing=[loop] * 62 + [tmp_path / "base"])
    assert content == b"\x01" * CLUSTER + bytes(MIB - CLUSTER)
    with pytest.raises(Unsupported, match="needs a backing file"):
        open_source(loop, backing=[loop] * 63)


def test_raw_base_into_which_a_guest_wrote_a_header(tmp_path: Path) -> None:
    """Said to be raw it is raw; not said, it may be read as what it looks like, and still opens nothing."""
    secret = tmp_path / "secret"
    secret.write_bytes(b"secret" * 1000)
    run("qemu-img", "create", "-q", "-u", "-f", "qcow2", "-F", "raw", "-b", secret, tmp_path / "forged", "64k")
    base = tmp_path / "base.raw"
    base.write_bytes((tmp_path / "forged").read_bytes().ljust(MIB, b"\0"))
    top = overlay(tmp_path / "top", base, MIB, "raw")
    content, _ = content_of(top, backing=[base])
    assert content == base.read_bytes()
    silent = tmp_path / "silent"
    silent.write_bytes(Image(CLUSTER, backing=b"base.raw").write())
    with pytest.raises(Unsupported, match=r"base\.raw needs a backing file"):
        content_of(silent, backing=[base])


@pytest.mark.parametrize(
    ("said", "kind", "words"),
    [
        (b"qcow2", InvalidImage, "base is not a qcow2 image"),
        (b"qed", Unsupported, "has a backing file of format 'qed'"),
        (b"\x1b[0m\n", Unsupported, r"has a backing file of format '\?\[0m\?'"),
        (b"json:{}", Unsupported, "has a backing file of format"),
    ],
)
def test_format_of_the_base_is_the_one_said(tmp_path: Path, said: bytes, kind: type[Exception], words: str) -> None:
    (tmp_path / "base").write_bytes(bytes(MIB))
    top = tmp_path / "top"
    top.write_bytes(Image(CLUSTER, backing=b"base", extensions=[(0xE2792ACA, said)]).write())
    with pytest.raises(kind, match=words) as error:
        content_of(top, backing=[tmp_path / "base"])
    assert str(error.value).isprintable()


@pytest.mark.parametrize("said", [None, b"", b"raw", b"file", b"host_device"])
def test_raw_base_however_it_is_said(tmp_path: Path, said: bytes | None) -> None:
    (tmp_path / "base").write_bytes(b"r" * CLUSTER)
    top = tmp_path / "top"
    extensions = [] if said is None else [(0xE2792ACA, said)]
    top.write_bytes(Image(2 * CLUSTER, backing=b"base", extensions=extensions, incompatible=EXTENDED_L2).write())
    assert content_of(top, backing=[tmp_path / "base"])[0] == b"r" * CLUSTER + bytes(CLUSTER)


def test_base_that_changed_or_is_damaged_is_noticed(tmp_path: Path) -> None:
    base = tmp_path / "base"
    base.write_bytes(Image(MIB, l2_patch={3: 1 << 40}).write())
    top = overlay(tmp_path / "top", base, MIB)
    with pytest.raises(InvalidImage, match=r"base: the cluster for offset 196608"):
        content_of(top, backing=[base])
    with open_source(top, backing=[base]) as source:
        os.utime(base, ns=(1, 1))
        with pytest.raises(SourceUnavailable, match="base has changed"):
            source.check_unchanged()


def test_refused_names_are_the_formats_table(tmp_path: Path) -> None:
    from dataplane.cli.sources import FORMATS

    assert FORMATS == probe.FORMATS
    with pytest.raises(DataplaneError, match="choose auto, raw, qcow2"):
        open_source(tmp_path, format="nonsense")
