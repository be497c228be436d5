"""What is derived from packs and manifests, read again: runs, and the counts of who uses what."""

from __future__ import annotations

from dataplane.errors import DataplaneError
from dataplane.store import format as fmt
from dataplane.store.counted_roots import (
    COUNTS_VERSION,
    SELECT_COUNTED,
    SELECT_TOTALS,
    CountsDamaged,
    checked_counted,
    checked_totals,
)
from dataplane.store.ledger import object_name
from dataplane.store.runs import RunVanished, check_run, map_file
from dataplane.store.store import Store


def damaged_runs(store: Store) -> list[str]:
    """Read every run again and return what is wrong with them."""
    problems = []
    for run, entries in store.ledger.run_sizes().items():
        try:
            found = check_run(store.layout, run)
            if found != entries:
                problems.append(f"run {run.hex()}.run has {found} entries, and {store.ledger.name} says {entries}")
        except RunVanished:
            # A collection replaces runs; one that the ledger still names is lost.
            if run in store.ledger.runs():
                problems.append(f"run {run.hex()}.run is missing from the store")
        except DataplaneError as error:
            problems.append(str(error))
    return problems


def damaged_counts(store: Store) -> list[str]:
    """Read every count file, and what the ledger says of counts, again and return what is wrong; repair counts anew."""
    if store.ledger.schema_version < COUNTS_VERSION:
        return []
    problems = damaged_rows(store)
    for name, entries in count_files(store).items():
        path = store.layout.count_file(name)
        try:
            data = map_file(path)
            if fmt.run_name(data) != name:
                problems.append(f"count file {path.name} is damaged: its content has another name")
                continue
            found = fmt.parse_run(data, f"count file {path.name}", fmt.COUNTS_MAGIC)[0].entry_count
            if found != entries:
                problems.append(f"count file {path.name} has {found} entries, and {store.ledger.name} says {entries}")
        except RunVanished:
            # Counting replaces files; one that the ledger still names is lost.
            if name in count_files(store):
                problems.append(f"count file {path.name} is missing from the store")
        except DataplaneError as error:
            problems.append(str(error))
    return problems


def damaged_rows(store: Store) -> list[str]:
    """Return which rows of counts in the ledger do not match their checksums."""
    problems = []
    for row in store.ledger.query(SELECT_COUNTED):
        try:
            checked_counted(row, store.ledger.name)
        except CountsDamaged as error:
            problems.append(str(error))
    try:
        checked_totals(store.ledger.query(SELECT_TOTALS), store.ledger.name)
    except CountsDamaged as error:
        problems.append(str(error))
    return problems


def count_files(store: Store) -> dict[bytes, int]:
    """Return the entries of the count files that the ledger names, by name."""
    rows = store.ledger.query("SELECT name, entries FROM count_files ORDER BY name")
    with store.ledger.parsing():
        return {object_name(name): int(str(entries)) for name, entries in rows}
