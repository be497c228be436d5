"""A disk that is gone under a command: every call may fail then, also those that only ask, and one line says so."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from dataplane.cli.main import guarded
from dataplane.errors import IoFailed
from dataplane.store import lease
from dataplane.store.store import Store
from dataplane.upkeep.gc import collect


def gone(*_args: object, **_options: object) -> bool:
    """Fail as every call does on a disk that is gone."""
    raise OSError(errno.EIO, os.strerror(errno.EIO), "/mnt/store/tmp")


def test_verb_says_so_in_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert guarded(gone) == 1
    assert capsys.readouterr().err == "dataplane: /mnt/store/tmp cannot be used: Input/output error\n"


def test_store_says_so_when_it_is_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Store.create(tmp_path / "store").close()
    monkeypatch.setattr(Path, "exists", gone)
    with pytest.raises(IoFailed, match=r"looking for .*ledger.sqlite3 failed: Input/output error"):
        Store.open(tmp_path / "store")


def test_collector_says_so_when_it_looks_for_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with Store.create(tmp_path / "store") as store, store.lease("import"):
        monkeypatch.setattr(lease, "is_abandoned", gone)
        with pytest.raises(IoFailed, match=r"looking for who is at work in .*tmp failed: Input/output error"):
            collect(store)
