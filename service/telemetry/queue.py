"""How long the queue is: one statement over the operations that are not done."""

from __future__ import annotations

import sqlalchemy as sa

from service.catalog.database import Database
from service.catalog.schema import operations
from service.model import now_us
from service.telemetry.metrics import QueueFigures


def figures(database: Database) -> QueueFigures:
    """Return the queue as it is now."""
    time_us = now_us()
    waits = operations.c.lease_until_us < time_us
    wanted = sa.select(
        sa.func.count(),
        sa.func.sum(sa.case((waits, 1), else_=0)),
        sa.func.min(sa.case((waits, operations.c.created_at_us), else_=None)),
    ).where(operations.c.done.is_(sa.false()))
    with database.read() as tx:
        total, waiting, oldest_us = tx.execute(wanted).one()
    waiting = int(waiting or 0)
    oldest_s = max(0.0, (time_us - oldest_us) / 1e6) if oldest_us is not None else 0.0
    return QueueFigures(waiting=waiting, running=int(total) - waiting, oldest_s=oldest_s)
