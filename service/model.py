"""Values the service works with; the catalogue stores them, `convert` turns them into protobuf messages."""

from __future__ import annotations

import secrets
import time
from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum, StrEnum
from typing import Any, Generic, TypeVar

from service.faults import InvalidRequest, Violation

MIB = 1 << 20
DISK_SIZE_STEP = 4 * MIB
"""Sizes of disks and images are multiples of this many bytes."""

DISK_TYPE_DEFAULT = "network-hdd"
BLOCK_SIZE_DEFAULT = 4096

_ID_ALPHABET = "0123456789abcdefghijklmnopqrstuvwxyz"
_ID_LENGTH = 20
OPERATION_ID_PREFIX = "fdp"

PARKED = "parked"
"""Owner of the lease of an operation whose URL has expired: nobody works on it until a fresh one comes."""

Json = dict[str, Any]


class Status(IntEnum):
    """Where an image, a disk or a snapshot is in its life; numbers are those of the API."""

    CREATING = 1
    READY = 2
    ERROR = 3
    DELETING = 4


class OperationKind(StrEnum):
    """What an operation does; decides the types of its metadata and response."""

    CREATE_IMAGE = "create_image"
    UPDATE_IMAGE = "update_image"
    DELETE_IMAGE = "delete_image"
    CREATE_DISK = "create_disk"
    UPDATE_DISK = "update_disk"
    DELETE_DISK = "delete_disk"
    CREATE_SNAPSHOT = "create_snapshot"
    UPDATE_SNAPSHOT = "update_snapshot"
    DELETE_SNAPSHOT = "delete_snapshot"
    SET_ACCESS_BINDINGS = "set_access_bindings"
    UPDATE_ACCESS_BINDINGS = "update_access_bindings"


@dataclass(frozen=True, slots=True, kw_only=True)
class Spec:
    """What the caller asked an image, a disk or a snapshot to be: what all three have.

    `os` may lack its type, and `hardware_generation` be None: then they are those of the source, if it has any.
    """

    folder_id: str
    name: str
    description: str
    labels: Mapping[str, str]
    product_ids: tuple[str, ...]
    os: Json
    hardware_generation: Json | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageSpec(Spec):
    """What an image should be. `min_disk_size` is in bytes, 0 when it was not given."""

    family: str
    min_disk_size: int
    pooled: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class DiskSpec(Spec):
    """What a disk should be, made from at most one of the sources. Sizes are in bytes."""

    type_id: str
    zone_id: str
    size: int
    block_size: int
    disk_placement_policy: Json | None
    source_image_id: str
    source_snapshot_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class SnapshotSpec(Spec):
    """What a snapshot should be; `disk_size` is what its disk had in bytes when the snapshot was asked for."""

    source_disk_id: str
    disk_size: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Content:
    """What an image or a snapshot holds, or a disk was made with. Sizes are in bytes; `root` names the content."""

    root: bytes
    virtual_size: int
    data_size: int
    storage_size: int
    allocated_size: int
    chunk_size: int
    codec: str
    chunks: int
    distinct_chunks: int


S = TypeVar("S", bound=Spec)


@dataclass(frozen=True, slots=True, kw_only=True)
class Resource(Generic[S]):
    """An image, a disk or a snapshot as the catalogue has it. Times are in microseconds.

    `content` is None while it is being created, and for a disk that was made of nothing.
    """

    id: str
    spec: S
    status: Status
    created_at_us: int
    content: Content | None


Image = Resource[ImageSpec]
Disk = Resource[DiskSpec]
Snapshot = Resource[SnapshotSpec]


@dataclass(frozen=True, slots=True, kw_only=True)
class Operation:
    """A long-running call. `error` and `response` are serialized messages, exactly one of them when `done`."""

    id: str
    kind: OperationKind
    resource_id: str
    folder_id: str
    created_at_us: int
    created_by: str
    modified_at_us: int
    done: bool
    error: bytes | None
    response: bytes | None
    source: bytes | None  # sealed; gone when done
    fresh_source: bytes | None  # sealed; a URL that may take the place of `source` if it leads to the same object
    source_refusal: str  # why the last fresh URL was not taken
    source_version: str | None  # length and validator of what `source` led to, once it was opened
    held_pin: str | None  # the name under which the store keeps content that is copied; gone when done
    disk_id: str | None  # the disk whose content becomes a snapshot or an image
    folder_bytes_max: int | None  # the folder's quota when the operation began
    lease_owner: str
    epoch: int
    attempts: int
    cancel_requested: bool
    progress: Json | None


@dataclass(frozen=True, slots=True, kw_only=True, order=True)
class AccessBinding:
    """A role that a subject has on one image, disk or snapshot."""

    subject_type: str
    subject_id: str
    role_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class BindingChange:
    """A binding that was added, or removed."""

    binding: AccessBinding
    added: bool


def now_us() -> int:
    """Return the time of day in microseconds since 1970."""
    return time.time_ns() // 1000


def new_id(prefix: str) -> str:
    """Return a new id of 20 lower-case letters and digits that begins with `prefix`."""
    length = _ID_LENGTH - len(prefix)
    number, characters = secrets.randbelow(len(_ID_ALPHABET) ** length), []  # once: each time asks the kernel
    for _ in range(length):
        number, digit = divmod(number, len(_ID_ALPHABET))
        characters.append(_ID_ALPHABET[digit])
    return prefix + "".join(characters)


def disk_size_for(virtual_size: int) -> int:
    """Return the smallest disk, in bytes, that holds `virtual_size` bytes: a multiple of 4 MiB, at least one."""
    return max(1, -(-virtual_size // DISK_SIZE_STEP)) * DISK_SIZE_STEP


def chosen_disk_size(asked: int, virtual_size: int) -> int:
    """Return an image's min_disk_size in bytes. Raises InvalidRequest when `asked` is too small; 0 is the least."""
    least = disk_size_for(virtual_size)
    if asked and asked < least:
        problem = f"{asked} is too small for this image: the minimum is {least} bytes"
        raise InvalidRequest([Violation("min_disk_size", problem)])
    return asked or least
