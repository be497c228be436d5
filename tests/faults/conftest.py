"""What the fault suites share: a store to begin with, and a process that forks others with the shim in them."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.faults.cut_disk import FILE_SYSTEMS, CutDisk, memory_folder, private_mounts, why_not
from tests.faults.forker import Forker
from tests.faults.scripts import make_template


@pytest.fixture(scope="session")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a store and the disks it was made from; tests work on copies."""
    return make_template(tmp_path_factory.mktemp("template"))


@pytest.fixture(scope="session")
def forker() -> Iterator[Forker]:
    """The process that runs commands with faults in them."""
    with Forker() as started:
        yield started


@pytest.fixture(scope="module")
def private_forker() -> Iterator[Forker]:
    """The process that runs commands; it sees the disks, which no other process on the machine does."""
    if os.geteuid() != 0:
        pytest.skip("only root may mount a loop device")
    with ExitStack() as stack:
        try:
            stack.enter_context(private_mounts())
        except PermissionError:
            pytest.skip("root may not mount anything in this container")
        yield stack.enter_context(Forker())


@pytest.fixture(scope="module", params=FILE_SYSTEMS)
def disk(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, private_forker: Forker
) -> Iterator[CutDisk]:
    """A mounted disk."""
    reason = why_not(request.param)
    if reason is not None:
        pytest.skip(reason)
    place = memory_folder(tmp_path_factory.mktemp("disk"))
    with (
        tempfile.TemporaryDirectory(prefix="dataplane-disk-", dir=place) as at,
        CutDisk(Path(at), request.param) as made,
    ):
        yield made
