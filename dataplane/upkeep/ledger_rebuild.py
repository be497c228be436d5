"""A lost ledger rebuilt: packs and runs are found in their folders, images by the roots that lie in packs.

What only the ledger knew is gone, but for what can still be read of a damaged one: names, source formats, times, and
which images were removed. An image whose name is lost comes back as ``recovered-…``. The new ledger is made whole in a
folder of its own and then takes the old one's place: a crash leaves either, or none, and then it is done again.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path
from sqlite3 import connect

from dataplane.dataclass import dataclass, field, replace
from dataplane.engine.codec import Codec, Decoder
from dataplane.engine.scan import blake3
from dataplane.errors import Corrupt, DataplaneError, IoFailed, NoSpace, StoreLocked, UsageError
from dataplane.extent import WINDOW_SIZE
from dataplane.limits import PAGE_CHUNKS
from dataplane.store import format as fmt
from dataplane.store.layout import Layout, naming, sync_folder
from dataplane.store.ledger import Ledger
from dataplane.store.ledger_file import LedgerFile, primary_code, schema_made_by
from dataplane.store.ledger_place import open_ledger_database, read_ledger_url
from dataplane.store.ledger_schema import SCHEMA_VERSION, STEPS
from dataplane.store.merging import write_merged
from dataplane.store.pack import read_range, read_table
from dataplane.store.pins import PIN_COLUMNS, REMOVED_COLUMNS, Pin, row_sum, unchecked_pin
from dataplane.store.publish import publish
from dataplane.store.runs import Index, write_runs
from dataplane.store.store import Store, read_identity
from dataplane.store.workspace import LOCK_NAME, Workspace, is_abandoned
from dataplane.upkeep.hurt_images import hurt_images
from dataplane.upkeep.pack_contents import Columns, StoredObject, table_columns
from dataplane.upkeep.quarantine import set_aside
from dataplane.upkeep.salvage import objects_of

NAME_DIGITS = 12
DAMAGE = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_ERROR, sqlite3.SQLITE_SCHEMA)
"""What SQLite says of a database that is damaged. Anything else is trouble with the disk that holds the copy of it."""


@dataclass(slots=True, kw_only=True)
class Rebuilt:
    """What came of a ledger. `incomplete` are roots of which something is missing and that nobody remembers: images
    that were removed and partly collected, most likely; they are not brought back. Nor are `unfinished` ones, which
    imports had stored so far: begun again, an import finds their chunks until a collection takes them."""

    problem: str
    named: list[str] = field(default_factory=list)
    recovered: list[str] = field(default_factory=list)
    incomplete: list[bytes] = field(default_factory=list)
    unfinished: list[bytes] = field(default_factory=list)
    quarantined: list[str] = field(default_factory=list)


def what_is_wrong_with(path: Path) -> str | None:
    """Return why the ledger of the store at `path` has to be rebuilt, None when it is sound.

    One in PostgreSQL is its server's to keep whole: Corrupt is raised when it is not. Raises StoreMissing or
    StoreIncompatible when there is no store, or another program's or another store's ledger.
    """
    layout, header, _ = read_identity(path)
    if read_ledger_url(layout) is not None:
        Ledger.open(open_ledger_database(layout), header.store_id, may_write=False).close()
        return None
    try:
        ledger = Ledger.open(open_ledger_database(layout), header.store_id, may_write=False)
        try:
            ledger.check()
        finally:
            ledger.close()
    except Corrupt as error:
        return str(error)
    return None


def rebuild_ledger(path: Path) -> Rebuilt:
    """Make a new ledger for the store at `path` from what lies in its folders, and set the old one aside.

    Raises StoreLocked when other processes are at work there, NoSpace or IoFailed.
    """
    layout, header, secret = read_identity(path)
    rebuilt = Rebuilt(problem=what_is_wrong_with(path) or "asked for")
    with Workspace(layout) as workspace:
        ours = (LOCK_NAME, workspace.path.name)
        if not all(is_abandoned(folder) for folder in layout.temporary.iterdir() if folder.name not in ours):
            raise StoreLocked(f"the ledger of {path} has to be rebuilt while others are at work there: stop them first")
        pins, removed = remembered(layout, workspace.path)
        made = workspace.path / "ledger.sqlite3"
        with Store(layout, header, secret, Ledger.create(LedgerFile(made), header.store_id)) as store:
            index = add_objects(store, workspace.path)
            add_images(store, index, pins, removed, rebuilt)
        assert_written(made)
        put_in_place(layout, made, rebuilt)
    return rebuilt


def assert_written(made: Path) -> None:
    """Raise IoFailed when SQLite could not bring its log into the database; closing it says nothing of that."""
    log = made.with_name(f"{made.name}-wal")
    with naming(log, "looking for"):
        if log.exists():
            raise IoFailed(f"the new ledger {made} could not be written: see what the disk has, and repair again")


def put_in_place(layout: Layout, made: Path, rebuilt: Rebuilt) -> None:
    """Set the old ledger aside and move the new one to where it was.

    The old ledger goes before its log: without the log it could pass for a sound one of some time ago.
    """
    with naming(made, "moving"):
        fd = os.open(made, os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)
        for suffix in ("", "-wal", "-shm"):
            old = layout.ledger.with_name(layout.ledger.name + suffix)
            aside = set_aside(layout, old)
            if aside is not None:
                rebuilt.quarantined.append(aside)
                old.unlink()
                sync_folder(layout.root)
        made.rename(layout.ledger)
    sync_folder(layout.root)


# ---------------------------------------------------------------------------------------------- what was remembered
def remembered(layout: Layout, folder: Path) -> tuple[list[Pin], list[tuple[Pin, int]]]:
    """Return the pins, and the removed ones with the time of removal, that can be read of the old ledger.

    A copy is read, log and all. When the ledger is not there, because an earlier repair stopped half-way, the newest
    one in quarantine is.
    """
    candidates = [layout.ledger, *sorted(layout.quarantine.glob("ledger.sqlite3*"), key=age)]
    source = next((path for path in candidates if path.exists() and "-" not in path.name), None)
    if source is None:
        return [], []
    copy = folder / "old.sqlite3"
    log = source.with_name(source.name.replace("ledger.sqlite3", "ledger.sqlite3-wal"))
    with naming(source, "copying"):
        shutil.copyfile(source, copy)
        for place in (log, layout.ledger.with_name("ledger.sqlite3-wal")):
            if place.exists():
                shutil.copyfile(place, copy.with_name("old.sqlite3-wal"))
                break
    mend_schema(copy)
    pins = [unchecked_pin(row) for row in readable_rows(copy, "pins", PIN_COLUMNS)]
    at = REMOVED_COLUMNS.index("removed_at")
    removed = [(unchecked_pin(row), int(str(row[at]))) for row in readable_rows(copy, "removed_pins", REMOVED_COLUMNS)]
    return pins, removed


def mend_schema(copy: Path) -> None:
    """Let a copy of a damaged ledger say of its tables what it should, if it is of today's version: rows need that.

    Tables of an earlier version are left as they are. Raises NoSpace or IoFailed.
    """
    statements = tuple(statement for step in STEPS for statement in step)
    with as_far_as_readable(copy), contextlib.closing(connect(copy)) as connection:
        connection.execute("PRAGMA writable_schema = ON")  # which also lets SQLite read on where it is no SQL
        connection.execute("BEGIN")
        connection.executemany(
            "UPDATE sqlite_master SET sql = ? WHERE name = ? AND type = 'table'",
            [(text, name) for name, (_, _, text) in schema_made_by(statements).items() if text is not None],
        )
        connection.execute("PRAGMA writable_schema = RESET")
        version = connection.execute("SELECT value FROM ledger_meta WHERE name = 'schema_version'").fetchone()
        connection.execute("COMMIT" if version == (str(SCHEMA_VERSION),) else "ROLLBACK")


def age(path: Path) -> float:
    """Sort key: the newest first."""
    return -path.stat().st_mtime


def readable_rows(database: Path, table: str, columns: tuple[str, ...]) -> Iterator[tuple[object, ...]]:
    """Yield the rows of a table, as far as a damaged database gives them, that match their checksums.

    A ledger of version 1 has none; values of the right types are believed there. Raises NoSpace or IoFailed.
    """
    with as_far_as_readable(database), contextlib.closing(connect(database)) as connection:
        yield from sound_rows(connection, table, columns)


@contextlib.contextmanager
def as_far_as_readable(database: Path) -> Iterator[None]:
    """End quietly where a copy of a damaged ledger cannot be read on; raises NoSpace or IoFailed for a disk that fails.

    Such a disk must not be taken for rows that are lost.
    """
    try:
        yield
    except ValueError:  # text that cannot be decoded
        return
    except sqlite3.Error as error:
        code = primary_code(error)
        if code == sqlite3.SQLITE_FULL:
            raise NoSpace(f"no space left while reading a copy of the damaged ledger, {database}: free some") from error
        if code and code not in DAMAGE:
            raise IoFailed(f"a copy of the damaged ledger, {database}, cannot be read: {error}") from error


def sound_rows(connection: sqlite3.Connection, table: str, columns: tuple[str, ...]) -> Iterator[tuple[object, ...]]:
    """Yield the rows of a table that match their checksums; raises the driver's errors."""
    has_sums = any(row[1] == "row_sum" for row in connection.execute(f"PRAGMA table_info({table})"))
    chosen = ", ".join((*columns, "row_sum") if has_sums else columns)
    for row in connection.execute(f"SELECT {chosen} FROM {table}"):  # noqa: S608
        values = row[: len(columns)]
        if has_sums and row_sum(values) != row[-1]:
            continue
        texts = {"name", "root", "domain", "format", "removal"}
        if all(isinstance(value, str if name in texts else int) for name, value in zip(columns, values, strict=True)):
            yield values


