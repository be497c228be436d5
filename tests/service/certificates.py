"""Certificates that clients show."""

from __future__ import annotations

from pathlib import Path

import pytest
from cryptography.x509.oid import ExtendedKeyUsageOID

from service import dev_tls


def client_identity(folder: Path) -> dev_tls.ServerIdentity:
    """Make an authority, and a certificate of it for a client."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ExtendedKeyUsageOID, "SERVER_AUTH", ExtendedKeyUsageOID.CLIENT_AUTH)
        return dev_tls.ensure(folder)
