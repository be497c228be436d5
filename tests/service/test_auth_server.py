"""Who may call a real server: over TLS, by token, by service account, with client certificates, after a renewal."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from grpc_health.v1 import health_pb2, health_pb2_grpc

from service import dev_tls
from service._pb.yandex.cloud.compute.v1 import image_service_pb2 as images
from service._pb.yandex.cloud.compute.v1 import image_service_pb2_grpc
from service._pb.yandex.cloud.operation import operation_service_pb2 as operations
from service._pb.yandex.cloud.operation import operation_service_pb2_grpc
from tests.service.certificates import client_identity
from tests.service.serving import DATAPLANE, Serving, serve

POLICY = """
[[grant]]
subjects = ["ci"]
folders = ["mine"]
actions = ["editor"]
[[grant]]
subjects = ["reader", "aje1"]
folders = ["mine"]
actions = ["viewer"]
[[grant]]
subjects = ["other"]
folders = ["theirs"]
actions = ["admin"]
"""


def dataplane(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*DATAPLANE, *words], capture_output=True, text=True, check=False, timeout=60)


class Guarded:
    """A server in tokens mode and the tokens of its subjects."""

    def __init__(self, folder: Path, server: Serving, tokens: dict[str, str], ca: Path) -> None:
        self.folder = folder
        self.server = server
        self.tokens = tokens
        self.ca = ca

    def channel(self, token: str | None) -> grpc.Channel:
        credentials = grpc.ssl_channel_credentials(self.ca.read_bytes())
        if token is not None:
            call = grpc.access_token_call_credentials(token)
            credentials = grpc.composite_channel_credentials(credentials, call)
        return grpc.secure_channel(self.server.endpoint, credentials)

    def images(self, subject: str) -> Any:
        return image_service_pb2_grpc.ImageServiceStub(self.channel(self.tokens[subject]))

    def operations(self, subject: str) -> Any:
        return operation_service_pb2_grpc.OperationServiceStub(self.channel(self.tokens[subject]))

    def sdk(self, folder: str, endpoint: str | None = None, **credential: Any) -> dict[str, Any]:
        """Say what the public SDK sees in a process of its own."""
        script = Path(__file__).with_name("sdk_tokens.py")
        words = [endpoint or self.server.endpoint, str(self.ca), json.dumps(credential), folder]
        run = subprocess.run(
            [sys.executable, str(script), *words], capture_output=True, text=True, check=False, timeout=60
        )
        assert run.returncode == 0, run.stderr
        seen: dict[str, Any] = json.loads(run.stdout)
        return seen


@pytest.fixture(scope="module")
def account() -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(65537, 2048)


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory, account: rsa.RSAPrivateKey) -> Iterator[Guarded]:
    folder = tmp_path_factory.mktemp("guarded")
    tokens = {}
    for subject in ("ci", "reader", "other", "stranger"):
        made = dataplane("token", "new", "--subject", subject, "--file", str(folder / "tokens.toml"), "--days", "2")
        assert made.returncode == 0, made.stderr
        tokens[subject] = made.stdout.strip()
    pem = account.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()
    with (folder / "tokens.toml").open("a") as file:
        file.write(f"[[service_account]]\nid = 'aje1'\nkey_id = 'ajk1'\npublic_key = '''{pem}'''\n")
    (folder / "policy.toml").write_text(POLICY)
    dev_tls.ensure(folder / "tls")
    flags = [
        *("--auth", f"tokens:{folder / 'tokens.toml'}", "--policy", str(folder / "policy.toml")),
        *("--tls-cert", str(folder / "tls/server.pem"), "--tls-key", str(folder / "tls/server.key")),
    ]
    credentials = grpc.ssl_channel_credentials((folder / "tls/ca.pem").read_bytes())
    with serve(folder / "data", workers=1, flags=flags, credentials=credentials, token=tokens["ci"]) as server:
        yield Guarded(folder, server, tokens, folder / "tls/ca.pem")


def code(call: Any, request: Any) -> grpc.StatusCode:
    """Return the code that a call ends with."""
    try:
        call(request, timeout=120)
    except grpc.RpcError as error:
        found: grpc.StatusCode = error.code()
        return found
    return grpc.StatusCode.OK


def test_folders_are_guarded_call_by_call(guarded: Guarded) -> None:
    create = images.CreateImageRequest(folder_id="mine", uri="https://192.0.2.1/disk.raw")
    operation = guarded.images("ci").Create(create)
    get = operations.GetOperationRequest(operation_id=operation.id)
    cancel = operations.CancelOperationRequest(operation_id=operation.id)
    listing = images.ListImagesRequest(folder_id="mine")
    assert operation.created_by == "ci"
    assert code(guarded.images("reader").List, listing) is grpc.StatusCode.OK
    assert code(guarded.images("reader").Create, create) is grpc.StatusCode.PERMISSION_DENIED
    assert code(guarded.operations("reader").Get, get) is grpc.StatusCode.OK
    assert code(guarded.operations("reader").Cancel, cancel) is grpc.StatusCode.PERMISSION_DENIED
    for subject in ("other", "stranger"):
        assert code(guarded.images(subject).List, listing) is grpc.StatusCode.NOT_FOUND
        assert code(guarded.images(subject).Create, create) is grpc.StatusCode.NOT_FOUND
        assert code(guarded.operations(subject).Get, get) is grpc.StatusCode.NOT_FOUND
        assert code(guarded.operations(subject).Cancel, cancel) is grpc.StatusCode.NOT_FOUND
    assert code(guarded.operations("ci").Cancel, cancel) is grpc.StatusCode.OK


def test_foreign_operation_answers_as_one_that_never_was(guarded: Guarded) -> None:
    create = images.CreateImageRequest(folder_id="mine", uri="https://192.0.2.1/disk.raw")
    known = guarded.images("ci").Create(create).id
    texts = []
    for name in (known, "fdpneverneverneverne"):
        with pytest.raises(grpc.RpcError) as refused:
            guarded.operations("other").Get(operations.GetOperationRequest(operation_id=name))
        texts.append(str(refused.value.details()).replace(name, "NAME"))
    assert texts[0] == texts[1]
    guarded.operations("ci").Cancel(operations.CancelOperationRequest(operation_id=known))


@pytest.mark.parametrize("token", [None, "any", "dp1.000000000000." + "A" * 43, "t1.dev.x"])
def test_call_without_a_token_of_the_file_is_unauthenticated(guarded: Guarded, token: str | None) -> None:
    with guarded.channel(token) as channel:
        stub = image_service_pb2_grpc.ImageServiceStub(channel)
        assert code(stub.List, images.ListImagesRequest(folder_id="mine")) is grpc.StatusCode.UNAUTHENTICATED
        health = health_pb2_grpc.HealthStub(channel)
        assert code(health.Check, health_pb2.HealthCheckRequest()) is grpc.StatusCode.OK


def test_sdk_with_a_token_exchanges_it(guarded: Guarded) -> None:
    assert guarded.sdk("mine", token=guarded.tokens["reader"])["code"] == "OK"
    assert guarded.sdk("theirs", token=guarded.tokens["reader"])["code"] == "NOT_FOUND"
    assert guarded.sdk("mine", token="dp1.wrong")["code"] in ("UNAUTHENTICATED", "UNAVAILABLE")


def account_key(key: rsa.RSAPrivateKey, key_id: str = "ajk1") -> dict[str, str]:
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()
    return {"id": key_id, "service_account_id": "aje1", "private_key": pem}


def test_sdk_with_a_service_account_key_gets_a_token(guarded: Guarded, account: rsa.RSAPrivateKey) -> None:
    assert guarded.sdk("mine", service_account_key=account_key(account))["code"] == "OK"
    by_name = guarded.server.endpoint.replace("127.0.0.1", "localhost")
    assert guarded.sdk("mine", endpoint=by_name, service_account_key=account_key(account))["code"] == "OK"


def test_sdk_with_another_service_account_key_gets_none(guarded: Guarded, account: rsa.RSAPrivateKey) -> None:
    stranger = rsa.generate_private_key(65537, 2048)
    for key in (account_key(stranger), account_key(account, "ajk2")):
        seen = guarded.sdk("mine", service_account_key=key)
        assert seen["code"] != "OK"
        assert "JWT" in seen["text"]


def test_secrets_are_in_no_log(guarded: Guarded) -> None:
    text = guarded.server.log.read_text()
    assert not any(token in text for token in guarded.tokens.values())
    assert "t1.ey" not in text


def test_client_certificate_is_asked_for(tmp_path: Path) -> None:
    dev_tls.ensure(tmp_path / "server")
    client = client_identity(tmp_path / "client")
    flags = [
        *("--auth", "none", "--tls-client-ca", str(tmp_path / "client/ca.pem")),
        *("--tls-cert", str(tmp_path / "server/server.pem"), "--tls-key", str(tmp_path / "server/server.key")),
    ]
    root = (tmp_path / "server/ca.pem").read_bytes()
    shown = grpc.ssl_channel_credentials(root, client.key, client.chain)
    strange = client_identity(tmp_path / "strange")
    request = images.ListImagesRequest(folder_id="f")
    with serve(tmp_path / "data", workers=1, flags=flags, credentials=shown, token=None) as server:
        assert code(server.images.List, request) is grpc.StatusCode.OK
        for credentials in (
            grpc.ssl_channel_credentials(root),
            grpc.ssl_channel_credentials(root, strange.key, strange.chain),
        ):
            with grpc.secure_channel(server.endpoint, credentials) as channel:
                stub = image_service_pb2_grpc.ImageServiceStub(channel)
                assert code(stub.List, request) is grpc.StatusCode.UNAVAILABLE


def test_certificate_is_replaced_without_a_restart(tmp_path: Path) -> None:
    for name in ("old", "new"):
        dev_tls.ensure(tmp_path / name)
    cert, key = tmp_path / "server.pem", tmp_path / "server.key"
    cert.write_bytes((tmp_path / "old/server.pem").read_bytes())
    key.write_bytes((tmp_path / "old/server.key").read_bytes())
    flags = ["--auth", "none", "--tls-cert", str(cert), "--tls-key", str(key)]
    old = grpc.ssl_channel_credentials((tmp_path / "old/ca.pem").read_bytes())
    new = grpc.ssl_channel_credentials((tmp_path / "new/ca.pem").read_bytes())
    with serve(tmp_path / "data", workers=1, flags=flags, credentials=old, token=None) as server:

        def answers(credentials: grpc.ChannelCredentials) -> bool:
            with grpc.secure_channel(server.endpoint, credentials) as channel:
                stub = image_service_pb2_grpc.ImageServiceStub(channel)
                return code(stub.List, images.ListImagesRequest(folder_id="f")) is grpc.StatusCode.OK

        assert answers(old)
        assert code(server.images.List, images.ListImagesRequest(folder_id="f")) is grpc.StatusCode.OK
        cert.write_bytes((tmp_path / "new/server.pem").read_bytes())  # for a moment the two do not belong together
        assert answers(old)
        key.write_bytes((tmp_path / "new/server.key").read_bytes())
        server.until(lambda: True if answers(new) else None)
        assert not answers(old)
        # A connection that was there before goes on.
        assert code(server.images.List, images.ListImagesRequest(folder_id="f")) is grpc.StatusCode.OK


def test_plaintext_on_loopback(tmp_path: Path) -> None:
    flags = ["--auth", "none", "--insecure"]
    credentials = grpc.ssl_channel_credentials()
    with serve(tmp_path / "data", workers=1, flags=flags, credentials=credentials, token=None) as server:
        with grpc.insecure_channel(server.endpoint) as channel:
            stub = image_service_pb2_grpc.ImageServiceStub(channel)
            assert code(stub.List, images.ListImagesRequest(folder_id="f")) is grpc.StatusCode.OK
        assert not (server.data / "tls").exists()


@pytest.mark.parametrize(
    ("flags", "text"),
    [
        (["--auth", "none", "--insecure", "--listen", "0.0.0.0:0"], "loopback"),
        (["--auth", "none", "--rest-listen", "0.0.0.0:0", "--insecure"], "loopback"),
        (["--auth", "none"], "--tls-cert"),
        (["--auth", "tokens"], "--auth tokens:FILE"),
        (["--auth", "tokens:/nowhere", "--insecure"], "--policy"),
        (["--auth", "tokens:/nowhere", "--policy", "/nowhere", "--insecure"], "/nowhere"),
        (["--auth", "jwt:/nowhere", "--policy", "/nowhere", "--insecure"], "--jwt-issuer"),
        (["--auth", "everybody", "--insecure"], "jwt:JWKS_FILE"),
        (["--auth", "none", "--dev"], "--dev"),
        (["--auth", "none", "--tls-cert", "/nowhere"], "--tls-key"),
        (["--auth", "none", "--tls-cert", "/nowhere", "--tls-key", "/nowhere"], "/nowhere"),
        (["--auth", "none", "--insecure", "--tls-client-ca", "/nowhere"], "--insecure"),
    ],
)
def test_serve_that_would_be_unsafe_says_why(tmp_path: Path, flags: list[str], text: str) -> None:
    run = dataplane("serve", "--data", str(tmp_path / "data"), "--listen", "127.0.0.1:0", *flags)
    assert (run.returncode, run.stdout, run.stderr.count("\n")) == (2, "", 1), run.stderr
    assert text in run.stderr


def test_token_is_printed_once_and_kept_hashed(tmp_path: Path) -> None:
    made = dataplane("token", "new", "--subject", 'a"b', "--file", str(tmp_path / "t.toml"))
    assert made.returncode == 0, made.stderr
    assert made.stdout.strip() not in (tmp_path / "t.toml").read_text()
    assert (tmp_path / "t.toml").stat().st_mode & 0o077 == 0
    shown = dataplane("token", "new", "--subject", "x")
    assert "[[token]]" in shown.stdout
    assert dataplane("token", "new", "--subject", "*").returncode == 2
