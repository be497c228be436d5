"""An open disk: reads come from the overlay and, where that has nothing, from the base; writes go to the overlay."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, Self

from dataplane.dataclass import dataclass
from dataplane.disks.base import StoredBase
from dataplane.disks.block_map import BLOCK_SIZE, BlockState
from dataplane.disks.chunk_cache import ChunkCache
from dataplane.disks.folder import DiskStatus, lock_disk, read_state, status_of, write_state
from dataplane.disks.format import DiskState, is_disk_size
from dataplane.disks.layer import Layer, ReadBelow, remove_layer, remove_strays
from dataplane.disks.pinning import settle_pins
from dataplane.disks.pool import Pool
from dataplane.errors import Corrupt, DataplaneError, IoFailed, NoSpace, StoreError, StoreLocked, UsageError
from dataplane.store.store import Store


class Span(NamedTuple):
    """A run of a disk's bytes. `hole` is allocated nowhere, `zero` reads as zeros; lengths in bytes."""

    length: int
    hole: bool
    zero: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Frozen:
    """What a disk was at a moment: its base, and under it in the disk's folder the sealed layer `layer`.

    `layer` is None when nothing was written over the base and the size is the base's: then the base is all there is.
    `fresh` tells whether the moment is that of the call; else it is an earlier one, whose snapshot was not finished:
    merge it, call ``rebase``, and freeze again.
    """

    layer: int | None
    size: int
    base_root: bytes | None
    domain: str
    owner: str
    fresh: bool


class _Stack(NamedTuple):
    """What a read goes through, from the top; replaced as a whole."""

    layers: tuple[Layer, ...]
    base: StoredBase | None


