"""Which services a server offers, and the gRPC server they are registered with."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from service._pb.dataplane.v1 import (
    disk_exports_pb2,
    disk_exports_pb2_grpc,
    image_details_pb2,
    image_details_pb2_grpc,
)
from service._pb.yandex.cloud.compute.v1 import (
    disk_service_pb2,
    disk_service_pb2_grpc,
    image_service_pb2,
    image_service_pb2_grpc,
    snapshot_service_pb2,
    snapshot_service_pb2_grpc,
)
from service._pb.yandex.cloud.endpoint import api_endpoint_service_pb2, api_endpoint_service_pb2_grpc
from service._pb.yandex.cloud.iam.v1 import iam_token_service_pb2, iam_token_service_pb2_grpc
from service._pb.yandex.cloud.operation import operation_service_pb2, operation_service_pb2_grpc
from service.identity.modes import AnyAuthenticator
from service.interceptors import CallInterceptor, Ended
from service.kinds import DISK, IMAGE, SNAPSHOT
from service.quick_pool import QuickPool
from service.servicers.disk import DiskServicer
from service.servicers.disk_export import DiskExportServicer
from service.servicers.endpoint import ApiEndpointServicer
from service.servicers.iam_token import IamTokenServicer
from service.servicers.image import ImageServicer
from service.servicers.image_details import ImageDetailsServicer
from service.servicers.operation import OperationServicer
from service.servicers.snapshot import SnapshotServicer
from service.use_cases import UseCases

THREADS = 24
QUICK = ("yandex.cloud.compute.v1.ImageService/Get", "yandex.cloud.operation.OperationService/Get")
"""Methods that read one row and wait for nobody. They come most often, and have threads of their own."""

QUICK_THREADS = 2
"""Few, so that they find the next call waiting when they are done with one: waking a thread costs as much as a Get."""

CALLS_MAX = 512
"""Calls that are served or wait for a thread; more are refused with RESOURCE_EXHAUSTED, which SDKs retry."""

FILES = (
    image_service_pb2.DESCRIPTOR,
    disk_service_pb2.DESCRIPTOR,
    snapshot_service_pb2.DESCRIPTOR,
    operation_service_pb2.DESCRIPTOR,
    api_endpoint_service_pb2.DESCRIPTOR,
    iam_token_service_pb2.DESCRIPTOR,
    image_details_pb2.DESCRIPTOR,
    disk_exports_pb2.DESCRIPTOR,
)
SERVICES = tuple(service.full_name for file in FILES for service in file.services_by_name.values())


def new_grpc_server(
    authenticator: AnyAuthenticator, *, ended: Ended | None = None, before: Sequence[grpc.ServerInterceptor] = ()
) -> grpc.Server:
    """Return a gRPC server without services or ports, whose calls all pass the interceptor.

    `ended` is told of every call; `before` are interceptors around that one.
    """
    quick = QuickPool(QUICK_THREADS, "quick")
    return grpc.server(
        ThreadPoolExecutor(THREADS, thread_name_prefix="call"),
        interceptors=[*before, CallInterceptor(authenticator, ended, dict.fromkeys(QUICK, quick))],
        options=[("grpc.so_reuseport", 0)],  # a second server on the same port is a mistake
        maximum_concurrent_rpcs=CALLS_MAX,
    )


def register(
    server: grpc.Server,
    *,
    authenticator: AnyAuthenticator,
    use_cases: UseCases,
    announced: str,
    draining: threading.Event,
) -> health.HealthServicer:
    """Add every service to `server`; return the one that answers for its health, SERVING.

    `announced` is the HOST:PORT that SDKs are told; `draining` ends streams when it is set.
    """
    operations = use_cases.operations
    image = ImageServicer(use_cases.images, use_cases.bindings[IMAGE], operations)
    image_service_pb2_grpc.add_ImageServiceServicer_to_server(image, server)
    disk = DiskServicer(use_cases.disks, use_cases.bindings[DISK], operations)
    disk_service_pb2_grpc.add_DiskServiceServicer_to_server(disk, server)
    snapshot = SnapshotServicer(use_cases.snapshots, use_cases.bindings[SNAPSHOT], operations)
    snapshot_service_pb2_grpc.add_SnapshotServiceServicer_to_server(snapshot, server)
    operation_service_pb2_grpc.add_OperationServiceServicer_to_server(OperationServicer(operations), server)
    api_endpoint_service_pb2_grpc.add_ApiEndpointServiceServicer_to_server(ApiEndpointServicer(announced), server)
    iam_token_service_pb2_grpc.add_IamTokenServiceServicer_to_server(IamTokenServicer(authenticator), server)
    details = ImageDetailsServicer(use_cases.images, use_cases.snapshots, operations, draining)
    image_details_pb2_grpc.add_ImageDetailsServiceServicer_to_server(details, server)
    exports = DiskExportServicer(use_cases.exports)
    disk_exports_pb2_grpc.add_DiskExportServiceServicer_to_server(exports, server)
    answers = health.HealthServicer()
    health_pb2_grpc.add_HealthServicer_to_server(answers, server)
    reflection.enable_server_reflection((*SERVICES, health.SERVICE_NAME, reflection.SERVICE_NAME), server)
    for name in ("", *SERVICES):
        answers.set(name, health_pb2.HealthCheckResponse.SERVING)
    return answers