# ---------------------------------------------------------------------------------------------- packs and runs
def add_objects(store: Store, folder: Path) -> Index:
    """Name every pack that is there in the new ledger, index them, and return the index."""
    layout = store.layout
    packs: dict[bytes, Path] = {}
    for path in sorted(layout.packs.glob("*/*.pack")):
        try:
            packs[bytes.fromhex(path.stem)] = path
        except ValueError:
            continue
    readable, unreadable = [], set()
    for name, path in packs.items():
        try:
            read_table(path)
            readable.append((name, path))
        except DataplaneError:
            unreadable.add(name)
    made = [*write_runs(readable, folder), *(what_old_runs_know(layout, unreadable, folder) if unreadable else ())]
    runs = list({run[0]: run for run in made}.values())
    publish(store, [], runs)
    with store.ledger.transaction() as connection:
        sizes = [(name, path.stat().st_size) for name, path in packs.items()]
        store.ledger.add_objects(connection, sizes, [(name, entries) for name, _, entries in runs])
    return store.index()


def what_old_runs_know(layout: Layout, packs: set[bytes], folder: Path) -> Iterator[tuple[bytes, Path, int]]:
    """Write runs over packs whose own tables are lost, from the run files that still name them."""
    for path in sorted(layout.runs.glob("*.run")):
        try:
            old = Index(layout, [bytes.fromhex(path.stem)])
            (members,) = old.packs_of_runs
            if not packs.isdisjoint(members):
                yield write_merged(old.runs, old.packs_of_runs, folder, without=set(members) - packs)
        except (DataplaneError, ValueError):
            continue


