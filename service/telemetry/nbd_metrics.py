"""What is counted of disks over NBD: connections, requests, bytes. No label holds the id of a disk."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge


class NbdMetrics:
    """Told by the NBD server what happens; see ``dataplane.nbd.observing``. Safe for concurrent use."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._connections = Gauge(
            "dataplane_nbd_connections", "NBD clients that are connected, let in or not.", registry=registry
        )
        self._requests = Counter(
            "dataplane_nbd_requests",
            "NBD requests that ended, by command and result: OK, or what the client was told.",
            ["command", "result"],
            registry=registry,
        )
        read = Counter("dataplane_nbd_read_bytes", "Bytes that NBD clients have read.", registry=registry)
        written = Counter("dataplane_nbd_written_bytes", "Bytes that NBD clients have written.", registry=registry)
        self._bytes = {"READ": read, "WRITE": written}
        self._of_requests: dict[tuple[str, str], Counter] = {}

    def connected(self) -> None:
        """Count a client that came."""
        self._connections.inc()

    def disconnected(self) -> None:
        """Count one that went."""
        self._connections.dec()

    def request_ended(self, command: str, result: str, length: int) -> None:
        """Count a request, and the bytes that it moved. Both words come from fixed lists."""
        series = self._of_requests.get((command, result))
        if series is None:  # finding it by its labels takes longer than counting
            series = self._of_requests[command, result] = self._requests.labels(command, result)
        series.inc()
        if length:
            self._bytes[command].inc(length)
