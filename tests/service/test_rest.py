"""The HTTP mapping from outside: every call's path, canonical JSON, errors with details, and hostile requests."""

from __future__ import annotations

import http.client
import json
import ssl
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from service import dev_tls
from service.registration import FILES
from tests.service.certificates import client_identity
from tests.service.serving import Serving, serve
from tests.service.web import Web, serving

pytest.importorskip("uvicorn")
pytest.importorskip("starlette")

from service.rest.http_rules import Routes
from service.rest.openapi import document

MIB = 1 << 20


class Answer:
    """Status, headers and JSON of one answer."""

    def __init__(self, response: http.client.HTTPResponse) -> None:
        self.status = response.status
        self.headers = {name.lower(): value for name, value in response.getheaders()}
        self.text = response.read().decode()

    @property
    def json(self) -> Any:
        return json.loads(self.text)


class Rest:
    """A client of the HTTP mapping."""

    def __init__(self, server: Serving, ca: Path, client: Path | None = None) -> None:
        """`client` is a folder with a certificate to show."""
        self.client = client
        event = server.until(lambda: next((e for e in server.events() if e["event"] == "rest served"), None))
        host, _, port = event["address"].rpartition(":")
        self.address = (host, int(port))
        self.ca = ca
        self.server = server

    def __call__(self, verb: str, path: str, body: Any = None, *, token: str | None = "t", **headers: str) -> Answer:
        context = ssl.create_default_context(cafile=str(self.ca))
        if self.client is not None:
            context.load_cert_chain(self.client / "server.pem", self.client / "server.key")
        connection = http.client.HTTPSConnection(*self.address, timeout=120, context=context)
        sent = {name.replace("_", "-"): value for name, value in headers.items()}
        if token is not None:
            sent["Authorization"] = f"Bearer {token}"
        content = body if isinstance(body, (bytes, type(None))) else json.dumps(body).encode()
        if content is not None:
            sent.setdefault("Content-Type", "application/json")
        try:
            connection.request(verb, path, content, sent)
            return Answer(connection.getresponse())
        finally:
            connection.close()

    def ended(self, operation_id: str) -> Any:
        """Return the operation once it is done."""

        def look() -> Any:
            found = self("GET", f"/operations/{operation_id}").json
            return found if found.get("done") else None

        return self.server.until(look)


@pytest.fixture(scope="module")
def web() -> Iterator[Web]:
    with serving() as made:
        yield made


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    flags = ["--dev", "--rest-listen", "127.0.0.1:0"]
    with serve(tmp_path_factory.mktemp("rest") / "data", workers=1, flags=flags) as made:
        yield made


@pytest.fixture(scope="module")
def rest(server: Serving) -> Rest:
    return Rest(server, server.ca)


def test_disk_becomes_a_snapshot_over_http(rest: Rest) -> None:
    wanted = {"folderId": "rest", "name": "d", "zoneId": "z", "size": "16777216", "typeId": "network-ssd"}
    created = rest("POST", "/compute/v1/disks", wanted)
    assert created.status == 200, created.text
    disk_id = created.json["metadata"]["diskId"]
    disk = rest("GET", f"/compute/v1/disks/{disk_id}").json
    assert disk == {key: value for key, value in created.json["response"].items() if key != "@type"}
    assert (disk["size"], disk["blockSize"], disk["status"]) == ("16777216", "4096", "READY")
    grown = rest("PATCH", f"/compute/v1/disks/{disk_id}", {"updateMask": "size", "size": "33554432"})
    assert grown.json["response"]["size"] == "33554432"
    started = rest("POST", "/compute/v1/snapshots", {"folderId": "rest", "diskId": disk_id}).json
    assert started["metadata"]["diskId"] == disk_id
    done = rest.ended(started["id"])
    assert (done["response"]["diskSize"], done["response"]["sourceDiskId"]) == ("33554432", disk_id)
    listed = rest("GET", "/compute/v1/snapshots?folderId=rest&orderBy=diskSize").json
    assert [one["id"] for one in listed["snapshots"]] == [started["metadata"]["snapshotId"]]
    moved = rest("POST", f"/compute/v1/disks/{disk_id}:move", {"destinationFolderId": "x"})
    assert (moved.status, moved.json["code"]) == (501, 12)
    assert rest("DELETE", f"/compute/v1/disks/{disk_id}").json["done"] is True
    wrong = rest("POST", "/compute/v1/disks", wanted | {"size": "5"})
    assert wrong.status == 400
    assert {found["field"] for found in wrong.json["details"][0]["fieldViolations"]} == {"size"}


