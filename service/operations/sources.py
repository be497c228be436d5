"""The URL of an import: opened by the worker, replaced by a fresh one, waited for when it has expired."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

from dataplane import ImageSource, open_source
from dataplane.errors import SourceError, SourceUnavailable
from service.catalog import operation_rows
from service.catalog.database import Database
from service.faults import LeaseLost
from service.log import get_logger
from service.model import Operation, now_us
from service.operations.opening import open_unless_cancelled
from service.redact import one_line
from service.rules import is_web_url
from service.sealing import Sealer

PARKED_S = 600.0
"""How long an import whose URL has expired waits for a fresh one before it fails."""

log = get_logger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class SourcePolicy:
    """Which URLs may be read. `allow` holds hosts that are allowed although their addresses are private."""

    allow: Sequence[str]
    allow_http: bool


class Sources:
    """Opens sources of operations, and remembers in the catalogue what they led to."""

    def __init__(self, database: Database, sealer: Sealer, policy: SourcePolicy) -> None:
        self._database = database
        self._sealer = sealer
        self._policy = policy

    def open(self, operation: Operation, cancelled: threading.Event) -> ImageSource:
        """Open the operation's source, a fresh one if there is one that leads to the same object.

        Raises SourceError, Cancelled, or LeaseLost when the operation was taken over.
        """
        if operation.fresh_source is not None:
            source, refusal = self._open_fresh(operation, operation.fresh_source, cancelled)
            if source is not None:
                self._note(operation, source, operation.fresh_source)
            self._judge(operation, operation.fresh_source, refusal)
            if source is not None:
                return source
        source = self._open(operation.source or b"", cancelled)
        self._note(operation, source, operation.source)
        return source

    def park(self, operation: Operation) -> bool:
        """Let an import whose URL has expired wait for a fresh one; False when it never led anywhere."""
        until_us = now_us() + int(PARKED_S * 1_000_000)
        with self._database.read() as tx:
            current = operation_rows.get(tx, operation.id)
        if current is None or current.source_version is None:
            return False
        return self._database.write(
            lambda tx: operation_rows.park(tx, operation.id, epoch=operation.epoch, now_us=now_us(), until_us=until_us)
        )

    def _open_fresh(
        self, operation: Operation, sealed: bytes, cancelled: threading.Event
    ) -> tuple[ImageSource | None, str]:
        """Return the source behind a fresh URL, or why it is not taken."""
        try:
            source = self._open(sealed, cancelled)
        except SourceError as error:
            return None, one_line(str(error))
        if operation.source_version in (None, version_of(source)):
            return source, ""
        source.close()
        return None, "it leads to an object of another length or ETag"

    def _open(self, sealed: bytes, cancelled: threading.Event) -> ImageSource:
        uri = self._sealer.unseal(sealed)
        if not is_web_url(uri):  # checked before; a path must never be opened whatever happens to the check
            raise SourceUnavailable("the source is not an http or https URL")
        allow, allow_http = self._policy.allow, self._policy.allow_http
        return open_unless_cancelled(partial(open_source, uri, allow_source=allow, allow_http=allow_http), cancelled)

    def _note(self, operation: Operation, source: ImageSource, sealed: bytes | None) -> None:
        version = version_of(source)
        noted = self._database.write(
            lambda tx: operation_rows.note_source(
                tx, operation.id, epoch=operation.epoch, version=version, source=sealed
            )
        )
        if not noted:
            source.close()
            raise LeaseLost(f"operation {operation.id} was taken over")

    def _judge(self, operation: Operation, seen: bytes, refusal: str) -> None:
        self._database.write(
            lambda tx: operation_rows.judge_fresh_source(
                tx, operation.id, epoch=operation.epoch, seen=seen, refusal=refusal
            )
        )
        log.info("fresh URL judged", operation_id=operation.id, taken=not refusal, reason=refusal)


def version_of(source: ImageSource) -> str:
    """Return what tells a source from another version of it: the lengths and validators of what it is read from."""
    return "; ".join(f"{reader.size} {reader.validator}"[:400] for reader in source.readers)[:1000]
