"""A real boot: a machine writes to a disk made of an image, and another one, made of its snapshot, finds it."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks import boot, demo_boot


@pytest.mark.slow
def test_machine_boots_writes_and_is_an_image_again(tmp_path: Path) -> None:
    assert boot.missing_tools() == []
    assert demo_boot.show(tmp_path) == f"FOUND {demo_boot.NOTE}"
