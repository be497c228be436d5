"""The table of formats that are read: how each is recognised and opened. A new format is one line here."""

from __future__ import annotations

import os
from collections.abc import Callable

from dataplane.byte_reader import ByteReader
from dataplane.dataclass import dataclass
from dataplane.errors import Unsupported
from dataplane.formats.raw import RawSource
from dataplane.formats.signatures import (
    FOOTER_SIZE,
    HEAD_SIZE,
    is_vhd_footer,
    is_vmdk_descriptor,
    refusal_of_footer,
    refusal_of_head,
)
from dataplane.image_source import ImageSource

Location = str | os.PathLike[str]


@dataclass(frozen=True, slots=True)
class Extras:
    """What the caller names beside the image itself."""

    data_file: ByteReader | None = None
    extent_dir: Location | None = None
    snapshot: str | None = None


@dataclass(frozen=True, slots=True)
class Format:
    """A format that is read. Its module is imported when it is opened: numpy costs start-up time."""

    name: str
    open: Callable[[ByteReader, Extras], ImageSource]
    magics: tuple[tuple[int, bytes], ...] = ()  # offset in the source, bytes
    is_head: Callable[[bytes], bool] | None = None  # for heads that no fixed bytes tell
    is_footer: Callable[[bytes], bool] | None = None  # for what its last FOOTER_SIZE bytes tell
    extras: tuple[str, ...] = ()  # fields of Extras that it can use


def _open_raw(reader: ByteReader, extras: Extras) -> ImageSource:
    return RawSource(reader)


def _open_qcow2(reader: ByteReader, extras: Extras) -> ImageSource:
    from dataplane.formats.qcow2 import Qcow2Source

    return Qcow2Source(reader, data_file=extras.data_file, snapshot=extras.snapshot)


def _open_vmdk(reader: ByteReader, extras: Extras) -> ImageSource:
    from pathlib import Path

    from dataplane.formats.vmdk import open_vmdk

    return open_vmdk(reader, extent_dir=None if extras.extent_dir is None else Path(extras.extent_dir))


def _open_vhd(reader: ByteReader, extras: Extras) -> ImageSource:
    from dataplane.formats.vhd import open_vhd

    return open_vhd(reader)


def _open_vhdx(reader: ByteReader, extras: Extras) -> ImageSource:
    from dataplane.formats.vhdx import open_vhdx

    return open_vhdx(reader)


def _open_vdi(reader: ByteReader, extras: Extras) -> ImageSource:
    from dataplane.formats.vdi import open_vdi

    return open_vdi(reader)


KNOWN = {
    known.name: known
    for known in (
        Format("raw", _open_raw),
        Format("qcow2", _open_qcow2, magics=((0, b"QFI\xfb"),), extras=("data_file", "snapshot")),
        Format("vmdk", _open_vmdk, magics=((0, b"KDMV"),), is_head=is_vmdk_descriptor, extras=("extent_dir",)),
        Format("vhd", _open_vhd, magics=((0, b"conectix"),), is_footer=is_vhd_footer),
        Format("vhdx", _open_vhdx, magics=((0, b"vhdxfile"),)),
        Format("vdi", _open_vdi, magics=((0x40, b"\x7f\x10\xda\xbe"),)),
    )
}
"""By name; raw is what nothing else recognises."""


def recognise(reader: ByteReader) -> Format:
    """Return the format of ``reader`` as its first and last bytes tell it; raises Unsupported for what is refused."""
    if reader.size == 0:
        return KNOWN["raw"]
    head = reader.read_at(0, min(reader.size, HEAD_SIZE))
    for known in KNOWN.values():
        if any(head.startswith(magic, at) for at, magic in known.magics) or (known.is_head and known.is_head(head)):
            return known
    refusal = refusal_of_head(head, reader.size)
    if refusal is None:
        footer_size = min(reader.size, FOOTER_SIZE)
        footer = reader.read_at(reader.size - footer_size, footer_size)
        for known in KNOWN.values():
            if known.is_footer and known.is_footer(footer):
                return known
        refusal = refusal_of_footer(footer)
    if refusal is not None:
        raise Unsupported(f"{reader.name} is {refusal.what}; {refusal.advice}")
    return KNOWN["raw"]
