"""Finds the disk that an NBD client names, if its token lets it."""

from __future__ import annotations

import asyncio

from dataplane import Export
from dataplane.errors import DataplaneError
from service.log import get_logger
from service.nbd.open_disks import OpenDisks
from service.nbd.tokens import ExportTokens

log = get_logger(__name__)


class TokenExports:
    """Exports by the names that were given to callers; nobody can list them."""

    def __init__(self, tokens: ExportTokens, disks: OpenDisks) -> None:
        self._tokens = tokens
        self._disks = disks

    async def find(self, name: str) -> Export | None:
        """Return the export of a disk; None for a name that lets nobody in, or a disk that cannot be served now."""
        access = self._tokens.read(name)
        if access is None:
            return None
        loop = asyncio.get_running_loop()
        try:
            device = await loop.run_in_executor(None, self._disks.take, access.disk_id)
        except DataplaneError as error:
            log.warning("disk not exported", resource_id=access.disk_id, reason=str(error))
            return None
        return Export(
            name=access.disk_id,
            device=device,
            read_only=access.read_only,
            closed=lambda: _give_back(loop, self._disks, access.disk_id),
        )

    def names(self) -> list[str]:
        """Return nothing."""
        return []


def _give_back(loop: asyncio.AbstractEventLoop, disks: OpenDisks, disk_id: str) -> None:
    """Let go of a disk without waiting: the last one to do so flushes it."""
    loop.run_in_executor(None, disks.give_back, disk_id)
