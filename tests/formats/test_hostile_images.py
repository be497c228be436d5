"""Known attacks through image parsers: what the image tries, and the line that refuses it; nothing else is opened."""

from __future__ import annotations

import os
import struct
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from dataplane.errors import InvalidImage, SourceError, Unsupported
from dataplane.formats.probe import open_source
from tests.formats.helpers import content_of
from tests.formats.qcow2_writer import EXTERNAL_DATA, Image, Snapshot

CLUSTER = 65536


def qcow2(patch: dict[int, bytes] | None = None, **changes: Any) -> bytes:
    """Return a small image; ``patch`` has bytes to put over it, by offset."""
    settings: dict[str, Any] = {"virtual_size": 2 * CLUSTER, "clusters": {0: ("data", b"a" * CLUSTER)}}
    file = bytearray(Image(**{**settings, **changes}).write())
    for at, piece in (patch or {}).items():
        file[at : at + len(piece)] = piece
    return bytes(file)


def parallels(tracks: int = 63, catalog_entries: int = 16) -> bytes:
    header = struct.pack("<16sIIIIIQ", b"WithoutFreeSpace", 2, 16, 512, tracks, catalog_entries, 8192)
    return header.ljust(4096, b"\0")


def bochs(catalog_entries: int = 16, extent_size: int = 4096) -> bytes:
    header = struct.pack("<32s16s16sII", b"Bochs Virtual HD Image", b"Redolog", b"Growing", 0x20000, 512)
    return (header + struct.pack("<III", catalog_entries, 64, extent_size)).ljust(4096, b"\0")


def cloop(block_size: int) -> bytes:
    script = b"#!/bin/sh\n#V2.0 Format\nmodprobe cloop file=$0 && mount -r -t iso9660 /dev/cloop $1\n"
    return script.ljust(128, b"\0") + struct.pack(">II", block_size, 1) + bytes(4096)


def descriptor(extent: str, kind: str = "monolithicFlat") -> bytes:
    return (
        "# Disk DescriptorFile\nversion=1\nCID=fffffffe\nparentCID=ffffffff\n"
        f'createType="{kind}"\n{extent}\nddb.adapterType = "ide"\n'
    ).encode()


@dataclass(frozen=True)
class Attack:
    name: str
    tries: str
    file: Callable[[], bytes]
    refusal: str
    snapshot: str | None = None


