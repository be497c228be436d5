"""What a server tells of its connections and requests to whoever counts them."""

from __future__ import annotations

from typing import Protocol


class Observer(Protocol):
    """Told of connections and requests. Called from several threads at once, once a request: it has to be quick."""

    def connected(self) -> None:
        """A client has come, whoever it is."""

    def disconnected(self) -> None:
        """It has gone."""

    def request_ended(self, command: str, result: str, length: int) -> None:
        """A request is done: `command` is a name of ``Command`` or UNKNOWN, `result` OK or a name of ``Error``.

        `length` is the number of bytes that were read or written, 0 for all but a READ or WRITE that went well.
        """


class Nobody:
    """Counts nothing."""

    def connected(self) -> None:
        """Do nothing."""

    def disconnected(self) -> None:
        """Do nothing."""

    def request_ended(self, command: str, result: str, length: int) -> None:
        """Do nothing."""
