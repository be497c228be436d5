from __future__ import annotations

import ast
import gzip
import io
import os
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

from dataplane.errors import InvalidImage, SourceUnavailable, Unsupported, UsageError
from dataplane.formats.probe import open_source
from tests.formats.helpers import content_of, convert, create, qemu_content, qemu_io, run
from tests.formats.qcow2_writer import Image
from tests.oracles.extents import read_all
from tests.readers.http_server import always, serving

CONTENT = b"\0boot" * 20_000 + bytes(480)


def refused(path: Path, words: str, kind: type[Exception] = Unsupported) -> None:
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(kind, match=words) as error:
        open_source(path)
    text = str(error.value)
    assert str(path) in text
    assert text.isprintable()
    assert "; " in text, "what to do is missing"
    assert len(os.listdir("/proc/self/fd")) == before


def written(tmp_path: Path, content: bytes, name: str = "disk.raw") -> Path:
    path = tmp_path / name
    path.write_bytes(content)
    return path


def test_format_is_told_by_bytes_not_by_name(tmp_path: Path) -> None:
    image = Image(65536, clusters={0: ("data", b"a" * 65536)}).write()
    with open_source(written(tmp_path, image, "disk.raw")) as source:
        assert (source.format, source.virtual_size) == ("qcow2", 65536)
    with open_source(written(tmp_path, CONTENT, "disk.qcow2")) as source:
        assert source.format == "raw"


@pytest.mark.parametrize(
    ("form", "options", "words"),
    [
        ("vmdk", "subformat=monolithicFlat", "a VMDK descriptor"),
        ("vmdk", "subformat=twoGbMaxExtentSparse", "a VMDK descriptor"),
        ("qcow", "", "version 1"),
        ("qed", "", "a QED image"),
        ("parallels", "", "a Parallels image"),
    ],
)
def test_container_of_qemu_is_refused_by_name(tmp_path: Path, form: str, options: str, words: str) -> None:
    raw = written(tmp_path, os.urandom(512) + bytes(1 << 20), "source.raw")
    path = convert(raw, tmp_path / "disk", *(["-o", options] if options else []), form="raw", to=form)
    refused(path, words)


@pytest.mark.parametrize(
    ("command", "words"),
    [
        (["gzip"], "compressed with gzip"),
        (["xz"], "compressed with xz"),
        (["zstd", "-q"], "compressed with zstd"),
        (["bzip2"], "compressed with bzip2"),
        (["lz4", "-q"], "compressed with lz4"),
    ],
)
def test_compressed_file_is_refused_by_name(tmp_path: Path, command: list[str], words: str) -> None:
    packed = subprocess.run([*command, "-c"], input=CONTENT, capture_output=True, check=True).stdout
    refused(written(tmp_path, packed), words)


def test_empty_bzip2_is_refused_by_name(tmp_path: Path) -> None:
    packed = subprocess.run(["bzip2", "-c"], input=b"", capture_output=True, check=True).stdout
    refused(written(tmp_path, packed), "compressed with bzip2")


def test_archives_are_refused_by_name(tmp_path: Path) -> None:
    ova = io.BytesIO()
    with tarfile.open(fileobj=ova, mode="w") as archive:
        archive.add(written(tmp_path, CONTENT, "box.ovf"), "box.ovf")
    refused(written(tmp_path, ova.getvalue(), "box.ova"), "a tar archive or OVA")
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as zipped:
        zipped.writestr("disk.img", CONTENT)
    refused(written(tmp_path, packed.getvalue()), "a zip archive")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"COWD\x01\0\0\0" + bytes(1016), "a COWD VMDK image"),
        (b"# made by hand\n\nversion = 1\nCID=fffffffe\n", "a VMDK descriptor"),
        (b"<!DOCTYPE html>\n<html>", "an HTML page"),
        (b"  \n<HTML><body>" + b"x" * 4096, "an HTML page"),
        (b'<?xml version="1.0"?><Error><Code>AccessDenied</Code></Error>', "an XML document"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n", "a text file"),
        (b"404 page not found\n", "a text file"),
        ("не найдено: образ\n".encode(), "a text file"),
        (b"\x50\x2a\x4d\x18\x00\x00\x00\x00" + bytes(100), "compressed with zstd"),
        (b"7z\xbc\xaf\x27\x1c" + bytes(100), "a 7z archive"),
        (b"\x3a\xff\x26\xed" + bytes(100), "an Android sparse image"),
        (bytes(1000) + b"koly" + bytes(508), "an Apple disk image"),
    ],
)
def test_other_wrapper_is_refused_by_name(tmp_path: Path, content: bytes, words: str) -> None:
    refused(written(tmp_path, content), words)


