"""Donors: images, in files or in other stores, that may hold what a store has lost.

A donor is taken through the same pipeline as an import, with this store's keys; of what comes out, only what is missing
is kept. So any image will do that holds the data somewhere, whatever its format, and a lost manifest page or root comes
back when the donor is the same disk.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import AbstractContextManager

from dataplane.dataclass import dataclass
from dataplane.engine.scan import ChunkState
from dataplane.errors import Cancelled, DataplaneError
from dataplane.image_source import ImageSource
from dataplane.ingest.crew import thread_count
from dataplane.ingest.pipeline import Pipeline
from dataplane.ingest.progress import Progress
from dataplane.store import format as fmt
from dataplane.store.lease import Lease
from dataplane.store.merging import replace_runs
from dataplane.store.pack import PackSet
from dataplane.store.runs import write_runs
from dataplane.store.store import Store


@dataclass(frozen=True, slots=True)
class Donor:
    """An image to look in. `name` is what messages call it; `open` gives it as a source, to be closed after use."""

    name: str
    open: Callable[[], AbstractContextManager[ImageSource]]


class HealingSink:
    """The sink that keeps what is wanted, and stops the pipeline when it has it all."""

    keeps_manifest = True

    def __init__(self, packs: PackSet, wanted: set[bytes], found_all: threading.Event) -> None:
        self._packs = packs
        self._wanted = wanted
        self._found_all = found_all
        self._lock = threading.Lock()
        self.healed: set[bytes] = set()
        self.failure: DataplaneError | None = None
        """Why something could not be kept, which is not the donor's fault."""

    def mark_stored(self, ids: memoryview, states: memoryview) -> tuple[int, int]:
        """Turn down everything that is not wanted."""
        turned_down = 0
        for i, state in enumerate(states):
            if state == ChunkState.NEW:
                id = bytes(ids[i * fmt.ID_SIZE : (i + 1) * fmt.ID_SIZE])
                if id not in self._wanted or id in self.healed:
                    states[i] = ChunkState.STORED
                    turned_down += 1
        return turned_down, 0

    def append(self, ids: memoryview, stored_lengths: memoryview, plain_length: int, encoded: memoryview) -> None:
        """Keep what was wanted."""
        try:
            self._packs.append(ids, stored_lengths, plain_length, encoded)
        except DataplaneError as error:
            self.failure = error
            raise
        with self._lock:
            self.healed.update(bytes(ids[at : at + fmt.ID_SIZE]) for at in range(0, len(ids), fmt.ID_SIZE))
            if self.healed >= self._wanted:
                self._found_all.set()


def ask(
    store: Store,
    lease: Lease,
    donor: Donor,
    domain: str,
    wanted: set[bytes],
    *,
    threads: int | None,
    progress: Progress,
) -> tuple[int, str | None]:
    """Look for objects of a dedup domain in a donor and add what is found to the store, durably.

    Returns how many were found, and what kept the donor from being read to its end. Raises NoSpace, IoFailed or
    LeaseLost.
    """
    key = store.domain_key(domain)
    packs = PackSet(lease.path, key)
    found_all = threading.Event()
    sink = HealingSink(packs, wanted, found_all)
    problem = None
    try:
        with donor.open() as source:
            pipeline = Pipeline(
                source, sink, key=key, domain=domain, chunk_size=store.chunk_size, codec=store.codec,
                threads=thread_count(threads), progress=progress, cancelled=found_all,
            )  # fmt: skip
            pipeline.run()
    except Cancelled:
        if not found_all.is_set():
            packs.abandon()
            raise
    except DataplaneError as error:
        if sink.failure is not None:
            packs.abandon()
            raise sink.failure from error
        problem = f"{donor.name} was not read to its end: {error}"
    except BaseException:
        packs.abandon()
        raise
    sealed = packs.finish()
    if sealed:
        replace_runs(store, lease, [], list(write_runs(sealed, lease.path)), packs=sealed)
    return len(sink.healed), problem
