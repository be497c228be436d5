"""What the fault suites share: a store to begin with, and a process that forks others with the shim in them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults.figures import Figures
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


FIGURES = pytest.StashKey[Figures]()


@pytest.fixture(scope="session")
def figures(pytestconfig: pytest.Config) -> Figures:
    """Counts that docs/reliability.md gives; shown when the tests are over."""
    return pytestconfig.stash.setdefault(FIGURES, Figures())


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Show the figures."""
    for line in config.stash.get(FIGURES, Figures()).lines():
        terminalreporter.write_line(line)
