"""Who is calling. In --dev every bearer token is somebody; without it nothing is accepted that is not configured."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass

from service.faults import Unauthenticated

OPEN_SERVICES = (
    "yandex.cloud.endpoint.ApiEndpointService",
    "yandex.cloud.iam.v1.IamTokenService",
)
"""Services that clients call before they have a token; health and reflection are open too."""

TOKEN_LENGTH_MAX = 8192


@dataclass(frozen=True, slots=True)
class Caller:
    """Whoever made a call; `subject_id` tells callers apart and says nothing about their tokens."""

    subject_id: str


class DevAuthenticator:
    """Accepts any bearer token; the same token is the same subject."""

    def authenticate(self, metadata: Iterable[tuple[str, str | bytes]]) -> Caller:
        """Return the caller. Raises Unauthenticated without a bearer token."""
        for key, value in metadata:
            if key != "authorization":
                continue
            scheme, _, token = (value if isinstance(value, str) else "").partition(" ")
            token = token.strip()
            if scheme.lower() == "bearer" and 0 < len(token) <= TOKEN_LENGTH_MAX:
                return Caller(subject_id=dev_subject(token))
        raise Unauthenticated("the call has no 'authorization: Bearer TOKEN' header (with --dev any token will do)")


def dev_subject(token: str) -> str:
    """Return the subject id of whoever holds `token`: 20 characters that do not reveal it."""
    return f"dev{hashlib.blake2b(token.encode(), digest_size=16, person=b'dataplane-dev').hexdigest()[:17]}"
