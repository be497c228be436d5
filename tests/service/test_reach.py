"""How `dataplane image` reaches a server: with a certificate of its own, in plaintext, and what it refuses."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import grpc
import pytest

from dataplane.errors import UsageError
from service import dev_tls
from service.client.connection import Reach, connect
from tests.service.certificates import client_identity
from tests.service.serving import DATAPLANE, Serving, serve

UNUSED: dict[str, Any] = {"credentials": grpc.ssl_channel_credentials(), "token": None}


def listed(server: Serving, *flags: str) -> subprocess.CompletedProcess[str]:
    command = [*DATAPLANE, "image", "list", "--folder", "f", "--json", "--endpoint", server.endpoint, *flags]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)


def test_client_shows_its_certificate(tmp_path: Path) -> None:
    dev_tls.ensure(tmp_path / "server")
    client_identity(tmp_path / "client")
    flags = [
        *("--auth", "none", "--tls-client-ca", str(tmp_path / "client/ca.pem")),
        *("--tls-cert", str(tmp_path / "server/server.pem"), "--tls-key", str(tmp_path / "server/server.key")),
    ]
    shown = ("--client-cert", str(tmp_path / "client/server.pem"), "--client-key", str(tmp_path / "client/server.key"))
    trusted = ("--ca", str(tmp_path / "server/ca.pem"))
    with serve(tmp_path / "data", workers=1, flags=flags, **UNUSED) as server:
        assert listed(server, *trusted, *shown).returncode == 0
        refused = listed(server, *trusted)
    assert refused.returncode == 1
    assert len(refused.stderr.splitlines()) == 1


def test_client_speaks_plaintext_with_its_token(tmp_path: Path) -> None:
    with serve(tmp_path / "data", workers=1, flags=("--dev", "--insecure"), **UNUSED) as server:
        assert listed(server, "--plaintext", "--token", "any").returncode == 0
        nobody = listed(server, "--plaintext")
    assert nobody.returncode == 1
    assert "authorization" in nobody.stderr


@pytest.mark.parametrize(
    ("how", "text"),
    [
        ({"endpoint": "example.org:443", "token": "t"}, "show the token"),
        ({"endpoint": "10.0.0.1:443", "token": "t"}, "show the token"),
        ({"endpoint": "127.0.0.1:1", "ca": "ca.pem"}, "no use for certificates"),
        ({"endpoint": "127.0.0.1:1", "client_cert": "a", "client_key": "b"}, "no use for certificates"),
        ({"endpoint": "127.0.0.1:1", "client_cert": "a"}, "belong together"),
    ],
)
def test_what_cannot_be_meant_is_refused(how: dict[str, Any], text: str) -> None:
    with pytest.raises(UsageError, match=text):
        Reach(plaintext=True, **how)


def test_nothing_secret_may_go_anywhere_in_plaintext() -> None:
    assert Reach(endpoint="example.org:443", plaintext=True).token is None


@pytest.mark.parametrize("missing", ["ca", "client_cert", "client_key"])
def test_file_that_cannot_be_read_is_named_by_its_flag(tmp_path: Path, missing: str) -> None:
    dev_tls.ensure(tmp_path)
    files = {"ca": "ca.pem", "client_cert": "server.pem", "client_key": "server.key"} | {missing: "none.pem"}
    paths: dict[str, Any] = {name: str(tmp_path / file) for name, file in files.items()}
    reach = Reach(endpoint="127.0.0.1:1", **paths)
    with pytest.raises(UsageError, match=f"--{missing.replace('_', '-')} .*none.pem cannot be read"), connect(reach):
        pass
