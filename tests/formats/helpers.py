"""Shared by the tests of formats: qemu-img as the judge, and an image checked against it in one call."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

from dataplane.extent import Extent
from dataplane.formats.probe import open_source
from dataplane.image_source import ImageSource
from dataplane.readers.file import FileReader
from tests.oracles.extents import checked_extents, read_all


def run(*command: str | Path) -> str:
    """Run a tool and return what it prints; a failure shows its messages."""
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
    return done.stdout


def create(path: Path, size: int | str, **options: object) -> Path:
    """Make an empty qcow2 image."""
    arguments = ",".join(f"{key}={value}" for key, value in options.items())
    run("qemu-img", "create", "-q", "-f", "qcow2", *(["-o", arguments] if arguments else []), path, str(size))
    return path


def qemu_io(path: Path, *commands: str, form: str = "qcow2") -> None:
    run("qemu-io", "-f", form, *[part for command in commands for part in ("-c", command)], path)


def convert(source: Path, target: Path, *options: str, form: str = "qcow2", to: str = "qcow2") -> Path:
    run("qemu-img", "convert", "-f", form, "-O", to, *options, source, target)
    return target


def qemu_content(path: Path, form: str = "qcow2") -> bytes:
    """Return the disk as qemu reads it."""
    raw = path.with_name(path.name + ".qemu-raw")
    convert(path, raw, form=form, to="raw")
    content = raw.read_bytes()
    raw.unlink()
    return content


def qemu_map(path: Path) -> list[dict[str, Any]]:
    """Return ``qemu-img map``."""
    found: list[dict[str, Any]] = json.loads(run("qemu-img", "map", "-f", "qcow2", "--output=json", path))
    return found


def content_of(path: Path, **options: Any) -> tuple[bytes, list[Extent]]:
    """Return the disk as this library reads it and its extents, after every promise was checked."""
    with open_source(path, **options) as source:
        return checked_content(source)


def checked_content(source: ImageSource) -> tuple[bytes, list[Extent]]:
    extents = checked_extents(source)
    return read_all(source), extents


def without_holes(path: Path) -> FileReader:
    """Open a file as if its file system could not tell holes from data."""
    reader = FileReader(path)
    reader.has_holes = False
    return reader
