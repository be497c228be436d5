"""yandex.cloud.endpoint.ApiEndpointService: tells SDKs that everything is here."""

# ruff: noqa: N802 - gRPC names methods after those of the service
from __future__ import annotations

import grpc

from dataplane.errors import NotFound
from service._pb.yandex.cloud.endpoint import api_endpoint_pb2
from service._pb.yandex.cloud.endpoint import api_endpoint_service_pb2 as messages
from service._pb.yandex.cloud.endpoint import api_endpoint_service_pb2_grpc as services
from service.faults import shown

ENDPOINT_IDS = ("compute", "endpoint", "iam", "operation")


class ApiEndpointServicer(services.ApiEndpointServiceServicer):
    """Announces one address, with its port, for every service of this server."""

    def __init__(self, address: str) -> None:
        self._address = address

    def Get(
        self, request: messages.GetApiEndpointRequest, context: grpc.ServicerContext
    ) -> api_endpoint_pb2.ApiEndpoint:
        """Return the address of one service."""
        if request.api_endpoint_id not in ENDPOINT_IDS:
            raise NotFound(f"there is no endpoint {shown(request.api_endpoint_id)}, only {', '.join(ENDPOINT_IDS)}")
        return api_endpoint_pb2.ApiEndpoint(id=request.api_endpoint_id, address=self._address)

    def List(
        self, request: messages.ListApiEndpointsRequest, context: grpc.ServicerContext
    ) -> messages.ListApiEndpointsResponse:
        """Return the addresses of all services; there is one page."""
        endpoints = [api_endpoint_pb2.ApiEndpoint(id=name, address=self._address) for name in ENDPOINT_IDS]
        return messages.ListApiEndpointsResponse(endpoints=endpoints)
