"""A store: a folder that holds chunks by content, and images by name."""

from __future__ import annotations

import os
import stat
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType

from dataplane.engine.codec import Codec, CodecProfile, Decoder
from dataplane.engine.scan import DIGEST_SIZE, blake3
from dataplane.errors import Corrupt, StoreError, StoreIncompatible, StoreMissing, UsageError
from dataplane.hints import TYPE_CHECKING
from dataplane.limits import CHUNK_SIZE_DEFAULT, check_chunk_size
from dataplane.store import format as fmt
from dataplane.store.checkpoints import forget_checkpoints
from dataplane.store.layout import Layout, naming, sync_folder, write_file
from dataplane.store.lease import Lease, drop_dead_leases, reading
from dataplane.store.ledger import Ledger
from dataplane.store.ledger_place import create_ledger_database, open_ledger_database, read_ledger_url
from dataplane.store.pins import Pin
from dataplane.store.workspace import LOCK_NAME, held, remove_abandoned

if TYPE_CHECKING:
    from typing import Any

    from dataplane.store.runs import Index


class Store:
    """An open store. Opening checks its header, secret and ledger; chunks are checked whenever they are read.

    Several processes may use one store at once. `chunk_size` is in bytes; `codec` is how new chunks are encoded.
    """

    def __init__(self, layout: Layout, header: fmt.StoreHeader, secret: bytes, ledger: Ledger) -> None:
        self.path = layout.root
        self.layout = layout
        self.chunk_size = header.chunk_size
        self.codec = CodecProfile.parse(header.codec)
        self.store_id = header.store_id
        self.ledger = ledger
        self._secret = secret

    # ------------------------------------------------------------------------------------------ opening
    @classmethod
    def create(
        cls,
        path: str | os.PathLike[str],
        *,
        chunk_size: int = CHUNK_SIZE_DEFAULT,
        codec: str = "zstd:1",
        ledger_url: str | None = None,
    ) -> Store:
        """Create a store in folder `path`, which must not exist or be empty, and open it.

        `chunk_size` is a power of two from 4 KiB to 4 MiB. The ledger is a file in the folder, or lies in the
        PostgreSQL database at `ledger_url`, which must not hold one. Raises UsageError for other values, StoreError
        when something is at `path` already, NoSpace or IoFailed; nothing is left behind in the file system then.
        """
        check_chunk_size(chunk_size)
        profile = CodecProfile.parse(codec)
        target = Path(path)
        if target.exists() and (not target.is_dir() or any(target.iterdir())):
            raise StoreError(f"{target} is not empty: a store needs a folder of its own")
        with naming(target, "creating"), building_folder(target) as folder:
            layout = Layout(folder)
            for subfolder in (layout.packs, layout.runs, layout.temporary):
                subfolder.mkdir()
            secret = os.urandom(DIGEST_SIZE)
            header = fmt.StoreHeader(
                store_id=os.urandom(16).hex(),
                chunk_size=chunk_size,
                codec=str(profile),
                secret_check=fmt.secret_check(secret),
            )
            write_file(layout.secret, secret, 0o600)
            Ledger.create(create_ledger_database(layout, ledger_url), header.store_id).close()
            write_file(layout.header, header.to_json().encode())
            sync_folder(folder)
        return cls.open(target)

    @classmethod
    def open(cls, path: str | os.PathLike[str], *, may_write: bool = True) -> Store:
        """Open the store in folder `path`; its ledger is brought up to date unless `may_write` is false.

        Raises StoreMissing, StoreIncompatible (another version, or a secret that is lost, not its own, or readable by
        others) or Corrupt.
        """
        layout, header, secret = read_identity(Path(path))
        ledger = Ledger.open(open_ledger_database(layout), header.store_id, may_write=may_write)
        return cls(layout, header, secret, ledger)

    def close(self) -> None:
        """Close the ledger; a second call does nothing."""
        self.ledger.close()

    def __enter__(self) -> Store:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def ledger_path(self) -> Path:
        """The SQLite file of the ledger, unless `ledger_url` is set; a service may keep tables of its own in it."""
        return self.layout.ledger

    @property
    def ledger_url(self) -> str | None:
        """The PostgreSQL database that holds the ledger, None when a file does. It may contain a password."""
        return read_ledger_url(self.layout)

    # ------------------------------------------------------------------------------------------ images
    def pins(self) -> list[Pin]:
        """Return what is known of every image, by name."""
        return self.ledger.pins()

    def pin(self, name: str) -> Pin:
        """Return what is known of one image; raises NotFound."""
        return self.ledger.pin(name)

    def pin_also(self, name: str, also: str, *, connection: Any = None) -> None:
        """Give the content of image `name` a second name, in no time. Raises NotFound or AlreadyExists.

        Both names are of one dedup domain, and either can be removed. With `connection` the pin is part of the caller's
        open transaction on the ledger's database.
        """
        with self.ledger.transaction(connection) as transaction:
            self.ledger.copy_pin(transaction, name, also)

    def unpin(self, name: str, *, undeletable: bool = False, connection: Any = None) -> None:
        """Remove a name; its chunks are garbage unless another image has them. Raises NotFound.

        With `undeletable` the image can be brought back until the collector's undelete period has passed. With
        `connection` (a driver's) the removal is part of its open transaction on the ledger's database.
        """
        with self.ledger.transaction(connection) as transaction:
            self.ledger.remove_pin(transaction, name, undeletable=undeletable)

    def undelete(self, name: str) -> Pin:
        """Bring back the image that was removed last under a name; raises NotFound or AlreadyExists."""
        return self.ledger.restore_pin(name)

    def forget_checkpoints(self, owner: str, *, connection: Any = None) -> None:
        """Give up what imports of this owner have kept to go on from: they will not be started again.

        With `connection` this is part of the caller's open transaction on the ledger's database.
        """
        with self.ledger.transaction(connection) as transaction:
            forget_checkpoints(transaction, owner)

    def lease(self, purpose: str) -> Lease:
        """Take a lease for work that will add to the store, or rely on chunks that no image pins yet."""
        return Lease(self.layout, self.ledger, purpose)

    def clear_abandoned(self) -> None:
        """Remove what killed processes left of their work: their leases, and their folders. Raises IoFailed."""
        drop_dead_leases(self.layout, self.ledger)
        with naming(self.layout.temporary, "clearing"), held(self.layout.temporary / LOCK_NAME):
            remove_abandoned(self.layout)

    @contextmanager
    def reading(self, name: str) -> Iterator[Pin]:
        """Keep image `name` readable while the block runs, even when it is removed meanwhile. Raises NotFound."""
        pin = self.pin(name)
        with reading(self.layout, self.ledger, "export", pin.root, pin.domain):
            yield self.pin(name)  # again: it may have gone, and been collected, before the lease was there

    # ------------------------------------------------------------------------------------------ chunks
    def domain_key(self, domain: str) -> bytes:
        """Return the key of the chunk ids in a dedup domain, 32 bytes. Raises UsageError for an overlong name."""
        if len(domain.encode()) > fmt.DOMAIN_LENGTH_MAX:
            raise UsageError(f"the dedup domain {domain[:20]!r}… is longer than {fmt.DOMAIN_LENGTH_MAX} bytes")
        return fmt.domain_key(self._secret, domain)

    def index(self, *, for_writing: bool = False) -> Index:
        """Return the look-up of what is stored now. Raises Corrupt.

        Condemned packs come last; `for_writing` leaves them out: new images must not come to rely on them.
        """
        from dataplane.store.runs import Index, open_again  # verbs that only ask the ledger look nothing up

        return open_again(
            lambda: Index(
                self.layout, self.ledger.runs(), self.ledger.condemned_packs().keys(), fall_back=not for_writing
            )
        )

    def index_without(self, packs: Collection[bytes]) -> Index:
        """Return the look-up of what is stored outside `packs`, condemned or not. Raises Corrupt."""
        from dataplane.store.runs import Index, open_again

        return open_again(lambda: Index(self.layout, self.ledger.runs(), packs))

    def read_chunk(self, index: Index, id: bytes, key: bytes, what: str) -> bytes:
        """Return the plain bytes of one stored object, decoded and verified; raises Corrupt naming `what`."""
        from dataplane.store.pack import read_range

        found = index.find(id)
        if found is None:
            raise Corrupt(f"{what} ({id.hex()}) is in no run of the store")
        pack, offset, stored_length, plain_length = found
        encoded = read_range(self.layout.pack(pack), offset, stored_length)
        codec = Codec.RAW if stored_length == plain_length else Codec.ZSTD
        plain = Decoder().decode_bytes(codec, encoded, plain_length)
        if plain is None or blake3(plain, key) != id:
            raise Corrupt(f"{what} is damaged: bytes {offset} to {offset + stored_length} of pack {pack.hex()}.pack")
        return plain

    def read_root(self, index: Index, root: bytes, domain: str) -> fmt.Root:
        """Return the verified root of an image."""
        key = self.domain_key(domain)
        return fmt.Root.from_bytes(self.read_chunk(index, root, key, f"root {root.hex()}"), f"root {root.hex()}")

    def read_pages(self, index: Index, root: fmt.Root) -> Iterator[tuple[int, bytes]]:
        """Yield (page number, ids) of every page that is not all zero, verified, in disk order."""
        key = self.domain_key(root.domain)
        for number, page_id in root.pages:
            page = self.read_chunk(index, page_id, key, f"manifest page {number}")
            if len(page) != fmt.PAGE_SIZE:
                raise Corrupt(f"manifest page {number} has {len(page)} bytes, not {fmt.PAGE_SIZE}")
            yield number, page


