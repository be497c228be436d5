"""What deploy/ holds can be used: the unit, the example of settings, the container's instructions."""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from service import settings
from service.config import Sandbox, ServeConfig

DEPLOY = Path(__file__).resolve().parents[2] / "deploy"


def test_unit_is_one_that_systemd_takes(tmp_path: Path) -> None:
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd-analyze is not installed")
    unit = (DEPLOY / "dataplane.service").read_text()
    assert "/opt/dataplane/bin/dataplane serve" in unit
    installed = tmp_path / "dataplane.service"
    installed.write_text(unit.replace("/opt/dataplane/bin/dataplane", sys.executable))
    command = ["systemd-analyze", "verify", "--man=no", str(installed)]
    run = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert (run.returncode, run.stdout + run.stderr) == (0, "")


def test_example_of_settings_is_valid_and_strict() -> None:
    parser = argparse.ArgumentParser()
    settings.add_arguments(parser)
    resolved = settings.resolve(parser.parse_args(["--config", str(DEPLOY / "dataplane.toml")]), {})
    config = ServeConfig.from_settings(resolved)
    assert config.sandbox is Sandbox.REQUIRE
    assert not config.listen.is_loopback()
    assert config.quotas.operations == 15


def test_container_is_built_from_what_setup_needs_and_runs_as_nobody_special() -> None:
    text = (DEPLOY / "Containerfile").read_text().replace("\\\n", " ")
    instructions = [line.split(None, 1) for line in text.splitlines() if line and not line.startswith("#")]
    known = {"FROM", "RUN", "COPY", "ENV", "USER", "VOLUME", "EXPOSE", "STOPSIGNAL", "ENTRYPOINT", "CMD"}
    assert {word for word, _ in instructions} <= known
    assert [words for word, words in instructions if word == "USER"] == ["dataplane"]
    needed = re.findall(r"^ +((?:\S+ )+) +#", (DEPLOY.parent / ".ci/setup-system.sh").read_text(), re.M)
    for package in " ".join(needed[:2]).split():
        assert package in text, package
    assert "libseccomp2" in text


def test_unit_and_container_stop_the_way_the_server_drains() -> None:
    assert "STOPSIGNAL SIGTERM" in (DEPLOY / "Containerfile").read_text()
    assert "KillMode=mixed" in (DEPLOY / "dataplane.service").read_text()
