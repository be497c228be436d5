"""Which roots are counted, and which are still to be: what the ledger says, apart from the work of counting."""

from __future__ import annotations

from dataplane.dataclass import dataclass
from dataplane.store.store import Store


@dataclass(frozen=True, slots=True, kw_only=True)
class CountedRoot:
    """A root and what no other pinned root uses of it: `unique_size` in stored bytes."""

    root: bytes
    domain: str
    number: int
    unique_size: int
    unique_chunks: int


def pending(store: Store) -> tuple[list[tuple[bytes, str]], list[CountedRoot]]:
    """Return the roots (with their domains) that are pinned but not counted, and those that are only counted."""
    joining = store.ledger.query(
        "SELECT root, domain FROM pins EXCEPT SELECT root, domain FROM counted_roots ORDER BY root, domain"
    )
    leaving = store.ledger.query(
        "SELECT root, domain, number, unique_size, unique_chunks FROM counted_roots JOIN (SELECT root, domain FROM"
        " counted_roots EXCEPT SELECT root, domain FROM pins) AS gone USING (root, domain) ORDER BY number"
    )
    return [(bytes.fromhex(str(root)), str(domain)) for root, domain in joining], [make_counted(row) for row in leaving]


def make_counted(row: tuple[object, ...]) -> CountedRoot:
    """Return the counted root of a row of the ledger."""
    root, domain, number, size, chunks = row
    return CountedRoot(
        root=bytes.fromhex(str(root)),
        domain=str(domain),
        number=int(str(number)),
        unique_size=int(str(size)),
        unique_chunks=int(str(chunks)),
    )
