"""Runs the ASGI application in a thread of the server, behind the same certificate."""

from __future__ import annotations

import socket
import tempfile
import threading
from pathlib import Path

import grpc
import uvicorn

from dataplane.errors import IoFailed
from service.config import Address
from service.log import get_logger
from service.registration import FILES
from service.rest.application import application
from service.rest.http_rules import Routes
from service.rest.renewed_context import RenewedContext
from service.transport import Transport

CONCURRENCY_MAX = 512
START_TIMEOUT_S = 10.0
DRAIN_S = 3

log = get_logger(__name__)


class RestListener:
    """An HTTP listener whose calls go to `server` over a socket that only this user can reach."""

    def __init__(self, listen: Address, server: grpc.Server, transport: Transport) -> None:
        """Bind. Raises IoFailed when the address is taken. Call it before `server` starts."""
        self._transport = transport
        self._folder = tempfile.TemporaryDirectory(prefix="dataplane-")  # mode 0700
        inside = f"unix:{Path(self._folder.name) / 'calls'}"
        server.add_insecure_port(inside)
        self._channel = grpc.insecure_channel(inside, options=[("grpc.enable_http_proxy", 0)])
        self._socket = _bound(listen)
        self.bound = Address(listen.host, self._socket.getsockname()[1])
        self._server = uvicorn.Server(self._config())
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._server.run, args=([self._socket],), name="rest", daemon=True)

    def start(self) -> None:
        """Serve. Raises IoFailed when that does not begin."""
        self._thread.start()
        for _ in range(int(START_TIMEOUT_S / 0.02)):
            if self._server.started:
                log.info("rest served", address=str(self.bound))
                return
            if self._stopping.wait(0.02) or not self._thread.is_alive():
                break
        raise IoFailed(f"the REST listener on {self.bound} does not start")

    def stop(self) -> None:
        """Let calls end, for 3 seconds at most, and close."""
        self._stopping.set()
        self._server.should_exit = True
        if self._thread.ident is not None:
            self._thread.join(DRAIN_S + 5)
        self._channel.close()
        self._socket.close()
        self._folder.cleanup()

    def _config(self) -> uvicorn.Config:
        config = uvicorn.Config(
            application(Routes(FILES), self._channel),
            log_config=None,
            access_log=False,
            server_header=False,
            lifespan="off",
            limit_concurrency=CONCURRENCY_MAX,
            timeout_graceful_shutdown=DRAIN_S,
            proxy_headers=False,
            ws="none",
        )
        config.load()
        if not self._transport.plaintext:
            config.ssl = RenewedContext(self._transport)
        return config


def _bound(listen: Address) -> socket.socket:
    family = socket.AF_INET6 if ":" in listen.host else socket.AF_INET
    try:
        return socket.create_server((listen.host, listen.port), family=family, backlog=512)
    except OSError as error:
        raise IoFailed(f"cannot serve REST on {listen}: {error.strerror or error}") from error
