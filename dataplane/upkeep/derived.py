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
from dataplane.store.runs import RunVanished, check_run, map_file
from dataplane.store.store import Store


def damaged_runs(store: Store) -> list[str]:
    """Read every run again and return what is wrong with them."""
    problems = []
    for run in store.ledger.runs():
        try:
            check_run(store.layout, run)
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
    for name in count_files(store):
        path = store.layout.count_file(name)
        try:
            if fmt.run_name(map_file(path)) != name:
                problems.append(f"count file {path.name} is damaged: its content has another name")
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


def count_files(store: Store) -> list[bytes]:
    """Return the names of the count files that the ledger names."""
    return [bytes.fromhex(str(name)) for (name,) in store.ledger.query("SELECT name FROM count_files ORDER BY name")]
