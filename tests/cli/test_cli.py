"""The dataplane command as scripts see it: standard output, standard error and exit codes."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from dataplane.errors import SourceUnavailable
from dataplane.formats.probe import open_source
from tests.disks import KIB, MIB, convert, disk_bytes, write_sparse

SHARED_KEYS = {
    "name", "root", "format", "virtual_size", "data_size", "storage_size", "allocated_size", "chunk_size", "codec",
    "chunks", "distinct_chunks", "seconds", "bytes_read", "bytes_written",
}  # fmt: skip


def dataplane(*arguments: object, check: int | None = 0) -> subprocess.CompletedProcess[str]:
    """Run the command; the exit code must be `check`, and there is never a traceback."""
    done = subprocess.run(
        [sys.executable, "-m", "dataplane", *map(str, arguments)], capture_output=True, text=True, timeout=120
    )
    assert "Traceback" not in done.stderr, done.stderr
    assert check is None or done.returncode == check, (done.returncode, done.stderr)
    return done


def one_line(done: subprocess.CompletedProcess[str]) -> str:
    """Return the error, which is exactly one line on standard error with nothing on standard output."""
    assert done.stdout == ""
    lines = done.stderr.splitlines()
    assert len(lines) == 1, done.stderr
    assert lines[0].startswith("dataplane: ")
    return lines[0]


@pytest.fixture(scope="module")
def disk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_sparse(tmp_path_factory.mktemp("disk") / "disk.raw", disk_bytes(6 * MIB + 3 * KIB))


@pytest.fixture
def store(tmp_path: Path) -> Path:
    dataplane("init", tmp_path / "store")
    return tmp_path / "store"


def test_version_and_help() -> None:
    assert dataplane("--version").stdout.startswith("dataplane 0.")
    overview = dataplane("--help").stdout
    for verb in ("init", "import", "export", "ls", "stat", "rm", "measure", "doctor", "serve", "image"):
        assert f"  {verb}" in overview
        assert verb in dataplane(verb, "--help").stdout
    assert dataplane(check=2).stdout == overview
    assert "'frobnicate' is not a verb" in one_line(dataplane("frobnicate", check=2))


def test_whole_life_of_an_image(store: Path, disk: Path, tmp_path: Path) -> None:
    compressed = convert(disk, tmp_path / "disk.qcow2", "-O", "qcow2", "-c")
    first = json.loads(dataplane("import", store, disk, "--name", "raw", "--json").stdout)
    second = json.loads(dataplane("import", store, compressed, "--name", "qcow", "--json").stdout)
    assert set(first) == SHARED_KEYS
    assert (first["format"], second["format"]) == ("raw", "qcow2")
    assert first["root"] == second["root"]
    assert second["bytes_written"] == 0
    measured = json.loads(dataplane("measure", compressed, "--json").stdout)
    assert {key: measured[key] for key in set(measured) - {"name", "seconds", "bytes_read"}} == {
        key: second[key] for key in set(measured) - {"name", "seconds", "bytes_read"}
    }
    assert [image["name"] for image in json.loads(dataplane("ls", store, "--json").stdout)] == ["qcow", "raw"]
    image = json.loads(dataplane("stat", store, "raw", "--json").stdout)
    assert (image["storage_size"], image["unique_size"]) == (first["storage_size"], 0)
    whole = json.loads(dataplane("stat", store, "--json").stdout)
    assert (whole["images"], whole["storage_size"]) == (2, first["storage_size"])
    dataplane("export", store, "qcow", tmp_path / "out.raw")
    subprocess.run(["cmp", disk, tmp_path / "out.raw"], check=True)
    streamed = subprocess.run(
        [sys.executable, "-m", "dataplane", "export", str(store), "raw", "-"], capture_output=True, check=True
    ).stdout
    assert streamed == disk.read_bytes()
    dataplane("rm", store, "raw")
    assert [image["name"] for image in json.loads(dataplane("ls", store, "--json").stdout)] == ["qcow"]
    assert json.loads(dataplane("stat", store, "qcow", "--json").stdout)["unique_size"] == first["storage_size"]


def test_output_for_people(store: Path, disk: Path) -> None:
    imported = dataplane("import", store, disk, "--name", "a").stdout
    assert f"virtual_size     {6 + 3 / 1024:.2f} MiB ({disk.stat().st_size})" in imported
    assert re.search(r"^a +raw +6.00 MiB", dataplane("ls", store).stdout, re.M)
    assert "storage_size" in dataplane("stat", store).stdout
    assert "unique_size" in dataplane("stat", store, "a").stdout
    assert "scan_variant" in dataplane("doctor").stdout
    assert json.loads(dataplane("doctor", "--json").stdout)["scan_variant"] in ("avx512", "avx2", "baseline")


def test_measure_several_sources_counts_shared_chunks_once(disk: Path, tmp_path: Path) -> None:
    compressed = convert(disk, tmp_path / "disk.qcow2", "-O", "qcow2", "-c")
    for codec in ("zstd:1", "none"):
        result = json.loads(dataplane("measure", disk, compressed, "--codec", codec, "--json").stdout)
        first, second = result["sources"]
        assert first["storage_size"] == second["storage_size"] == result["total"]["storage_size"]
        assert result["total"]["virtual_size"] == 2 * first["virtual_size"]


def test_progress_json_ends_with_a_summary(store: Path, disk: Path) -> None:
    done = dataplane("import", store, disk, "--name", "a", "--progress", "json")
    lines = [json.loads(line) for line in done.stderr.splitlines()]
    assert lines[-1]["type"] == "summary"
    assert lines[-1]["finished"] is True
    assert lines[-1]["succeeded"] is True
    assert lines[-1]["position_bytes"] == lines[-1]["total_bytes"] == disk.stat().st_size
    failed = dataplane("import", store, disk, "--name", "a", "--progress", "json", check=1)
    assert [json.loads(line)["type"] for line in failed.stderr.splitlines()[:-1]] == ["error", "summary"]


def test_bad_sources_exit_4(store: Path, disk: Path, tmp_path: Path) -> None:
    qcow = convert(disk, tmp_path / "good.qcow2", "-O", "qcow2").read_bytes()
    sources = {
        "missing": None,
        "empty": b"",
        "truncated.qcow2": qcow[: len(qcow) // 2],
        "short.qcow2": qcow[:40],
        "text.vmdk": b"# Disk DescriptorFile\nversion=1\n",
        "disk.vmdk": b"KDMV" + bytes(2000),
        "disk.gz": b"\x1f\x8b\x08" + bytes(2000),
        "page.html": b"<!DOCTYPE html><html>" + b" " * 2000,
        "disk.vhdx": b"vhdxfile" + bytes(2000),
    }
    for name, content in sources.items():
        if content is not None:
            (tmp_path / name).write_bytes(content)
        for command in (("import", store, tmp_path / name, "--name", "x"), ("measure", tmp_path / name)):
            assert name in one_line(dataplane(*command, check=4))
    assert "directory" in one_line(dataplane("measure", tmp_path, check=4))
    assert json.loads(dataplane("ls", store, "--json").stdout) == []


def test_unreadable_source_is_refused(tmp_path: Path) -> None:
    locked = tmp_path / "locked"
    locked.write_bytes(b"x" * 4096)
    locked.chmod(0)
    before = os.geteuid()
    if before == 0:
        os.seteuid(65534)  # root reads everything
    try:
        with pytest.raises(SourceUnavailable, match="permission denied"):
            open_source(locked)
    finally:
        os.seteuid(before)


def test_bad_stores_exit_5(store: Path, disk: Path, tmp_path: Path) -> None:
    for command in (
        ("ls", tmp_path),
        ("stat", tmp_path / "none"),
        ("import", tmp_path, disk, "--name", "a"),
        ("export", tmp_path, "a", tmp_path / "out"),
        ("init", store),
    ):
        one_line(dataplane(*command, check=5))


def test_other_failures_have_their_codes(store: Path, disk: Path, tmp_path: Path) -> None:
    dataplane("import", store, disk, "--name", "a")
    assert "choose another name" in one_line(dataplane("import", store, disk, "--name", "a", check=1))
    assert "no image named 'b'" in one_line(dataplane("rm", store, "b", check=1))
    assert "no image named 'b'" in one_line(dataplane("export", store, "b", tmp_path / "out", check=1))
    assert "power of two" in one_line(dataplane("init", tmp_path / "s", "--chunk-size", "5000", check=2))
    assert "not known" in one_line(dataplane("measure", disk, "--codec", "lz4", check=2))
    assert dataplane("init", tmp_path / "s", "--chunk-size", "64Q", check=2).stdout == ""
    (pack,) = (store / "packs").rglob("*.pack")
    pack.chmod(0o600)
    damaged = bytearray(pack.read_bytes())
    damaged[len(damaged) // 2] ^= 1
    pack.write_bytes(damaged)
    one_line(dataplane("export", store, "a", tmp_path / "out", check=3))
    assert not list(tmp_path.glob("*out*"))


@pytest.fixture
def slow_store(tmp_path: Path) -> Path:
    """A store whose codec takes its time: what is sent to an import arrives while it works, however busy we are."""
    dataplane("init", tmp_path / "store", "--codec", "zstd:19")
    return tmp_path / "store"


def store_files(store: Path) -> set[Path]:
    """Return the packs, runs and temporary files of a store."""
    return {
        path
        for folder in ("packs", "runs", "tmp")
        for path in (store / folder).rglob("*")
        if path.is_file() and path.name != "lock"
    }


def start_slow_import(store: Path, folder: Path) -> subprocess.Popen[bytes]:
    """Start an import that takes seconds, and wait until it has begun to write."""
    big = folder / "big.raw"
    with open(big, "wb") as file:
        for _ in range(3):
            file.write(os.urandom(64 * MIB))
    process = subprocess.Popen(
        [sys.executable, "-m", "dataplane", "import", str(store), str(big), "--name", "big", "--threads", "1"],
        stderr=subprocess.PIPE,
    )
    deadline = time.monotonic() + 60
    while not any(path.stat().st_size > 8 * MIB for path in (store / "tmp").rglob("*.p*")):
        assert process.poll() is None, process.stderr.read() if process.stderr else ""
        assert time.monotonic() < deadline
        time.sleep(0.005)
    return process


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_interrupted_import_leaves_the_store_as_before(
    slow_store: Path, tmp_path: Path, number: signal.Signals, code: int
) -> None:
    process = start_slow_import(slow_store, tmp_path)
    process.send_signal(number)
    error = process.communicate(timeout=60)[1]
    assert process.returncode == code, error
    assert b"Traceback" not in error
    assert store_files(slow_store) == set()
    assert json.loads(dataplane("ls", slow_store, "--json").stdout) == []


def test_killed_import_leaves_the_store_as_before(slow_store: Path, disk: Path, tmp_path: Path) -> None:
    process = start_slow_import(slow_store, tmp_path)
    process.kill()
    process.communicate(timeout=60)
    assert json.loads(dataplane("ls", slow_store, "--json").stdout) == []
    assert store_files(slow_store), "the test killed too late to see anything"
    dataplane("import", slow_store, disk, "--name", "next")  # the next writer clears what the killed one left
    assert not [path for path in store_files(slow_store) if path.is_relative_to(slow_store / "tmp")]
    dataplane("export", slow_store, "next", tmp_path / "out.raw")
    subprocess.run(["cmp", disk, tmp_path / "out.raw"], check=True)


@pytest.fixture
def overlay(tmp_path: Path, disk: Path) -> tuple[Path, Path]:
    """A qcow2 overlay with a snapshot, and the base that it needs."""
    base = convert(disk, tmp_path / "base.qcow2", "-O", "qcow2", "-c")
    top = tmp_path / "top.qcow2"
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", "-F", "qcow2", "-b", base, top], check=True)
    subprocess.run(["qemu-img", "snapshot", "-c", "before", top], check=True)
    subprocess.run(["qemu-io", "-f", "qcow2", "-c", "write -q -P 7 1M 64k", top], check=True)
    return top, base


def test_import_of_a_chain_and_of_a_snapshot_in_it(
    store: Path, disk: Path, overlay: tuple[Path, Path], tmp_path: Path
) -> None:
    top, base = overlay
    flat = tmp_path / "flat.raw"
    subprocess.run(["qemu-img", "convert", "-O", "raw", top, flat], check=True)
    sources: dict[str, list[object]] = {
        "flat": [flat],
        "chain": [top, "--backing", base],
        "disk": [disk],
        "snapshot": [top, "--backing", base, "--format", "qcow2", "--snapshot", "before"],
    }
    roots = {
        name: json.loads(dataplane("import", store, *source, "--name", name, "--json").stdout)["root"]
        for name, source in sources.items()
    }
    assert roots["flat"] == roots["chain"] != roots["disk"]
    assert roots["disk"] == roots["snapshot"]
    measured = json.loads(dataplane("measure", top, "--backing", base, "--json").stdout)
    swept = json.loads(dataplane("measure", top, "--backing", base, "--codec", "none", "--json").stdout)
    assert swept["distinct_chunks"] == measured["distinct_chunks"]
    assert measured["virtual_size"] == flat.stat().st_size


def test_files_beside_a_source_that_do_not_fit_it(disk: Path, overlay: tuple[Path, Path], tmp_path: Path) -> None:
    top, base = overlay
    assert "top.qcow2 needs a backing file" in one_line(dataplane("measure", top, check=4))
    wrong: list[tuple[list[object], str]] = [
        (["--backing", base, "--backing", disk], "is a qcow2 image without a backing file"),
        (["--backing", base, "--data-file", disk], "without a data file"),
        (["--backing", base, "--extent-dir", tmp_path], "without extents of its own"),
        (["--backing", base, "--snapshot", "none"], "has no snapshot 'none'"),
        ([disk, "--backing", base], "--backing belongs to one image"),
        ([disk, "--snapshot", "1"], "--snapshot belongs to one image"),
    ]
    for options, words in wrong:
        assert words in one_line(dataplane("measure", top, *options, check=2))


def test_image_with_a_data_file_and_an_empty_one(store: Path, disk: Path, tmp_path: Path) -> None:
    image, data, empty = tmp_path / "image", tmp_path / "data", tmp_path / "empty"
    subprocess.run(
        ["qemu-img", "convert", "-f", "raw", "-O", "qcow2", "-o", f"data_file={data}", disk, image], check=True
    )
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", empty, "0"], check=True)
    raw = json.loads(dataplane("import", store, disk, "--name", "raw", "--json").stdout)
    split = json.loads(dataplane("import", store, image, "--data-file", data, "--name", "split", "--json").stdout)
    assert split["root"] == raw["root"]
    assert json.loads(dataplane("import", store, empty, "--name", "empty", "--json").stdout)["virtual_size"] == 0
    dataplane("export", store, "empty", tmp_path / "empty.raw")
    assert (tmp_path / "empty.raw").read_bytes() == b""
    assert json.loads(dataplane("measure", empty, "--codec", "none", "--json").stdout)["data_size"] == 0
