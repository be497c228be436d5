"""The folder of a disk: its state, its lock, and how a new state takes the place of the old one."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
from pathlib import Path

from dataplane.dataclass import dataclass
from dataplane.disks.block_map import BLOCK_SIZE, BlockState
from dataplane.disks.format import STATE_SIZE_MAX, DiskState, is_disk_size
from dataplane.disks.layer import Layer
from dataplane.errors import AlreadyExists, NotFound, StoreLocked, UsageError
from dataplane.limits import SECTOR_SIZE, VIRTUAL_SIZE_MAX
from dataplane.store.layout import naming, sync_folder, write_file

STATE_NAME = "disk.json"
LOCK_NAME = "lock"
CONTROL_NAME = "control"
TRASH_SUFFIX = ".deleted"


@dataclass(frozen=True, slots=True, kw_only=True)
class DiskStatus:
    """What is known of a disk without reading its store. Sizes in bytes.

    `written_size` is what the overlay holds beside the base, `zeroed_size` what it lets read as zeros, both in whole
    blocks of 4 KiB. `snapshotting` says that changes wait to be merged into the base.
    """

    id: str
    size: int
    base_root: bytes | None
    domain: str
    owner: str
    origin: str
    written_size: int
    zeroed_size: int
    snapshotting: bool


def create_overlay(
    path: str | os.PathLike[str],
    *,
    size: int,
    base_root: bytes | None = None,
    base_size: int = 0,
    domain: str = "",
    owner: str = "",
    origin: str = "",
) -> DiskState:
    """Make a disk of `size` bytes in the new folder `path`, over a root of the store or over nothing; O(1).

    `size` is a multiple of 512, at least `base_size`, the virtual size of the base. `owner` names the pin that keeps
    the base alive, ``disk:ID`` of the disk's own random id unless given; the caller makes that pin, before this.
    `origin` is the name of the image the disk comes from, for people. Durable on return. Raises UsageError,
    AlreadyExists, NoSpace or IoFailed, and leaves nothing.
    """
    target = Path(path)
    if not is_disk_size(size):
        raise UsageError(f"{size} is no size of a disk: use a multiple of {SECTOR_SIZE} up to {VIRTUAL_SIZE_MAX}")
    if size < base_size:
        raise UsageError(f"a disk of {size} bytes is too small for its image, which has {base_size}")
    if os.path.lexists(target):
        raise AlreadyExists(f"{target} exists already: a disk needs a new folder")
    id = os.urandom(8).hex()
    root = base_root.hex() if base_root is not None else None
    state = DiskState(
        id=id, size=size, base_root=root, domain=domain, owner=owner or f"disk:{id}", origin=origin, origin_root=root,
        layer=1, sealed=None,
    )  # fmt: skip
    building = target.with_name(f".{target.name}.{id}")
    try:
        with naming(building, "creating"):
            building.mkdir(mode=0o700)
        Layer.create(building, 1, size).close()
        write_file(building / LOCK_NAME, b"", 0o600)
        write_file(building / STATE_NAME, state.to_json(), 0o600)
        sync_folder(building)
        with naming(target, "creating"):
            os.rename(building, target)
    except BaseException:
        shutil.rmtree(building, ignore_errors=True)
        raise
    sync_folder(target.parent)
    return state


def read_state(folder: Path) -> DiskState:
    """Return the state of a disk; raises NotFound, Corrupt, StoreIncompatible or IoFailed."""
    path = folder / STATE_NAME
    try:
        with naming(path, "reading"), open(path, "rb") as file:
            data = file.read(STATE_SIZE_MAX)
    except Exception as error:
        if isinstance(error.__cause__, (FileNotFoundError, NotADirectoryError)):
            raise NotFound(f"{folder} is not a disk: no {STATE_NAME} in it") from error
        raise
    return DiskState.from_json(data, str(path))


def write_state(folder: Path, state: DiskState) -> None:
    """Put a state in the place of the one before, durably; raises NoSpace or IoFailed, and the old one stays then."""
    fresh = folder / f"{STATE_NAME}.new"
    with naming(fresh, "replacing"):
        fresh.unlink(missing_ok=True)
    write_file(fresh, state.to_json(), 0o600)
    with naming(folder / STATE_NAME, "replacing"):
        os.rename(fresh, folder / STATE_NAME)
    sync_folder(folder)


def lock_disk(folder: Path, *, shared: bool = False) -> int:
    """Return a descriptor that holds the disk's lock; raises StoreLocked when it is open elsewhere, or NotFound."""
    path = folder / LOCK_NAME
    try:
        lock = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise NotFound(f"{folder} is not a disk: no {LOCK_NAME} in it") from error
    except OSError as error:
        with naming(path, "locking"):
            raise error
    try:
        fcntl.flock(lock, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(lock)
        raise StoreLocked(f"disk {folder} is open in another process: end that first") from error
    return lock


def disk_status(path: str | os.PathLike[str]) -> DiskStatus:
    """Return what is known of a disk that may be open elsewhere. Raises NotFound, Corrupt or IoFailed."""
    folder = Path(path)
    state = read_state(folder)
    written = zeroed = 0
    for number in filter(None, (state.sealed, state.layer)):
        with contextlib.closing(Layer.open(folder, number, state.size, may_write=False)) as layer:
            written += layer.blocks.count(BlockState.WRITTEN) * BLOCK_SIZE
            zeroed += layer.blocks.count(BlockState.ZERO) * BLOCK_SIZE
    return status_of(state, written, zeroed)


def status_of(state: DiskState, written: int, zeroed: int) -> DiskStatus:
    """Return the status of a disk in a state, of which so many bytes are written and zeroed."""
    return DiskStatus(
        id=state.id,
        size=state.size,
        base_root=bytes.fromhex(state.base_root) if state.base_root else None,
        domain=state.domain,
        owner=state.owner,
        origin=state.origin,
        written_size=written,
        zeroed_size=zeroed,
        snapshotting=state.sealed is not None,
    )


def delete_overlay(path: str | os.PathLike[str]) -> None:
    """Remove the disk in folder `path`; nothing to do when there is none. Its pins are the caller's to remove.

    Raises StoreLocked when it is open, IoFailed.
    """
    folder = Path(path)
    trash = folder.with_name(f".{folder.name}{TRASH_SUFFIX}")
    if trash.exists():
        shutil.rmtree(trash, ignore_errors=True)
    try:
        lock = lock_disk(folder)
    except NotFound:
        if folder.is_dir() and (folder / STATE_NAME).exists():
            raise
        return
    try:
        # It is gone at once; a crash while its files are removed leaves nothing that could be taken for a disk.
        with naming(folder, "removing"):
            os.rename(folder, trash)
        sync_folder(folder.parent)
        shutil.rmtree(trash, ignore_errors=True)
    finally:
        os.close(lock)
