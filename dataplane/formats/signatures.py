"""What the first and last bytes of a source say it is: formats that are read, and containers refused by name."""

from __future__ import annotations

from dataplane.dataclass import dataclass
from dataplane.limits import SECTOR_SIZE

HEAD_SIZE = 64 << 10
"""Bytes at the beginning of a source that are looked at."""

FOOTER_SIZE = SECTOR_SIZE
"""Bytes at its end that are looked at."""

_CONVERT = "convert it: qemu-img convert -O qcow2"
_UNPACK = "unpack it first"
_EXPORT = "convert it with the program that wrote it"


@dataclass(frozen=True, slots=True)
class Signature:
    """Bytes at a place that make a source something that is not read."""

    magic: bytes
    offset: int
    what: str  # continues "… is"
    advice: str  # what to do


_SIGNATURES = (
    Signature(b"COWD", 0, "a COWD VMDK image", _CONVERT),
    Signature(b"\xbe\xba\xfe\xca\x00\x00\x00\x00", 0, "an seSparse VMDK image", _CONVERT),
    Signature(b"QED\x00", 0, "a QED image", _CONVERT),
    Signature(b"WithoutFreeSpace", 0, "a Parallels image", _CONVERT),
    Signature(b"WithouFreSpacExt", 0, "a Parallels image", _CONVERT),
    Signature(b"Bochs Virtual HD Image", 0, "a Bochs image", _CONVERT),
    Signature(b"#!/bin/sh\n#V2.0 Format\nmodprobe cloop", 0, "a cloop image", _CONVERT),
    Signature(b"\x3a\xff\x26\xed", 0, "an Android sparse image", "convert it: simg2img"),
    Signature(b"EVF\x09\x0d\x0a\xff\x00", 0, "an EWF (E01) image", _EXPORT),
    Signature(b"partclone-image", 0, "a Partclone image", _EXPORT),
    Signature(b"MSWIM\x00\x00\x00", 0, "a WIM archive", _EXPORT),
    Signature(b"\x1f\x8b\x08", 0, "compressed with gzip", _UNPACK),
    Signature(b"\xfd7zXZ\x00", 0, "compressed with xz", _UNPACK),
    Signature(b"\x28\xb5\x2f\xfd", 0, "compressed with zstd", _UNPACK),
    Signature(b"\x04\x22\x4d\x18", 0, "compressed with lz4", _UNPACK),
    Signature(b"\x02\x21\x4c\x18", 0, "compressed with lz4", _UNPACK),
    Signature(b"LZIP\x01", 0, "compressed with lzip", _UNPACK),
    Signature(b"\x89LZO\x00\r\n\x1a\n", 0, "compressed with lzop", _UNPACK),
    Signature(b"PK\x03\x04", 0, "a zip archive", _UNPACK),
    Signature(b"PK\x05\x06", 0, "a zip archive", _UNPACK),
    Signature(b"PK\x07\x08", 0, "a zip archive", _UNPACK),
    Signature(b"7z\xbc\xaf\x27\x1c", 0, "a 7z archive", _UNPACK),
    Signature(b"Rar!\x1a\x07", 0, "a rar archive", _UNPACK),
    Signature(b"ustar", 257, "a tar archive or OVA", "unpack it and give the disk image in it"),
    Signature(b"070701", 0, "a cpio archive", _UNPACK),
    Signature(b"070702", 0, "a cpio archive", _UNPACK),
    Signature(b"!<arch>\n", 0, "an ar archive", _UNPACK),
)


@dataclass(frozen=True, slots=True)
class Pattern:
    """A beginning that takes an expression to tell. `first` are the bytes that it may begin with: most disks begin with
    others, and compiling an expression takes longer than anything else that is done to recognise them."""

    first: bytes
    expression: bytes
    what: str = ""
    advice: str = ""

    def matches(self, data: bytes) -> bool:
        """Tell whether `data` begins like this."""
        if data[:1] not in self.first:
            return False
        import re  # which takes longer to import than a disk's first bytes to read

        return re.match(self.expression, data) is not None


_PATTERNS = (
    Pattern(b"B", rb"BZh[1-9](?:1AY&SY|\x17rE8P\x90)", "compressed with bzip2", _UNPACK),
    # Skippable frames may stand before the first real one.
    Pattern(bytes(range(0x50, 0x60)), rb"[\x50-\x5f]\x2a\x4d\x18", "compressed with zstd", _UNPACK),
)

_VMDK_DESCRIPTOR = Pattern(
    b"# \t\r\nvV", rb"(?i)# *disk *descriptorfile|(?:[ \t]*(?:#[^\n]*)?\r?\n)*version *= *[123]\b"
)

_CHECK_ADDRESS = "check that the address gives the image itself"
_TEXT_PATTERNS = (
    Pattern(b"<", rb"(?i)<(?:!doctype|html|head|body|!--)", "an HTML page", _CHECK_ADDRESS),
    Pattern(b"<", rb"(?i)<\?xml\b", "an XML document", _CHECK_ADDRESS),
)

_BOM = b"\xef\xbb\xbf"
_TEXT_BYTES = frozenset(range(0x20, 0x7F)) | frozenset(b"\t\r\n\f") | frozenset(range(0x80, 0x100))
_TEXT_SIZE_MIN = 16


@dataclass(frozen=True, slots=True)
class Refusal:
    """What a source is, and what its owner can do."""

    what: str
    advice: str


def refusal_of_head(head: bytes, size: int) -> Refusal | None:
    """Return why a source of ``size`` bytes that begins with ``head`` is not a disk, or None when it may be one."""
    for known in _SIGNATURES:
        if head.startswith(known.magic, known.offset):
            return Refusal(known.what, known.advice)
    for pattern in _PATTERNS:
        if pattern.matches(head):
            return Refusal(pattern.what, pattern.advice)
    text = _text_of(head)
    for pattern in _TEXT_PATTERNS:
        if pattern.matches(text):
            return Refusal(pattern.what, pattern.advice)
    if _is_text(head, size):
        return Refusal("a text file", "give the disk image itself; --format raw takes it as it is")
    return None


def refusal_of_footer(footer: bytes) -> Refusal | None:
    """Return why a source that ends with ``footer`` (at most FOOTER_SIZE bytes) is not a disk, or None."""
    if footer.startswith(b"koly"):
        return Refusal("an Apple disk image (UDIF)", _EXPORT)
    return None


def is_vhd_footer(footer: bytes) -> bool:
    """Tell whether ``footer`` (at most FOOTER_SIZE bytes), the end of a source, is that of a VHD."""
    # Some writers left out the last byte of the sector.
    return footer.startswith(b"conectix") or footer.startswith(b"conectix", 1)


def is_vmdk_descriptor(head: bytes) -> bool:
    """Tell whether a source that begins with ``head`` is the text that says how a VMDK disk is made up."""
    return _VMDK_DESCRIPTOR.matches(_text_of(head))


def _text_of(head: bytes) -> bytes:
    return head[:4096].removeprefix(_BOM).lstrip()


def _is_text(head: bytes, size: int) -> bool:
    """Tell whether a small source is nothing but lines of text: an error message, a checksum, a pointer file.

    Whole sectors are taken for a disk, whatever is in them.
    """
    return (
        size == len(head)
        and size >= _TEXT_SIZE_MIN
        and size % SECTOR_SIZE != 0
        and b"\n" in head
        and _TEXT_BYTES.issuperset(head)
        and _is_utf8(head)
    )


def _is_utf8(head: bytes) -> bool:
    try:
        head.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True
