"""How bytes travel: TLS with certificates that are read again when they change, or plaintext on loopback."""

from __future__ import annotations

import socket
from collections.abc import Callable
from pathlib import Path
from typing import cast

import grpc
from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_private_key

from dataplane.errors import IoFailed, UsageError
from service import dev_tls
from service.config import Address, ServeConfig
from service.watched_file import WatchedFile

READY_TIMEOUT_S = 10.0


class Transport:
    """The credentials of every listener of one server."""

    def __init__(self, config: ServeConfig) -> None:
        """Read the certificate, making one in ``--dev``. Raises UsageError when it is not one that can be used."""
        self.plaintext = config.tls.insecure
        self._client_ca: WatchedFile[bytes] | None = None
        if self.plaintext:
            return
        if config.tls.cert is not None and config.tls.key is not None:
            cert, key = config.tls.cert, config.tls.key
        else:
            hosts = [config.listen.host, *([config.announce.host] if config.announce else [])]
            dev_tls.ensure(config.tls_dir, hosts)
            cert, key = config.tls_dir / "server.pem", config.tls_dir / "server.key"
        self.cert_path, self.key_path = cert, key
        self._chain = WatchedFile(cert, _chain)
        self._key = WatchedFile(key, _key)
        if config.tls.client_ca is not None:
            self._client_ca = WatchedFile(config.tls.client_ca, _chain)
        if not _are_pair(self._chain.get(), self._key.get()):
            raise UsageError(f"{key} is not the private key of the certificate {cert}")
        self._current = self._configuration()

    @property
    def needs_client_certificate(self) -> bool:
        """Say whether clients have to show a certificate."""
        return self._client_ca is not None

    @property
    def client_ca_path(self) -> Path | None:
        """Return the file of the authority that signs clients; None when they need no certificate."""
        return self._client_ca.path if self._client_ca is not None else None

    def certificate(self) -> tuple[bytes, ...]:
        """Return what identifies the certificate in use, which changes when that does."""
        self._fetch()
        return self._current[0]

    def bind(self, server: grpc.Server, listen: Address) -> Address:
        """Let `server` listen; return the address with its port. Raises IoFailed when it is taken."""
        try:
            if self.plaintext:
                port = server.add_insecure_port(str(listen))
            else:
                port = server.add_secure_port(str(listen), self._credentials())
        except RuntimeError:
            port = 0
        if port == 0:
            raise IoFailed(f"cannot listen on {listen}: choose another address with --listen, or port 0")
        return Address(listen.host, port)

    def _credentials(self) -> grpc.ServerCredentials:
        # The stub of the types does not know that None means: as before.
        fetch = cast("Callable[[], grpc.ServerCertificateConfiguration]", self._fetch)
        return grpc.dynamic_ssl_server_credentials(
            self._current[1], fetch, require_client_authentication=self.needs_client_certificate
        )

    def _fetch(self) -> grpc.ServerCertificateConfiguration | None:
        """Return the certificate for the next handshake; None when it is the one of the last."""
        fresh = self._configuration()
        if fresh[0] == self._current[0]:
            return None
        self._current = fresh
        return fresh[1]

    def _configuration(self) -> tuple[tuple[bytes, ...], grpc.ServerCertificateConfiguration]:
        chain, key = self._chain.get(), self._key.get()
        roots = self._client_ca.get() if self._client_ca is not None else None
        if not _are_pair(chain, key):  # one file has been replaced, the other not yet: keep what there is
            return self._current
        return (chain, key, roots or b""), grpc.ssl_server_certificate_configuration([(key, chain)], roots)


def wait_until_reachable(address: Address) -> None:
    """Return once a connection to a listener of this process succeeds. Raises IoFailed."""
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(address.host, address.host)  # noqa: S104 - not bound here
    try:
        socket.create_connection((host, address.port), READY_TIMEOUT_S).close()
    except OSError as error:
        raise IoFailed(f"the server does not answer on {address}: {error.strerror or error}") from error


def _chain(content: bytes) -> bytes:
    """Return the PEM of one or more certificates. Raises UsageError."""
    try:
        x509.load_pem_x509_certificates(content)
    except ValueError as error:
        raise UsageError("is not a certificate in PEM") from error
    return content


def _key(content: bytes) -> bytes:
    """Return the PEM of a private key. Raises UsageError."""
    try:
        load_pem_private_key(content, password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise UsageError("is not a private key in PEM without a password") from error
    return content


def _are_pair(chain: bytes, key: bytes) -> bool:
    certificate = x509.load_pem_x509_certificates(chain)[0]
    form = (Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    private = load_pem_private_key(key, password=None)
    return certificate.public_key().public_bytes(*form) == private.public_key().public_bytes(*form)
