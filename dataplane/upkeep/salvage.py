"""Salvage: what is good in damaged packs, and good copies of what is not, move to new packs; the damaged go aside."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator
from itertools import chain
from pathlib import Path

from dataplane.errors import DataplaneError
from dataplane.store import format as fmt
from dataplane.store.lease import Lease
from dataplane.store.merging import replace_runs, write_merged
from dataplane.store.pack import PackSet, read_domain_tag, read_range
from dataplane.store.runs import write_runs
from dataplane.store.store import Store
from dataplane.upkeep.pack_contents import Columns, StoredObject, table_columns
from dataplane.upkeep.quarantine import set_aside
from dataplane.upkeep.scrub import Damage, key_of_pack, problem_of


class Salvage:
    """One round of salvage. `quarantined` has the names of files set aside, `healed` the ids that were found again."""

    def __init__(self, store: Store, lease: Lease, damage: Iterable[Damage]) -> None:
        self._store = store
        self._lease = lease
        self._index = store.index_without(())
        self._hurt: dict[bytes, set[bytes]] = {}
        for found in damage:
            self._hurt.setdefault(found.pack, set()).update({found.id} if found.id else ())
        self._elsewhere = store.index_without(self._hurt.keys())
        self._keys = [store.domain_key(domain) for domain in store.ledger.domains()]
        self.quarantined: list[str] = []
        self.healed: set[bytes] = set()

    def run(self) -> None:
        """Move what is good, then let one transaction put the new packs in the place of the damaged ones.

        Raises NoSpace, IoFailed, Corrupt or LeaseLost; a crash anywhere leaves the damaged packs or the new ones.
        """
        store = self._store
        if not self._hurt:
            return
        sealed: list[tuple[bytes, Path]] = []
        groups: dict[bytes | None, list[bytes]] = {}
        for pack in self._hurt:
            groups.setdefault(key_of_pack(store, self._index, self._keys, pack)[0], []).append(pack)
        for key, packs in groups.items():
            if key is not None:
                sealed += self._rescue(key, packs)
        old_runs, new_runs = [], list(write_runs(sealed, self._lease.path))
        for name, members, run in zip(self._index.names, self._index.packs_of_runs, self._index.runs, strict=True):
            if not self._hurt.keys().isdisjoint(members):
                old_runs.append(name)
                if not self._hurt.keys() >= set(members):
                    new_runs.append(write_merged([run], [members], self._lease.path, without=self._hurt.keys()))
        for pack in self._hurt:
            name_aside = set_aside(store.layout, store.layout.pack(pack))
            if name_aside is not None:
                self.quarantined.append(name_aside)
        # The damaged packs' own files stay until nobody is at work: a reader may have yet to open one for what is good.
        replace_runs(store, self._lease, old_runs, new_runs, packs=sealed, without=list(self._hurt))

    def _rescue(self, key: bytes, packs: list[bytes]) -> list[tuple[bytes, Path]]:
        """Copy what packs of one domain hold and no other pack does, as far as it is good; return the sealed packs."""
        hurt = set().union(*(self._hurt[pack] for pack in packs))
        self.healed |= {id for id in hurt if self._elsewhere.find(id) is not None}
        wanted = hurt - self.healed
        target = PackSet(self._lease.path, key)
        copied: set[bytes] = set()
        try:
            for thing in chain(self._good_objects(packs), self._other_copies(key, wanted)):
                needed = thing.id not in copied and self._elsewhere.find(thing.id) is None
                if needed and problem_of(self._store, thing, key) is None:
                    copy_object(self._store, thing, target)
                    copied.add(thing.id)
            self.healed |= wanted & copied
            return target.finish()
        except BaseException:
            target.abandon()
            raise

    def _good_objects(self, packs: list[bytes]) -> Iterator[StoredObject]:
        """Yield what lies in damaged packs, by their own tables or else the index, but for what is known as hurt."""
        for pack in packs:
            columns: Columns
            try:
                columns = table_columns(self._store, pack)
            except DataplaneError:
                columns = self._index.chunks_of(pack)
            yield from (thing for thing in objects_of(pack, columns) if thing.id not in self._hurt[pack])

    def _other_copies(self, key: bytes, wanted: set[bytes]) -> Iterator[StoredObject]:
        """Yield places of wanted objects in any other pack that is there, whether the index knows them or not."""
        if not wanted:
            return
        for path in sorted(self._store.layout.packs.glob("*/*.pack")):
            try:
                pack = bytes.fromhex(path.stem)
                if pack in self._hurt or read_domain_tag(path) != fmt.domain_tag(key):
                    continue
                columns = table_columns(self._store, pack)
            except (DataplaneError, ValueError):
                continue
            yield from (thing for thing in objects_of(pack, columns) if thing.id in wanted)


def objects_of(pack: bytes, columns: Columns) -> Iterator[StoredObject]:
    """Yield the chunks of a pack as its table or the index has them."""
    ids, offsets, stored, plain = columns
    for i, offset in enumerate(offsets):
        id = ids[i * fmt.ID_SIZE : (i + 1) * fmt.ID_SIZE]
        yield StoredObject(pack=pack, id=id, offset=offset, stored_length=stored[i], plain_length=plain[i])


def copy_object(store: Store, thing: StoredObject, target: PackSet) -> None:
    """Append a chunk as it is stored to new packs."""
    encoded = read_range(store.layout.pack(thing.pack), thing.offset, thing.stored_length)
    lengths = memoryview(array("I", [thing.stored_length]))
    target.append(memoryview(thing.id), lengths, thing.plain_length, memoryview(encoded))