def test_image_lives_and_dies_over_http(rest: Rest, web: Web) -> None:
    uri = web.add("/rest.raw", bytes(5 * MIB) + b"x" * MIB)
    wanted = {"folderId": "rest", "name": "one", "labels": {"a": "b"}, "minDiskSize": "8388608", "uri": uri}
    created = rest("POST", "/compute/v1/images", wanted)
    assert created.status == 200, created.text
    operation = created.json
    assert operation["metadata"]["@type"] == "type.googleapis.com/yandex.cloud.compute.v1.CreateImageMetadata"
    image_id = operation["metadata"]["imageId"]
    done = rest.ended(operation["id"])
    assert done["response"]["@type"].endswith("yandex.cloud.compute.v1.Image")
    image = rest("GET", f"/compute/v1/images/{image_id}").json
    assert (image["status"], image["size"], image["minDiskSize"]) == ("READY", "8388608", "8388608")
    assert image["labels"] == {"a": "b"}
    assert image["createdAt"].endswith("Z")
    listed = rest("GET", "/compute/v1/images?folderId=rest&pageSize=10&filter=name%3D%22one%22").json
    assert [one["id"] for one in listed["images"]] == [image_id]
    deleted = rest("DELETE", f"/compute/v1/images/{image_id}").json
    assert deleted["done"] is True
    assert rest("GET", f"/compute/v1/images/{image_id}").status == 404


@pytest.mark.parametrize("verb", ["GET", "POST"])
def test_operation_is_cancelled_by_get_and_post(rest: Rest, web: Web, verb: str) -> None:
    uri = web.add(f"/slow-{verb}.raw", bytes(MIB) + b"x" * 20 * MIB, rate=MIB / 4)
    operation = rest("POST", "/compute/v1/images", {"folderId": "cancel", "uri": uri}).json
    assert rest(verb, f"/operations/{operation['id']}:cancel").status == 200
    done = rest.ended(operation["id"])
    assert done["error"]["code"] == 1


def test_every_mapped_call_answers(rest: Rest) -> None:
    """Paths reach their servicers: what they say is theirs, never that there is no such path."""
    for route in Routes(FILES).all:
        path = route.template
        for name in route.variables:
            path = path.replace(f"{{{name}}}", "none")
        answer = rest(route.verb, path, {} if route.body else None)
        assert answer.status in (200, 400, 404, 501), (route, answer.text)
        assert "no such path" not in answer.text
        if answer.status != 200:
            assert answer.headers["x-request-id"] in answer.text


def test_endpoints_and_tokens_need_no_token(rest: Rest) -> None:
    endpoints = rest("GET", "/endpoints", token=None).json["endpoints"]
    assert {"id": "compute", "address": rest.server.endpoint} in endpoints
    assert rest("GET", "/endpoints/iam", token=None).json["id"] == "iam"
    given = rest("POST", "/iam/v1/tokens", {"yandexPassportOauthToken": "x"}, token=None).json
    assert rest("GET", "/compute/v1/images?folderId=f", token=given["iamToken"]).status == 200


def test_call_without_a_token_is_401(rest: Rest) -> None:
    refused = rest("GET", "/compute/v1/images?folderId=f", token=None)
    assert (refused.status, refused.json["code"], refused.headers["www-authenticate"]) == (401, 16, "Bearer")


def test_error_is_a_status_with_details(rest: Rest) -> None:
    refused = rest("POST", "/compute/v1/images", {"folderId": "f", "name": "UPPER", "family": "x"})
    assert refused.status == 400
    assert refused.json["code"] == 3
    details = {detail["@type"].rpartition(".")[2]: detail for detail in refused.json["details"]}
    fields = {violation["field"] for violation in details["BadRequest"]["fieldViolations"]}
    assert fields >= {"name", "family"}
    assert details["RequestInfo"]["requestId"] == refused.headers["x-request-id"]
    assert refused.headers["x-server-trace-id"]


