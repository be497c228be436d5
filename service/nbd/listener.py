"""Serves disks over NBD in a thread of the server, behind the same certificate."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine
from typing import Any, TypeVar

from dataplane import NbdServer
from dataplane.errors import IoFailed
from service.config import Address
from service.log import get_logger
from service.nbd.exports import TokenExports
from service.nbd.holder import Holder
from service.nbd.open_disks import OpenDisks
from service.nbd.pool_keeper import PoolKeeper
from service.nbd.tokens import ExportTokens
from service.rest.renewed_context import RenewedContext
from service.telemetry.nbd_metrics import NbdMetrics
from service.transport import Transport

T = TypeVar("T")

START_TIMEOUT_S = 10.0
STOP_TIMEOUT_S = 30.0

log = get_logger(__name__)


class NbdListener:
    """An NBD server in an event loop of its own."""

    def __init__(
        self,
        listen: Address,
        tokens: ExportTokens,
        disks: OpenDisks,
        holder: Holder,
        keeper: PoolKeeper,
        transport: Transport,
        metrics: NbdMetrics,
    ) -> None:
        """Bind. Raises IoFailed when the address is taken."""
        self._disks = disks
        self._holder = holder
        self._keeper = keeper
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="nbd", daemon=True)
        self._thread.start()
        context = None if transport.plaintext else RenewedContext(transport)
        self.tls = context is not None
        self._server = NbdServer(TokenExports(tokens, disks), tls=context, report=_report, observer=metrics)
        try:
            addresses = self._run(self._server.listen_tcp(listen.host, listen.port), START_TIMEOUT_S)
        except IoFailed:
            self._end()
            raise
        self.bound = Address(listen.host, addresses[0][1])
        log.info("nbd served", address=str(self.bound))

    def stop(self) -> None:
        """Let requests under way end, disconnect everybody, and close the disks."""
        self._run(self._server.close(), STOP_TIMEOUT_S)
        self._run(self._loop.shutdown_default_executor(), STOP_TIMEOUT_S)
        self._holder.stop()
        self._keeper.stop()
        self._disks.close()
        self._end()

    def _run(self, work: Coroutine[Any, Any, T], timeout_s: float) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(timeout_s)

    def _end(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(STOP_TIMEOUT_S)
        self._loop.close()


def _report(message: str) -> None:
    log.warning("nbd request failed", reason=message)
