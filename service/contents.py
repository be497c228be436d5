"""What the catalogue asks of the store: to keep an image's content, and to let go of it, inside its own transaction."""

from __future__ import annotations

from typing import Protocol

from sqlalchemy.engine import Connection

from dataplane import Store


class Contents(Protocol):
    """Pins, by name, that live and die with rows of the catalogue."""

    def keep_also(self, tx: Connection, name: str, *, also: str) -> None:
        """Pin the content of `name` under the name `also` too. Raises NotFound."""
        ...

    def let_go(self, tx: Connection, name: str) -> None:
        """Remove the pin `name`. Raises NotFound."""
        ...


class StoreContents:
    """The pins of a store whose ledger is in the catalogue's database."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def keep_also(self, tx: Connection, name: str, *, also: str) -> None:
        """Pin the content of `name` under the name `also` too. Raises NotFound."""
        self._store.pin_also(name, also, connection=tx.connection.driver_connection)

    def let_go(self, tx: Connection, name: str) -> None:
        """Remove the pin `name`. Raises NotFound."""
        self._store.unpin(name, connection=tx.connection.driver_connection)
