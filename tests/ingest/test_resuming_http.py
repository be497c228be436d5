"""kill -9 of imports over HTTP: a restart fetches only what no checkpoint has, and the image is the same."""

from __future__ import annotations

import contextlib
import json
import random
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from dataplane.extent import ExtentKind, unpack_batch
from dataplane.formats.probe import open_source
from dataplane.ingest.accounting import Sizes
from dataplane.ingest.exporting import export_image
from dataplane.ingest.importing import import_image
from dataplane.limits import KIB, MIB
from dataplane.readers.http import HEAD_SIZE
from dataplane.store.checkpoints import Checkpoint, checkpoints
from dataplane.store.store import Store
from dataplane.upkeep.gc import collect
from dataplane.upkeep.scrub import scrub
from tests.disks import convert, disk_bytes, write_sparse
from tests.readers.http_server import Handler, Server, serving

INTERVAL_SIZE = MIB
AHEAD_SIZE = 12 * MIB
"""Bytes fetched and not yet worked on."""

MAPS_SIZE = 512 * KIB
"""More than all tables of the images, which are read by pieces of their own."""

# The command, with checkpoints as often as a short test needs them, and patience with a server that waits for them.
CHILD = f"""
import sys
from dataplane.ingest import checkpointing, prefetch
checkpointing.INTERVAL_SIZE, checkpointing.INTERVAL_MIN_S, checkpointing.SHARE = {INTERVAL_SIZE}, 0.0, 0.0
prefetch.MEMORY_MAX = {AHEAD_SIZE}
from dataplane.formats.probe import open_source
from dataplane.readers import http_deadline, http_place
http_deadline.STALL_MAX_S = http_place.STALL_MAX_S = open_source.__kwdefaults__["timeout_s"] = 300.0
from dataplane.cli.main import main
sys.exit(main(sys.argv[1:]))
"""


class Killing:
    """Lets a process go on until it has a checkpoint, and kills it some requests later.

    Requests wait from the moment when `gate` bytes have been asked for. `sent` counts what the process asks for.
    """

    def __init__(self, store: Path) -> None:
        self.store = store
        self.begin(None, 0)

    def begin(self, gate: int | None, requests_more: int) -> None:
        """Be ready for another process; without a gate it is not killed."""
        self.sent = 0
        self.gate = gate
        self.requests_more = requests_more
        self.child: subprocess.Popen[str] | None = None
        self.at_begin = positions(self.store)

    def __call__(self, handler: Handler) -> bool:
        child = self.child  # a thread may be here still for a process that is gone when the next one begins
        first, last = handler.range()
        self.sent += last + 1 - first
        if self.gate is not None and self.sent > self.gate and child is not None:
            while positions(self.store) == self.at_begin and child.poll() is None:
                time.sleep(0.01)
            self.requests_more -= 1
            if self.requests_more < 0:
                child.kill()
        return False


def positions(store: Path) -> list[int]:
    """Return where the checkpoints of a store are."""
    with contextlib.closing(sqlite3.connect(store / "ledger.sqlite3", timeout=30)) as connection:
        return [position for (position,) in connection.execute("SELECT position FROM checkpoints")]


class Imports:
    """Imports of one URL by processes of their own."""

    def __init__(self, store: Path, killing: Killing, server: Server) -> None:
        self.store = store
        self.killing = killing
        self.server = server

    def run(
        self, gate: int | None = None, requests_more: int = 0, query: str = "X-Amz-Signature=s3cret"
    ) -> dict[str, object] | None:
        """Import; return the result, or None when it was killed. `sent` is then what this import has asked for."""
        url = self.server.url.partition("?")[0] + "?" + query
        command = ["import", str(self.store), url, "--name", "disk", "--allow-source", "127.0.0.1", "--json"]
        self.killing.begin(gate, requests_more)
        child = subprocess.Popen(
            [sys.executable, "-c", CHILD, *command, "--progress", "none", "--threads", "2"],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.killing.child = child
        out, err = child.communicate(timeout=300)
        assert child.returncode in ((0,) if gate is None else (0, -9)), err
        return dict(json.loads(out)) if child.returncode == 0 else None

    @property
    def sent(self) -> int:
        return self.killing.sent

    def killed(self, gate: int, requests_more: int = 0) -> Checkpoint:
        """Kill an import that has a checkpoint, which is returned."""
        assert self.run(gate, requests_more) is None
        with Store.open(self.store) as store:
            (found,) = checkpoints(store.ledger)
        assert found.position > 0
        return found


@dataclass(frozen=True)
class Expected:
    """An image, and what an import that nobody interrupts finds in it."""

    path: Path
    disk: bytes
    sizes: Sizes

    def data_before(self, position: int) -> int:
        """Return how many bytes of the file are data of the disk before `position`."""
        with open_source(self.path) as source:
            extents = [extent for batch in source.extents() for extent in unpack_batch(batch)]
        data = [extent for extent in extents if extent.kind == ExtentKind.DATA]
        return sum(max(0, min(extent.offset + extent.length, position) - extent.offset) for extent in data)


SIZES = ("virtual_size", "data_size", "storage_size", "allocated_size", "chunks", "distinct_chunks")


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Expected]:
    """A disk with data that does not compress, holes, and chunks that come again, as raw and as qcow2."""
    folder = tmp_path_factory.mktemp("images")
    block, noise = disk_bytes(5 * MIB, seed=3), random.Random(1).randbytes(30 * MIB + 5 * KIB)
    disk = block + noise[: 20 * MIB] + bytes(9 * MIB) + block + noise[20 * MIB :]
    raw = write_sparse(folder / "disk.raw", disk)
    with Store.create(folder / "store") as store, open_source(raw) as source:
        sizes = import_image(store, source, name="disk").sizes
    qcow2 = convert(raw, folder / "disk.qcow2", "-O", "qcow2")
    return {path.suffix[1:]: Expected(path, disk, sizes) for path in (raw, qcow2)}