def test_ids_of_the_client_reach_the_log(rest: Rest, server: Serving) -> None:
    answer = rest("DELETE", "/compute/v1/images/fd8none", X_Client_Request_Id="mine-17")
    event = server.until(
        lambda: next((e for e in server.events() if e.get("request_id") == answer.headers["x-request-id"]), None)
    )
    assert event["client_request_id"] == "mine-17"


@pytest.mark.parametrize(
    ("verb", "path", "body", "code", "text"),
    [
        ("GET", "/nothing", None, 404, "openapi.json"),
        ("GET", "/compute/v1/images/a/b", None, 404, "no such path"),
        ("GET", "/nothing%0A", None, 404, "no such path"),
        ("OPTIONS", "/compute/v1/images", None, 405, "GET, POST"),
        ("GET", "/docs/", None, 404, "no such path"),
        ("GET", "/compute/v1/images/a%0Ab", None, 404, "is not there"),
        ("PUT", "/compute/v1/images", {}, 405, "GET, POST"),
        ("GET", "/compute/v1/images?folder=f", None, 400, "folder"),
        ("GET", "/compute/v1/images?pageSize=many", None, 400, "page_size"),
        ("GET", "/compute/v1/images?folderId=a&folderId=b", None, 400, "more than once"),
        ("GET", "/compute/v1/images?folderId.x=a", None, 400, "folderId.x"),
        ("GET", "/compute/v1/images?folderId=f", {}, 400, "query"),
        ("POST", "/compute/v1/images", b"{", 400, "body"),
        ("POST", "/compute/v1/images", b"[]", 400, "body"),
        ("POST", "/compute/v1/images", b"\xff", 400, "body"),
        ("POST", "/compute/v1/images", {"folderid": "x"}, 400, "folderid"),
        ("POST", "/compute/v1/images", {"minDiskSize": "x"}, 400, "minDiskSize"),
        ("POST", "/compute/v1/images", b"[" * 100_000, 400, "body"),
        ("POST", "/compute/v1/images", b" " * (MIB + 1), 413, "larger"),
        ("GET", "/compute/v1/images/%00", None, 400, "NUL"),
        ("GET", "/compute/v1/images/" + "x" * 51, None, 400, "50"),
    ],
)
def test_request_that_is_wrong_says_what_is(rest: Rest, verb: str, path: str, body: Any, code: int, text: str) -> None:
    answer = rest(verb, path, body)
    assert answer.status == code, answer.text
    assert text in answer.text
    assert "Traceback" not in answer.text
    assert answer.json["code"] in (3, 5, 12)


def test_pages_of_other_sites_are_refused(rest: Rest) -> None:
    assert rest("GET", "/compute/v1/images?folderId=f", Sec_Fetch_Site="cross-site").status == 403
    assert rest("POST", "/compute/v1/images", b"{}", Content_Type="text/plain").status == 415


def test_update_mask_is_a_string_of_camel_case_paths(rest: Rest) -> None:
    answer = rest("PATCH", "/compute/v1/images/fd8none", {"updateMask": "name,minDiskSize", "name": "x"})
    assert answer.status in (404, 501), answer.text


def test_openapi_describes_every_route(rest: Rest) -> None:
    described = rest("GET", "/openapi.json", token=None).json
    assert described == json.loads(json.dumps(document(Routes(FILES))))
    ids = [operation["operationId"] for verbs in described["paths"].values() for operation in verbs.values()]
    assert len(ids) == len(set(ids)) == len(Routes(FILES).all)
    image = described["components"]["schemas"]["yandex.cloud.compute.v1.Image"]["properties"]
    assert image["size"]["type"] == "string"
    assert "READY" in image["status"]["enum"]
    references = set(json.dumps(described).split('"#/components/schemas/')[1:])
    assert {text.partition('"')[0] for text in references} <= set(described["components"]["schemas"])
    page = rest("GET", "/docs", token=None)
    assert "/compute/v1/images:latestByFamily" in page.text
    assert "http" not in page.text


