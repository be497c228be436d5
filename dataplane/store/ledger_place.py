"""Where a store keeps its ledger: in a file in its folder, or in the PostgreSQL database that `ledger.url` names."""

from __future__ import annotations

import stat

from dataplane.errors import Corrupt, StoreIncompatible
from dataplane.store.layout import Layout, naming, write_file
from dataplane.store.ledger_file import LedgerFile
from dataplane.store.sql import LedgerDatabase

URL_LENGTH_MAX = 4096


def create_ledger_database(layout: Layout, url: str | None) -> LedgerDatabase:
    """Return the database of a new store's ledger, empty: at `url` when there is one.

    Raises UsageError for a URL that is none, IoFailed when its server does not answer.
    """
    if url is None:
        return LedgerFile(layout.ledger)
    database = open_server(url)
    # It may hold a password, so it is kept as the secret is.
    write_file(layout.ledger_url, f"{url}\n".encode(), 0o600)
    return database


def open_ledger_database(layout: Layout) -> LedgerDatabase:
    """Return the database of a store's ledger. Raises Corrupt when it is missing, StoreIncompatible or IoFailed."""
    url = read_ledger_url(layout)
    if url is not None:
        return open_server(url)
    with naming(layout.ledger, "looking for"):
        if not layout.ledger.exists():
            raise Corrupt(f"the ledger {layout.ledger} is missing: restore it from a backup")
    return LedgerFile(layout.ledger)


def read_ledger_url(layout: Layout) -> str | None:
    """Return the URL of the database that holds the ledger, None when a file does. Raises StoreIncompatible."""
    path = layout.ledger_url
    try:
        mode = path.stat().st_mode
        text = path.read_text()
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError) as error:
        raise StoreIncompatible(f"{path}, which says where the ledger is, cannot be read: {error}") from error
    if mode & (stat.S_IRWXG | stat.S_IRWXO):
        raise StoreIncompatible(f"{path} may hold a password and is open to others: run chmod 600 {path}")
    if len(text) > URL_LENGTH_MAX:
        raise StoreIncompatible(f"{path} is not one line with the URL of a database")
    return text.strip()


def open_server(url: str) -> LedgerDatabase:
    """Connect to a ledger in PostgreSQL."""
    from dataplane.store.ledger_server import LedgerServer  # its driver is needed only here

    return LedgerServer(url)
