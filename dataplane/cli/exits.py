"""Exit codes: which error means which, in one table."""

from __future__ import annotations

from dataplane import errors

OK = 0
FAILED = 1
USAGE = 2
MISMATCH = 3
SOURCE = 4
STORE = 5
THRESHOLD = 6
INTERRUPTED = 130
TERMINATED = 143

EXIT_CODES: tuple[tuple[type[errors.DataplaneError], int], ...] = (
    (errors.UsageError, USAGE),
    (errors.Corrupt, MISMATCH),
    (errors.SourceError, SOURCE),
    (errors.StoreError, STORE),
    (errors.Cancelled, INTERRUPTED),
    (errors.DataplaneError, FAILED),
)


def exit_code(error: errors.DataplaneError) -> int:
    """Return the exit code of an error."""
    return next(code for kind, code in EXIT_CODES if isinstance(error, kind))
