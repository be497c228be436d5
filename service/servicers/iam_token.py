"""yandex.cloud.iam.v1.IamTokenService as --dev offers it: every credential is exchanged for a token."""

# ruff: noqa: N802 - gRPC names methods after those of the service
from __future__ import annotations

import secrets

import grpc

from service import convert, validation
from service._pb.yandex.cloud.iam.v1 import iam_token_service_pb2 as messages
from service._pb.yandex.cloud.iam.v1 import iam_token_service_pb2_grpc as services
from service.model import now_us

TOKEN_LIFETIME_S = 12 * 3600


class DevIamTokenServicer(services.IamTokenServiceServicer):
    """Issues tokens that mean nothing, because any token is accepted in --dev."""

    def Create(
        self, request: messages.CreateIamTokenRequest, context: grpc.ServicerContext
    ) -> messages.CreateIamTokenResponse:
        """Return a new token for any OAuth token or JWT; neither is kept."""
        validation.check(request)
        return messages.CreateIamTokenResponse(
            iam_token=f"t1.dev.{secrets.token_urlsafe(24)}",
            expires_at=convert.timestamp(now_us() + TOKEN_LIFETIME_S * 1_000_000),
        )
