"""Which roots are counted, and which are still to be: what the ledger says, apart from the work of counting.

Every row carries a checksum, and so do the totals: they are numbers that nothing else would show to be wrong.
"""

from __future__ import annotations

from collections.abc import Sequence

from dataplane.dataclass import dataclass
from dataplane.errors import Corrupt
from dataplane.store.pins import insert_row, row_sum
from dataplane.store.sql import SqlConnection
from dataplane.store.store import Store

COUNTS_VERSION = 3
"""The first version of the ledger's tables whose counts carry checksums; those of version 2 are not believed."""


class CountsDamaged(Corrupt):
    """Counts are lost or damaged, or do not fit what the manifests say."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CountedRoot:
    """A root and what no other pinned root uses of it: `unique_size` in stored bytes."""

    root: bytes
    domain: str
    number: int
    unique_size: int
    unique_chunks: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Totals:
    """The stored bytes of all chunks that counted roots use, and how many these are."""

    size: int
    chunks: int


COUNTED_COLUMNS = CountedRoot.__slots__
SELECT_COUNTED = f"SELECT {', '.join(COUNTED_COLUMNS)}, row_sum FROM counted_roots"  # noqa: S608 - names of ours
SELECT_UNPINNED = "SELECT root, domain FROM counted_roots EXCEPT SELECT root, domain FROM pins"
SELECT_TOTALS = "SELECT name, value FROM ledger_meta WHERE name IN ('counted_size', 'counted_chunks', 'counted_sum')"


def pending(store: Store) -> tuple[list[tuple[bytes, str]], list[CountedRoot]]:
    """Return the roots (with their domains) that are pinned but not counted, and those that are only counted.

    Raises CountsDamaged when one of the latter does not match its checksum.
    """
    joining = store.ledger.query(
        "SELECT root, domain FROM pins EXCEPT SELECT root, domain FROM counted_roots ORDER BY root, domain"
    )
    leaving = store.ledger.query(
        f"{SELECT_COUNTED} JOIN ({SELECT_UNPINNED}) AS gone USING (root, domain) ORDER BY number"
    )
    with store.ledger.parsing():
        to_join = [(bytes.fromhex(str(root)), str(domain)) for root, domain in joining]
    return to_join, [checked_counted(row, store.ledger.name) for row in leaving]


def counted_roots(store: Store) -> list[CountedRoot]:
    """Return every root that is counted. Raises CountsDamaged."""
    return [checked_counted(row, store.ledger.name) for row in store.ledger.query(SELECT_COUNTED)]


def checked_counted(row: Sequence[object], ledger: str) -> CountedRoot:
    """Return the counted root of a row whose last column is the checksum of the others; raises CountsDamaged."""
    *values, checksum = row
    if row_sum(values) != checksum:
        raise CountsDamaged(
            f"{ledger} is damaged: its counts of root {values[0]} do not match their checksum; run dataplane repair,"
            " which counts anew"
        )
    root, domain, number, size, chunks = values
    return CountedRoot(
        root=bytes.fromhex(str(root)),
        domain=str(domain),
        number=int(str(number)),
        unique_size=int(str(size)),
        unique_chunks=int(str(chunks)),
    )


def put_counted(connection: SqlConnection, counted: CountedRoot) -> None:
    """Write the row of a counted root in the place of the one with its number, inside a transaction."""
    connection.execute("DELETE FROM counted_roots WHERE number = ?", (counted.number,))
    values = [getattr(counted, column) for column in COUNTED_COLUMNS]
    values[COUNTED_COLUMNS.index("root")] = counted.root.hex()
    insert_row(connection, "counted_roots", COUNTED_COLUMNS, values)


def checked_totals(rows: Sequence[Sequence[object]], ledger: str) -> Totals:
    """Return the totals that rows of ``SELECT_TOTALS`` give, zeros for none; raises CountsDamaged."""
    found = {str(name): str(value) for name, value in rows}
    if not found:
        return Totals(size=0, chunks=0)
    size, chunks = found.get("counted_size", ""), found.get("counted_chunks", "")
    if row_sum([size, chunks]) != found.get("counted_sum"):
        raise CountsDamaged(
            f"{ledger} is damaged: its total of the counts does not match its checksum; run dataplane repair, which"
            " counts anew"
        )
    return Totals(size=int(size), chunks=int(chunks))


def put_totals(connection: SqlConnection, totals: Totals) -> None:
    """Write the totals in the place of earlier ones, inside a transaction."""
    size, chunks = str(totals.size), str(totals.chunks)
    connection.execute("DELETE FROM ledger_meta WHERE name IN ('counted_size', 'counted_chunks', 'counted_sum')")
    connection.executemany(
        "INSERT INTO ledger_meta (name, value) VALUES (?, ?)",
        [("counted_size", size), ("counted_chunks", chunks), ("counted_sum", row_sum([size, chunks]))],
    )


def forget_counts(store: Store) -> None:
    """Begin anew: nothing is counted. The files that go astray are removed by the next one who counts."""
    with store.ledger.transaction() as transaction:
        transaction.execute("DELETE FROM counted_roots")
        transaction.execute("DELETE FROM count_files")
        transaction.execute("DELETE FROM ledger_meta WHERE name IN ('counted_chunks', 'counted_size', 'counted_sum')")
