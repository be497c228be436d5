"""The VMDK descriptor: a few lines of text that say how a disk is made up. Parsed and checked, never followed."""

from __future__ import annotations

import re

from dataplane.dataclass import dataclass
from dataplane.errors import InvalidImage, Unsupported
from dataplane.limits import DESCRIPTOR_EXTENTS_MAX, SECTOR_SIZE, VIRTUAL_SIZE_MAX

_FLATTEN = "make one file of it with what wrote it, or: qemu-img convert -O qcow2"

_EXTENT_START = re.compile(r"(RW|RDONLY|NOACCESS)\b", re.IGNORECASE)
_EXTENT = re.compile(r'(\w+)[ \t]+(\d{1,19})[ \t]+(\w{1,40})(?:[ \t]+"([^"]{0,4096})"(?:[ \t]+(\d{1,19}))?)?')
_SETTING = re.compile(r"([A-Za-z][\w.]{0,200})[ \t]*=[ \t]*(.*)")

_READ_TYPES = frozenset(("FLAT", "VMFS", "SPARSE", "VMFSSPARSE", "ZERO"))

_READ_CREATE_TYPES = frozenset(
    (
        "monolithicsparse",
        "monolithicflat",
        "streamoptimized",
        "twogbmaxextentsparse",
        "twogbmaxextentflat",
        "2gbmaxextentsparse",
        "2gbmaxextentflat",
        "vmfs",
        "vmfssparse",
        "vmfsthin",
        "vmfspreallocated",
        "vmfseagerzeroedthick",
        "custom",
    )
)

_NO_PARENT = 0xFFFFFFFF
_SHOWN_LENGTH_MAX = 80


@dataclass(frozen=True, slots=True, kw_only=True)
class ListedExtent:
    """One line of a descriptor: a piece of the disk. Sizes and offsets are in bytes."""

    size: int
    kind: str  # FLAT, VMFS, SPARSE, VMFSSPARSE or ZERO
    file_name: str | None  # as the image says: not to be trusted; None for ZERO only
    file_offset: int  # 0 unless the piece is flat


@dataclass(frozen=True, slots=True, kw_only=True)
class Descriptor:
    """What a descriptor says, after checks."""

    create_type: str | None  # in lower case
    extents: tuple[ListedExtent, ...]

    @property
    def virtual_size(self) -> int:
        """Bytes of the disk that the extents make up."""
        return sum(extent.size for extent in self.extents)


def parse_descriptor(name: str, data: bytes) -> Descriptor:
    """Parse the descriptor in ``data`` (at most DESCRIPTOR_SIZE_MAX bytes), which ends at the first null byte.

    Raises InvalidImage when it is not a descriptor, Unsupported for parents, devices and kinds that are not read.
    """
    text = data.partition(b"\0")[0].removeprefix(b"\xef\xbb\xbf").decode("utf-8", "surrogateescape")
    settings: dict[str, str] = {}
    extents: list[ListedExtent] = []
    for line in text.split("\n"):
        line = line.strip()
        if _EXTENT_START.match(line):
            if len(extents) == DESCRIPTOR_EXTENTS_MAX:
                raise InvalidImage(f"{name}: its descriptor lists more than {DESCRIPTOR_EXTENTS_MAX} extents")
            extents.append(_parse_extent(name, line))
            continue
        setting = _SETTING.match(line)
        if setting is None:
            continue
        key, value = setting[1].lower(), setting[2].strip().strip('"')
        # Told apart here, because of two lines with one key only one could be kept.
        if key == "parentcid":
            _refuse_parent(name, value)
        elif key == "parentfilenamehint" and value:
            raise Unsupported(f"{name} needs a parent, {shown(value)}, which is not read; {_FLATTEN}")
        settings.setdefault(key, value)
    if "createtype" not in settings and "cid" not in settings and not extents:
        raise InvalidImage(f"{name}: its VMDK descriptor has neither createType nor extents; it is damaged")
    if settings.get("version", "1") not in ("1", "2", "3"):
        raise Unsupported(f"{name}: a VMDK descriptor of version {shown(settings['version'])}; 1 to 3 are read")
    create_type = settings.get("createtype")
    if create_type is not None and create_type.lower() not in _READ_CREATE_TYPES:
        raise Unsupported(f"{name} is a VMDK of type {shown(create_type)}, which is not read; {_FLATTEN}")
    descriptor = Descriptor(create_type=create_type and create_type.lower(), extents=tuple(extents))
    if descriptor.virtual_size > VIRTUAL_SIZE_MAX:
        raise InvalidImage(f"{name}: extents of {descriptor.virtual_size} bytes are more than {VIRTUAL_SIZE_MAX}")
    return descriptor


def shown(text: str) -> str:
    """Return what an image says, fit for one line of a message."""
    cut = text if len(text) <= _SHOWN_LENGTH_MAX else text[:_SHOWN_LENGTH_MAX] + "..."
    return cut if cut.isprintable() else cut.encode("unicode_escape").decode("ascii")


def _refuse_parent(name: str, value: str) -> None:
    try:
        parent = int(value, 16)
    except ValueError:
        raise InvalidImage(f"{name}: parentCID {shown(value)} in its descriptor is not a number") from None
    if parent != _NO_PARENT:
        raise Unsupported(f"{name} needs a parent (parentCID {parent:08x}), which is not read; {_FLATTEN}")


def _parse_extent(name: str, line: str) -> ListedExtent:
    found = _EXTENT.match(line)
    if found is None:
        raise InvalidImage(f"{name}: extent line {shown(line)} of its descriptor is not understood")
    access, sectors, kind = found[1].upper(), int(found[2]), found[3].upper()
    if access == "NOACCESS":
        raise Unsupported(f"{name}: its descriptor forbids access to an extent: {shown(line)}")
    if kind not in _READ_TYPES:
        raise Unsupported(f"{name}: an extent of type {shown(kind)} is not read; {_FLATTEN}")
    if sectors == 0 or sectors > VIRTUAL_SIZE_MAX // SECTOR_SIZE:
        raise InvalidImage(f"{name}: an extent of {sectors} sectors in its descriptor is no part of a disk")
    file_name, offset = found[4], int(found[5] or 0)
    if kind != "ZERO" and not file_name:
        raise InvalidImage(f"{name}: extent line {shown(line)} of its descriptor lacks a file name")
    if kind not in ("FLAT", "VMFS") or (kind == "VMFS" and found[5] is None):
        offset = 0
    return ListedExtent(
        size=sectors * SECTOR_SIZE,
        kind=kind,
        file_name=None if kind == "ZERO" else file_name,
        file_offset=offset * SECTOR_SIZE,
    )
