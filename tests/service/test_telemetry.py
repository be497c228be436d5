"""What a server tells about itself: metrics, ids of calls, structured logs, traces, health and reflection."""

from __future__ import annotations

import http.client
import json
import math
import os
import re
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf import descriptor_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from prometheus_client.parser import text_string_to_metric_families

from service._pb.yandex.cloud.compute.v1 import image_service_pb2 as images
from service.telemetry.metrics import Metrics, QueueFigures
from service.telemetry.reports import OUTCOMES, Report
from service.telemetry.stage_clock import RetryCounter, TimedProgress
from tests.service.serving import Serving, serve
from tests.service.web import Web, serving

MIB = 1 << 20
ROOT = Path(__file__).resolve().parents[2]
SECRET = "X-Signature=confidential"
Samples = dict[tuple[str, tuple[tuple[str, str], ...]], float]


@pytest.fixture(scope="module")
def web() -> Iterator[Web]:
    with serving() as made:
        yield made


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    with serve(
        tmp_path_factory.mktemp("told") / "data", workers=1, flags=["--dev", "--metrics-listen", "127.0.0.1:0"]
    ) as made:
        yield made


def scrape(server: Serving) -> str:
    event = next(event for event in server.events() if event["event"] == "metrics served")
    with urllib.request.urlopen(f"http://{event['address']}/metrics", timeout=120) as answer:
        text: str = answer.read().decode()
    return text


def samples(text: str) -> Samples:
    found: Samples = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            found[sample.name, tuple(sorted(sample.labels.items()))] = sample.value
    return found


def value(server: Serving, name: str, **labels: str) -> float:
    return samples(scrape(server)).get((name, tuple(sorted(labels.items()))), 0.0)


def test_metrics_follow_an_import(server: Serving, web: Web) -> None:
    image = server.ready(web.add("/told.raw", os.urandom(4 * MIB) + bytes(4 * MIB)) + f"?{SECRET}", folder_id="told-f")
    server.until(lambda: True if value(server, "dataplane_operations_total", outcome="done", code="OK") else None)
    text = scrape(server)
    found = samples(text)
    assert found["dataplane_import_bytes_total", (("kind", "new"),)] == 4 * MIB
    assert found["dataplane_import_bytes_total", (("kind", "zero"),)] == 4 * MIB
    assert found["dataplane_stage_seconds_total", (("stage", "reading"),)] > 0
    method = ("method", "yandex.cloud.compute.v1.ImageService/Create")
    assert found["dataplane_grpc_calls_total", (("code", "OK"), method)] == 1
    assert found["dataplane_grpc_call_seconds_count", (method,)] == 1
    assert found["dataplane_workers", ()] == 1
    assert found["dataplane_queue_operations", (("state", "waiting"),)] == 0
    for secret in ("confidential", image.id, "told-f", "told.raw"):
        assert secret not in text
    assert "confidential" not in server.log.read_text()


def test_metrics_count_failures_and_retries(server: Serving, web: Web) -> None:
    web.statuses["/busy.raw"] = 503
    operation = server.create(web.url("/busy.raw"), folder_id="busy")
    server.until(lambda: True if web.requests.count("/busy.raw") > 3 else None)
    server.cancel(operation.id)
    server.finished(operation.id)

    def ended() -> bool | None:
        found = samples(scrape(server))
        turns = sum(
            found.get(("dataplane_operations_total", (("code", code), ("outcome", outcome))), 0.0)
            for code, outcome in (("CANCELLED", "cancelled"), ("INVALID_ARGUMENT", "failed"))
        )
        return True if turns >= 1 else None

    server.until(ended)
    assert value(server, "dataplane_source_retries_total", reason="status") > 0


def test_metrics_of_methods_that_are_not_there_are_not_kept(server: Serving) -> None:
    call: Any = server.channel.unary_unary("/yandex.cloud.compute.v1.ImageService/Bogus")
    with pytest.raises(grpc.RpcError):
        call(b"", timeout=120)
    assert "Bogus" not in scrape(server)


