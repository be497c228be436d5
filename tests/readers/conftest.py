"""Fixtures of the tests of readers."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest


@pytest.fixture(autouse=True)
def no_secret_anywhere(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """No test may see the query of its URL in a log, whatever happens."""
    caplog.set_level(logging.DEBUG)
    yield
    assert "s3cret" not in caplog.text
