"""Fixtures that several packages of tests use."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

from dataplane.store.store import Store
from tests import postgres
from tests.faults.figures import Figures

# Examples take as long as the machine is busy.
settings.register_profile("dataplane", deadline=None)
settings.load_profile("dataplane")

# A shell starts what it puts in the background with SIGINT ignored, and children inherit that; tests send it to them.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

ROOT = Path(__file__).resolve().parents[1]
FIGURES = pytest.StashKey[Figures]()


@pytest.fixture(scope="session")
def root() -> Path:
    """The checkout."""
    return ROOT


@pytest.fixture(scope="session")
def qemu_img() -> str:
    """The path of qemu-img, the judge of image formats; a machine without it is not set up."""
    found = shutil.which("qemu-img")
    assert found, "qemu-img is not installed: run make setup"
    return found


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[postgres.PostgresServer]:
    """A PostgreSQL server that lives as long as the tests that need it."""
    with postgres.running() as server:
        yield server


@pytest.fixture(autouse=True)
def chosen_ledger(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where PostgreSQL is chosen, stores that tests create keep their ledgers there."""
    if postgres.CHOICE not in os.environ:
        return
    create = Store.create

    def create_there(path: str | os.PathLike[str], **options: Any) -> Store:
        return create(path, **{"ledger_url": postgres.chosen_database()} | options)

    monkeypatch.setattr(Store, "create", create_there)


@pytest.fixture(scope="session")
def figures(pytestconfig: pytest.Config) -> Figures:
    """Counts that docs/reliability.md gives; shown when the tests are over."""
    return pytestconfig.stash.setdefault(FIGURES, Figures())


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Show the figures."""
    for line in config.stash.get(FIGURES, Figures()).lines():
        terminalreporter.write_line(line)
