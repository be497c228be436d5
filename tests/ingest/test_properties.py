"""Whatever is imported comes back, in any mix of data, whatever the store's profile."""

from __future__ import annotations

import random
import tempfile
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from dataplane.formats.probe import open_source
from dataplane.ingest.exporting import export_image, export_stream
from dataplane.ingest.importing import import_image
from dataplane.store.statistics import image_sizes, store_sizes
from dataplane.store.store import Store
from tests.disks import KIB, MIB, write_sparse
from tests.ingest.test_importing import recount

PIECES = st.lists(
    st.tuples(st.sampled_from(["zero", "random", "text", "one"]), st.integers(0, 3), st.integers(1, 300 * KIB)),
    min_size=1,
    max_size=8,
)


def assemble(pieces: list[tuple[str, int, int]]) -> bytes:
    """Return a disk of whole sectors made of `pieces`: equal seeds repeat content."""
    parts = []
    for kind, seed, length in pieces:
        if kind == "zero":
            parts.append(bytes(length))
        elif kind == "one":
            parts.append(bytes(length - 1) + b"\x01")
        else:
            data = random.Random(seed).randbytes(length if kind == "random" else 16)
            parts.append(data if kind == "random" else (data.hex().encode() * (length // 32 + 1))[:length])
    disk = b"".join(parts)
    return disk + bytes(-len(disk) % 512)


@settings(max_examples=25)
@given(
    disks=st.lists(PIECES, min_size=1, max_size=3),
    chunk_size=st.sampled_from([4 * KIB, 64 * KIB, MIB]),
    codec=st.sampled_from(["none", "zstd:1", "zstd:-5"]),
    threads=st.integers(1, 3),
)
def test_import_and_export_round_trip(
    disks: list[list[tuple[str, int, int]]], chunk_size: int, codec: str, threads: int
) -> None:
    with (
        tempfile.TemporaryDirectory() as name,
        Store.create(Path(name) / "store", chunk_size=chunk_size, codec=codec) as store,
    ):
        folder = Path(name)
        contents = {f"disk-{number}": assemble(pieces) for number, pieces in enumerate(disks)}
        for image, data in contents.items():
            with open_source(write_sparse(folder / image, data), format="raw") as source:
                sizes = import_image(store, source, name=image, threads=threads).sizes
            expected = recount(data, store)
            assert {field: getattr(sizes, field) for field in expected} == expected
        for image, data in contents.items():
            export_image(store, image, folder / "out", force=True, threads=threads)
            assert (folder / "out").read_bytes() == data
            with open(folder / "stream", "wb") as stream:
                export_stream(store, image, stream)
            assert (folder / "stream").read_bytes() == data
        freed = image_sizes(store, "disk-0").unique_size
        before = store_sizes(store).live_size
        store.unpin("disk-0")
        assert before - store_sizes(store).live_size == freed
