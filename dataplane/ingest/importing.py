"""Importing: a source becomes an image of a store, in steps whose order makes a crash harmless.

1. Packs, then runs, are written and made durable in the writer's own folder, and moved into place.
2. One ledger transaction names them and pins the root. A crash before it leaves files that no one refers to; after it
   the image is whole.

Of a source that would be known again both also happen on the way, with a checkpoint in the place of the pin.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable
from types import TracebackType

from dataplane.dataclass import dataclass
from dataplane.errors import AlreadyExists, Cancelled, UsageError
from dataplane.hints import TYPE_CHECKING
from dataplane.image_source import ImageSource
from dataplane.ingest.accounting import Sizes
from dataplane.ingest.checkpointing import MAY_PASS, Checkpointing, leave, take_over
from dataplane.ingest.crew import thread_count
from dataplane.ingest.done import Done
from dataplane.ingest.pipeline import Pipeline
from dataplane.ingest.progress import Progress
from dataplane.ingest.publication import Publication
from dataplane.ingest.source_version import source_version
from dataplane.limits import NAME_LENGTH_MAX
from dataplane.store.checkpoints import Checkpoint, drop_checkpoint
from dataplane.store.lease import Lease
from dataplane.store.live_index import LiveIndex
from dataplane.store.pack import PackSet
from dataplane.store.pins import Pin
from dataplane.store.sql import SqlConnection
from dataplane.store.store import Store
from dataplane.store.tidying import tidy

if TYPE_CHECKING:
    from typing import Any


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
        publication: Publication,
        *,
        root: bytes,
        domain: str,
        source_format: str,
        sizes: Sizes,
        progress: Progress,
        started: float,
    ) -> None:
        self._store = store
        self._lease = lease
        self._domain = domain
        self._publication = publication
        self._progress = progress
        self._started = started
        self.root = root
        self.format = source_format
        self.sizes = sizes
        self.bytes_read = progress.read_bytes
        self.bytes_written = publication.bytes_written

    @property
    def seconds(self) -> float:
        """Seconds since the import began."""
        return time.monotonic() - self._started

    def pin(self, name: str, *, connection: Any = None) -> None:
        """Name the packs, runs and root in the ledger and pin the root for `name`; raises AlreadyExists.

        With `connection`, a driver's connection to the ledger's database whose transaction is open, all this happens
        when the caller commits.
        """
        self._progress.stage = "committing"
        with self._store.ledger.transaction(connection) as transaction:
            self.pin_within(transaction, name)
        self._progress.stage = "done"

    def pin_within(self, transaction: SqlConnection, name: str) -> None:
        """Do what ``pin`` does inside a transaction of the ledger that is open already."""
        self._publication.name(transaction)
        self._store.ledger.add_pin(transaction, self._pin(name))
        drop_checkpoint(transaction, self._lease.id)

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
        self._publication.withdraw()
        leave(self._store, self._lease, kept=isinstance(error, MAY_PASS))
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
    owner: str = "",
    resumes: Callable[[], bool] = lambda: False,
) -> PreparedImport:
    """Move everything of `source` that the store lacks into packs, durably, and return what is left to pin.

    `threads` is how many work at once (default: one a core). `cancelled` is looked at once a window. Raises Cancelled,
    SourceError, NoSpace, IoFailed or Corrupt, and leaves no files behind then.

    A source that would be known again is imported with checkpoints, and from the furthest one that the store has of it.
    A killed process leaves its checkpoint, and so does a failure that may pass; every other failure removes it.
    `resumes` is asked when the work was cancelled: True keeps the checkpoint for whoever goes on. `owner` is what
    ``Store.forget_checkpoints`` finds it by.
    """
    progress = progress if progress is not None else Progress()
    key = store.domain_key(domain)
    lease = store.lease("import")
    publication = Publication(store, lease)
    work = _Import(store, source, lease, publication, key, domain, owner, progress)
    try:
        return work.run(thread_count(threads), cancelled)
    except BaseException as error:
        publication.withdraw()
        leave(store, lease, kept=isinstance(error, MAY_PASS) or (isinstance(error, Cancelled) and resumes()))
        lease.close()
        raise


class _Import:
    """One import at work, under a lease that its caller gives back."""

    def __init__(
        self,
        store: Store,
        source: ImageSource,
        lease: Lease,
        publication: Publication,
        key: bytes,
        domain: str,
        owner: str,
        progress: Progress,
    ) -> None:
        self._store = store
        self._source = source
        self._lease = lease
        self._publication = publication
        self._domain = domain
        self._owner = owner
        self._progress = progress
        self._key = key

    def run(self, threads: int, cancelled: threading.Event | None) -> PreparedImport:
        """Do everything but the pin."""
        started = time.monotonic()
        store, lease = self._store, self._lease
        version = source_version(self._source, self._key)
        done = Done()
        if version is not None:
            done = take_over(
                store, lease, owner=self._owner, source=version, domain=self._domain,
                virtual_size=self._source.virtual_size,
            )  # fmt: skip
        packs = PackSet(lease.path, self._key)
        checkpointing = None if version is None else self._checkpointing(packs, version)
        try:
            root, sizes = self._pipeline(packs, done, checkpointing, threads, cancelled)
            del done  # the table of digests goes before the runs are sorted
            self._progress.stage = "committing"
            if checkpointing is not None:
                checkpointing.finish()
            sealed = packs.finish()
        except BaseException:
            packs.abandon()
            if checkpointing is not None:
                with contextlib.suppress(Exception):  # what ended the import is what counts
                    checkpointing.finish()
            raise
        self._publication.publish(sealed)
        return PreparedImport(
            store, lease, self._publication, root=root, domain=self._domain, source_format=self._source.format,
            sizes=sizes, progress=self._progress, started=started,
        )  # fmt: skip

    def _checkpointing(self, packs: PackSet, version: bytes) -> Checkpointing:
        return Checkpointing(
            self._store,
            self._lease,
            packs,
            self._publication,
            Checkpoint(
                lease=self._lease.id, owner=self._owner, source=version, domain=self._domain, root=b"", position=0,
                saved_at=0,
            ),
            self._progress,
        )  # fmt: skip

    def _pipeline(
        self,
        packs: PackSet,
        done: Done,
        keeper: Checkpointing | None,
        threads: int,
        cancelled: threading.Event | None,
    ) -> tuple[bytes, Sizes]:
        store = self._store
        return Pipeline(
            self._source,
            StoreSink(LiveIndex(store), packs),
            key=self._key,
            domain=self._domain,
            chunk_size=store.chunk_size,
            codec=store.codec,
            threads=threads,
            progress=self._progress,
            cancelled=cancelled,
            done=done,
            keeper=keeper,
        ).run()


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
