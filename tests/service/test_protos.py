"""Our .proto files say what those of the public API say."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.service.describe_protos import describe


def public_descriptors() -> dict[str, Any]:
    script = Path(__file__).with_name("describe_protos.py")
    run = subprocess.run([sys.executable, str(script), "public"], capture_output=True, text=True, check=True)
    found: dict[str, Any] = json.loads(run.stdout)
    return found


def test_descriptors_equal_those_of_the_public_sdk() -> None:
    public = public_descriptors()
    ours = json.loads(json.dumps(describe("service._pb.", public=False)))
    assert len(ours) > 100
    different = {name: (ours[name], public.get(name)) for name in ours if ours[name] != public.get(name)}
    assert different == {}


@pytest.mark.parametrize(("service", "count"), [("ImageService", 10), ("DiskService", 12), ("SnapshotService", 9)])
def test_service_declares_every_public_method(service: str, count: int) -> None:
    def methods(found: dict[str, Any]) -> set[str]:
        return {name for name in found if name.startswith(f"yandex.cloud.compute.v1.{service}/")}

    ours = methods(describe("service._pb.", public=False))
    assert ours == methods(public_descriptors())
    assert len(ours) == count