def test_plaintext_listener_and_new_certificate(tmp_path: Path) -> None:
    for name in ("old", "new"):
        dev_tls.ensure(tmp_path / name)
    cert, key = tmp_path / "server.pem", tmp_path / "server.key"
    cert.write_bytes((tmp_path / "old/server.pem").read_bytes())
    key.write_bytes((tmp_path / "old/server.key").read_bytes())
    flags = ["--auth", "none", "--tls-cert", str(cert), "--tls-key", str(key), "--rest-listen", "127.0.0.1:0"]
    trusted = grpc.ssl_channel_credentials((tmp_path / "old/ca.pem").read_bytes())
    with serve(tmp_path / "data", workers=1, flags=flags, credentials=trusted, token=None) as server:
        old, new = Rest(server, tmp_path / "old/ca.pem"), Rest(server, tmp_path / "new/ca.pem")
        assert old("GET", "/compute/v1/images?folderId=f", token=None).status == 200
        with pytest.raises(ssl.SSLError):
            new("GET", "/endpoints", token=None)
        cert.write_bytes((tmp_path / "new/server.pem").read_bytes())
        key.write_bytes((tmp_path / "new/server.key").read_bytes())

        def answers() -> int | None:
            try:
                return new("GET", "/endpoints", token=None).status
            except ssl.SSLError:
                return None

        assert server.until(answers) == 200


def test_server_with_http_drains_on_sigterm(tmp_path: Path) -> None:
    with serve(tmp_path / "data", workers=1, flags=["--dev", "--rest-listen", "127.0.0.1:0"]) as server:
        rest = Rest(server, server.ca)
        assert rest("GET", "/endpoints").status == 200
        assert server.stop() == 0


def test_http_on_a_taken_address_says_so(tmp_path: Path, web: Web) -> None:
    with pytest.raises(AssertionError, match="cannot serve REST"):
        Serving(tmp_path / "data", workers=1, flags=["--dev", "--rest-listen", web.address])


def test_http_asks_for_a_client_certificate_too(tmp_path: Path) -> None:
    dev_tls.ensure(tmp_path / "server")
    dev_tls.ensure(tmp_path / "client")
    flags = [
        *("--auth", "none", "--rest-listen", "127.0.0.1:0", "--tls-client-ca", str(tmp_path / "client/ca.pem")),
        *("--tls-cert", str(tmp_path / "server/server.pem"), "--tls-key", str(tmp_path / "server/server.key")),
    ]
    plain: Any = {"flags": flags, "credentials": grpc.ssl_channel_credentials(), "token": None}
    with serve(tmp_path / "data", workers=1, **plain) as server:
        rest = Rest(server, tmp_path / "server/ca.pem")
        with pytest.raises((ssl.SSLError, ConnectionError, http.client.RemoteDisconnected)):
            rest("GET", "/endpoints", token=None)


def test_authority_of_clients_is_replaced_without_a_restart(tmp_path: Path) -> None:
    dev_tls.ensure(tmp_path / "server")
    for name in ("old", "new"):
        client_identity(tmp_path / name)
    authority = tmp_path / "clients.pem"
    authority.write_bytes((tmp_path / "old/ca.pem").read_bytes())
    flags = [
        *("--auth", "none", "--rest-listen", "127.0.0.1:0", "--tls-client-ca", str(authority)),
        *("--tls-cert", str(tmp_path / "server/server.pem"), "--tls-key", str(tmp_path / "server/server.key")),
    ]
    plain: Any = {"flags": flags, "credentials": grpc.ssl_channel_credentials(), "token": None}
    with serve(tmp_path / "data", workers=1, **plain) as server:
        old, new = (Rest(server, tmp_path / "server/ca.pem", tmp_path / name) for name in ("old", "new"))

        def answers(rest: Rest) -> int:
            try:
                return rest("GET", "/endpoints", token=None).status
            except (ssl.SSLError, ConnectionError, http.client.RemoteDisconnected):
                return 0

        assert (answers(old), answers(new)) == (200, 0)
        authority.write_bytes((tmp_path / "new/ca.pem").read_bytes())
        assert server.until(lambda: answers(new) or None, 60) == 200
        assert answers(old) == 0
