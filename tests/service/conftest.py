"""Fixtures of the tests of the control plane."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.service.control import ControlPlane, running


@pytest.fixture
def control(tmp_path: Path) -> Iterator[ControlPlane]:
    """A control plane of this test's own."""
    with running(tmp_path) as plane:
        yield plane