def dashboard_names() -> set[str]:
    dashboard = json.loads((ROOT / "deploy/grafana-dashboard.json").read_text())
    text = " ".join(target["expr"] for panel in dashboard["panels"] for target in panel["targets"])
    return set(re.findall(r"\b(?:dataplane|process)_\w+", text))


def test_dashboard_names_metrics_that_exist(server: Serving, web: Web) -> None:
    metrics = Metrics()
    metrics.watch_queue(lambda: QueueFigures(waiting=1, running=2, oldest_s=3))
    metrics.call_ended("m", "OK", 0.1)
    metrics.of_nbd().request_ended("READ", "OK", 1)
    bounded = {"read": 1.0}
    metrics.operation_ended(
        Report(outcome="done", stages={"reading": 1.0}, bytes=bounded, retries={"status": 1.0}, seconds=1)
    )
    from prometheus_client import generate_latest

    exist = {name for name, _ in samples(generate_latest(metrics.registry).decode())}
    names = dashboard_names()
    assert len(names) > 10
    assert names - exist == set()


def test_dashboard_and_documents_name_every_metric() -> None:
    text = (ROOT / "docs/operations.md").read_text()
    ours = {name.removesuffix("_bucket") for name in dashboard_names() if name.startswith("dataplane_")}
    assert {name for name in ours if name not in text} == set()


@pytest.mark.parametrize(
    "line",
    [
        "",
        "x",
        "[]",
        "{}",
        '{"outcome": "burnt"}',
        '{"outcome": ["done"]}',
        '{"outcome": "done", "x": "' + "y" * 5000 + '"}',
        "[" * 4000,
    ],
)
def test_line_of_a_worker_that_is_no_report_is_dropped(line: str) -> None:
    assert Report.from_line(line) is None


def test_report_believes_nothing() -> None:
    line = '{"outcome": "done", "code": 99, "seconds": -1, "stages": {"reading": NaN, "x": 1}, "bytes": {"new": "1"}}'
    report = Report.from_line(line)
    assert report == Report(outcome="done", code=2, stages={"reading": 0.0}, bytes={"new": 0.0})
    assert report is not None
    Metrics().operation_ended(report)


@pytest.mark.parametrize("outcome", OUTCOMES)
def test_report_round_trips(outcome: str) -> None:
    report = Report(
        outcome=outcome, code=3, seconds=1.5, stages={"reading": 2.0}, bytes={"new": 3.0}, retries={"status": 1.0}
    )
    assert Report.from_line(report.to_line()) == report


def test_stage_clock_adds_up() -> None:
    progress = TimedProgress()
    progress.stage = "reading"
    progress.stage = "committing"
    progress.stage = "done"
    spent = progress.stage_seconds()
    assert set(spent) == {"opening", "reading", "committing"}
    assert math.isclose(sum(spent.values()), progress.snapshot().seconds, abs_tol=0.05)


def test_retry_counter_forgets_what_it_gave() -> None:
    import logging

    counter = RetryCounter()
    for text in ("the server answers 503", "no answer in time", "https://h/a?hush whatever"):
        counter.emit(logging.LogRecord("x", logging.INFO, "", 0, text, (), None))
    assert counter.take() == {"status": 1, "timeout": 1, "other": 1}
    assert counter.take() == {}


def test_every_answer_has_ids_that_the_log_has(server: Serving) -> None:
    mine = (("x-client-request-id", "b9a4-mine"), ("x-client-trace-id", "two words"))
    request = images.CreateImageRequest(folder_id="ids", uri="https://192.0.2.1/x")
    operation, call = server.images.Create.with_call(request, metadata=mine)
    server.cancel(operation.id)
    ids = dict(call.initial_metadata())
    event = next(event for event in server.events() if event.get("request_id") == ids["x-request-id"])
    assert ids["x-server-trace-id"] == ids["x-request-id"]
    assert (event["operation_id"], event["client_request_id"]) == (operation.id, "b9a4-mine")
    assert "client_trace_id" not in event


