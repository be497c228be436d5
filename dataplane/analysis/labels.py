"""What lies on a disk, as util-linux recognises it: partition tables, partitions, file systems and their labels."""

from __future__ import annotations

import shlex
import subprocess
import tempfile
from pathlib import Path

from dataplane.analysis.logical import read_ranges
from dataplane.dataclass import dataclass
from dataplane.image_source import ImageSource
from dataplane.limits import KIB, MIB, SECTOR_SIZE

HEAD_SIZE = MIB
TAIL_SIZE = MIB
"""What is shown to the tools of the ends of the disk and of each partition: every superblock they know lies there."""

PARTITION_HEAD_SIZE = 256 * KIB
PARTITIONS_MAX = 128
TOOL_TIMEOUT_S = 30


@dataclass(frozen=True, slots=True, kw_only=True)
class Partition:
    """A partition, or the whole disk (`number` 0) when it has no table. Bytes; empty strings for what is not known."""

    number: int
    offset: int
    length: int
    kind: str
    name: str
    filesystem: str
    label: str


def partitions(source: ImageSource) -> tuple[str, list[Partition]]:
    """Return the kind of the partition table (``dos``, ``gpt``, or empty) and what lies where, by offset.

    The tools of util-linux see a sparse copy of the ends of the disk and of its partitions, never the source itself; a
    tool that is missing, fails or takes too long recognises nothing. Raises SourceError or Corrupt when reading fails.
    """
    if source.virtual_size < SECTOR_SIZE:
        return "", []
    with tempfile.NamedTemporaryFile(prefix="dataplane-labels-") as file:
        path = Path(file.name)
        file.truncate(source.virtual_size)
        copy(source, path, [(0, HEAD_SIZE), (max(0, source.virtual_size - TAIL_SIZE), TAIL_SIZE)])
        table = probe(path, 0, source.virtual_size).get("PTTYPE", "")
        found = list_partitions(path, source.virtual_size) if table else []
        if not found:
            found = [
                Partition(number=0, offset=0, length=source.virtual_size, kind="", name="", filesystem="", label="")
            ]
        copy(source, path, [(one.offset, min(one.length, PARTITION_HEAD_SIZE)) for one in found])
        return table, [recognise(path, one) for one in found]


def copy(source: ImageSource, target: Path, ranges: list[tuple[int, int]]) -> None:
    """Copy ranges (offset, length) of the disk to the same places of a file."""
    with target.open("r+b") as file:
        for (offset, _), data in zip(ranges, read_ranges(source, ranges), strict=True):
            file.seek(offset)
            file.write(data)


def recognise(path: Path, partition: Partition) -> Partition:
    """Return the partition with the file system that lies on it."""
    known = probe(path, partition.offset, partition.length)
    return Partition(
        number=partition.number,
        offset=partition.offset,
        length=partition.length,
        kind=partition.kind,
        name=partition.name,
        filesystem=known.get("TYPE", ""),
        label=known.get("LABEL", ""),
    )


def probe(path: Path, offset: int, length: int) -> dict[str, str]:
    """Return what blkid finds in a range of a file."""
    return dict(
        line.split("=", 1)
        for line in run("blkid", "-p", "-o", "export", "-O", str(offset), "-S", str(length), str(path)).splitlines()
        if "=" in line
    )


def list_partitions(path: Path, size: int) -> list[Partition]:
    """Return what partx finds; whatever leaves the disk is left out."""
    columns = "NR,START,SECTORS,TYPE,NAME"
    found = []
    for line in run("partx", "--pairs", "-o", columns, str(path)).splitlines()[:PARTITIONS_MAX]:
        fields = dict(field.split("=", 1) for field in shlex.split(line) if "=" in field)
        try:
            offset, length = int(fields["START"]) * SECTOR_SIZE, int(fields["SECTORS"]) * SECTOR_SIZE
            number = int(fields["NR"])
        except (KeyError, ValueError):
            continue
        if length > 0 and 0 <= offset <= size - length:
            found.append(
                Partition(
                    number=number,
                    offset=offset,
                    length=length,
                    kind=fields.get("TYPE", ""),
                    name=fields.get("NAME", ""),
                    filesystem="",
                    label="",
                )
            )
    return sorted(found, key=lambda one: one.offset)


def run(*command: str) -> str:
    """Return what a tool prints, or nothing when it cannot help."""
    try:
        done = subprocess.run(command, capture_output=True, timeout=TOOL_TIMEOUT_S, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.decode("utf-8", "replace")
