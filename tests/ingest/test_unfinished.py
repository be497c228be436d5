"""What unfinished imports keep: stat tells it, and a rebuilt ledger does not take it for an image."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path

import pytest

from dataplane.engine.scan import DIGEST_SIZE
from dataplane.engine.table import DigestTable
from dataplane.limits import MIB
from dataplane.store.checkpoints import checkpoints, take_checkpoint
from dataplane.store.recounting import add_chunks
from dataplane.store.store import Store
from dataplane.upkeep.repair import repair
from tests.ingest.test_resuming import CONTENT, Versioned, assert_complete, bring, interrupt, keep_always


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Store]:
    """A store in which imports keep a checkpoint after every window."""
    keep_always(monkeypatch)
    with Store.create(tmp_path / "store") as made:
        yield made


def run(*words: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "dataplane", *map(str, words)]
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=300)


def test_stat_tells_what_unfinished_imports_keep(store: Store) -> None:
    position = interrupt(store, 30 * MIB)
    (kept,) = checkpoints(store.ledger)
    index = store.index()
    whole = add_chunks(store, index, kept.root, kept.domain, DigestTable(DIGEST_SIZE))
    told = json.loads(run("stat", store.path, "--json").stdout)
    (one,) = told["unfinished"]
    assert (one["position"], one["storage_size"], one["at_work"]) == (position, whole, False)
    assert (told["images"], told["unfinished_imports"], told["unfinished_size"]) == (0, 1, whole)
    expires = datetime.fromisoformat(told["unfinished_expire_at"]) - datetime.fromisoformat(one["saved_at"])
    assert expires == timedelta(days=1)
    text = run("stat", store.path).stdout
    assert "unfinished_imports    1\n" in text
    assert f"({whole})" in text
    bring(store, Versioned(CONTENT))
    assert "unfinished" not in run("stat", store.path).stdout


def test_import_at_work_does_not_expire(store: Store) -> None:
    """A lease that is held: as the import itself sees it while it goes on from another's checkpoint."""
    interrupt(store, 30 * MIB)
    (left,) = checkpoints(store.ledger)
    with store.lease("import") as lease:
        take_checkpoint(store.ledger, lease, owner=left.owner, source=left.source, domain=left.domain)
        told = json.loads(run("stat", store.path, "--json").stdout)
    (one,) = told["unfinished"]
    assert (one["at_work"], one["expires_at"], told["unfinished_expire_at"]) == (True, None, None)
    assert one["storage_size"] == left.storage_size


def test_rebuilt_ledger_does_not_take_a_checkpoint_for_an_image(store: Store, tmp_path: Path) -> None:
    bring(store, Versioned(CONTENT[: 5 * MIB]), "whole")
    interrupt(store, 30 * MIB)
    (left,) = checkpoints(store.ledger)
    store.close()
    (store.path / "ledger.sqlite3").unlink()
    report = repair(store.path)
    assert report.ledger is not None
    assert (len(report.ledger.recovered), report.ledger.incomplete) == (1, [])
    assert left.root in report.ledger.unfinished
    with Store.open(store.path) as again:
        assert [pin.virtual_size for pin in again.pins()] == [5 * MIB]
        result = bring(again, Versioned(CONTENT))
        assert result.bytes_written < len(CONTENT) // 2, "what was stored is found, though not where it ended"
        assert_complete(again, tmp_path)
