"""Imports and exports as whole processes, beside the archives of other people that are installed."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from benchmarks import inputs
from benchmarks.beside import Beside, Result
from benchmarks.conftest import read_anew
from benchmarks.peer_tools import ARCHIVES, find
from benchmarks.peers import lived, sizes_of, steps_of

ROUNDS = 1
"""The others are slow; ``python -m benchmarks.peers`` takes as many as it is told."""

CASES = [(archive.name, what) for archive in ARCHIVES for what in [*steps_of(archive), *sizes_of(archive)]]


@pytest.fixture(scope="module")
def found(disk: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], dict[str, Result]]:
    """Return all results beside an archive; the first time they are measured."""
    changed = inputs.corpus_changed(disk)
    read_anew(changed)

    @cache
    def results(name: str) -> dict[str, Result]:
        (archive,) = [archive for archive in ARCHIVES if archive.name == name]
        return lived(archive, disk, changed, tmp_path_factory.mktemp("peers"), ROUNDS)

    return results


@pytest.mark.parametrize(("name", "what"), CASES)
def test_peers(beside: Beside, benchmark: Any, found: Callable[[str], dict[str, Result]], name: str, what: str) -> None:
    """One round takes an archive through all its steps, in the first of its cases; the others tell their share."""
    (archive,) = [archive for archive in ARCHIVES if archive.name == name]
    if find(archive.program) is None:
        pytest.skip(f"{archive.program} is not installed")
    benchmark.pedantic(found, args=(name,), rounds=1, iterations=1)
    beside.note(found(name)[what])
