"""Scrub: reads, decodes and hashes stored chunks again, each once, and says which are hurt."""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Iterable
from pathlib import Path

from dataplane.dataclass import dataclass, field
from dataplane.engine.codec import Codec, Decoder
from dataplane.engine.scan import DIGEST_SIZE, blake3
from dataplane.engine.table import DigestTable
from dataplane.engine.window import Window
from dataplane.errors import DataplaneError, UsageError
from dataplane.extent import WINDOW_SIZE
from dataplane.ingest.crew import run_crew, thread_count
from dataplane.ingest.feed import Claim, Feed
from dataplane.ingest.progress import Progress
from dataplane.store import format as fmt
from dataplane.store.layout import naming
from dataplane.store.pack import read_domain_tag, read_range, read_table
from dataplane.store.runs import Index
from dataplane.store.store import Store
from dataplane.upkeep.deleting import find_strays
from dataplane.upkeep.derived import damaged_counts, damaged_runs
from dataplane.upkeep.marking import add_image
from dataplane.upkeep.pack_contents import PackContents, PackPiece, Selection, StoredObject

PROBES = 16
"""Chunks that are tried to find out which domain a pack with a damaged header belongs to."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Damage:
    """One thing that is hurt: a chunk, or (with an empty `id`) a pack as such: its header, its table or its size.

    Offsets and lengths in bytes.
    """

    pack: bytes
    id: bytes
    offset: int
    length: int
    problem: str


@dataclass(slots=True)
class ScrubReport:
    """What a scrub covered and found. Counts and bytes are of chunks that were read again."""

    packs: int = 0
    packs_total: int = 0
    chunks: int = 0
    bytes_read: int = 0
    bytes_checked: int = 0
    unkeyed_packs: int = 0
    """Packs of a domain that no image is in: their chunks are garbage, and nothing is left to check them against."""
    complete: bool = False
    """Whether every chosen chunk was read, rather than time running out."""
    seconds: float = 0.0
    damage: list[Damage] = field(default_factory=list)
    run_damage: list[str] = field(default_factory=list)
    """What is wrong with runs that a look-up could still be made in. A repair makes runs from the packs' tables."""
    strays: list[Path] = field(default_factory=list)
    """Files that the ledger does not name, seen while no other work was going on: a crash left them, or the ledger is
    older than they are. Only a scrub of the whole store looks for them."""


def scrub(
    store: Store,
    name: str | None = None,
    *,
    share: float = 1.0,
    seconds_max: float | None = None,
    threads: int | None = None,
    progress: Progress | None = None,
    cancelled: threading.Event | None = None,
) -> ScrubReport:
    """Read everything in the store again, or with `name` what that image uses; return what was found.

    `share` from 0 (exclusive) to 1 reads a random sample of chunks. With `seconds_max` no pack is begun later than
    that; the packs that were checked longest ago come first, so that one scrub goes on where the last one stopped.
    Raises NotFound for an unknown image, UsageError for a share out of range, Cancelled, Corrupt when the ledger or the
    index cannot be read.
    """
    if not 0 < share <= 1:
        raise UsageError(f"a sample of {share:.2%} is not more than 0 % and at most 100 %")
    started = time.monotonic()
    store.ledger.check()
    index = store.index()
    wanted = None
    if name is not None:
        pin = store.pin(name)
        wanted = DigestTable(DIGEST_SIZE)
        add_image(store, index, pin.root, pin.domain, wanted, store.ledger.lost_chunks())
    selection = Selection(wanted=wanted, share=share, seed=int.from_bytes(os.urandom(8)))
    work = Scrub(store, index, selection, progress or Progress(), cancelled)
    work.run(thread_count(threads), None if seconds_max is None else started + seconds_max)
    if name is None:
        work.report.run_damage = [*damaged_runs(store), *damaged_counts(store)]
        work.report.strays = find_strays(store)
    work.report.seconds = time.monotonic() - started
    return work.report


