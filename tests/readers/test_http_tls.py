from __future__ import annotations

import datetime
import ipaddress
import ssl
from dataclasses import dataclass
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from dataplane.errors import SourceUnavailable
from dataplane.readers.http import HttpReader
from tests.readers.http_server import serving

CONTENT = bytes(range(256)) * 1000


@dataclass(frozen=True)
class Certificate:
    path: Path
    context: ssl.SSLContext


def certificate(folder: Path, *names: x509.GeneralName) -> Certificate:
    """Make a self-signed server certificate for ``names``, which is its own CA."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "test")])
    now = datetime.datetime.now(datetime.UTC)
    signed = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    path = folder / "cert.pem"
    path.write_bytes(signed.public_bytes(serialization.Encoding.PEM))
    (folder / "key.pem").write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(path, folder / "key.pem")
    return Certificate(path, context)


def read(url: str, ca_file: Path | None) -> bytes:
    reader = HttpReader(url, allow_source=["localhost", "127.0.0.1"], allow_http=False, timeout_s=2, ca_file=ca_file)
    try:
        return reader.read_at(0, reader.size)
    finally:
        reader.close()


def test_tls_with_trusted_certificate(tmp_path: Path) -> None:
    made = certificate(tmp_path, x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1")))
    with serving(CONTENT, tls=made.context) as server:
        assert read(f"https://localhost:{server.port}/x", made.path) == CONTENT
        assert read(f"https://127.0.0.1:{server.port}/x", made.path) == CONTENT


def test_tls_with_unknown_issuer_is_refused_at_once(tmp_path: Path) -> None:
    made = certificate(tmp_path, x509.DNSName("localhost"))
    with serving(CONTENT, tls=made.context) as server:
        with pytest.raises(SourceUnavailable, match="certificate is not accepted") as error:
            read(f"https://localhost:{server.port}/x?s3cret", None)
        assert "s3cret" not in str(error.value)
        assert server.seen == []


def test_tls_with_another_host_name_is_refused_at_once(tmp_path: Path) -> None:
    made = certificate(tmp_path, x509.DNSName("elsewhere.example"))
    with serving(CONTENT, tls=made.context) as server:
        with pytest.raises(SourceUnavailable, match="certificate is not accepted"):
            read(f"https://localhost:{server.port}/x", made.path)
        assert server.seen == []


def test_tls_against_a_plain_server_fails() -> None:
    with serving(CONTENT) as server, pytest.raises(SourceUnavailable, match="TLS connection fails"):
        HttpReader(f"https://localhost:{server.port}/x", allow_source=["localhost"], timeout_s=0.4)


def test_ca_file_that_is_none(tmp_path: Path) -> None:
    (tmp_path / "ca.pem").write_text("nothing")
    for name in ("ca.pem", "missing.pem"):
        with pytest.raises(SourceUnavailable, match="CA file"):
            HttpReader("https://localhost/x", allow_source=["localhost"], ca_file=tmp_path / name)
