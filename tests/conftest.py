"""Fixtures that several packages of tests use."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


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
