"""Formats opened without the probe: an image checked, refused or damaged in one call."""

from __future__ import annotations

import os
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import strategies as st

from dataplane.byte_reader import ByteReader
from dataplane.errors import InvalidImage, SourceError, SourceUnavailable, Unsupported
from dataplane.extent import Extent
from dataplane.formats.raw import RawSource
from dataplane.image_source import ImageSource
from dataplane.ingest.importing import import_image
from dataplane.readers.file import FileReader
from dataplane.store.store import Store
from tests.formats.helpers import checked_content

MIB = 1 << 20

Opener = Callable[..., ImageSource]


class NoDescriptor(ByteReader):
    """A file seen as a URL is: native code cannot read it."""

    def __init__(self, path: Path) -> None:
        self._inner = FileReader(path)
        self.name, self.size = self._inner.name, self._inner.size

    def read_at(self, offset: int, length: int) -> bytes:
        return self._inner.read_at(offset, length)

    def close(self) -> None:
        self._inner.close()


def content_at(opener: Opener, path: Path, **options: Any) -> tuple[bytes, list[Extent]]:
    """Return the disk at ``path`` and its extents, after every promise was checked; read from a file and otherwise."""
    with opener(FileReader(path), **options) as source:
        content, extents = checked_content(source)
    with opener(NoDescriptor(path), **options) as source:
        assert checked_content(source)[0] == content
    return content, extents


def refused(opener: Opener, path: Path, kind: type[SourceError], words: str, **options: Any) -> None:
    """Assert that ``path`` is refused, in one line that names it, when it is opened or when its tables are read."""
    reader = FileReader(path)
    with pytest.raises(kind, match=words) as error:
        for _ in opener(reader, **options).extents():
            pass
    reader.close()
    text = str(error.value)
    assert path.name in text
    assert "\n" not in text
    assert text.isprintable()


def same_root(tmp_path: Path, opener: Opener, path: Path, raw: bytes, **options: Any) -> None:
    """Assert that an import of ``path`` gives the root that ``raw`` gives."""
    (tmp_path / "plain").write_bytes(raw)
    with Store.create(tmp_path / "store") as store:
        with opener(FileReader(path), **options) as source:
            told = import_image(store, source, name="image").root
        with RawSource(FileReader(tmp_path / "plain")) as source:
            assert import_image(store, source, name="raw").root == told


def sample_disk(size: int, seed: int = 1) -> bytes:
    """Return a disk of 9 MiB or more: data that packs, data that does not, and zeros, among them all of 2 to 6 MiB."""
    draw = random.Random(seed)
    disk = bytearray(size)
    for _ in range(20):
        length = draw.choice([512, 4096, 65536, 200 << 10])
        at = draw.randrange((size - length) // 512) * 512
        disk[at : at + length] = draw.randbytes(length) if draw.random() < 0.5 else b"text of a disk, " * (length // 16)
    disk[2 * MIB : 6 * MIB] = bytes(4 * MIB)
    disk[-512:] = b"the end." * 64
    return bytes(disk)


def damage(header: int, order: str = "little") -> st.SearchStrategy[tuple[list[tuple[int, bytes]], int]]:
    """Return a strategy for changes to a file, most of them in its first ``header`` bytes, and where it ends."""
    single = [(1 << bit).to_bytes(8, order) for bit in range(64)]  # type: ignore[arg-type]
    change = st.one_of(st.binary(min_size=1, max_size=8), st.sampled_from([*single, b"\xff" * 8, bytes(8)]))
    place = st.one_of(st.integers(0, header), st.integers(0, header), st.integers(0, 1 << 22))
    ends = st.one_of(st.just(1 << 30), st.just(1 << 30), st.integers(0, 1 << 22))
    return st.tuples(st.lists(st.tuples(place, change), min_size=1, max_size=4), ends)


def read_or_refused(
    opener: Opener, path: Path, base: bytes, damages: tuple[list[tuple[int, bytes]], int], **options: Any
) -> None:
    """Write ``base`` with ``damages``; any error but a refusal fails the test, and so does endless work."""
    file = bytearray(base)
    for at, change in damages[0]:
        at %= len(file)
        file[at : at + len(change)] = change
    with path.open("wb") as target:  # holes stay holes, so that a map of them is short
        for at in range(0, min(len(file), damages[1]), 65536):
            piece = file[at : min(at + 65536, damages[1])]
            if any(piece):
                os.pwrite(target.fileno(), piece, at)
        target.truncate(min(len(file), damages[1]))
    reader = FileReader(path)
    try:
        with opener(reader, **options) as source:
            position = rows = 0
            for batch in source.extents():
                flat = batch.cast("B").cast("q")
                assert flat[0] == position
                position = flat[len(flat) - 9] + flat[len(flat) - 8]
                rows += len(flat) // 9
                assert rows < 200_000
            assert position == source.virtual_size
    except (InvalidImage, Unsupported, SourceUnavailable):
        pass  # any other error fails the test
    finally:
        reader.close()