def test_reflection_knows_the_details_of_errors(server: Serving) -> None:
    stub = reflection_pb2_grpc.ServerReflectionStub(server.channel)
    for name in ("BadRequest", "QuotaFailure", "PreconditionFailure", "RequestInfo", "Status"):
        question = reflection_pb2.ServerReflectionRequest(file_containing_symbol=f"google.rpc.{name}")
        answer = next(iter(stub.ServerReflectionInfo(iter([question]))))
        files = [
            descriptor_pb2.FileDescriptorProto.FromString(file)
            for file in answer.file_descriptor_response.file_descriptor_proto
        ]
        assert any(message.name == name for file in files for message in file.message_type)


def test_metrics_on_a_taken_address_are_refused_before_serving(tmp_path: Path, web: Web) -> None:
    with pytest.raises(AssertionError, match="cannot serve metrics"):
        Serving(tmp_path / "data", workers=1, flags=["--dev", "--metrics-listen", web.address])


def test_health_is_not_serving_while_draining(tmp_path: Path, web: Web) -> None:
    with serve(tmp_path / "data", workers=1) as server:
        health = health_pb2_grpc.HealthStub(server.channel)
        watch = health.Watch(health_pb2.HealthCheckRequest(), timeout=60)
        assert next(watch).status == health_pb2.HealthCheckResponse.SERVING
        server.process.terminate()
        assert next(watch).status == health_pb2.HealthCheckResponse.NOT_SERVING
        watch.cancel()


class Collector:
    """An OTLP endpoint that keeps the names of the spans it is sent."""

    def __init__(self) -> None:
        from opentelemetry.proto.collector.trace.v1 import trace_service_pb2, trace_service_pb2_grpc

        self.spans: list[Any] = []
        collected = self.spans

        class Servicer(trace_service_pb2_grpc.TraceServiceServicer):  # type: ignore[misc, unused-ignore]
            def Export(self, request: Any, context: grpc.ServicerContext) -> Any:  # noqa: N802
                for resource in request.resource_spans:
                    for scope in resource.scope_spans:
                        collected.extend(scope.spans)
                return trace_service_pb2.ExportTraceServiceResponse()

        from concurrent.futures import ThreadPoolExecutor

        self.server = grpc.server(ThreadPoolExecutor(2))
        register: Any = trace_service_pb2_grpc.add_TraceServiceServicer_to_server
        register(Servicer(), self.server)
        self.port = self.server.add_insecure_port("127.0.0.1:0")
        self.server.start()


def test_traces_of_calls_and_operations_are_sent(tmp_path: Path, web: Web) -> None:
    pytest.importorskip("opentelemetry.instrumentation.grpc")
    collector = Collector()
    environment = {
        "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{collector.port}",
        "OTEL_BSP_SCHEDULE_DELAY": "200",
    }
    flags = ["--dev", "--traces", "otlp"]
    try:
        with serve(tmp_path / "data", workers=1, flags=flags, environment=environment) as server:
            server.ready(web.add("/traced.raw", os.urandom(MIB)) + f"?{SECRET}")
            _, call = server.images.List.with_call(images.ListImagesRequest(folder_id="f1"))
            trace_id = dict(call.initial_metadata())["x-server-trace-id"]
            names = {"operation", "reading", "/yandex.cloud.compute.v1.ImageService/Create"}
            server.until(lambda: True if names <= {span.name for span in collector.spans} else None)
            server.until(lambda: True if trace_id in {span.trace_id.hex() for span in collector.spans} else None)
        assert "confidential" not in str(collector.spans)
    finally:
        collector.server.stop(None).wait()


def test_metrics_page_is_plain_http_and_nothing_else(server: Serving) -> None:
    event = next(event for event in server.events() if event["event"] == "metrics served")
    host, _, port = event["address"].rpartition(":")
    connection = http.client.HTTPConnection(host, int(port), timeout=120)
    connection.request("POST", "/metrics")
    assert connection.getresponse().status >= 400
    connection.close()
