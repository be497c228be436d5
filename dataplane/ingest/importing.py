"""Importing: a source becomes an image of a store, in steps whose order makes a crash harmless.

1. Packs, then runs, are written and made durable in the writer's own folder, and moved into place.
2. One ledger transaction names them and pins the root. A crash before it leaves files that no one refers to; after it
   the image is whole.
"""

from __future__ import annotations

import contextlib
import threading
import time
from dataclasses import dataclass
from types import TracebackType
from typing import Any

from dataplane.errors import AlreadyExists, UsageError
from dataplane.image_source import ImageSource
from dataplane.ingest.accounting import Sizes
from dataplane.ingest.crew import thread_count
from dataplane.ingest.pipeline import Pipeline
from dataplane.ingest.progress import Progress
from dataplane.limits import NAME_LENGTH_MAX
from dataplane.store.lease import Lease
from dataplane.store.live_index import LiveIndex
from dataplane.store.pack import PackSet
from dataplane.store.pins import Pin
from dataplane.store.publish import publish
from dataplane.store.runs import write_runs
from dataplane.store.store import Store
from dataplane.store.tidying import tidy


@dataclass(frozen=True, slots=True, kw_only=True)
class ImportResult:
    """What an import found and did. `bytes_read` counts source bytes, `bytes_written` what the store grew by."""

    name: str
    root: bytes
    format: str
    sizes: Sizes
    seconds: float
    bytes_read: int
    bytes_written: int


class StoreSink:
    """The sink that adds to a store: known chunks are found in its index, new ones go to packs."""

    keeps_manifest = True

    def __init__(self, index: LiveIndex, packs: PackSet) -> None:
        self._index = index
        self._packs = packs

    def mark_stored(self, ids: memoryview, states: memoryview) -> tuple[int, int]:
        """Find chunks that the store holds."""
        return self._index.mark_stored(ids, states)

    def append(self, ids: memoryview, stored_lengths: memoryview, plain_length: int, encoded: memoryview) -> None:
        """Append new chunks to the packs of this import."""
        self._packs.append(ids, stored_lengths, plain_length, encoded)


class PreparedImport:
    """An import whose chunks are durable and which only lacks its ledger rows.

    A context manager: leaving it removes the files that no committed row names, so that a failed or rolled-back ``pin``
    leaves the store as it was.
    """

    def __init__(
        self,
        store: Store,
        lease: Lease,
        *,
        root: bytes,
        domain: str,
        source_format: str,
        sizes: Sizes,
        progress: Progress,
        started: float,
        packs: list[tuple[bytes, int]],
        runs: list[tuple[bytes, int]],
    ) -> None:
        self._store = store
        self._lease = lease
        self._domain = domain
        self._packs = packs
        self._runs = runs
        self._progress = progress
        self._started = started
        self.root = root
        self.format = source_format
        self.sizes = sizes
        self.bytes_read = progress.read_bytes
        layout = store.layout
        self.bytes_written = sum(size for _, size in packs) + sum(layout.run(n).stat().st_size for n, _ in runs)

    @property
    def seconds(self) -> float:
        """Seconds since the import began."""
        return time.monotonic() - self._started

    def pin(self, name: str, *, connection: Any = None) -> None:
        """Name the packs, runs and root in the ledger and pin the root for `name`; raises AlreadyExists.

        With `connection`, a driver's connection to the ledger's database whose transaction is open, all this happens
        when the caller commits.
        """
        ledger = self._store.ledger
        self._progress.stage = "committing"
        with ledger.transaction(connection) as transaction:
            self._lease.check(transaction)
            ledger.add_objects(transaction, self._packs, self._runs)
            ledger.add_pin(transaction, self._pin(name))
        self._progress.stage = "done"

    def _pin(self, name: str) -> Pin:
        return Pin(
            name=name,
            root=self.root,
            domain=self._domain,
            format=self.format,
            virtual_size=self.sizes.virtual_size,
            data_size=self.sizes.data_size,
            storage_size=self.sizes.storage_size,
            allocated_size=self.sizes.allocated_size,
            chunks=self.sizes.chunks,
            distinct_chunks=self.sizes.distinct_chunks,
            created_at=time.time_ns() // 1000,
        )

    def __enter__(self) -> PreparedImport:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # What the ledger says decides, not whether an error passed by: a commit may have gone through before it. And it
        # is asked after one more durable commit: what a failed commit left in the log could come true after a crash
        # until something is written over it. When the ledger does not answer the files stay, as garbage for collection.
        layout, ledger = self._store.layout, self._store.ledger
        with contextlib.suppress(Exception):
            self._lease.remove_row()
            live_packs, live_runs = ledger.packs(), set(ledger.runs())
            for name, _ in self._runs:
                if name not in live_runs:
                    layout.run(name).unlink(missing_ok=True)
            for name, _ in self._packs:
                if name not in live_packs:
                    layout.pack(name).unlink(missing_ok=True)
        self._lease.close()
        if error is None:
            tidy(self._store)


