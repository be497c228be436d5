"""What the fault suites share: a store to begin with, and a process that forks others with the shim in them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

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