@pytest.mark.parametrize(
    "content",
    [
        b"\0" * 512,
        b"x" * 1000,
        b"text in whole sectors\n" * 512,
        b"short\n",
        b"\xeb\x63\x90" + bytes(507) + b"\x55\xaa",
        bytes(32769) + b"CD001" + bytes(5000),
        b"LUKS\xba\xbe\x00\x02" + bytes(16 << 10),
        b"hsqs" + bytes(4092),
        bytes(1080) + b"\x53\xef" + bytes(4000),
    ],
    ids=["zeros", "letters", "text", "short", "mbr", "iso", "luks", "squashfs", "ext4"],
)
def test_disks_without_a_container_are_raw(tmp_path: Path, content: bytes) -> None:
    with open_source(written(tmp_path, content)) as source:
        assert source.format == "raw"


def test_known_magic_that_does_not_parse_is_never_raw(tmp_path: Path) -> None:
    for content in (b"QFI\xfb", b"QFI\xfb" + bytes(200), b"QFI\xfb\0\0\0\3" + b"\xff" * 5000):
        with pytest.raises((InvalidImage, Unsupported)):
            open_source(written(tmp_path, content))


def test_forced_raw_takes_anything(tmp_path: Path) -> None:
    image = Image(65536, clusters={0: ("data", b"a" * 65536)}).write()
    for content in (image, b"<html>\n" * 100, gzip.compress(CONTENT), b"# Disk DescriptorFile\n"):
        disk, _ = content_of(written(tmp_path, content), format="raw")
        assert disk == content + bytes(-len(content) % 512)


def test_forced_qcow2_refuses_what_is_not(tmp_path: Path) -> None:
    with pytest.raises(InvalidImage, match="not a qcow2 image"):
        open_source(written(tmp_path, CONTENT), format="qcow2")


@pytest.mark.parametrize("form", ["auto", "raw", "qcow2"])
def test_empty_file_is_invalid(tmp_path: Path, form: str) -> None:
    with pytest.raises(InvalidImage, match="is empty"):
        open_source(written(tmp_path, b""), format=form)


@pytest.mark.parametrize(
    "content",
    [
        b"# Disk DescriptorFile\nversion=1\n",
        b"\xef\xbb\xbf\r\n# disk descriptorfile\r\nversion=1\r\n" + bytes(4096),
        b"KDMV" + bytes(508),
        b"KDMV",
    ],
)
def test_vmdk_is_never_raw(tmp_path: Path, content: bytes) -> None:
    with pytest.raises((InvalidImage, Unsupported)) as error:
        open_source(written(tmp_path, content))
    assert "VMDK" in str(error.value) or "cut short" in str(error.value)


@pytest.mark.parametrize(
    "content",
    [
        bytes(4096) + b"conectix" + bytes(503),
        bytes(4096) + b"conectix" + bytes(504),
        b"conectix" + bytes(4096),
        b"vhdxfile" + bytes(4096),
        bytes(64) + b"\x7f\x10\xda\xbe" + bytes(400),
    ],
)
def test_magic_of_vhd_vhdx_or_vdi_is_never_raw(tmp_path: Path, content: bytes) -> None:
    with pytest.raises((InvalidImage, Unsupported)):
        open_source(written(tmp_path, content))