def prepare_import(
    store: Store,
    source: ImageSource,
    *,
    domain: str = "",
    threads: int | None = None,
    progress: Progress | None = None,
    cancelled: threading.Event | None = None,
) -> PreparedImport:
    """Move everything of `source` that the store lacks into packs, durably, and return what is left to pin.

    `threads` is how many work at once (default: one a core). `cancelled` is looked at once a window. Raises Cancelled,
    SourceError, NoSpace, IoFailed or Corrupt, and leaves nothing behind then.
    """
    progress = progress if progress is not None else Progress()
    started = time.monotonic()
    key = store.domain_key(domain)
    lease = store.lease("import")
    try:
        packs = PackSet(lease.path, key)
        try:
            pipeline = Pipeline(
                source,
                StoreSink(LiveIndex(store), packs),
                key=key,
                domain=domain,
                chunk_size=store.chunk_size,
                codec=store.codec,
                threads=thread_count(threads),
                progress=progress,
                cancelled=cancelled,
            )
            root, sizes = pipeline.run()
            del pipeline  # the table of digests goes before the runs are sorted
            progress.stage = "committing"
            sealed = packs.finish()
        except BaseException:
            packs.abandon()
            raise
        runs = list(write_runs(sealed, lease.path))
        published = publish(store, sealed, runs)
        return PreparedImport(
            store, lease, root=root, domain=domain, source_format=source.format, sizes=sizes, progress=progress,
            started=started, packs=published, runs=[(name, entries) for name, _, entries in runs],
        )  # fmt: skip
    except BaseException:
        lease.close()
        raise


def check_name(name: str) -> None:
    """Raise UsageError unless `name` can name an image: 1 to 255 characters, none of them a control character."""
    if not 1 <= len(name) <= NAME_LENGTH_MAX or any(ord(char) < 32 or ord(char) == 127 for char in name):
        raise UsageError(f"{name[:40]!r} cannot name an image: use 1 to {NAME_LENGTH_MAX} printable characters")


def import_image(
    store: Store,
    source: ImageSource,
    *,
    name: str,
    domain: str = "",
    threads: int | None = None,
    progress: Progress | None = None,
    cancelled: threading.Event | None = None,
) -> ImportResult:
    """Import `source` as image `name`; raises AlreadyExists, UsageError, and what ``prepare_import`` raises."""
    check_name(name)
    if store.ledger.has_pin(name):
        raise AlreadyExists(f"an image named {name!r} is already in the store: choose another name")
    with prepare_import(
        store, source, domain=domain, threads=threads, progress=progress, cancelled=cancelled
    ) as prepared:
        prepared.pin(name)
        return ImportResult(
            name=name,
            root=prepared.root,
            format=prepared.format,
            sizes=prepared.sizes,
            seconds=prepared.seconds,
            bytes_read=prepared.bytes_read,
            bytes_written=prepared.bytes_written,
        )
