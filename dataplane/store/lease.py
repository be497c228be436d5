"""Leases: what keeps the collector away from a process at work, and a stalled process away from the ledger.

A lease is a row in the ledger and a locked folder under tmp/. The row holds the collector's epoch at which the work
began: what is condemned later is not deleted while such a row is there. The lock dies with the process, so a killed one
is noticed without a clock. A process that lives but stands still stops counting `beats`; the collector may then give
its row up, and the process finds that out when it tries to commit: a commit checks the row in its own transaction.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType

from dataplane.dataclass import dataclass
from dataplane.errors import DataplaneError, IoFailed, LeaseLost, NoSpace
from dataplane.hints import TYPE_CHECKING
from dataplane.store.layout import Layout, naming
from dataplane.store.ledger import Ledger
from dataplane.store.pins import LEASE_COLUMNS, row_sum
from dataplane.store.sql import SqlConnection
from dataplane.store.workspace import Workspace, is_abandoned

if TYPE_CHECKING:
    from typing import Self

BEAT_S = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class LeaseRow:
    """A lease as others see it. A reader's `root` (with its `domain`) is kept alive as if it were pinned."""

    id: str
    purpose: str
    root: bytes | None
    domain: str | None
    epoch: int
    beats: int


class Lease:
    """The right to rely on what the store holds. A context manager; leaving it gives the right back."""

    def __init__(
        self, layout: Layout, ledger: Ledger, purpose: str, *, root: bytes | None = None, domain: str | None = None
    ) -> None:
        """Take a lease for `purpose` (import, export, gc); raises NoSpace, IoFailed or StoreLocked."""
        self._ledger = ledger
        self._workspace = Workspace(layout)
        self.id = self._workspace.path.name
        self.path = self._workspace.path
        try:
            with ledger.transaction() as connection:
                epoch = ledger.epoch(connection)
                values = (self.id, purpose, root.hex() if root else None, domain, epoch, time.time_ns() // 1000)
                connection.execute(
                    f"INSERT INTO leases ({', '.join(LEASE_COLUMNS)}, row_sum, beats)"  # noqa: S608
                    " VALUES (?, ?, ?, ?, ?, ?, ?, 0)",
                    (*values, row_sum(values)),
                )
        except BaseException:
            self._workspace.close()
            raise
        self._row_removed = False
        self._released = threading.Event()
        self._heart = threading.Thread(target=self._beat, name=f"lease-{self.id}", daemon=True)
        self._heart.start()

    def check(self, connection: SqlConnection) -> None:
        """Raise LeaseLost unless the lease still holds, inside the transaction that relies on it."""
        with self._ledger.naming():
            held = connection.execute("SELECT 1 FROM leases WHERE id = ?", (self.id,)).fetchone()
        if held is None:
            raise LeaseLost(
                "this work stood still for so long that its lease was given up; nothing is lost: start it again"
            )

    def close(self) -> None:
        """Give the lease back and remove its folder; a second call does nothing."""
        if self._released.is_set():
            return
        self._released.set()
        self._heart.join()
        # When the row cannot be removed (a full disk) the lock's end says the same to the collector.
        with contextlib.suppress(DataplaneError):
            self.remove_row()
        self._workspace.close()

    def remove_row(self) -> None:
        """Take the lease out of the ledger, durably; raises NoSpace, IoFailed or StoreLocked."""
        if self._row_removed:
            return
        with self._ledger.transaction() as connection:
            connection.execute("DELETE FROM leases WHERE id = ?", (self.id,))
        self._row_removed = True

    def _beat(self) -> None:
        while not self._released.wait(BEAT_S):
            with contextlib.suppress(DataplaneError), self._ledger.transaction() as connection:
                connection.execute("UPDATE leases SET beats = beats + 1 WHERE id = ?", (self.id,))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


@contextmanager
def reading(layout: Layout, ledger: Ledger, purpose: str, root: bytes, domain: str) -> Iterator[None]:
    """Hold a reader's lease on an image; none where the store cannot be written, and so not be collected either."""
    try:
        lease = Lease(layout, ledger, purpose, root=root, domain=domain)
    except (IoFailed, NoSpace):
        yield
        return
    with lease:
        yield


def lease_rows(ledger: Ledger) -> list[LeaseRow]:
    """Return every lease there is."""
    rows = ledger.query("SELECT id, purpose, root, domain, epoch, beats FROM leases ORDER BY id")
    with ledger.parsing():
        return [
            LeaseRow(
                id=str(id),
                purpose=str(purpose),
                root=None if root is None else bytes.fromhex(str(root)),
                domain=None if domain is None else str(domain),
                epoch=int(str(epoch)),
                beats=int(str(beats)),
            )
            for id, purpose, root, domain, epoch, beats in rows
        ]


def drop_dead_leases(layout: Layout, ledger: Ledger) -> int:
    """Remove the rows of processes that are gone, as their locks tell; return how many."""
    with naming(layout.temporary, "looking for who is at work in"):
        dead = [row.id for row in lease_rows(ledger) if is_abandoned(layout.temporary / row.id)]
    if dead:
        give_up(ledger, dead)
    return len(dead)


def give_up(ledger: Ledger, ids: list[str]) -> None:
    """Remove leases: whoever held one can no longer commit."""
    with ledger.transaction() as connection:
        connection.executemany("DELETE FROM leases WHERE id = ?", [(id,) for id in ids])
