from __future__ import annotations

import errno
import os
import socket
import subprocess
import threading
from array import array
from pathlib import Path

import pytest

from dataplane.engine import blockio
from dataplane.errors import InvalidImage, SourceUnavailable
from dataplane.readers.file import FileReader
from dataplane.readers.gather import gather


def write(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


def rows(ranges: memoryview) -> list[tuple[int, int]]:
    flat = ranges.cast("B").cast("q").tolist()
    return list(zip(flat[::2], flat[1::2], strict=True))


def one_line(error: pytest.ExceptionInfo[BaseException]) -> str:
    text = str(error.value)
    assert "\n" not in text
    return text


def test_read_at_exact(tmp_path: Path) -> None:
    content = os.urandom(10_000)
    reader = FileReader(write(tmp_path / "disk", content))
    assert reader.size == len(content)
    assert reader.read_at(0, 10_000) == content
    assert reader.read_at(123, 4567) == content[123 : 123 + 4567]
    assert reader.read_at(10_000, 0) == b""
    reader.close()
    reader.close()


def test_descriptor_is_closed_on_exec_and_blocking(tmp_path: Path) -> None:
    reader = FileReader(write(tmp_path / "disk", b"x"))
    fd = reader.fileno()
    assert fd is not None
    assert not os.get_inheritable(fd)
    assert os.get_blocking(fd)
    reader.close()


@pytest.mark.parametrize(("offset", "length"), [(0, 11), (10, 1), (11, 0), (-1, 1), (5, -1), (1 << 62, 1 << 62)])
def test_read_at_past_end_is_invalid(tmp_path: Path, offset: int, length: int) -> None:
    reader = FileReader(write(tmp_path / "disk", b"0123456789"))
    with pytest.raises(InvalidImage, match="cut short"):
        reader.read_at(offset, length)
    reader.close()


def test_data_ranges_of_sparse_file(tmp_path: Path) -> None:
    path = tmp_path / "disk"
    with path.open("wb") as file:
        file.truncate(16 << 20)
        os.pwrite(file.fileno(), b"x" * 4096, 4 << 20)
        os.pwrite(file.fileno(), b"y" * 4096, 8 << 20)
    reader = FileReader(path)
    assert rows(reader.data_ranges(0, reader.size, 10)) == [(4 << 20, 4096), (8 << 20, 4096)]
    assert rows(reader.data_ranges(0, reader.size, 1)) == [(4 << 20, 4096)]
    assert rows(reader.data_ranges(0, 4096, 10)) == []
    reader.close()


def test_check_unchanged_notices_a_write(tmp_path: Path) -> None:
    path = write(tmp_path / "disk", b"x" * 4096)
    reader = FileReader(path)
    reader.check_unchanged()
    os.utime(path, ns=(1, 1))
    with pytest.raises(SourceUnavailable, match="has changed"):
        reader.check_unchanged()
    reader.close()


def test_read_at_of_shrunk_file_is_unavailable(tmp_path: Path) -> None:
    path = write(tmp_path / "disk", b"x" * 8192)
    reader = FileReader(path)
    os.truncate(path, 4096)
    with pytest.raises(SourceUnavailable, match="shorter"):
        reader.read_at(0, 8192)
    with pytest.raises(SourceUnavailable, match="shorter"):
        gather(reader, [0, 4096], 4096)
    reader.close()


def test_open_missing(tmp_path: Path) -> None:
    with pytest.raises(SourceUnavailable, match="does not exist") as error:
        FileReader(tmp_path / "none")
    assert str(tmp_path / "none") in one_line(error)


def test_open_below_a_file(tmp_path: Path) -> None:
    write(tmp_path / "file", b"x")
    with pytest.raises(SourceUnavailable, match="not a directory"):
        FileReader(tmp_path / "file" / "disk")


def test_open_name_with_newline_gives_one_line(tmp_path: Path) -> None:
    with pytest.raises(SourceUnavailable) as error:
        FileReader(tmp_path / "a\nb\x1b[2J")
    assert "\x1b" not in one_line(error)


def test_open_name_with_null_byte() -> None:
    with pytest.raises(SourceUnavailable, match="not a path"):
        FileReader("a\0b")


def test_open_forbidden(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "disk", b"x")

    def refuse(*_: object) -> int:
        raise PermissionError(errno.EACCES, "Permission denied")

    # Root may read everything, so the refusal is made here.
    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(SourceUnavailable, match="permission denied"):
        FileReader(path)


def test_open_directory(tmp_path: Path) -> None:
    with pytest.raises(SourceUnavailable, match="a directory"):
        FileReader(tmp_path)


def test_open_fifo_does_not_hang(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    with pytest.raises(SourceUnavailable, match="a FIFO"):
        FileReader(tmp_path / "fifo")


def test_open_fifo_that_appears_after_the_look_does_not_hang(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    os.mkfifo(tmp_path / "fifo")
    regular = os.stat(write(tmp_path / "disk", b"x"))
    monkeypatch.setattr(os, "stat", lambda *_: regular)
    with pytest.raises(SourceUnavailable, match="a FIFO"):
        FileReader(tmp_path / "fifo")


def test_open_character_device() -> None:
    with pytest.raises(SourceUnavailable, match="a character device"):
        FileReader("/dev/zero")


def test_open_socket(tmp_path: Path) -> None:
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(tmp_path / "socket"))
    with pytest.raises(SourceUnavailable, match="a socket"):
        FileReader(tmp_path / "socket")
    listener.close()


def test_open_failure_leaves_no_descriptor(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(5):
        with pytest.raises(SourceUnavailable):
            FileReader(tmp_path / "fifo")
    assert len(os.listdir("/proc/self/fd")) == before


def test_read_error_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reader = FileReader(write(tmp_path / "disk", b"x" * 100))

    def fail(*_: object) -> bytes:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(os, "pread", fail)
    monkeypatch.setattr(blockio, "data_ranges", fail)
    monkeypatch.setattr(blockio, "read_pieces", fail)
    for read in (
        lambda: reader.read_at(0, 100),
        lambda: reader.data_ranges(0, 100, 1),
        lambda: gather(reader, [0], 100),
    ):
        with pytest.raises(SourceUnavailable, match=r"EIO") as error:
            read()
        assert str(tmp_path / "disk") in one_line(error)
    reader.close()


def test_block_device_has_its_size(tmp_path: Path) -> None:
    """A loop device where one can be had; elsewhere a file stands in, whose size comes by the same seek."""
    path = write(tmp_path / "disk", os.urandom(1 << 20))
    made = subprocess.run(["losetup", "--find", "--show", "--read-only", path], capture_output=True, text=True)
    device = made.stdout.strip() if made.returncode == 0 else str(path)
    try:
        reader = FileReader(device)
        assert reader.size == 1 << 20
        assert reader.read_at(4096, 8192) == path.read_bytes()[4096 : 4096 + 8192]
        assert rows(reader.data_ranges(0, reader.size, 4)) == [(0, 1 << 20)]
        reader.check_unchanged()
        reader.close()
    finally:
        if made.returncode == 0:
            subprocess.run(["losetup", "--detach", device], check=True)


def test_threads_read_their_own_bytes(tmp_path: Path) -> None:
    content = os.urandom(1 << 20)
    reader = FileReader(write(tmp_path / "disk", content))
    wrong: list[int] = []

    def read(at: int) -> None:
        wrong.extend(
            offset
            for offset in range(at, 1 << 20, 4096)
            if reader.read_at(offset, 100) != content[offset : offset + 100]
        )

    threads = [threading.Thread(target=read, args=(at,)) for at in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    reader.close()


def test_gather_keeps_the_order_asked_for(tmp_path: Path) -> None:
    content = os.urandom(100_000)
    reader = FileReader(write(tmp_path / "disk", content))
    offsets = [50_000, 0, 99_488, 512, 512]
    assert gather(reader, offsets, 512) == b"".join(content[at : at + 512] for at in offsets)
    assert gather(reader, [], 512) == b""
    with pytest.raises(InvalidImage, match="cut short"):
        gather(reader, [99_489], 512)
    reader.close()


def test_blockio_writes_and_reads_ranges(tmp_path: Path) -> None:
    with (tmp_path / "file").open("w+b") as file:
        ranges = memoryview(array("q", (100, 3, 0, 200, 3, 3))).cast("B").cast("q", (2, 3))
        blockio.write_ranges(file.fileno(), ranges, b"abcdef")
        held = bytearray(6)
        blockio.read_ranges(file.fileno(), ranges, held)
        assert held == b"abcdef"
        assert os.pread(file.fileno(), 3, 200) == b"def"


def test_version_is_the_same_until_the_file_changes(tmp_path: Path) -> None:
    path = tmp_path / "disk"
    path.write_bytes(b"a" * 4096)

    def version() -> str | None:
        reader = FileReader(path)
        try:
            return reader.version()
        finally:
            reader.close()

    first, times = version(), path.stat()
    assert first is not None
    assert version() == first
    path.write_bytes(b"b" * 4096)
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))  # as if nothing had been
    assert version() != first