# ---------------------------------------------------------------------------------------------- images
def add_images(store: Store, index: Index, pins: list[Pin], removed: list[tuple[Pin, int]], rebuilt: Rebuilt) -> None:
    """Pin what is remembered, and under new names every other root that is found and complete."""
    known = {(pin.root, pin.domain) for pin in (*pins, *(pin for pin, _ in removed))}
    roots = [(root_id, root) for root_id, root in find_roots(store, index) if (root_id, root.domain) not in known]
    rebuilt.unfinished = [root_id for root_id, root in roots if root.unfinished]
    found = [found_pin(store, index, root_id, root) for root_id, root in roots if not root.unfinished]
    hurt = {image.name for image in hurt_images(store, index, (), found)}
    rebuilt.incomplete = [pin.root for pin in found if pin.name in hurt]
    taken = {pin.name for pin in pins}
    with store.ledger.transaction() as connection:
        for pin in pins:
            store.ledger.add_pin(connection, pin)
            rebuilt.named.append(pin.name)
        for pin, removed_at in removed:
            store.ledger.add_removed_pin(connection, pin, removed_at)
        for pin in found:
            if pin.name in hurt:
                continue
            name = pin.name
            while name in taken:
                name += "-again"
            taken.add(name)
            store.ledger.add_pin(connection, replace(pin, name=name))
            rebuilt.recovered.append(name)


