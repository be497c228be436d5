"""Done: what of an image an earlier, interrupted import has moved already."""

from __future__ import annotations

from dataplane.dataclass import dataclass, field
from dataplane.engine.scan import DIGEST_SIZE
from dataplane.engine.table import DigestTable
from dataplane.ingest.accounting import RunningTotals


@dataclass(slots=True)
class Done:
    """What of an image is done: everything before byte `position` of its disk, a multiple of WINDOW_SIZE.

    `pages` are the ids of whole manifest pages by number, `open_page` the number and ids of the one that `position`
    lies in. `table` has the chunk ids met so far.
    """

    position: int = 0
    pages: dict[int, bytes] = field(default_factory=dict)
    open_page: tuple[int, bytes] | None = None
    table: DigestTable = field(default_factory=lambda: DigestTable(DIGEST_SIZE))
    totals: RunningTotals = field(default_factory=RunningTotals)
