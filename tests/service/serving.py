"""`dataplane serve --dev` as a process of its own, and what tests ask of it."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import grpc

from service._pb.dataplane.v1 import image_details_pb2_grpc
from service._pb.yandex.cloud.compute.v1 import (
    disk_service_pb2_grpc,
    image_pb2,
    image_service_pb2_grpc,
    snapshot_service_pb2_grpc,
)
from service._pb.yandex.cloud.compute.v1 import image_service_pb2 as images
from service._pb.yandex.cloud.operation import operation_pb2, operation_service_pb2_grpc
from service._pb.yandex.cloud.operation import operation_service_pb2 as operations
from tests.postgres import chosen_database

T = TypeVar("T")

DATAPLANE = [sys.executable, "-m", "dataplane.cli.main"]
START_TIMEOUT_S = 300.0


class Serving:
    """One server. `log` is its stderr, a file."""

    def __init__(
        self,
        data: Path,
        *,
        workers: int,
        flags: Sequence[str] = ("--dev",),
        credentials: grpc.ChannelCredentials | None = None,
        token: str | None = "tester",
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self.data = data
        self.store = data / "store"
        self.log = data.with_name(f"{data.name}.log")
        command = [*DATAPLANE, "serve", "--data", str(data), "--listen", "127.0.0.1:0", "--workers", str(workers)]
        if not data.exists() and (url := chosen_database()) is not None:
            command += ["--database", url]
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [*command, *flags],
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                env={**os.environ, **(environment or {})},
            )
        self.endpoint = self._ready()
        self.ca = data / "tls" / "ca.pem"
        if credentials is None:
            credentials = grpc.ssl_channel_credentials(self.ca.read_bytes())
        if token is not None:
            call = grpc.access_token_call_credentials(token)
            credentials = grpc.composite_channel_credentials(credentials, call)
        self.channel = grpc.secure_channel(self.endpoint, credentials)
        self.images = image_service_pb2_grpc.ImageServiceStub(self.channel)
        self.disks = disk_service_pb2_grpc.DiskServiceStub(self.channel)
        self.snapshots = snapshot_service_pb2_grpc.SnapshotServiceStub(self.channel)
        self.operations = operation_service_pb2_grpc.OperationServiceStub(self.channel)
        self.details = image_details_pb2_grpc.ImageDetailsServiceStub(self.channel)

    def _ready(self) -> str:
        assert self.process.stdout is not None
        readable, _, _ = select.select([self.process.stdout], [], [], START_TIMEOUT_S)
        line = self.process.stdout.readline() if readable else ""
        if not line.startswith("listening on "):
            self.process.kill()
        assert line.startswith("listening on "), f"{line!r}; log: {self.log.read_text()}"
        return line.split()[-1]

    def create(self, uri: str, **fields: Any) -> operation_pb2.Operation:
        return self.images.Create(images.CreateImageRequest(**{"folder_id": "f1", "uri": uri} | fields))

    def operation(self, operation_id: str) -> operation_pb2.Operation:
        return self.operations.Get(operations.GetOperationRequest(operation_id=operation_id))

    def cancel(self, operation_id: str) -> operation_pb2.Operation:
        return self.operations.Cancel(operations.CancelOperationRequest(operation_id=operation_id))

    def finished(self, operation_id: str, timeout_s: float = 120) -> operation_pb2.Operation:
        def done() -> operation_pb2.Operation | None:
            found = self.operation(operation_id)
            return found if found.done else None

        return self.until(done, timeout_s)

    def ready(self, uri: str, **fields: Any) -> image_pb2.Image:
        """Create an image and return it when it is READY."""
        operation = self.finished(self.create(uri, **fields).id)
        image = image_pb2.Image()
        assert operation.response.Unpack(image), operation.error
        return image

    def until(self, look: Callable[[], T | None], timeout_s: float = 120) -> T:
        """Look again and again until there is something to see, and return it."""
        deadline_s = time.monotonic() + timeout_s
        while (seen := look()) is None:
            assert time.monotonic() < deadline_s, self.log.read_text()[-4000:]
            time.sleep(0.03)
        return seen

    def events(self) -> list[dict[str, Any]]:
        """Return the lines of the log that are whole and structured."""
        return [json.loads(line) for line in self.log.read_text().splitlines() if line.startswith("{")]

    def worker_of(self, operation_id: str, epoch: int = 1) -> int:
        """Return the pid of the worker that claimed an operation, once one has."""

        def claimed() -> int | None:
            for event in self.events():
                if event.get("operation_id") == operation_id and event.get("epoch") == epoch:
                    return int(event["pid"])
            return None

        return self.until(claimed)

    def reads(self, operation_id: str) -> bool | None:
        """Say True once the operation has read something of its source."""
        from service._pb.dataplane.v1 import image_details_pb2

        progress = self.details.GetProgress(image_details_pb2.GetProgressRequest(operation_id=operation_id))
        return True if progress.read_bytes > 0 else None

    def files(self) -> set[str]:
        """Return what lies in the store but for the ledger: packs, runs, and work in progress."""
        found = {str(path.relative_to(self.store)) for path in self.store.rglob("*") if path.is_file()}
        return {name for name in found if not name.startswith("ledger") and name != "tmp/lock"}

    def without_work_files(self) -> bool | None:
        """Say True when no import has files of its own in the store."""
        return None if any(name.startswith("tmp/") for name in self.files()) else True

    def memory_peak(self) -> int:
        """Return the most memory that the server's process ever had, in bytes."""
        lines = Path(f"/proc/{self.process.pid}/status").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:")) << 10

    def stop(self, number: int = signal.SIGTERM, timeout_s: float = 120) -> int:
        """Send a signal and return the exit code."""
        self.channel.close()
        if self.process.poll() is None:
            os.kill(self.process.pid, number)
        return self.process.wait(timeout_s)


@contextmanager
def serve(data: Path, *, workers: int = 2, **how: Any) -> Iterator[Serving]:
    """Run a server on `data` until the block ends; `how` it is started and spoken to is up to Serving."""
    server = Serving(data, workers=workers, **how)
    try:
        yield server
    finally:
        server.stop()
        assert server.process.stdout is not None
        server.process.stdout.close()
