"""What the catalogue asks of the store: to keep an image's content, and to let go of it, inside its own transaction."""

from __future__ import annotations

from typing import Protocol

from sqlalchemy.engine import Connection

from dataplane import Store, release_pins


class Contents(Protocol):
    """Pins, by name, that live and die with rows of the catalogue; and what unfinished work has kept."""

    def keep_also(self, tx: Connection, name: str, *, also: str) -> None:
        """Pin the content of `name` under the name `also` too. Raises NotFound."""
        ...

    def let_go(self, tx: Connection, name: str) -> None:
        """Remove the pin `name`. Raises NotFound."""
        ...

    def let_go_disk(self, tx: Connection, disk_id: str) -> None:
        """Remove the pins of a disk, if it has any."""
        ...

    def forget_kept(self, tx: Connection, operation_id: str) -> None:
        """Give up what workers have kept in the store to go on with an operation from."""
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

    def let_go_disk(self, tx: Connection, disk_id: str) -> None:
        """Remove the pins of a disk, if it has any: that of its base, and of the base that a snapshot gives it."""
        release_pins(self._store, disk_id, connection=tx.connection.driver_connection)

    def forget_kept(self, tx: Connection, operation_id: str) -> None:
        """Give up the checkpoints of an operation."""
        self._store.forget_checkpoints(operation_id, connection=tx.connection.driver_connection)
