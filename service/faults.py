"""Errors that only the service raises; they join the library's tree, so that one table maps them all."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from dataplane.errors import DataplaneError


@dataclass(frozen=True, slots=True)
class Violation:
    """One wrong field of a request and what is wrong with it."""

    field: str
    description: str


class InvalidRequest(DataplaneError):
    """A request breaks the constraints of its fields; carries every violation found."""

    def __init__(self, violations: Sequence[Violation]) -> None:
        first = violations[0]
        others = f" (and {len(violations) - 1} more)" if len(violations) > 1 else ""
        super().__init__(f"{first.field}: {first.description}{others}")
        self.violations = tuple(violations)


class Unauthenticated(DataplaneError):
    """The call carries no token that is accepted."""


class PermissionDenied(DataplaneError):
    """The caller is known, and may see the resource, but not do this to it."""


class FailedPrecondition(DataplaneError):
    """The resource `subject` is not in the state that the call needs."""

    def __init__(self, message: str, *, subject: str = "") -> None:
        super().__init__(message)
        self.subject = subject


class QuotaExceeded(DataplaneError):
    """A folder has as much of something as it may have: `quota` names what."""

    def __init__(self, *, folder_id: str, quota: str, limit: int, asked: int) -> None:
        super().__init__(f"quota {quota} of folder {shown(folder_id)} is exceeded: {asked} is more than {limit}")
        self.folder_id = folder_id
        self.quota = quota


class NotOffered(DataplaneError):
    """The call, or the way it is used, is not offered by this server."""


class Busy(DataplaneError):
    """A bound of the server is reached; the same call may succeed later."""


class LeaseLost(DataplaneError):
    """An operation moved on without this worker: its epoch, lease or cancellation says so. Nothing was committed."""


def shown(value: str, limit: int = 60) -> str:
    """Return text from outside for use in a message: quoted, escaped, ASCII, at most about `limit` characters."""
    return ascii(value if len(value) <= limit else f"{value[:limit]}…")
