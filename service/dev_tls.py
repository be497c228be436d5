"""The authority and the certificate that --dev makes for itself."""

from __future__ import annotations

import ipaddress
import os
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

CA_FILE = "ca.pem"
CA_DAYS = 3650
SERVER_DAYS = 90
RENEW_BEFORE = timedelta(days=7)
HOSTS = ("localhost", "127.0.0.1", "::1")


@dataclass(frozen=True, slots=True)
class ServerIdentity:
    """A private key and its certificate chain, both PEM."""

    key: bytes
    chain: bytes


def ensure(folder: Path, hosts: Iterable[str] = ()) -> ServerIdentity:
    """Return the server's identity from `folder`, making or renewing what is missing or runs out within a week.

    The certificate is for the loopback names of this machine, and for `hosts` (names or addresses) too.

    Clients trust ``ca.pem``; it stays the same as long as it is valid. Keys are readable by their owner only.
    """
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    authority = _load(folder, "ca")
    if authority is None:
        authority = _make_authority()
        _save(folder, "ca", authority)
        (folder / "server.pem").unlink(missing_ok=True)  # signed by an authority that is gone
    names = _general_names({*HOSTS, *hosts})
    server = _load(folder, "server")
    if server is None or not names <= _names_of(server[1]):
        server = _make_server(authority, names)
        _save(folder, "server", server)
    key, certificate = server
    return ServerIdentity(key=_key_pem(key), chain=_pem(certificate) + _pem(authority[1]))


_Pair = tuple[ec.EllipticCurvePrivateKey, x509.Certificate]


def _load(folder: Path, name: str) -> _Pair | None:
    """Return a key with its certificate; None when missing, damaged, not a pair, or soon to expire."""
    try:
        key = serialization.load_pem_private_key((folder / f"{name}.key").read_bytes(), password=None)
        certificate = x509.load_pem_x509_certificate((folder / f"{name}.pem").read_bytes())
    except (FileNotFoundError, ValueError):
        return None
    if not isinstance(key, ec.EllipticCurvePrivateKey) or key.public_key() != certificate.public_key():
        return None
    if certificate.not_valid_after_utc - RENEW_BEFORE < datetime.now(UTC):
        return None
    return key, certificate


def _make_authority() -> _Pair:
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "dataplane development authority")])
    builder = _builder(subject, subject, key, CA_DAYS)
    builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
    builder = builder.add_extension(_usage(signs_certificates=True), critical=True)
    return key, builder.sign(key, hashes.SHA256())


def _make_server(authority: _Pair, names: set[x509.GeneralName]) -> _Pair:
    authority_key, authority_certificate = authority
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    builder = _builder(subject, authority_certificate.subject, key, SERVER_DAYS)
    builder = builder.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
    builder = builder.add_extension(_usage(signs_certificates=False), critical=True)
    builder = builder.add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
    builder = builder.add_extension(x509.SubjectAlternativeName(sorted(names, key=repr)), critical=False)
    issuer = x509.AuthorityKeyIdentifier.from_issuer_public_key(authority_key.public_key())
    builder = builder.add_extension(issuer, critical=False)
    return key, builder.sign(authority_key, hashes.SHA256())


def _general_names(hosts: Iterable[str]) -> set[x509.GeneralName]:
    names: set[x509.GeneralName] = set()
    for host in hosts:
        try:
            names.add(x509.IPAddress(ipaddress.ip_address(host)))
        except ValueError:
            names.add(x509.DNSName(host))
    return names


def _names_of(certificate: x509.Certificate) -> set[x509.GeneralName]:
    try:
        return set(certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value)
    except x509.ExtensionNotFound:
        return set()


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePrivateKey, days: int
) -> x509.CertificateBuilder:
    now = datetime.now(UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))  # clocks of containers and hosts differ a little
        .not_valid_after(now + timedelta(days=days))
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    )


def _usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        encipher_only=False,
        decipher_only=False,
    )


def _save(folder: Path, name: str, pair: _Pair) -> None:
    _write(folder / f"{name}.key", _key_pem(pair[0]), mode=0o600)
    _write(folder / f"{name}.pem", _pem(pair[1]), mode=0o644)


def _write(path: Path, content: bytes, *, mode: int) -> None:
    """Replace `path` as a whole; its rights are in force before the first byte is there."""
    fresh = path.with_suffix(path.suffix + ".new")
    fresh.unlink(missing_ok=True)
    with os.fdopen(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode), "wb") as file:
        file.write(content)
    fresh.replace(path)


def _key_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def _pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)
