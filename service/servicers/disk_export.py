"""dataplane.v1.DiskExportService: how to reach a disk over NBD."""

# ruff: noqa: N802 - gRPC names methods after those of the service
from __future__ import annotations

import grpc

from service import convert, validation
from service._pb.dataplane.v1 import disk_exports_pb2 as messages
from service._pb.dataplane.v1 import disk_exports_pb2_grpc as services
from service.exporting import DiskExports
from service.interceptors import caller


class DiskExportServicer(services.DiskExportServiceServicer):
    """What the public API, whose disks are attached to machines, has no place for."""

    def __init__(self, exports: DiskExports) -> None:
        self._exports = exports

    def Create(self, request: messages.CreateDiskExportRequest, context: grpc.ServicerContext) -> messages.DiskExport:
        """Return the address of a disk and a name that lets a client in."""
        validation.check(request)
        made = self._exports.create(
            request.disk_id, caller(), read_only=request.read_only, lifetime_s=request.lifetime_seconds
        )
        return messages.DiskExport(
            disk_id=made.disk_id,
            address=str(made.address),
            tls=made.tls,
            export_name=made.name,
            expires_at=convert.timestamp(made.expires_s * 1_000_000),
        )