def find_roots(store: Store, index: Index) -> list[tuple[bytes, fmt.Root]]:
    """Return (id, root) of every root in the packs. Each is believed because its id is its keyed digest."""
    roots: dict[bytes, fmt.Root] = {}
    for pack in store.ledger.packs():
        columns: Columns
        try:
            columns = table_columns(store, pack)
        except DataplaneError:
            columns = index.chunks_of(pack)
        for thing in objects_of(pack, columns):
            if thing.plain_length >= fmt.ROOT_HEADER.size and thing.id not in roots:
                root = root_in(store, thing)
                if root is not None:
                    roots[thing.id] = root
    return sorted(roots.items())


def root_in(store: Store, thing: StoredObject) -> fmt.Root | None:
    """Return the root that an object in a pack is, None when it is something else."""
    try:
        encoded = read_range(store.layout.pack(thing.pack), thing.offset, thing.stored_length)
        codec = Codec.RAW if thing.stored_length == thing.plain_length else Codec.ZSTD
        plain = Decoder().decode_bytes(codec, encoded, thing.plain_length)
        if plain is None or not plain.startswith(fmt.ROOT_MAGIC):
            return None
        root = fmt.Root.from_bytes(plain, "a root")
        return root if blake3(plain, store.domain_key(root.domain)) == thing.id else None
    except (DataplaneError, UsageError, UnicodeDecodeError):
        return None


def found_pin(store: Store, index: Index, root_id: bytes, root: fmt.Root) -> Pin:
    """Return a pin for a root that was found, its sizes counted from the manifest as far as that can be read."""
    chunk_size, end = root.chunk_size, root.virtual_size
    stored: dict[bytes, int] = {}
    windows: set[int] = set()
    chunks = data_size = 0
    try:
        for number, page in store.read_pages(index, root):
            for place in range(PAGE_CHUNKS):
                id = page[place * fmt.ID_SIZE : (place + 1) * fmt.ID_SIZE]
                if id != fmt.ZERO_ID:
                    offset = (number * PAGE_CHUNKS + place) * chunk_size
                    chunks += 1
                    data_size += min(chunk_size, end - offset)
                    windows.add(offset // WINDOW_SIZE)
                    place_found = index.find(id)
                    stored[id] = 0 if place_found is None else place_found[2]
    except Corrupt:
        pass  # an image that is hurt is not brought back
    return Pin(
        name=f"recovered-{root_id.hex()[:NAME_DIGITS]}",
        root=root_id,
        domain=root.domain,
        format="recovered",
        virtual_size=end,
        data_size=data_size,
        storage_size=sum(stored.values()),
        allocated_size=WINDOW_SIZE * len(windows),
        chunks=chunks,
        distinct_chunks=len(stored),
        created_at=time.time_ns() // 1000,
    )
