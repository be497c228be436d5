"""Publication: how what an import has made becomes part of the store, in its last transaction or in some before it."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from pathlib import Path

from dataplane.store.lease import Lease
from dataplane.store.publish import publish
from dataplane.store.runs import write_runs
from dataplane.store.sql import SqlConnection
from dataplane.store.store import Store


class Publication:
    """Packs and runs of one import, on their way from its own folder into the ledger. Used by one thread at a time."""

    def __init__(self, store: Store, lease: Lease) -> None:
        self._store = store
        self._lease = lease
        self._packs: list[tuple[bytes, int]] = []  # in place, and named by no committed transaction as far as we know
        self._runs: list[tuple[bytes, int]] = []
        self.bytes_written = 0
        """What the store has grown by, once all is committed."""

    def publish(self, sealed: Sequence[tuple[bytes, Path]]) -> None:
        """Move sealed packs (name, path) and the runs that find their chunks into place.

        Raises NoSpace, IoFailed or Corrupt.
        """
        runs = list(write_runs(sealed, self._lease.path))
        self._packs += publish(self._store, list(sealed), runs)
        self._runs += [(name, entries) for name, _, entries in runs]
        layout = self._store.layout
        self.bytes_written += sum(layout.pack(name).stat().st_size for name, _ in sealed)
        self.bytes_written += sum(layout.run(name).stat().st_size for name, _, _ in runs)

    def name(self, connection: SqlConnection) -> None:
        """Name what is in place in the ledger, inside a transaction. Raises LeaseLost."""
        self._lease.check(connection)
        self._store.ledger.add_objects(connection, self._packs, self._runs)

    def settle(self) -> None:
        """Note that the transaction of ``name`` has been committed."""
        self._packs, self._runs = [], []

    def withdraw(self) -> None:
        """Remove the files that no committed row names.

        What the ledger says decides, not whether an error passed by: a commit may have gone through before it. And it
        is asked after one more durable commit: what a failed commit left in the log could come true after a crash until
        something is written over it. When the ledger does not answer the files stay, as garbage for collection.
        """
        if not self._packs and not self._runs:
            return
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
