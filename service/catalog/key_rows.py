"""Statements over the table of idempotency keys; a row lives as long as the operation it names."""

from __future__ import annotations

from dataclasses import dataclass

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from service.catalog.schema import request_keys


@dataclass(frozen=True, slots=True, kw_only=True)
class KnownRequest:
    """A request that has been answered with an operation; `mark` tells it from others."""

    mark: bytes
    operation_id: str


def get(tx: Connection, *, subject_id: str, method: str, key: str) -> KnownRequest | None:
    """Return what came of the first request of this caller and method under this key, or None."""
    wanted = sa.select(request_keys.c.mark, request_keys.c.operation_id).where(
        request_keys.c.subject_id == subject_id, request_keys.c.method == method, request_keys.c.key == key
    )
    row = tx.execute(wanted).first()
    return KnownRequest(mark=bytes(row[0]), operation_id=row[1]) if row is not None else None


def insert(tx: Connection, *, subject_id: str, method: str, key: str, mark: bytes, operation_id: str) -> None:
    """Remember a request; the primary key refuses a second one under the same key."""
    tx.execute(
        sa.insert(request_keys).values(
            subject_id=subject_id, method=method, key=key, mark=mark, operation_id=operation_id
        )
    )