class Disk:
    """An open disk. Safe for concurrent use by threads; one process at a time has it open for writing.

    Offsets and lengths are in bytes, any of them within `size`. What ``flush`` has returned for is there after a power
    cut; what ``write``, ``write_zeroes`` or ``trim`` has returned for is there after a kill.
    """

    def __init__(
        self,
        store: Store,
        folder: Path,
        state: DiskState,
        lock: int,
        cache: ChunkCache,
        read_only: bool,
        pool: Pool | None = None,
    ) -> None:
        self.store = store
        self.folder = folder
        self.read_only = read_only
        self._state = state
        self._folder_lock = lock
        self._cache = cache
        self._pool = pool
        self._lock = threading.RLock()
        self._flush_lock = threading.RLock()
        self._snapshot_lock = threading.Lock()
        self._failure: IoFailed | None = None
        if not read_only:
            remove_strays(folder, {state.layer, state.sealed or state.layer})
        numbers = [state.layer] if state.sealed is None else [state.layer, state.sealed]
        layers = [Layer.open(folder, number, state.size, may_write=not read_only) for number in numbers]
        self._stack = _Stack(tuple(layers), self._open_base(state))

    def _open_base(self, state: DiskState) -> StoredBase | None:
        if state.base_root is None:
            return None
        base = StoredBase(self.store, bytes.fromhex(state.base_root), state.domain, self._cache, self._pool)
        if base.size > state.size:
            raise Corrupt(f"disk {self.folder} has {state.size} bytes, its base {base.size}")
        return base

    # ------------------------------------------------------------------------------------------ what it is
    @property
    def id(self) -> str:
        """The disk's own random id."""
        return self._state.id

    @property
    def size(self) -> int:
        """Bytes the guest sees."""
        return self._state.size

    @property
    def state(self) -> DiskState:
        """What the disk's folder says now."""
        return self._state

    def status(self) -> DiskStatus:
        """Return what is known of the disk."""
        with self._lock:
            layers = self._stack.layers
            written = sum(layer.blocks.count(BlockState.WRITTEN) for layer in layers)
            zeroed = sum(layer.blocks.count(BlockState.ZERO) for layer in layers)
            return status_of(self._state, written * BLOCK_SIZE, zeroed * BLOCK_SIZE)

    # ------------------------------------------------------------------------------------------ reading
    def read(self, offset: int, length: int) -> bytearray:
        """Return bytes of the disk; raises UsageError, Corrupt or IoFailed."""
        data = bytearray(length)
        self.read_into(offset, memoryview(data))
        return data

    def read_into(self, offset: int, view: memoryview) -> None:
        """Fill `view` from `offset`; raises UsageError, Corrupt or IoFailed."""
        self._check_range(offset, len(view))
        stack = self._stack
        self._read_layers(stack.layers, stack.base, offset, view)

    def read_cached(self, offset: int, view: memoryview) -> bool:
        """Fill `view` when that takes no wait for a disk, and tell whether it did. Raises UsageError."""
        self._check_range(offset, len(view))
        layers, base = self._stack
        first, count = _blocks_around(offset, len(view))
        if any(layer.blocks.has_any(first, count) for layer in layers):
            return False
        if base is None:
            view[:] = bytes(len(view))
            return True
        return base.read_cached(offset, view)

    def _read_layers(self, layers: tuple[Layer, ...], base: StoredBase | None, offset: int, view: memoryview) -> None:
        if not view:
            return
        if not layers:
            if base is None:
                view[:] = bytes(len(view))
            else:
                base.read_into(offset, view)
            return
        for state, at, start, stop in _pieces(layers[0], offset, len(view)):
            part = view[start:stop]
            if state == BlockState.WRITTEN:
                layers[0].read_into(at, part)
            elif state == BlockState.ZERO:
                part[:] = bytes(len(part))
            else:
                self._read_layers(layers[1:], base, at, part)

    def extents(self, offset: int, length: int) -> Iterator[Span]:
        """Yield the runs that make up a range: what is hole, what reads as zeros. Raises UsageError or Corrupt."""
        self._check_range(offset, length)
        stack = self._stack
        before: Span | None = None
        for span in self._layer_extents(stack.layers, stack.base, offset, length):
            if before is not None and (before.hole, before.zero) == (span.hole, span.zero):
                before = Span(before.length + span.length, span.hole, span.zero)
                continue
            if before is not None:
                yield before
            before = span
        if before is not None:
            yield before

    def _layer_extents(
        self, layers: tuple[Layer, ...], base: StoredBase | None, offset: int, length: int
    ) -> Iterator[Span]:
        if not layers:
            if base is None:
                yield Span(length, hole=True, zero=True)
            else:
                for count, data in base.extents(offset, length):
                    yield Span(count, hole=not data, zero=not data)
            return
        for state, at, start, stop in _pieces(layers[0], offset, length):
            if state == BlockState.BELOW:
                yield from self._layer_extents(layers[1:], base, at, stop - start)
            else:
                zero = state == BlockState.ZERO
                yield Span(stop - start, hole=zero, zero=zero)

    def warm(self, offset: int, length: int) -> None:
        """Bring what the base has of a range into the cache; raises Corrupt or IoFailed."""
        base = self._stack.base
        if base is not None:
            base.warm(offset, length)

    # ------------------------------------------------------------------------------------------ writing
    def write(self, offset: int, data: bytes | bytearray | memoryview) -> None:
        """Write `data`; raises UsageError, NoSpace, IoFailed or Corrupt (the rest of a block could not be read)."""
        view = memoryview(data).cast("B")
        self._check_range(offset, len(view))
        self._warm_edges(offset, len(view))
        with self._changing() as stack:
            if view:
                stack.layers[0].write(offset, view, self._below(stack))

    def write_zeroes(self, offset: int, length: int) -> None:
        """Let a range read as zeros, taking no room where whole blocks do. Raises as ``write`` does."""
        self._zero(offset, length, exact=True)

    def trim(self, offset: int, length: int) -> None:
        """Give up what a range holds: its whole blocks read as zeros from now on. Raises as ``write`` does."""
        self._zero(offset, length, exact=False)

    def _zero(self, offset: int, length: int, *, exact: bool) -> None:
        self._check_range(offset, length)
        end = offset + length
        first = -(-offset // BLOCK_SIZE)
        # The block in which the disk ends is whole when the range goes as far as the disk.
        last = -(-end // BLOCK_SIZE) if end == self.size else end // BLOCK_SIZE
        with self._changing() as stack:
            top = stack.layers[0]
            if first < last:
                top.zero(first, last - first)
            if not exact:
                return
            edges = [(offset, min(first * BLOCK_SIZE, end)), (max(last * BLOCK_SIZE, offset), end)]
            if first > last:  # all within one block
                edges = [(offset, end)]
            for start, stop in edges:
                if start < stop:
                    top.write(start, memoryview(bytes(stop - start)), self._below(stack))

    def _below(self, stack: _Stack) -> ReadBelow:
        return lambda offset, view: self._read_layers(stack.layers, stack.base, offset, view)

    def _warm_edges(self, offset: int, length: int) -> None:
        """Load what a write of parts of blocks needs of the base before others have to wait for it."""
        for edge in (offset, offset + length):
            if edge % BLOCK_SIZE and not any(layer.blocks.state(edge // BLOCK_SIZE) for layer in self._stack.layers):
                self.warm(edge, 1)

    @contextlib.contextmanager
    def _changing(self) -> Iterator[_Stack]:
        if self.read_only:
            raise UsageError(f"disk {self.folder} is open for reading only")
        with self._lock:
            if self._failure is not None:
                raise self._failure
            yield self._stack

    def flush(self) -> None:
        """Make everything written so far durable. Raises NoSpace, or IoFailed, after which the disk takes no writes:
        what a failed sync has left behind is not known before it is opened again."""
        if self.read_only:
            return
        with self._flush_lock:
            self._flush()

    def _flush(self) -> None:
        with self._changing() as stack:
            top = stack.layers[0]
            position = top.begin_flush()
        if position is None:
            return
        try:
            top.sync_data()
            with self._lock:
                top.commit(position)
            top.sync_log()
            with self._lock:
                top.end_flush()
        except BaseException as error:
            top.abort_flush()
            if isinstance(error, IoFailed):
                self._failure = error
            raise

    def resize(self, size: int) -> None:
        """Make the disk larger, durably. Raises UsageError (smaller, or no size), NoSpace or IoFailed."""
        with self._flush_lock, self._changing() as stack:
            if size < self.size:
                raise UsageError(f"disk {self.folder} has {self.size} bytes: a disk only grows, not to {size}")
            if not is_disk_size(size):
                raise UsageError(f"{size} is no size of a disk: use a multiple of 512 bytes")
            for layer in stack.layers[:1]:
                layer.grow(size)
            self._set_state(self._state.moved_to(size=size))

    # ------------------------------------------------------------------------------------------ snapshots
    def freeze(self) -> Frozen:
        """Fix what the disk holds at a moment within this call; writes go on, into a new layer. O(1) but for a flush.

        The caller merges what is frozen and then calls ``rebase``, or ``release``; another caller waits until then.
        Raises NoSpace, IoFailed or UsageError.
        """
        if self.read_only:
            raise UsageError(f"disk {self.folder} is open for reading only")
        self._snapshot_lock.acquire()
        try:
            if self._state.sealed is not None:
                return self._frozen(self._state.sealed, fresh=False)
            self.flush()  # most of what waits for the disk, while writes go on
            with self._flush_lock, self._lock:
                self._flush()
                return self._seal()
        except BaseException:
            self._snapshot_lock.release()
            raise

    def _seal(self) -> Frozen:
        stack, state = self._stack, self._state
        top = stack.layers[0]
        if top.blocks.is_empty() and stack.base is not None and stack.base.size == self.size:
            return self._frozen(None, fresh=True)
        above = Layer.create(self.folder, state.layer + 1, state.size)
        try:
            self._set_state(state.moved_to(layer=above.number, sealed=top.number))
        except BaseException:
            above.close()
            if read_state(self.folder).layer == state.layer:
                remove_layer(self.folder, above.number)
            raise
        self._stack = _Stack((above, top), stack.base)
        return self._frozen(top.number, fresh=True)

    def _frozen(self, layer: int | None, *, fresh: bool) -> Frozen:
        state = self._state
        root = bytes.fromhex(state.base_root) if state.base_root else None
        return Frozen(layer=layer, size=state.size, base_root=root, domain=state.domain, owner=state.owner, fresh=fresh)

    def rebase(self, frozen: Frozen, root: bytes) -> None:
        """Let the disk read from `root`, which is what was frozen, and drop the sealed layer. Ends what freeze began.

        The root is pinned. Raises Corrupt, NoSpace or IoFailed, and the disk goes on as it was then.
        """
        try:
            if frozen.layer is None:
                return
            base = StoredBase(self.store, root, frozen.domain, self._cache, self._pool)
            with self._lock:
                self._set_state(self._state.moved_to(base_root=root.hex(), sealed=None))
                self._stack = _Stack(self._stack.layers[:1], base)
            with contextlib.suppress(DataplaneError):  # what stays is removed when the disk is opened
                remove_layer(self.folder, frozen.layer)
        finally:
            self._snapshot_lock.release()

    def release(self) -> None:
        """End what freeze began without merging: the sealed layer stays, and is merged with the next snapshot."""
        self._snapshot_lock.release()

    def _set_state(self, state: DiskState) -> None:
        try:
            write_state(self.folder, state)
        except IoFailed as error:
            self._failure = error  # which of the two states is there now is not known before it is read again
            raise
        self._state = state

    # ------------------------------------------------------------------------------------------ the end
    def close(self) -> None:
        """Flush and close; a second call does nothing. Raises what ``flush`` does, closed all the same."""
        if self._folder_lock < 0:
            return
        try:
            if self._failure is None:
                self.flush()
        finally:
            os.close(self._folder_lock)
            self._folder_lock = -1
            for layer in self._stack.layers:
                layer.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _check_range(self, offset: int, length: int) -> None:
        if offset < 0 or length < 0 or offset > self.size or length > self.size - offset:
            raise UsageError(f"{length} bytes at {offset} are not all within a disk of {self.size}")
        if self._folder_lock < 0:
            raise StoreError(f"disk {self.folder} is closed")


def open_disk(
    store: Store,
    path: str | os.PathLike[str],
    *,
    read_only: bool = False,
    cache: ChunkCache | None = None,
    find_pool: Callable[[bytes], Pool | None] | None = None,
) -> Disk:
    """Open the disk in folder `path`, as a crash or an orderly end left it.

    Only one process at a time has a disk open, but for several that only read. `cache` may be shared between disks.
    `find_pool` is asked for the pool of the root that the disk was made of, if it was made of one.
    Raises NotFound, StoreLocked (open elsewhere), Corrupt, StoreIncompatible or IoFailed.
    """
    folder = Path(path)
    lock = lock_disk(folder, shared=read_only)
    try:
        state = read_state(folder)
        if not read_only:
            with contextlib.suppress(NoSpace, IoFailed, StoreLocked):  # a pin too many does no harm
                settle_pins(store, state.owner, bytes.fromhex(state.base_root) if state.base_root else None)
        origin = bytes.fromhex(state.origin_root) if state.origin_root else None
        pool = find_pool(origin) if find_pool is not None and origin is not None else None
        return Disk(store, folder, state, lock, cache or ChunkCache(), read_only, pool)
    except BaseException:
        os.close(lock)
        raise


def _blocks_around(offset: int, length: int) -> tuple[int, int]:
    """Return (first, count) of the blocks that a range touches."""
    first = offset // BLOCK_SIZE
    return first, -(-(offset + length) // BLOCK_SIZE) - first


def _pieces(layer: Layer, offset: int, length: int) -> Iterator[tuple[BlockState, int, int, int]]:
    """Yield (state, offset on the disk, first and last byte within the range) of what a layer says of a range."""
    end = offset + length
    for run in layer.blocks.runs(*_blocks_around(offset, length)):
        start = max(offset, run.first * BLOCK_SIZE)
        stop = min(end, (run.first + run.length) * BLOCK_SIZE)
        yield run.state, start, start - offset, stop - offset
