"""What a server is told, and by whom: defaults, the file, the environment, flags; and what is refused by name."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
from pathlib import Path

import pytest

from dataplane.errors import UsageError
from service import settings
from service.config import AuthMode, Sandbox, ServeConfig
from service.quotas import Quotas
from tests.service.serving import DATAPLANE

FILE = """
data = "/srv/dataplane"
listen = "127.0.0.1:1"
dev = true
allow_source = ["a", "b:80"]
workers = 3
[worker]
memory = "1G"
[quotas]
images = 0
bytes = 1024
"""


def resolved(*flags: str, **environment: str) -> settings.Settings:
    parser = argparse.ArgumentParser()
    settings.add_arguments(parser)
    return settings.resolve(parser.parse_args(flags), environment)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    (tmp_path / "dataplane.toml").write_text(FILE)
    return tmp_path / "dataplane.toml"


def test_flags_win_over_environment_over_file_over_defaults(file: Path) -> None:
    found = resolved("--config", str(file), "--workers", "5", DATAPLANE_LISTEN="[::1]:2", DATAPLANE_WORKERS="4")
    origins = {key: found.values[key].origin for key in ("workers", "listen", "worker.memory", "worker.sandbox")}
    assert origins == {
        "workers": "--workers",
        "listen": "DATAPLANE_LISTEN",
        "worker.memory": str(file),
        "worker.sandbox": "default",
    }
    config = ServeConfig.from_settings(found)
    assert (config.workers, str(config.listen), config.worker_memory) == (5, "[::1]:2", 1 << 30)
    assert config.allow_source == ("a", "b:80")
    assert config.quotas == Quotas(images=0, bytes=1024)
    assert (config.auth.mode, config.sandbox) == (AuthMode.DEV, Sandbox.AUTO)


def test_file_is_named_by_a_variable(file: Path) -> None:
    assert resolved(DATAPLANE_CONFIG=str(file)).number("workers") == 3


def test_switch_of_the_file_can_be_switched_off(file: Path) -> None:
    assert resolved("--config", str(file), "--no-dev").switch("dev") is False
    assert resolved("--config", str(file), DATAPLANE_DEV="no").switch("dev") is False


def test_list_in_the_environment_is_separated_by_commas() -> None:
    assert resolved(DATAPLANE_ALLOW_SOURCE="a, b:1,").listed("allow_source") == ("a", "b:1")
    assert resolved("--allow-source", "c", DATAPLANE_ALLOW_SOURCE="a").listed("allow_source") == ("c",)


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("listn = 'x'", "listn"),
        ("[quotas]\nimagse = 1", r"quotas\.imagse"),
        ("[qotas]\nimages = 1", "qotas"),
        ("listen = 3", "listen"),
        ("workers = 'many'", "workers"),
        ("workers = true", "workers"),
        ("dev = 'perhaps'", "dev"),
        ("allow_source = [1]", "allow_source"),
        ("[worker]\nmemory = '2X'", r"worker\.memory"),
        ("[worker]\nmemory = -1", r"worker\.memory"),
        ("quotas = 3", "quotas"),
        ("not toml", "TOML"),
    ],
)
def test_file_that_is_wrong_is_refused_by_name(tmp_path: Path, text: str, named: str) -> None:
    (tmp_path / "f.toml").write_text(text)
    with pytest.raises(UsageError, match=named) as refused:
        resolved("--config", str(tmp_path / "f.toml"))
    assert "f.toml" in str(refused.value)


def test_file_that_is_missing_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="nowhere"):
        resolved("--config", str(tmp_path / "nowhere"))


def test_variable_that_is_wrong_is_refused_by_name() -> None:
    with pytest.raises(UsageError, match="DATAPLANE_WORKERS"):
        resolved(DATAPLANE_WORKERS="x")


def test_variable_that_is_no_setting_is_told() -> None:
    assert resolved(DATAPLANE_LISTN="x", DATAPLANE_TOKEN="t", OTHER="x").unknown_variables == ("DATAPLANE_LISTN",)


def test_every_setting_has_one_flag_and_one_variable() -> None:
    assert len({setting.flag for setting in settings.SETTINGS}) == len(settings.SETTINGS)
    assert len({setting.variable for setting in settings.SETTINGS}) == len(settings.SETTINGS)


def test_config_show_names_each_origin(file: Path) -> None:
    environment = {**os.environ, "DATAPLANE_WORKERS": "7", "DATAPLANE_WROKERS": "8"}
    command = [*DATAPLANE, "config", "show", "--config", str(file), "--metrics-listen", "127.0.0.1:9464"]
    shown = subprocess.run([*command, "--json"], capture_output=True, text=True, check=True, env=environment)
    rows = {row["key"]: (row["value"], row["origin"]) for row in json.loads(shown.stdout)}
    assert rows["workers"] == (7, "DATAPLANE_WORKERS")
    assert rows["data"] == ("/srv/dataplane", str(file))
    assert rows["metrics_listen"] == ("127.0.0.1:9464", "--metrics-listen")
    assert rows["quotas.operations"] == (None, "default")
    assert set(rows) == set(settings.BY_KEY)
    assert "DATAPLANE_WROKERS" in shown.stderr
    table = subprocess.run(command, capture_output=True, text=True, check=True, env=environment).stdout
    assert [line.split()[0] for line in table.splitlines()] == list(rows)
