"""What is derived from packs and manifests, read again: runs, and the counts of who uses what."""

from __future__ import annotations

from dataplane.errors import DataplaneError
from dataplane.store import format as fmt
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
    """Read every count file again and return what is wrong with them; repair counts anew."""
    if store.ledger.schema_version < 2:
        return []
    problems = []
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


def count_files(store: Store) -> list[bytes]:
    """Return the names of the count files that the ledger names."""
    return [bytes.fromhex(str(name)) for (name,) in store.ledger.query("SELECT name FROM count_files ORDER BY name")]