@contextmanager
def building_folder(target: Path) -> Iterator[Path]:
    """Give a new folder beside `target` that takes its place when all went well, and goes otherwise."""
    import tempfile  # only creating needs it, and start-up counts

    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{target.name}.init-", dir=target.parent) as parent:
        folder = Path(parent) / "store"
        folder.mkdir(mode=0o755)
        yield folder
        folder.rename(target)
    sync_folder(target.parent)


def read_identity(path: Path) -> tuple[Layout, fmt.StoreHeader, bytes]:
    """Return the layout, header and secret of the store at `path`.

    Raises StoreMissing, StoreIncompatible or Corrupt.
    """
    layout = Layout(path)
    try:
        text = layout.header.read_text()
    except (FileNotFoundError, NotADirectoryError) as error:
        raise StoreMissing(f"{path} is not a dataplane store: create one with dataplane init {path}") from error
    except UnicodeDecodeError as error:
        raise Corrupt("store.json is damaged: it is not text; restore it from a backup") from error
    except OSError as error:
        raise StoreMissing(f"store {path} cannot be opened: {error}") from error
    header = fmt.StoreHeader.from_json(text)
    return layout, header, read_secret(layout, header)


def read_secret(layout: Layout, header: fmt.StoreHeader) -> bytes:
    """Return the store's secret after checking that it is this store's own; raises StoreIncompatible."""
    path = layout.secret
    try:
        mode = path.stat().st_mode
        secret = path.read_bytes()
    except FileNotFoundError as error:
        raise StoreIncompatible(
            f"the secret {path} is missing: restore it; without it no chunk id can be made"
        ) from error
    except OSError as error:
        raise StoreIncompatible(f"the secret {path} cannot be read: {error.strerror}") from error
    if mode & (stat.S_IRWXG | stat.S_IRWXO):
        raise StoreIncompatible(f"the secret {path} is open to others: run chmod 600 {path}")
    if len(secret) != DIGEST_SIZE or fmt.secret_check(secret) != header.secret_check:
        raise StoreIncompatible(f"the secret {path} does not belong to this store: restore its own")
    return secret