ATTACKS = [
    Attack("CVE-2014-0142", "division by tracks of 0", lambda: parallels(tracks=0), "is a Parallels image"),
    Attack("CVE-2014-0142", "division by extents of 0", lambda: bochs(extent_size=0), "is a Bochs image"),
    Attack("CVE-2014-0143", "catalog of 16 GiB", lambda: parallels(catalog_entries=(1 << 32) - 1), "a Parallels image"),
    Attack("CVE-2014-0143", "catalog of 8 GiB", lambda: bochs(catalog_entries=(1 << 31) - 1), "a Bochs image"),
    Attack("CVE-2014-0143", "block size of 4 GiB", lambda: cloop((1 << 32) - 1), "is a cloop image"),
    Attack(
        "CVE-2014-0143",
        "L1 table of a snapshot whose size in bytes leaves 32 bits",
        lambda: qcow2(snapshots=[Snapshot(b"1", l1_entries=1 << 29)]),
        "snapshot '1': an L1 table of 4294967296 bytes is more than 33554432",
        "1",
    ),
    Attack(
        "CVE-2014-0144",
        "header length of 4 GiB",
        lambda: qcow2({100: b"\xff" * 4}),
        "header of 4294967295 bytes is not between 104 and 65536",
    ),
    Attack(
        "CVE-2014-0144",
        "header extension that leaves its cluster",
        lambda: qcow2({112: struct.pack(">II", 0x6803F857, (1 << 32) - 1)}),
        "header extension 0x6803f857 of 4294967295 bytes leaves its cluster",
    ),
    Attack(
        "CVE-2014-0144",
        "backing file name of 4 GiB",
        lambda: qcow2({8: struct.pack(">QI", 128, (1 << 32) - 1)}),
        "backing file name of 4294967295 bytes",
    ),
    Attack(
        "CVE-2014-0144",
        "backing file name behind all offsets",
        lambda: qcow2({8: struct.pack(">QI", (1 << 64) - 8, 16)}),
        "backing file name of 16 bytes at 18446744073709551608 leaves the first cluster",
    ),
    Attack(
        "CVE-2014-0144",
        "clusters of 2^63 bytes",
        lambda: qcow2({20: struct.pack(">I", 63)}),
        "cluster_bits is 63, not 9 to 21",
    ),
    Attack(
        "CVE-2014-0144",
        "L1 table of 32 GiB",
        lambda: qcow2(l1_entries=(1 << 32) - 1),
        "L1 table of 34359738360 bytes is more than 33554432",
    ),
    Attack(
        "CVE-2014-0145",
        "L1 table of a snapshot longer than the buffer of the active one",
        lambda: qcow2(snapshots=[Snapshot(b"1", l1_entries=40000)], virtual_size=512),
        "snapshot '1' is cut short or damaged: its L1 table",
        "1",
    ),
    Attack(
        "CVE-2014-0145",
        "snapshot table of 65537 entries",
        lambda: qcow2(snapshots=[Snapshot(b"1")], snapshot_count=65537),
        "65537 snapshots are more than 65536",
        "1",
    ),
    Attack(
        "CVE-2014-0146",
        "failure half way through opening: snapshots behind the end of the file",
        lambda: qcow2(snapshots=[Snapshot(b"1")], snapshots_offset=1 << 40),
        "entry 0 of its snapshot table leaves the file",
        "1",
    ),
    Attack(
        "CVE-2014-0146",
        "failure half way through opening: L1 table behind all offsets",
        lambda: qcow2(l1_offset=(1 << 64) - CLUSTER),
        "its L1 table at 18446744073709486080 ends behind",
    ),
    Attack(
        "CVE-2014-0147",
        "refcounts of 2^32 bits",
        lambda: qcow2({96: struct.pack(">I", 32)}),
        "refcount_order is 32, more than 6",
    ),
    Attack(
        "CVE-2014-0147",
        "virtual size that overflows with its clusters",
        lambda: qcow2({24: b"\x7f" + b"\xff" * 7}),
        "virtual size of 9223372036854775807 bytes is more than",
    ),
    Attack(
        "CVE-2015-5163",
        "backing file on the host, to be uploaded with the image",
        lambda: qcow2(backing=b"host"),
        "needs a backing file, which it calls .*; it is never opened",
    ),
    Attack(
        "CVE-2015-5163",
        "backing file in an image of version 2, through a protocol",
        lambda: qcow2(backing=b"nbd://127.0.0.1/secret", version=2),
        "needs a backing file, which it calls 'nbd://127.0.0.1/secret'; it is never opened",
    ),
    Attack(
        "CVE-2022-47951",
        "flat extent that is a file of the host",
        lambda: descriptor('RW 8192 FLAT "host" 0'),
        "VMDK",
    ),
    Attack(
        "CVE-2022-47951",
        "flat extent outside the folder",
        lambda: descriptor('RW 8192 FLAT "../../../../etc/passwd" 0'),
        "VMDK",
    ),
    Attack(
        "CVE-2024-4467",
        "data file that is a JSON description of any block driver",
        lambda: qcow2(
            incompatible=EXTERNAL_DATA, extensions=[(0x44415441, b'json:{"driver":"file","filename":"host"}')]
        ),
        "keeps its data in an external data file, which is never opened because the image names it",
    ),
    Attack(
        "CVE-2024-4467",
        "backing file that is a JSON description of any block driver",
        lambda: qcow2(backing=b'json:{"file.filename":"host"}'),
        "needs a backing file, which it calls 'json:.*; it is never opened",
    ),
    Attack(
        "CVE-2024-32498",
        "external data file on the host, to be uploaded as the image",
        lambda: qcow2(incompatible=EXTERNAL_DATA, autoclear=2, extensions=[(0x44415441, b"host")]),
        "keeps its data in an external data file, which is never opened because the image names it",
    ),
]


@pytest.mark.parametrize("attack", ATTACKS, ids=[f"{attack.name} {attack.tries}" for attack in ATTACKS])
def test_attack_is_refused_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, attack: Attack) -> None:
    os.mkfifo(tmp_path / "host")  # opening it would wait for ever
    path = tmp_path / "disk"
    path.write_bytes(attack.file())
    opened: list[str] = []
    real_open = os.open

    def spy(place: Any, *arguments: Any, **options: Any) -> int:
        opened.append(os.fspath(place))
        return real_open(place, *arguments, **options)

    monkeypatch.setattr(os, "open", spy)
    before = len(os.listdir("/proc/self/fd"))
    started = time.monotonic()
    with pytest.raises((InvalidImage, Unsupported), match=attack.refusal) as error:
        content_of(path, snapshot=attack.snapshot)
    assert time.monotonic() - started < 2
    assert str(path) in str(error.value)
    assert str(error.value).isprintable()
    assert opened == [str(path)]
    assert len(os.listdir("/proc/self/fd")) == before


def test_sparse_giant_is_refused_before_its_tables_are_read(tmp_path: Path) -> None:
    """A file of 1 TiB that takes no space passes every check against the file's size, and still ends soon."""
    path = tmp_path / "disk"
    entries = (32 << 20) // 8
    image = Image(entries * 512 * 64, cluster_bits=9, l1_entries=entries, l1_offset=1024)
    with path.open("wb") as file:
        file.write(image._header(entries, 1024))
        file.truncate(1 << 40)
        for entry in range(0, entries, 4096):  # one table, named 1,024 times
            os.pwrite(file.fileno(), struct.pack(">Q", 1 << 63 | 512), 1024 + 8 * entry)
    started = time.monotonic()
    try:
        with open_source(path) as source:
            for _ in source.extents():
                pass
    except SourceError:
        pass
    assert time.monotonic() - started < 10
