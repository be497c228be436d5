"""OpenTelemetry traces, when `dataplane[otel]` is installed and `--traces otlp` asks for them.

Where they go, and which of them, is said by the variables that OpenTelemetry defines (`OTEL_EXPORTER_OTLP_ENDPOINT`,
`OTEL_TRACES_SAMPLER` and so on). Operations become spans in the process that started their worker: workers themselves
are confined and send nothing.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import grpc

from dataplane import __version__
from dataplane.errors import UsageError
from service.telemetry.reports import Report


class Tracing:
    """Makes spans of calls and operations."""

    def __init__(self, provider: Any) -> None:
        self._provider = provider
        self._tracer = provider.get_tracer("dataplane", __version__)

    def interceptor(self) -> grpc.ServerInterceptor:
        """Return what makes a span of each call, the child of the caller's when that sends one."""
        from opentelemetry.instrumentation import grpc as instrumentation

        make: Callable[..., grpc.ServerInterceptor] = instrumentation.server_interceptor
        return make(tracer_provider=self._provider)

    def operation_ended(self, report: Report) -> None:
        """Make a span of a worker's turn on an operation, and one of each stage in it."""
        end_ns = time.time_ns()
        begin_ns = end_ns - int(report.seconds * 1e9)
        attributes = {"dataplane.outcome": report.outcome, "rpc.grpc.status_code": report.code}
        attributes |= {f"dataplane.bytes.{name}": int(amount) for name, amount in report.bytes.items()}
        span = self._tracer.start_span("operation", start_time=begin_ns, attributes=attributes)
        from opentelemetry.trace import set_span_in_context

        inside, at_ns = set_span_in_context(span), begin_ns
        for stage, seconds in report.stages.items():
            part = self._tracer.start_span(stage, context=inside, start_time=at_ns)
            at_ns += int(seconds * 1e9)
            part.end(end_time=at_ns)
        span.end(end_time=end_ns)

    def close(self) -> None:
        """Send what is left."""
        self._provider.shutdown()


def start(make_exporter: Callable[[], Any] | None = None) -> Tracing:
    """Return tracing that sends spans in batches. Raises UsageError when the libraries are not installed."""
    try:
        import opentelemetry.instrumentation.grpc  # noqa: F401 - needed later, and better missed now
        from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ImportError as error:
        raise UsageError("--traces otlp needs more: pip install 'dataplane[otel]'") from error
    resource = Resource.create({"service.name": "dataplane", "service.version": __version__})
    provider = TracerProvider(resource=resource)
    provider.add_span_processor(BatchSpanProcessor((make_exporter or OTLPSpanExporter)()))
    return Tracing(provider)
