"""yandex.cloud.iam.v1.IamTokenService: a long-lived credential is exchanged for a short-lived token."""

# ruff: noqa: N802 - gRPC names methods after those of the service
from __future__ import annotations

import grpc

from service import convert, validation
from service._pb.yandex.cloud.iam.v1 import iam_token_service_pb2 as messages
from service._pb.yandex.cloud.iam.v1 import iam_token_service_pb2_grpc as services
from service.identity.modes import AnyAuthenticator


class IamTokenServicer(services.IamTokenServiceServicer):
    """Gives tokens as far as the server's way to check them has any to give."""

    def __init__(self, authenticator: AnyAuthenticator) -> None:
        self._authenticator = authenticator

    def Create(
        self, request: messages.CreateIamTokenRequest, context: grpc.ServicerContext
    ) -> messages.CreateIamTokenResponse:
        """Return a token for an OAuth token or the JWT of a service account; neither is kept."""
        validation.check(request)
        given = self._authenticator.exchange(oauth_token=request.yandex_passport_oauth_token, signed_jwt=request.jwt)
        return messages.CreateIamTokenResponse(
            iam_token=given.token, expires_at=convert.timestamp(given.expires_s * 1_000_000)
        )
