"""Profiles: what a chunk size and a codec come to, in fields that fixed and content-defined chunks share."""

from __future__ import annotations

from collections.abc import Callable

from dataplane.analysis import costs
from dataplane.analysis.estimate import Estimate
from dataplane.analysis.trial import Trial
from dataplane.dataclass import dataclass
from dataplane.limits import KIB

Fields = dict[str, float | int | str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Chunking:
    """What all disks hold at one chunk size, fixed or on average.

    `data_size` are bytes of data, `loaded_size` the bytes of all chunks, `unique_size` those of the distinct ones, of
    which there are `distinct`. `pages` of manifests belong to `images` disks and take `manifest_size` bytes with their
    roots. An index has `index_extra` bytes for a chunk beside its entry. `read_amplification` gives bytes decoded for
    each byte that random reads of some bytes ask for.
    """

    chunk_size: int
    images: int
    data_size: int
    loaded_size: int
    unique_size: float
    distinct: int
    pages: int
    manifest_size: int
    index_extra: int
    read_amplification: Callable[[int], float]

    def profile(self, codec: str, stored: Estimate, trial: Trial, place: int, threads: int) -> Fields:
        """Return the profile with the codec at `place` of the trial, whose distinct chunks take `stored` bytes."""
        size = round(stored.value)
        disk = costs.index_disk(self.distinct + self.pages + self.images, size) + self.index_extra * self.distinct
        packs = costs.pack_overhead(self.distinct + self.pages, size + self.manifest_size)
        seconds = (self.loaded_size * trial.load_s + self.unique_size * trial.encode_s[place]) / threads
        return {
            "chunk_size": self.chunk_size,
            "codec": codec,
            "stored_size": size,
            "stored_size_low": round(stored.low),
            "stored_size_high": round(stored.high),
            "manifest_size": self.manifest_size,
            "index_disk": disk,
            "index_memory": costs.index_memory(self.distinct, disk),
            "pack_overhead": packs,
            "total_size": size + self.manifest_size + disk + packs,
            "ratio": round(self.data_size / stored.value, 4) if stored.value else 0.0,
            "import_seconds": seconds,
            "import_rate": round(self.data_size / seconds) if seconds else 0,
            "read_amplification_4k": self.read_amplification(4 * KIB),
            "read_amplification_64k": self.read_amplification(64 * KIB),
            "fetched_per_4k_read": round(stored.value / self.distinct / (4 * KIB), 4) if self.distinct else 0.0,
        }
