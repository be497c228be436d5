"""TLS for a listener that runs on when its certificate, or the authority that signs its clients, is replaced."""

from __future__ import annotations

import ssl
from typing import Any, Self

from service.log import get_logger
from service.transport import Transport

log = get_logger(__name__)


class RenewedContext(ssl.SSLContext):
    """Gives each new connection to a context made of the files as they are at that moment.

    A context that is in use can be given other certificates, but forgets neither the authorities that it trusts nor
    the sessions that they let in, so files that changed get a context of their own.
    """

    def __new__(cls, _transport: Transport) -> Self:
        """Make the outer context, which has no connections itself."""
        return super().__new__(cls, ssl.PROTOCOL_TLS_SERVER)

    def __init__(self, transport: Transport) -> None:
        """Read the files. Raises OSError or SSLError when they cannot be used."""
        self._transport = transport
        self._mark = transport.certificate()
        self._current = self._made()

    def wrap_bio(self, *arguments: Any, **options: Any) -> ssl.SSLObject:
        """Begin a connection, as `ssl.SSLContext.wrap_bio` does."""
        mark = self._transport.certificate()
        if mark != self._mark:
            try:
                self._current, self._mark = self._made(), mark
            except (OSError, ssl.SSLError) as error:  # half replaced: tried again with the next connection
                log.warning("certificate not read again", reason=str(error))
        return self._current.wrap_bio(*arguments, **options)

    def _made(self) -> ssl.SSLContext:
        made = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        made.load_cert_chain(self._transport.cert_path, self._transport.key_path)
        if self._transport.client_ca_path is not None:
            made.load_verify_locations(self._transport.client_ca_path)
            made.verify_mode = ssl.CERT_REQUIRED
        return made