@pytest.mark.parametrize(
    ("form", "to", "options"),
    [
        ("vmdk", "vmdk", "subformat=monolithicSparse"),
        ("vmdk", "vmdk", "subformat=streamOptimized"),
        ("vhd", "vpc", "subformat=dynamic,force_size=on"),
        ("vhd", "vpc", "subformat=fixed,force_size=on"),
        ("vhdx", "vhdx", "subformat=dynamic"),
        ("vdi", "vdi", "static=off"),
        ("vdi", "vdi", "static=on"),
    ],
)
def test_format_of_another_hypervisor_is_told_by_its_bytes(tmp_path: Path, form: str, to: str, options: str) -> None:
    raw = written(tmp_path, os.urandom(512) + bytes(1 << 20), "source.raw")
    path = convert(raw, tmp_path / "disk", "-o", options, form="raw", to=to)
    for asked in ("auto", form):
        with open_source(path, format=asked) as source:
            assert source.format == form
            assert read_all(source)[: len(CONTENT)] == raw.read_bytes()[: len(CONTENT)]


@pytest.mark.parametrize("options", ["subformat=monolithicFlat", "subformat=twoGbMaxExtentSparse"])
def test_extents_of_a_descriptor_are_read_from_the_folder_given(tmp_path: Path, options: str) -> None:
    raw = written(tmp_path, os.urandom(512) + bytes(1 << 20), "source.raw")
    path = convert(raw, tmp_path / "disk.vmdk", "-o", options, form="raw", to="vmdk")
    with pytest.raises(Unsupported, match="--extent-dir"):
        open_source(path)
    content, _ = content_of(path, extent_dir=tmp_path)
    assert content == raw.read_bytes()


@pytest.mark.parametrize("form", ["qed", "qcow", "parallels"])
def test_format_that_is_not_read(tmp_path: Path, form: str) -> None:
    with pytest.raises(Unsupported, match=f"format {form} is not supported"):
        open_source(written(tmp_path, CONTENT), format=form)


@pytest.mark.parametrize("form", ["", "RAW", "nonsense"])
def test_format_that_does_not_exist(tmp_path: Path, form: str) -> None:
    with pytest.raises(UsageError, match="choose auto, raw, qcow2"):
        open_source(written(tmp_path, CONTENT), format=form)


def test_backing_or_data_file_that_is_not_used(tmp_path: Path) -> None:
    raw = written(tmp_path, CONTENT)
    image = create(tmp_path / "disk.qcow2", 65536)
    before = len(os.listdir("/proc/self/fd"))
    for path in (raw, image):
        with pytest.raises(UsageError, match="without a backing file"):
            open_source(path, backing=[raw])
        with pytest.raises(UsageError, match="without a data file"):
            open_source(path, data_file=raw)
        with pytest.raises(UsageError, match="without extents of its own"):
            open_source(path, extent_dir=tmp_path)
    with pytest.raises(UsageError, match="without internal snapshots"):
        open_source(raw, snapshot="1")
    assert len(os.listdir("/proc/self/fd")) == before


def test_backing_file_that_an_image_names_is_never_opened(tmp_path: Path) -> None:
    run("mkfifo", tmp_path / "fifo")  # opening it would hang
    for base in (written(tmp_path, CONTENT), tmp_path / "fifo"):
        run("qemu-img", "create", "-q", "-u", "-f", "qcow2", "-F", "raw", "-b", base, tmp_path / "overlay", "1M")
        refused(tmp_path / "overlay", "needs a backing file")


def test_data_file_that_an_image_names_is_never_opened(tmp_path: Path) -> None:
    refused(create(tmp_path / "disk", 1 << 20, data_file=tmp_path / "data.raw"), "external data file")


