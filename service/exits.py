"""Exception to exit code of the verbs of the control plane: one table."""

from __future__ import annotations

from dataplane import errors
from service.redact import one_line

_CODES: tuple[tuple[type[BaseException], int], ...] = (  # the first that fits decides
    (errors.UsageError, 2),
    (errors.Corrupt, 3),
    (errors.SourceError, 4),
    (errors.StoreError, 5),
)


def exit_code_of(error: BaseException) -> tuple[int, str]:
    """Return the exit code for `error` and the line that tells people about it."""
    code = next((code for kind, code in _CODES if isinstance(error, kind)), 1)
    if isinstance(error, errors.DataplaneError):
        return code, one_line(str(error)) or type(error).__name__
    return code, one_line(f"{type(error).__name__}: {error}")