@contextmanager
def importing(expected: Expected, folder: Path) -> Iterator[Imports]:
    """Serve an image, to be imported into a new store."""
    Store.create(folder / "store").close()
    killing = Killing(folder / "store")
    with serving(expected.path.read_bytes(), killing) as server:
        yield Imports(folder / "store", killing, server)


def assert_same(imports: Imports, expected: Expected, result: dict[str, object] | None, folder: Path) -> None:
    """The image is what an uninterrupted import gives, to the byte and in every size, and every chunk verifies."""
    assert result is not None
    assert {name: result[name] for name in SIZES} == {name: getattr(expected.sizes, name) for name in SIZES}
    with Store.open(imports.store) as store:
        export_image(store, "disk", folder / "out")
        assert scrub(store).damage == []
    assert (folder / "out").read_bytes() == expected.disk[: expected.sizes.virtual_size]


@pytest.mark.parametrize("seed", [1, 2])
@pytest.mark.parametrize("kind", ["raw", "qcow2"])
def test_restart_after_kills_fetches_only_what_was_not_stored(
    images: dict[str, Expected], tmp_path: Path, kind: str, seed: int
) -> None:
    rng, expected = random.Random(seed), images[kind]
    with importing(expected, tmp_path) as imports:
        position = imports.killed(rng.randrange(14 * MIB, 22 * MIB), rng.randrange(3)).position
        if imports.run(rng.randrange(14 * MIB, 18 * MIB), rng.randrange(3)) is None:  # killed once more
            (further,) = positions(imports.store)
            assert further >= position
            position = further
        else:
            raise AssertionError("the second import was to be killed too")
        result = imports.run()
        left = expected.path.stat().st_size - expected.data_before(position)
        assert imports.sent <= left + HEAD_SIZE + MAPS_SIZE
        assert positions(imports.store) == []
        assert_same(imports, expected, result, tmp_path)


def test_fresh_signature_for_an_expired_one_goes_on(images: dict[str, Expected], tmp_path: Path) -> None:
    expected = images["raw"]
    with importing(expected, tmp_path) as imports:
        position = imports.killed(16 * MIB).position
        for path in imports.store.rglob("ledger*"):
            assert b"s3cret" not in path.read_bytes()
            assert b"disk.img" not in path.read_bytes()  # nor any other part of the URL
        result = imports.run(query="X-Amz-Signature=another&X-Amz-Expires=60")
        assert imports.sent <= len(expected.disk) - position + HEAD_SIZE + MAPS_SIZE
        assert_same(imports, expected, result, tmp_path)


def test_collection_between_kill_and_restart_keeps_the_checkpoint(images: dict[str, Expected], tmp_path: Path) -> None:
    expected = images["qcow2"]
    with importing(expected, tmp_path) as imports:
        before = imports.killed(16 * MIB)
        with Store.open(imports.store) as store:
            collect(store, grace_s=0)
            collect(store, grace_s=0)
            assert checkpoints(store.ledger) == [before]
        result = imports.run()
        left = expected.path.stat().st_size - expected.data_before(before.position)
        assert imports.sent <= left + HEAD_SIZE + MAPS_SIZE
        assert_same(imports, expected, result, tmp_path)


@pytest.mark.parametrize("change", ["etag", "content", "query", "weak"])
def test_other_version_or_object_starts_anew(images: dict[str, Expected], tmp_path: Path, change: str) -> None:
    expected, query = images["raw"], "X-Amz-Signature=s3cret"
    with importing(expected, tmp_path) as imports:
        imports.killed(16 * MIB)
        if change == "etag":
            imports.server.etag = '"version-2"'
        elif change == "weak":
            imports.server.etag, imports.server.modified = 'W/"version-1"', None
        elif change == "query":
            query = "object=2"  # nothing says that this is a signature
        else:  # though the server claims that it is the same
            imports.server.content = b"!" + imports.server.content[1:]
            expected = replace(expected, disk=b"!" + expected.disk[1:])
        result = imports.run(query=query)
        assert imports.sent >= expected.sizes.data_size
        assert len(positions(imports.store)) == 1  # of what it could not go on from
        if change == "content":  # its first chunk is another one
            assert result is not None
            result.update({name: getattr(expected.sizes, name) for name in ("storage_size", "distinct_chunks")})
        assert_same(imports, expected, result, tmp_path)
