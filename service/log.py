"""Structured logs: one JSON object a line on stderr. URLs lose their query, whoever logs them."""

from __future__ import annotations

import json
import logging
import os
import sys
from datetime import UTC, datetime
from typing import Any

from dataplane.errors import UsageError
from service.redact import redact
from service.settings import Settings

_ROOT = "dataplane.service"
LEVELS = ("debug", "info", "warning", "error")


class Logger:
    """Logs an event with fields; fields are strings, numbers or booleans."""

    def __init__(self, logger: logging.Logger) -> None:
        self._logger = logger

    def shows_debug(self) -> bool:
        """Say whether `debug` writes anything: what is logged for each of many calls is not even put together else."""
        return self._logger.isEnabledFor(logging.DEBUG)

    def debug(self, event: str, **fields: object) -> None:
        """Log what only helps to find a defect."""
        self._logger.debug(event, extra={"fields": fields})

    def info(self, event: str, **fields: object) -> None:
        """Log what happened."""
        self._logger.info(event, extra={"fields": fields})

    def warning(self, event: str, **fields: object) -> None:
        """Log what the service overcame."""
        self._logger.warning(event, extra={"fields": fields})

    def error(self, event: str, *, error: BaseException | None = None, **fields: object) -> None:
        """Log a defect or failure of the service; the traceback of `error` goes along."""
        self._logger.error(event, exc_info=error, extra={"fields": fields})


class _JsonLines(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "event": redact(record.getMessage()),
            "pid": os.getpid(),
        }
        fields: dict[str, object] = getattr(record, "fields", {})
        line |= {name: redact(value) if isinstance(value, str) else value for name, value in fields.items()}
        if record.exc_info:
            line["traceback"] = redact(self.formatException(record.exc_info))
        return json.dumps(line, default=str)


def get_logger(name: str) -> Logger:
    """Return the logger of a module of the service."""
    return Logger(logging.getLogger(f"{_ROOT}.{name.removeprefix('service.')}"))


def configure(level: str = "info") -> None:
    """Send the service's log, from `level` on, and warnings of its libraries, to stderr. Raises UsageError."""
    if level not in LEVELS:
        raise UsageError(f"--log-level {level!r} is none of {', '.join(LEVELS)}")
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_JsonLines())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.WARNING)
    logging.getLogger(_ROOT).setLevel(level.upper())


def configure_from(settings: Settings) -> None:
    """Do that as the settings say, and tell of variables that look like settings and are none."""
    configure(settings.text("log_level") or "info")
    for name in settings.unknown_variables:
        get_logger(__name__).warning("variable ignored: it is no setting", variable=name)
