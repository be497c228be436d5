"""Exports to streams and standard output: in order, with little memory, and one line when the reader goes."""

from __future__ import annotations

import io
import os
import pty
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from dataplane.errors import Corrupt
from dataplane.ingest.exporting import export_stream
from dataplane.store.store import Store
from tests.disks import KIB, MIB
from tests.export.conftest import MakeStore, add, hurt_last_chunk

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer


def command(store: Store, name: str = "disk", *options: str) -> list[str]:
    return [sys.executable, "-m", "dataplane", "export", str(store.path), name, "-", "--progress", "none", *options]


@pytest.mark.parametrize("threads", [1, 4])
@pytest.mark.parametrize("chunk_size", [4 * KIB, 64 * KIB, 4 * MIB])
def test_stream_is_the_disk(make_store: MakeStore, disk: Path, threads: int, chunk_size: int) -> None:
    stream = io.BytesIO()
    result = export_stream(make_store(chunk_size), "disk", stream, threads=threads)
    assert stream.getvalue() == disk.read_bytes()
    assert result.bytes_written == result.virtual_size


def test_stream_that_takes_little_at_a_time(store: Store, disk: Path) -> None:
    class Slow(io.BytesIO):
        def write(self, data: ReadableBuffer) -> int:
            return super().write(memoryview(data)[:70_001])

    stream = Slow()
    export_stream(store, "disk", stream, threads=3)
    assert stream.getvalue() == disk.read_bytes()


def test_hurt_chunk_ends_the_stream_before_it(store: Store, disk: Path) -> None:
    hurt_last_chunk(store)
    stream = io.BytesIO()
    with pytest.raises(Corrupt):
        export_stream(store, "disk", stream, threads=2)
    written = stream.getvalue()
    assert disk.read_bytes().startswith(written)
    done = subprocess.run(command(store), capture_output=True, check=False)
    assert done.returncode == 3
    assert len(done.stderr.splitlines()) == 1


def test_pipe_whose_reader_goes_gives_one_line(store: Store) -> None:
    for size in (1, 3 * MIB):
        with subprocess.Popen(command(store), stdout=subprocess.PIPE, stderr=subprocess.PIPE) as child:
            assert child.stdout is not None
            assert child.stderr is not None
            assert len(child.stdout.read(size)) == size
            child.stdout.close()
            said = child.stderr.read().decode()
        assert child.returncode == 1
        assert said.splitlines() == ["dataplane: writing the stream failed: Broken pipe"]


def test_non_blocking_pipe(store: Store, disk: Path) -> None:
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    with subprocess.Popen(command(store), stdout=writing) as child:
        os.close(writing)
        with os.fdopen(reading, "rb") as pipe:
            assert pipe.read() == disk.read_bytes()
    assert child.returncode == 0


def test_standard_output_that_is_no_place_for_an_image(store: Store) -> None:
    inner, outer = pty.openpty()
    try:
        done = subprocess.run(command(store), stdout=outer, stderr=subprocess.PIPE, check=False)
    finally:
        os.close(inner)
        os.close(outer)
    assert done.returncode == 2
    assert b"terminal" in done.stderr
    done = subprocess.run(["sh", "-c", 'exec "$@" >&-', "sh", *command(store)], stderr=subprocess.PIPE, check=False)
    assert done.returncode == 2
    assert b"closed" in done.stderr
    for options in (["--json"], ["--verify"], ["--format", "qcow2"], ["--no-sparse"]):
        done = subprocess.run(command(store, "disk", *options), capture_output=True, check=False)
        assert (done.returncode, done.stdout) == (2, b"")
        assert len(done.stderr.splitlines()) == 1


def test_full_device_gives_one_line(store: Store) -> None:
    with open("/dev/full", "wb") as full:
        done = subprocess.run(command(store), stdout=full, stderr=subprocess.PIPE, check=False)
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 1
    assert b"no space left" in done.stderr


def test_memory_does_not_grow_with_the_image(tmp_path: Path) -> None:
    """The peak of a stream of 256 MiB is that of one of 4 MiB, and some windows."""
    store = Store.create(tmp_path / "store")
    for name, size in (("small", 4 * MIB), ("large", 256 * MIB)):
        path = tmp_path / name
        with path.open("wb") as file:
            for number in range(size // MIB):
                file.write((b"%d" % number).ljust(64, b".") * (MIB // 64))
        add(store, path, name)
    peaks = []
    program = (
        "import resource, sys; from dataplane.cli.main import main; code = main(sys.argv[1:]);"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, file=sys.stderr); sys.exit(code)"
    )
    for name in ("small", "large"):
        arguments = [sys.executable, "-c", program, *command(store, name, "--threads", "2")[3:]]
        done = subprocess.run(arguments, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, check=True)
        peaks.append(int(done.stderr.split()[-1]) * KIB)
    assert peaks[1] < peaks[0] + 24 * MIB, peaks
