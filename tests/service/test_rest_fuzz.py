"""Whatever the OpenAPI document permits, and much that it does not, is answered as it says."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import grpc
import pytest
from hypothesis import HealthCheck, settings

from service.registration import FILES
from tests.service.serving import serve

pytest.importorskip("uvicorn")
schemathesis = pytest.importorskip("schemathesis")

from service.rest.http_rules import Routes  # noqa: E402
from service.rest.openapi import document  # noqa: E402

pytestmark = pytest.mark.slow
CHECKS = ("status_code_conformance", "content_type_conformance", "response_schema_conformance")
DESCRIBED = schemathesis.openapi.from_dict(document(Routes(FILES)))


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    flags = ["--auth", "none", "--insecure", "--rest-listen", "127.0.0.1:0"]
    plain: dict[str, Any] = {"flags": flags, "credentials": grpc.ssl_channel_credentials(), "token": None}
    with serve(tmp_path_factory.mktemp("fuzzed") / "data", workers=1, **plain) as server:
        event = server.until(lambda: next((e for e in server.events() if e["event"] == "rest served"), None))
        yield f"http://{event['address']}"
        assert "Traceback" not in server.log.read_text()


@DESCRIBED.parametrize()  # type: ignore[untyped-decorator, unused-ignore]
@settings(max_examples=40, suppress_health_check=list(HealthCheck))
def test_answers_are_what_the_document_says(case: Any, url: str) -> None:
    answer = case.call(base_url=url, timeout=120)
    assert answer.status_code not in (500, 503, 504), answer.text
    if answer.status_code == 400 and answer.headers["content-type"][0].startswith("text/plain"):
        assert answer.text == "Invalid HTTP request received."  # below HTTP: nothing that has a path
        return
    schemathesis.checks.load_all_checks()
    case.validate_response(answer, checks=[schemathesis.checks.CHECKS.get_one(name) for name in CHECKS])
