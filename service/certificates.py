"""TLS for listeners that are not gRPC's: a context with the server's certificate, which follows when that changes."""

from __future__ import annotations

import ssl
import threading

from service.log import get_logger
from service.transport import Transport

LOOK_S = 1.0

log = get_logger(__name__)


def server_context(transport: Transport) -> ssl.SSLContext:
    """Return a context with the certificate of a transport that has one; clients show theirs where it asks for them."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.load_cert_chain(transport.cert_path, transport.key_path)
    if transport.client_ca_path is not None:
        context.load_verify_locations(transport.client_ca_path)
        context.verify_mode = ssl.CERT_REQUIRED
    return context


class CertificateWatch:
    """A thread that lets a context use a new certificate for new connections."""

    def __init__(self, context: ssl.SSLContext, transport: Transport) -> None:
        self._context = context
        self._transport = transport
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="certificate", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def stop(self) -> None:
        """End, within a second or so."""
        self._stopping.set()
        if self._thread.ident is not None:
            self._thread.join()

    def _run(self) -> None:
        before = self._transport.certificate()
        while not self._stopping.wait(LOOK_S):
            now = self._transport.certificate()
            if now != before:
                try:
                    self._context.load_cert_chain(self._transport.cert_path, self._transport.key_path)
                    before = now
                except (OSError, ssl.SSLError) as error:  # half replaced: tried again
                    log.warning("certificate not read again", reason=str(error))
