"""The metrics of one process and its workers, in a registry of their own. Labels are words of fixed lists.

No label holds an id, a name or a URL: there would be as many series as images, and secrets among them.
"""

from __future__ import annotations

import platform
from collections.abc import Callable, Iterator

import grpc
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Info, start_http_server
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.platform_collector import PlatformCollector
from prometheus_client.process_collector import ProcessCollector
from prometheus_client.registry import Collector
from sqlalchemy.exc import SQLAlchemyError

from dataplane import __version__
from dataplane.errors import DataplaneError, IoFailed
from service.config import Address
from service.log import get_logger
from service.telemetry.nbd_metrics import NbdMetrics
from service.telemetry.reports import Report

CALL_BUCKETS_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
OPERATION_BUCKETS_S = (0.1, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600, 1800, 3600)

log = get_logger(__name__)

Depth = Callable[[], "QueueFigures"]


class QueueFigures:
    """The operations that are not done: how many nobody works on, how many somebody does, and the oldest's age."""

    def __init__(self, *, waiting: int, running: int, oldest_s: float) -> None:
        self.waiting = waiting
        self.running = running
        self.oldest_s = oldest_s


class Metrics:
    """What is counted."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        PlatformCollector(registry=self.registry)
        build = Info("dataplane_build", "Versions of this server.", registry=self.registry)
        build.info({"version": __version__, "python": platform.python_version(), "grpc": grpc.__version__})
        self._calls = Counter(
            "dataplane_grpc_calls", "Calls that ended, by method and code.", ["method", "code"], registry=self.registry
        )
        self._call_seconds = Histogram(
            "dataplane_grpc_call_seconds",
            "Seconds from the beginning of a call to its end.",
            ["method"],
            buckets=CALL_BUCKETS_S,
            registry=self.registry,
        )
        self._of_calls: dict[tuple[str, str], tuple[Counter, Histogram]] = {}
        self._operations = Counter(
            "dataplane_operations",
            "Turns of workers on operations, by how they ended; lost and returned ones are taken up again.",
            ["outcome", "code"],
            registry=self.registry,
        )
        self._operation_seconds = Histogram(
            "dataplane_operation_seconds",
            "Seconds that a worker spent on an operation.",
            ["outcome"],
            buckets=OPERATION_BUCKETS_S,
            registry=self.registry,
        )
        self._stage_seconds = Counter(
            "dataplane_stage_seconds", "Seconds that workers spent in each stage.", ["stage"], registry=self.registry
        )
        self._bytes = Counter(
            "dataplane_import_bytes",
            "Bytes of disks by what they turned out to be; read ones are of sources, written ones of the store.",
            ["kind"],
            registry=self.registry,
        )
        self._retries = Counter(
            "dataplane_source_retries", "Reads of sources that were tried again.", ["reason"], registry=self.registry
        )
        self._worker_deaths = Counter(
            "dataplane_worker_deaths", "Worker processes that ended without being told to.", registry=self.registry
        )
        self._workers = Gauge("dataplane_workers", "Worker processes of this server.", registry=self.registry)

    def call_ended(self, method: str, code: str, seconds: float) -> None:
        """Count one call. `method` is one that the server has, so that strangers make no labels."""
        series = self._of_calls.get((method, code))
        if series is None:  # finding them by their labels takes longer than counting
            series = self._of_calls[method, code] = self._calls.labels(method, code), self._call_seconds.labels(method)
        calls, call_seconds = series
        calls.inc()
        call_seconds.observe(seconds)

    def operation_ended(self, report: Report) -> None:
        """Count one turn of a worker on an operation."""
        code = next(code.name for code in grpc.StatusCode if code.value[0] == report.code)
        self._operations.labels(report.outcome, code).inc()
        self._operation_seconds.labels(report.outcome).observe(report.seconds)
        for counter, numbers in (
            (self._stage_seconds, report.stages),
            (self._bytes, report.bytes),
            (self._retries, report.retries),
        ):
            for name, amount in numbers.items():
                counter.labels(name).inc(amount)

    def worker_died(self) -> None:
        """Count a worker that ended on its own."""
        self._worker_deaths.inc()

    def of_nbd(self) -> NbdMetrics:
        """Return what counts disks over NBD, in the same registry; for a server that serves them, once."""
        return NbdMetrics(self.registry)

    def pools_are(self, usage: Callable[[], tuple[int, int]]) -> None:
        """Ask `usage` how many files of pooled images there are, and how many bytes they have."""
        files = Gauge("dataplane_pool_files", "Files of pooled images.", registry=self.registry)
        files.set_function(lambda: float(usage()[0]))
        size = Gauge("dataplane_pool_bytes", "Bytes of these files.", registry=self.registry)
        size.set_function(lambda: float(usage()[1]))

    def workers_are(self, count: Callable[[], int]) -> None:
        """Ask `count` how many workers there are."""
        self._workers.set_function(lambda: float(count()))

    def watch_queue(self, depth: Depth) -> None:
        """Ask `depth` for the queue whenever metrics are read."""
        self.registry.register(_QueueCollector(depth))

    def listen(self, address: Address) -> Callable[[], None]:
        """Serve the metrics over http; return what ends that. Raises IoFailed when the address is taken."""
        try:
            server, thread = start_http_server(address.port, address.host, registry=self.registry)
        except OSError as error:
            raise IoFailed(f"cannot serve metrics on {address}: {error.strerror or error}") from error
        log.info("metrics served", address=str(Address(address.host, server.server_port)))

        def stop() -> None:
            server.shutdown()
            server.server_close()
            thread.join()

        return stop


class _QueueCollector(Collector):
    """Reads the catalogue when it is asked. A catalogue that does not answer leaves these metrics out."""

    def __init__(self, depth: Depth) -> None:
        self._depth = depth

    def describe(self) -> Iterator[GaugeMetricFamily]:
        """Return the names without reading anything."""
        yield from self._families()

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """Yield the figures of this moment."""
        try:
            figures = self._depth()
        except (SQLAlchemyError, DataplaneError):
            return
        operations, oldest = self._families()
        operations.add_metric(["waiting"], figures.waiting)
        operations.add_metric(["running"], figures.running)
        oldest.add_metric([], figures.oldest_s)
        yield operations
        yield oldest

    def _families(self) -> tuple[GaugeMetricFamily, GaugeMetricFamily]:
        operations = GaugeMetricFamily(
            "dataplane_queue_operations", "Operations that are not done, of the whole catalogue.", labels=["state"]
        )
        oldest = GaugeMetricFamily(
            "dataplane_queue_oldest_seconds", "Age of the oldest operation that nobody works on; 0 when none waits."
        )
        return operations, oldest
