"""Fixtures of the tests of the control plane."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from service.quotas import Quotas
from tests.service.control import ControlPlane, Policy, running


@pytest.fixture
def control(tmp_path: Path) -> Iterator[ControlPlane]:
    """A control plane of this test's own."""
    with running(tmp_path) as plane:
        yield plane


@pytest.fixture
def limited(tmp_path: Path) -> Iterator[Callable[..., ControlPlane]]:
    """Runs control planes with quotas."""
    with contextlib.ExitStack() as stack:
        yield lambda **quotas: stack.enter_context(running(tmp_path, quotas=Quotas(**quotas)))


@pytest.fixture
def policed(tmp_path: Path) -> Iterator[ControlPlane]:
    """A control plane whose callers may do what their tokens say."""
    with running(tmp_path, authenticator=Policy()) as plane:
        yield plane
