"""What a commit leaves to be done, done where it is quick: all of it can wait for the next one, or for gc."""

from __future__ import annotations

from dataplane.store.counting import catch_up
from dataplane.store.merging import merge_small_runs
from dataplane.store.runs import ENTRIES_PER_RUN_MAX
from dataplane.store.store import Store


def tidy(store: Store) -> None:
    """Count the images that came or went, and merge the small runs that imports leave. Raises nothing of ours."""
    catch_up(store, ENTRIES_PER_RUN_MAX)
    merge_small_runs(store)
