"""What differs between two images of a store, found by comparing their manifests."""

from __future__ import annotations

from collections.abc import Iterator

from dataplane.analysis.arrays import np
from dataplane.dataclass import dataclass
from dataplane.errors import UsageError
from dataplane.hints import TYPE_CHECKING
from dataplane.limits import PAGE_CHUNKS
from dataplane.store import format as fmt
from dataplane.store.runs import Index
from dataplane.store.store import Store

if TYPE_CHECKING:
    import numpy.typing as npt

    Numbers = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """What changed from one image to another, in bytes.

    `ranges` are (offset, length) of the larger disk, ascending, merged, whole chunks clipped to its end. `changed_size`
    is their sum: `written_size` was data and is other data, `added_size` was zero, `zeroed_size` became zero. What lies
    behind the end of the smaller disk counts only where it holds data. `pages_read` says how much work it was.
    """

    ranges: tuple[tuple[int, int], ...]
    changed_size: int
    written_size: int
    added_size: int
    zeroed_size: int
    pages_read: int


def compare(store: Store, before: str, after: str) -> Difference:
    """Compare two images of a store; only pages of the manifests that differ are read.

    Raises NotFound, Corrupt, or UsageError for images of different dedup domains, whose ids cannot be compared.
    """
    with store.reading(before) as old_pin, store.reading(after) as new_pin:
        if old_pin.domain != new_pin.domain:
            raise UsageError(f"{before} and {after} belong to different dedup domains: their chunks cannot be compared")
        index = store.index()
        old = store.read_root(index, old_pin.root, old_pin.domain)
        new = store.read_root(index, new_pin.root, new_pin.domain)
        size = store.chunk_size
        end = max(old.virtual_size, new.virtual_size)
        starts: list[Numbers] = []
        sums = {"written": 0, "added": 0, "zeroed": 0}
        pages = 0
        for number, left, right in differing_pages(store, index, old, new):
            pages += (left is not None) + (right is not None)
            was, now = ids(left), ids(right)
            changed = np.flatnonzero((was != now).any(axis=1))
            had, has = was[changed].any(axis=1), now[changed].any(axis=1)
            offsets = (number * PAGE_CHUNKS + changed) * size
            lengths = np.minimum(size, end - offsets)
            sums["written"] += int(lengths[had & has].sum())
            sums["added"] += int(lengths[~had & has].sum())
            sums["zeroed"] += int(lengths[had & ~has].sum())
            starts.append(offsets)
    return Difference(
        ranges=tuple(merge(np.concatenate(starts), size, end)) if starts else (),
        changed_size=sum(sums.values()),
        written_size=sums["written"],
        added_size=sums["added"],
        zeroed_size=sums["zeroed"],
        pages_read=pages,
    )


def differing_pages(
    store: Store, index: Index, old: fmt.Root, new: fmt.Root
) -> Iterator[tuple[int, bytes | None, bytes | None]]:
    """Yield (page number, page before, page after) where they differ, in disk order; None stands for zeros."""
    was, now = dict(old.pages), dict(new.pages)
    for number in sorted(was.keys() | now.keys()):
        left, right = was.get(number), now.get(number)
        if left != right:
            yield number, read_page(store, index, old, number, left), read_page(store, index, new, number, right)


def read_page(store: Store, index: Index, root: fmt.Root, number: int, page: bytes | None) -> bytes | None:
    """Return one page of an image, verified."""
    if page is None:
        return None
    one = fmt.Root(
        virtual_size=root.virtual_size, chunk_size=root.chunk_size, domain=root.domain, pages=((number, page),)
    )
    return next(ids for _, ids in store.read_pages(index, one))


def ids(page: bytes | None) -> npt.NDArray[np.uint64]:
    """Return the ids of a page as rows of four integers."""
    return np.frombuffer(page or bytes(fmt.PAGE_SIZE), dtype=np.uint64).reshape(PAGE_CHUNKS, fmt.ID_SIZE // 8)


def merge(offsets: Numbers, size: int, end: int) -> Iterator[tuple[int, int]]:
    """Yield (offset, length) of runs of neighbouring chunks."""
    breaks = np.flatnonzero(np.diff(offsets) != size) + 1
    for run in np.split(offsets, breaks):
        start = int(run[0])
        yield start, min(int(run[-1]) + size, end) - start