class Scrub:
    """One scrub at work."""

    def __init__(
        self,
        store: Store,
        index: Index,
        selection: Selection,
        progress: Progress,
        cancelled: threading.Event | None,
    ) -> None:
        self._store = store
        self._index = index
        self._selection = selection
        self._progress = progress
        self._cancelled = cancelled
        self._lock = threading.Lock()
        self._keys = [store.domain_key(domain) for domain in store.ledger.domains()]
        self.report = ScrubReport()

    def run(self, threads: int, deadline: float | None) -> None:
        """Scrub domain by domain, since each has its own key."""
        packs = self._store.ledger.packs_to_verify()
        self._check_sizes()
        self.report.packs_total = len(packs)
        groups: dict[bytes | None, list[bytes]] = {}
        for pack in packs:
            groups.setdefault(self._key_of(pack), []).append(pack)
        self.report.unkeyed_packs = len(groups.pop(None, []))
        begun = self.report.unkeyed_packs
        for key, members in groups.items():
            assert key is not None  # noqa: S101 - that group was popped
            begun += self._scrub_domain(key, members, threads, deadline)
        self.report.packs = begun - self.report.unkeyed_packs
        self.report.complete = begun == len(packs)
        self._progress.stage = "done"

    def _check_sizes(self) -> None:
        """Compare the sizes of packs with what the ledger says; one that is missing is found when it is read."""
        ledger = self._store.ledger
        for pack, size in ledger.packs().items():
            path = self._store.layout.pack(pack)
            with naming(path, "looking at"), contextlib.suppress(FileNotFoundError):
                found = path.stat().st_size
                if found != size:
                    problem = f"has {found} bytes, and {ledger.name} says {size}"
                    self._hurt(Damage(pack=pack, id=b"", offset=0, length=0, problem=problem))

    def _key_of(self, pack: bytes) -> bytes | None:
        """Return the key of the domain whose chunks `pack` holds, None for a domain that no image is in."""
        key, problem = key_of_pack(self._store, self._index, self._keys, pack)
        if problem is not None:
            self._hurt(Damage(pack=pack, id=b"", offset=0, length=fmt.PACK_HEADER.size, problem=problem))
        return key

    def _scrub_domain(self, key: bytes, packs: list[bytes], threads: int, deadline: float | None) -> int:
        """Scrub packs of one domain; return how many were begun, all of which are then done."""
        with PackContents(self._store, self._index, packs, self._selection, deadline) as contents:
            feed = Feed(contents, lambda offset, _length: contents.piece_at(offset), self._progress, self._cancelled)
            self._progress.stage = "reading"
            run_crew(lambda: self._work(feed, key), threads, feed.stop)
            for piece in contents.pieces:
                if piece.table_damage is not None:
                    self._hurt(Damage(pack=piece.pack, id=b"", offset=0, length=0, problem=piece.table_damage))
                self._check_each(piece.others, key)
            if self._selection.wanted is None and self._selection.share >= 1:
                self._store.ledger.mark_verified(piece.pack for piece in contents.pieces)
            return len(contents.pieces)

    def _work(self, feed: Feed[PackPiece], key: bytes) -> None:
        chunk_size = self._store.chunk_size
        window = Window(WINDOW_SIZE, chunk_size, key, scan_only=True)
        while (claim := feed.claim()) is not None:
            offset, length = claim.plan.window(claim.index)
            if self._verifies(feed, claim, window):
                with self._lock:
                    self.report.chunks += window.chunk_count
                    self.report.bytes_read += window.read_bytes
                    self.report.bytes_checked += window.chunk_count * chunk_size
                    self._progress.read_bytes += window.read_bytes
            else:
                self._check_each(claim.note.objects(offset, length, chunk_size), key)

    def _verifies(self, feed: Feed[PackPiece], claim: Claim[PackPiece], window: Window) -> bool:
        """Tell whether every chunk of a claimed window is what its id says."""
        try:
            feed.load(claim, window)
        except DataplaneError:
            return False
        expected = claim.note.expected_ids(window.offset, window.length, window.chunk_size)
        return window.first_mismatch(expected) < 0

    def _check_each(self, objects: Iterable[StoredObject], key: bytes) -> None:
        """Read objects one by one, and note those that are hurt."""
        for thing in objects:
            problem = problem_of(self._store, thing, key)
            if problem is not None:
                self._hurt(
                    Damage(
                        pack=thing.pack, id=thing.id, offset=thing.offset, length=thing.stored_length, problem=problem
                    )
                )
            with self._lock:
                self.report.chunks += 1
                self.report.bytes_read += thing.stored_length
                self.report.bytes_checked += thing.plain_length

    def _hurt(self, damage: Damage) -> None:
        with self._lock:
            self.report.damage.append(damage)


def key_of_pack(store: Store, index: Index, keys: list[bytes], pack: bytes) -> tuple[bytes | None, str | None]:
    """Return which of `keys` the chunks of a pack have, None for none of them; and what is wrong with its header."""
    path = store.layout.pack(pack)
    try:
        tag = read_domain_tag(path)
        key = next((key for key in keys if fmt.domain_tag(key) == tag), None)
        if key is None:
            read_table(path)  # whose name covers the tag: it might be damaged
    except DataplaneError as error:
        return fitting_key(store, index, keys, pack), str(error)
    return key, None


def fitting_key(store: Store, index: Index, keys: list[bytes], pack: bytes) -> bytes | None:
    """Return the key with which chunks of a pack verify whose header does not say whose they are; else the first."""
    ids, offsets, stored, plain = index.chunks_of(pack)
    objects = [
        StoredObject(pack=pack, id=ids[32 * i : 32 * i + 32], offset=at, stored_length=stored[i], plain_length=plain[i])
        for i, at in enumerate(offsets[:PROBES])
    ]
    fitting = (key for key in keys if any(problem_of(store, thing, key) is None for thing in objects))
    return next(fitting, keys[0] if keys else None)


def problem_of(store: Store, thing: StoredObject, key: bytes) -> str | None:
    """Read one object and return what is wrong with it, or None."""
    try:
        encoded = read_range(store.layout.pack(thing.pack), thing.offset, thing.stored_length)
    except DataplaneError as error:
        return str(error)
    codec = Codec.RAW if thing.stored_length == thing.plain_length else Codec.ZSTD
    plain = Decoder().decode_bytes(codec, encoded, thing.plain_length)
    if plain is None:
        return "does not decode"
    return None if blake3(plain, key) == thing.id else "does not match its id"
