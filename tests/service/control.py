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
from service._pb.yandex.cloud.compute.v1 import disk_service_pb2_grpc, image_service_pb2_grpc, snapshot_service_pb2_grpc
from service._pb.yandex.cloud.compute.v1 import image_service_pb2 as images
from service._pb.yandex.cloud.endpoint import api_endpoint_service_pb2_grpc
from service._pb.yandex.cloud.iam.v1 import iam_token_service_pb2_grpc
from service._pb.yandex.cloud.operation import operation_pb2, operation_service_pb2_grpc
from service.auth import ALL_ACTIONS, Action, Caller, Metadata, bearer_token
from service.catalog import operation_rows, schema
from service.catalog.database import Database
from service.catalog.resource_rows import IMAGES
from service.disk_folders import DiskFolders
from service.identity.modes import AnyAuthenticator, DevAuthenticator
from service.model import Content, Operation, chosen_disk_size, new_id, now_us
from service.operations import ending
from service.quotas import Quotas
from service.registration import new_grpc_server, register
from service.sealing import Sealer
from service.use_cases import UseCases
from tests.postgres import chosen_database

ANNOUNCED = "127.0.0.1:9443"
TOKEN = (("authorization", "Bearer test"),)
CONTENT = Content(
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


class FakeContents:
    """Pins without a store; they are not rolled back."""

    def __init__(self) -> None:
        self.pins: set[str] = set()
        self.forgotten: list[str] = []

    def keep_also(self, tx: Connection, name: str, *, also: str) -> None:
        assert name in self.pins
        self.pins.add(also)

    def let_go(self, tx: Connection, name: str) -> None:
        self.pins.remove(name)

    def let_go_disk(self, tx: Connection, disk_id: str) -> None:
        self.pins -= {disk_id, f"{disk_id}/next"}

    def forget_kept(self, tx: Connection, operation_id: str) -> None:
        self.forgotten.append(operation_id)


class FakeFolders(DiskFolders):
    """Real folders of disks, whose bases are in no store: what grows is noted."""

    def __init__(self, root: Path) -> None:
        super().__init__(root, None)  # type: ignore[arg-type]
        self.grown: dict[str, int] = {}

    def grow(self, disk_id: str, size: int) -> None:
        self.grown[disk_id] = size


class ControlPlane:
    """Stubs of a running server, and the means to play its worker."""

    def __init__(self, database: Database, channel: grpc.Channel, contents: FakeContents, folders: FakeFolders) -> None:
        self.database = database
        self.channel = channel
        self.contents = contents
        self.folders = folders
        self.disks = disk_service_pb2_grpc.DiskServiceStub(channel)
        self.snapshots = snapshot_service_pb2_grpc.SnapshotServiceStub(channel)
        self.images = image_service_pb2_grpc.ImageServiceStub(channel)
        self.operations = operation_service_pb2_grpc.OperationServiceStub(channel)
        self.endpoints = api_endpoint_service_pb2_grpc.ApiEndpointServiceStub(channel)
        self.tokens = iam_token_service_pb2_grpc.IamTokenServiceStub(channel)
        self.details = image_details_pb2_grpc.ImageDetailsServiceStub(channel)

    def create(self, **fields: Any) -> operation_pb2.Operation:
        """Ask for an image in folder f1; return the operation."""
        source = {} if {"image_id", "disk_id", "snapshot_id"} & fields.keys() else {"uri": "https://h/disk.qcow2"}
        request = images.CreateImageRequest(**{"folder_id": "f1"} | source | fields)
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
            image = IMAGES.get(tx, operation.resource_id)
            least = chosen_disk_size(image.spec.min_disk_size, CONTENT.virtual_size) if image is not None else 0
            values = {"min_disk_size": least} if image is not None else {}
            ending.succeed(
                tx,
                operation,
                content=CONTENT,
                values=values,
                progress={"stage": "done"},
                pin=lambda _tx: self.contents.pins.add(operation.resource_id),
                contents=self.contents,
            )

        self.database.write(work)

    def ready(self, **fields: Any) -> str:
        """Make an image that is READY; return its id."""
        self.create(**fields)
        operation = self.claimed()
        self.succeed(operation)
        return operation.resource_id


class Policy(DevAuthenticator):
    """The token says which folders its holder may do everything in, and which it may only look at."""

    def authenticate(self, metadata: Metadata) -> Caller:
        token = bearer_token(metadata)
        own, _, seen = token.partition("/")
        look = frozenset((str(Action.IMAGES_LIST),))
        return Caller(token, {own: ALL_ACTIONS} | ({seen: look} if seen else {}))


def as_(token: str) -> tuple[tuple[str, str], ...]:
    return (("authorization", f"Bearer {token}"),)


@contextmanager
def running(
    folder: Path,
    *,
    quotas: Quotas | None = None,
    authenticator: AnyAuthenticator | None = None,
    database_url: str | None = None,
) -> Iterator[ControlPlane]:
    """Run a control plane whose catalogue lies in `folder`, or at `database_url`."""
    url = database_url or chosen_database()
    database = Database.at_path(folder / f"{new_id('c')}.sqlite3") if url is None else Database.at_url(url)
    database.write(schema.create_tables)
    contents, sealer, folders = FakeContents(), Sealer.at_path(folder / "key"), FakeFolders(folder / "disks")
    folders.prepare()
    who = authenticator or DevAuthenticator()
    server = new_grpc_server(who)
    register(
        server,
        authenticator=who,
        use_cases=UseCases(database, sealer, contents, folders, quotas),
        announced=ANNOUNCED,
        draining=threading.Event(),
    )
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
            yield ControlPlane(database, channel, contents, folders)
    finally:
        server.stop(None).wait()
        database.close()


def refusal(error: Any) -> tuple[grpc.StatusCode, str, list[str]]:
    """Return the code, message and what is wrong of an RpcError: fields, quotas or resources."""
    fields: list[str] = []
    for key, value in error.trailing_metadata() or ():
        if key == "grpc-status-details-bin":
            for detail in status_pb2.Status.FromString(value).details:
                request, quota = error_details_pb2.BadRequest(), error_details_pb2.QuotaFailure()
                state = error_details_pb2.PreconditionFailure()
                assert detail.Unpack(request) or detail.Unpack(quota) or detail.Unpack(state)
                fields += [violation.field for violation in request.field_violations]
                fields += [violation.subject for violation in [*quota.violations, *state.violations]]
    return error.code(), error.details(), fields