def test_qcow2_encrypted_by_qemu_is_refused_by_name(tmp_path: Path) -> None:
    run(
        *("qemu-img", "create", "-q", "-f", "qcow2", "--object", "secret,id=s,data=abc"),
        *("-o", "encrypt.format=aes,encrypt.key-secret=s", tmp_path / "disk", "1M"),
    )
    refused(tmp_path / "disk", r"encrypted \(AES\)")


def test_missing_file_and_unknown_scheme(tmp_path: Path) -> None:
    with pytest.raises(SourceUnavailable, match="does not exist"):
        open_source(tmp_path / "none")
    with pytest.raises(SourceUnavailable, match="scheme ftp://") as error:
        open_source("ftp://user:s3cret@host/disk?s3cret")
    assert "s3cret" not in str(error.value)


def test_images_over_http(tmp_path: Path) -> None:
    path = create(tmp_path / "disk", 8 << 20, cluster_size=4096)
    qemu_io(path, "write -P 3 1M 64k", "write -z 2M 64k", "write -P 4 7M 1M")
    packed = convert(path, tmp_path / "packed", "-c")
    for image, form in ((path, "qcow2"), (packed, "qcow2"), (written(tmp_path, CONTENT), "raw")):
        with serving(image.read_bytes()) as server:
            disk, _ = content_of(server.url, allow_source=[server.host_port], timeout_s=5)  # type: ignore[arg-type]
        assert disk == qemu_content(image, form)


def test_html_over_http_is_refused(tmp_path: Path) -> None:
    with serving(b"<!doctype html>" + bytes(100)) as server, pytest.raises(Unsupported, match="an HTML page") as error:
        open_source(server.url, allow_source=[server.host_port])
    assert "s3cret" not in str(error.value)


def test_http_options_reach_the_reader() -> None:
    with serving(CONTENT, always(lambda handler: handler.status(503))) as server:
        with pytest.raises(SourceUnavailable, match="loopback"):
            open_source(server.url)
        with pytest.raises(SourceUnavailable, match="plain http"):
            open_source(server.url, allow_source=[server.host_port], allow_http=False)
        with pytest.raises(SourceUnavailable, match=r"within 0\.3 s"):
            open_source(server.url, allow_source=[server.host_port], timeout_s=0.3)


@pytest.mark.parametrize("form", ["raw", "qcow2", "vmdk", "vpc", "vhdx", "vdi"])
def test_analysis_needs_neither_numpy_nor_urllib3(tmp_path: Path, form: str) -> None:
    (tmp_path / "plain").write_bytes(CONTENT * 9)
    convert(tmp_path / "plain", tmp_path / "disk", form="raw", to=form)
    program = (
        "import sys; from dataplane.cli.main import main; "
        f"code = main(['measure', '--codec', 'none', {str(tmp_path / 'disk')!r}]); "
        "sys.exit(code or int('numpy' in sys.modules or 'urllib3' in sys.modules or 'logging' in sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False, capture_output=True).returncode == 0


def test_chain_needs_no_numpy(tmp_path: Path) -> None:
    base = written(tmp_path, CONTENT * 9)
    run("qemu-img", "create", "-q", "-f", "qcow2", "-F", "raw", "-b", base, tmp_path / "top")
    program = (
        "import sys; from dataplane.formats.probe import open_source; "
        f"source = open_source({str(tmp_path / 'top')!r}, backing=[{str(base)!r}]); list(source.extents()); "
        "sys.exit('numpy' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


def test_service_names_no_file_beside_an_image() -> None:
    """What a tenant sends is one image: nothing that it names, and no file of ours, may be read along with it."""
    calls = []
    for path in sorted((Path(__file__).parents[2] / "service").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.Call):
                continue
            # Called, or handed to ``partial`` with its arguments.
            named = [node.func, *(node.args[:1] if getattr(node.func, "id", "") == "partial" else ())]
            if any(isinstance(name, ast.Name) and name.id == "open_source" for name in named):
                calls.append({keyword.arg for keyword in node.keywords})
    assert calls
    assert not any(names & {"backing", "data_file", "extent_dir", "snapshot", None} for names in calls), calls
