"""Which images of a store share how much: the matrix of all pairs, from their manifests."""

from __future__ import annotations

from dataplane.analysis.arrays import np
from dataplane.dataclass import dataclass
from dataplane.engine.scan import ChunkState
from dataplane.hints import TYPE_CHECKING
from dataplane.store import format as fmt
from dataplane.store.store import Store

if TYPE_CHECKING:
    import numpy.typing as npt

    Ids = npt.NDArray[np.uint64]

SEED = 7
"""Of the numbers that stand for images: any will do."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sharing:
    """`shared[i, j]`: stored bytes of distinct chunks that images i and j both have; the diagonal is `storage_size`."""

    names: tuple[str, ...]
    shared: npt.NDArray[np.int64]

    def containment(self) -> npt.NDArray[np.float64]:
        """Return which share of image i (row) image j (column) has too; 0 for images without data."""
        own = self.shared.diagonal().reshape(-1, 1)
        return np.divide(self.shared, own, out=np.zeros(self.shared.shape), where=own > 0)


def sharing(store: Store) -> Sharing:
    """Return what all images of a store share. Reads every manifest.

    Memory: some 64 bytes for each chunk of each image. Images of different dedup domains share nothing. Raises Corrupt.
    """
    index = store.index()
    pins = store.pins()
    chance = np.random.default_rng(SEED)
    marks = chance.integers(0, 1 << 63, len(pins), dtype=np.uint64)
    parts = [np.empty((0, fmt.ID_SIZE // 8), dtype=np.uint64)]
    owners = [np.empty(0, dtype=np.int64)]
    for number, pin in enumerate(pins):
        ids = distinct_ids([page for _, page in store.read_pages(index, store.read_root(index, pin.root, pin.domain))])
        parts.append(ids)
        owners.append(np.full(len(ids), number, dtype=np.int64))
    ids, owner = np.concatenate(parts), np.concatenate(owners)
    order = np.lexsort(ids.T[::-1])
    ids, owner = ids[order], owner[order]
    shared = np.zeros((len(pins), len(pins)), dtype=np.int64)
    if not len(ids):
        return Sharing(names=tuple(pin.name for pin in pins), shared=shared)
    starts = np.flatnonzero(np.concatenate(([True], (ids[1:] != ids[:-1]).any(axis=1))))
    ends = np.append(starts[1:], len(ids))
    # Chunks with equal sets of owners are looked up together; a set is told by the sum of its members' random marks.
    kinds, kind_of = np.unique(np.add.reduceat(marks[owner], starts), return_inverse=True)
    for kind in range(len(kinds)):
        members = np.flatnonzero(kind_of == kind)
        first = members[0]
        images = owner[starts[first] : ends[first]]
        chunk_ids = np.ascontiguousarray(ids[starts[members]])
        states = bytearray([ChunkState.NEW]) * len(members)
        found, size = index.mark_stored(chunk_ids.reshape(-1).view(np.uint8).data, memoryview(states))
        if found != len(members):
            index.require(chunk_ids[states.index(ChunkState.NEW)].tobytes())
        shared[np.ix_(images, images)] += size
    return Sharing(names=tuple(pin.name for pin in pins), shared=shared)


def distinct_ids(pages: list[bytes]) -> Ids:
    """Return the distinct ids of pages, zero chunks left out, as rows of four integers."""
    ids = np.frombuffer(b"".join(pages), dtype=np.uint64).reshape(-1, fmt.ID_SIZE // 8)
    return np.unique(ids[ids.any(axis=1)], axis=0)
