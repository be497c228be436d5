"""The control plane in this process: real servicers, catalogue and gRPC, but no store, workers or TLS."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
from google.rpc import error_details_pb2, status_pb2
from sqlalchemy.engine import Connection

from service._pb.dataplane.v1 import image_details_pb2_grpc
from service._pb.yandex.cloud.compute.v1 import image_service_pb2 as images
from service._pb.yandex.cloud.compute.v1 import image_service_pb2_grpc
from service._pb.yandex.cloud.endpoint import api_endpoint_service_pb2_grpc
from service._pb.yandex.cloud.iam.v1 import iam_token_service_pb2_grpc
from service._pb.yandex.cloud.operation import operation_pb2, operation_service_pb2_grpc
from service.catalog import operation_rows, schema
from service.catalog.database import Database
from service.identity.modes import DevAuthenticator
from service.images import Images
from service.model import ImageContent, Operation, new_id, now_us
from service.operations import ending
from service.operations.use_cases import Operations
from service.registration import new_grpc_server, register
from service.sealing import Sealer

ANNOUNCED = "127.0.0.1:9443"
TOKEN = (("authorization", "Bearer test"),)
CONTENT = ImageContent(
    root=b"r" * 32,
    virtual_size=10_000_000,
    data_size=5_000_000,
    storage_size=1_234_567,
    allocated_size=8 << 20,
    chunk_size=65536,
    codec="zstd:1",
    chunks=77,
    distinct_chunks=70,
)


class ControlPlane:
    """Stubs of a running server, and the means to play its worker."""

    def __init__(self, database: Database, channel: grpc.Channel, unpinned: list[str]) -> None:
        self.database = database
        self.channel = channel
        self.unpinned = unpinned
        self.images = image_service_pb2_grpc.ImageServiceStub(channel)
        self.operations = operation_service_pb2_grpc.OperationServiceStub(channel)
        self.endpoints = api_endpoint_service_pb2_grpc.ApiEndpointServiceStub(channel)
        self.tokens = iam_token_service_pb2_grpc.IamTokenServiceStub(channel)
        self.details = image_details_pb2_grpc.ImageDetailsServiceStub(channel)

    def create(self, **fields: Any) -> operation_pb2.Operation:
        """Ask for an image in folder f1; return the operation."""
        request = images.CreateImageRequest(**{"folder_id": "f1", "uri": "https://h/disk.qcow2"} | fields)
        return self.images.Create(request, metadata=TOKEN)

    def claim(self, *, lease_s: float = 60, owner: str = "w") -> Operation | None:
        """Do what a worker does first."""
        lease_us = int(lease_s * 1_000_000)
        return self.database.write(lambda tx: operation_rows.claim(tx, owner=owner, now_us=now_us(), lease_us=lease_us))

    def claimed(self, **arguments: Any) -> Operation:
        """Claim what must be there."""
        operation = self.claim(**arguments)
        assert operation is not None
        return operation

    def succeed(self, operation: Operation) -> None:
        """Do what a worker does last."""

        def work(tx: Connection) -> None:
            ending.succeed(
                tx, operation, content=CONTENT, min_disk_size=12582912, progress={"stage": "done"}, pin=lambda _tx: None
            )

        self.database.write(work)

    def ready(self, **fields: Any) -> str:
        """Make an image that is READY; return its id."""
        self.create(**fields)
        operation = self.claimed()
        self.succeed(operation)
        return operation.image_id


@contextmanager
def running(folder: Path) -> Iterator[ControlPlane]:
    """Run a control plane whose catalogue lies in `folder`."""
    database = Database.at_path(folder / f"{new_id('c')}.sqlite3")
    database.write(schema.create_tables)
    unpinned: list[str] = []
    server = new_grpc_server(DevAuthenticator())
    register(
        server,
        authenticator=DevAuthenticator(),
        images=Images(database, Sealer.at_path(folder / "key"), lambda _tx, image_id: unpinned.append(image_id)),
        operations=Operations(database),
        announced=ANNOUNCED,
        draining=threading.Event(),
    )
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
            yield ControlPlane(database, channel, unpinned)
    finally:
        server.stop(None).wait()
        database.close()


def refusal(error: Any) -> tuple[grpc.StatusCode, str, list[str]]:
    """Return the code, message and wrong fields of an RpcError."""
    fields: list[str] = []
    for key, value in error.trailing_metadata() or ():
        if key == "grpc-status-details-bin":
            for detail in status_pb2.Status.FromString(value).details:
                request = error_details_pb2.BadRequest()
                assert detail.Unpack(request)
                fields += [violation.field for violation in request.field_violations]
    return error.code(), error.details(), fields
