"""Rewriting: what is still used of a mostly unused pack moves to a new one."""

from __future__ import annotations

from array import array

from dataplane.store import format as fmt
from dataplane.store.lease import Lease
from dataplane.store.pack import PackSet, read_domain_tag, read_range
from dataplane.store.publish import publish
from dataplane.store.runs import write_runs
from dataplane.store.store import Store
from dataplane.upkeep.marking import PackUse
from dataplane.upkeep.pack_contents import StoredObject, table_columns
from dataplane.upkeep.scrub import problem_of


def rewrite(store: Store, lease: Lease, uses: list[PackUse]) -> list[bytes]:
    """Copy the living chunks of packs into new ones and condemn the old; return those that were rewritten.

    Every chunk is verified on the way: a pack with damage among its living chunks stays as it is, for verify to name.
    """
    keys = {fmt.domain_tag(key): key for key in map(store.domain_key, store.ledger.domains())}
    by_key: dict[bytes, list[PackUse]] = {}
    for use in uses:
        key = keys.get(read_domain_tag(store.layout.pack(use.pack)))
        if key is not None:
            by_key.setdefault(key, []).append(use)
    done: list[bytes] = []
    for key, members in by_key.items():
        done += rewrite_domain(store, lease, key, members)
    return done


def rewrite_domain(store: Store, lease: Lease, key: bytes, uses: list[PackUse]) -> list[bytes]:
    """Rewrite packs of one domain."""
    packs = PackSet(lease.path, key)
    done = []
    try:
        for use in uses:
            objects = living_objects(store, use)
            if any(problem_of(store, thing, key) is not None for thing in objects):
                continue
            for thing in objects:
                encoded = read_range(store.layout.pack(thing.pack), thing.offset, thing.stored_length)
                lengths = memoryview(array("I", [thing.stored_length]))
                packs.append(memoryview(thing.id), lengths, thing.plain_length, memoryview(encoded))
            done.append(use.pack)
        sealed = packs.finish()
    except BaseException:
        packs.abandon()
        raise
    runs = list(write_runs(sealed, lease.path))
    sizes = publish(store, sealed, runs)
    with store.ledger.transaction() as connection:
        lease.check(connection)
        store.ledger.add_objects(connection, sizes, [(name, entries) for name, _, entries in runs])
        store.ledger.condemn(done, connection)
    return done


def living_objects(store: Store, use: PackUse) -> list[StoredObject]:
    """Return the living chunks of a pack, in the order in which they lie there."""
    ids, offsets, stored, plain = table_columns(store, use.pack)
    return [
        StoredObject(
            pack=use.pack,
            id=ids[i * fmt.ID_SIZE : (i + 1) * fmt.ID_SIZE],
            offset=offsets[i],
            stored_length=stored[i],
            plain_length=plain[i],
        )
        for i, flag in enumerate(use.alive)
        if flag
    ]
