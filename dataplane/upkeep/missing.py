"""What is missing: the objects that images name and no run of the store knows."""

from __future__ import annotations

from collections.abc import Iterable

from dataplane.errors import Corrupt
from dataplane.store import format as fmt
from dataplane.store.pins import Pin
from dataplane.store.runs import Index
from dataplane.store.store import Store
from dataplane.upkeep.hurt_images import bad_places


def missing_objects(store: Store, index: Index, pins: Iterable[Pin]) -> dict[str, set[bytes]]:
    """Return the ids of roots, manifest pages and chunks that cannot be read or are in no run, by dedup domain.

    What a lost page or root names is not known, and not among them.
    """
    missing: dict[str, set[bytes]] = {}
    for root_id, domain in {(pin.root, pin.domain) for pin in pins}:
        lost = missing.setdefault(domain, set())
        try:
            root = store.read_root(index, root_id, domain)
        except Corrupt:
            lost.add(root_id)
            continue
        key = store.domain_key(domain)
        for number, page_id in root.pages:
            try:
                page = store.read_chunk(index, page_id, key, f"manifest page {number}")
            except Corrupt:
                lost.add(page_id)
                continue
            for place in bad_places(index, page, ()):
                lost.add(page[place * fmt.ID_SIZE : (place + 1) * fmt.ID_SIZE])
    return {domain: lost for domain, lost in missing.items() if lost}
