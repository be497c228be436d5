"""A certificate of the tests' own."""

from __future__ import annotations

import ssl
import subprocess
from pathlib import Path


def server_context(folder: Path) -> ssl.SSLContext:
    """Make a certificate for localhost in `folder`, and return a context that shows it."""
    certificate, key = make_certificate(folder)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate, key)
    return context


def make_certificate(folder: Path) -> tuple[Path, Path]:
    """Return (certificate, key), each a PEM file."""
    certificate, key = folder / "cert.pem", folder / "key.pem"
    names = "subjectAltName=DNS:localhost,IP:127.0.0.1"
    command = [
        "openssl",
        "req",
        "-x509",
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:P-256",
        "-nodes",
        "-days",
        "2",
    ]
    subprocess.run(
        [*command, "-subj", "/CN=localhost", "-addext", names, "-keyout", key, "-out", certificate],
        check=True,
        capture_output=True,
    )
    return certificate, key


def client_context(folder: Path) -> ssl.SSLContext:
    """Return a context that trusts it."""
    return ssl.create_default_context(cafile=str(folder / "cert.pem"))
