"""Where things lie in a store's folder, and how files get there so that a crash leaves the old state or the new one."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from dataplane.errors import IoFailed, NoSpace

NO_SPACE_ERRNOS = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})


class Layout:
    """The paths of a store in folder `root`."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.header = root / "store.json"
        self.secret = root / "secret"
        self.ledger = root / "ledger.sqlite3"
        self.ledger_url = root / "ledger.url"
        self.packs = root / "packs"
        self.runs = root / "runs"
        self.counts = root / "counts"
        self.temporary = root / "tmp"
        self.quarantine = root / "quarantine"
        self.collector_lock = root / "gc.lock"
        self.index_lock = root / "index.lock"
        self.counts_lock = root / "counts.lock"

    def pack(self, name: bytes) -> Path:
        """Return the path of a pack; 256 folders keep each of them short."""
        text = name.hex()
        return self.packs / text[:2] / f"{text}.pack"

    def run(self, name: bytes) -> Path:
        """Return the path of a run."""
        return self.runs / f"{name.hex()}.run"

    def count_file(self, name: bytes) -> Path:
        """Return the path of a count file."""
        return self.counts / f"{name.hex()}.counts"


@contextmanager
def naming(path: Path | str, doing: str) -> Iterator[None]:
    """Turn an OSError into NoSpace or IoFailed that names what was done to `path`."""
    try:
        yield
    except OSError as error:
        where = f"{doing} {path}"
        if error.errno in NO_SPACE_ERRNOS:
            raise NoSpace(f"no space left while {where} ({error.strerror}): free space and try again") from error
        raise IoFailed(f"{where} failed: {error.strerror or error}") from error


def remove_file(path: Path) -> None:
    """Remove a file if it is there; raises IoFailed."""
    with naming(path, "removing"):
        path.unlink(missing_ok=True)


def sync_folder(folder: Path) -> None:
    """Make renames and creations in `folder` durable."""
    with naming(folder, "syncing"):
        fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)


def write_file(path: Path, data: bytes, mode: int = 0o644) -> None:
    """Create `path` with `data`, durably but for its folder; raises NoSpace or IoFailed and leaves nothing."""
    with naming(path, "writing"):
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
        try:
            view = memoryview(data)
            while view:
                view = view[os.write(fd, view) :]
            os.fsync(fd)
        except OSError:
            os.unlink(path)
            raise
        finally:
            os.close(fd)
