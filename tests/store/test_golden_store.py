"""A store written by version 1, frozen in tests/golden: every later release must read it."""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path

from dataplane.formats.probe import open_source
from dataplane.ingest.exporting import export_image
from dataplane.ingest.importing import import_image
from dataplane.store.store import Store

GOLDEN = Path(__file__).resolve().parents[1] / "golden" / "store-v1"
GOLDEN_2 = GOLDEN.with_name("store-v2")
"""Two images, ``a`` and ``b``, counted in a ledger of version 2, and a checkpoint."""

ROOT_ID = "bb138f05f954318d0b324dae18825de96ba9e72d24c7c0ec454974708eaa62f8"
CONTENT_SHA256 = "ecab7ce3831386eb50dfc24bca95bbbd1443f024e3a7fd637fdd888c77b03aa0"


def open_golden(tmp_path: Path, *, may_write: bool = True, frozen: Path = GOLDEN) -> Store:
    """Open a copy: opening a ledger writes beside it, and git does not keep the secret's rights."""
    copy = tmp_path / "store"
    shutil.copytree(frozen, copy)
    (copy / "secret").chmod(0o600)
    (copy / "tmp").mkdir(exist_ok=True)
    return Store.open(copy, may_write=may_write)


def test_golden_store_is_read(tmp_path: Path) -> None:
    with open_golden(tmp_path) as store:
        (pin,) = store.pins()
        assert (pin.name, pin.root.hex(), pin.virtual_size, store.chunk_size) == ("disk", ROOT_ID, 50_176, 4096)
        export_image(store, "disk", tmp_path / "out.raw")
    assert hashlib.sha256((tmp_path / "out.raw").read_bytes()).hexdigest() == CONTENT_SHA256


def test_golden_store_deduplicates_what_it_holds(tmp_path: Path) -> None:
    """Ids made today are the ids made then: changing them un-deduplicates stores."""
    with open_golden(tmp_path) as store:
        export_image(store, "disk", tmp_path / "out.raw")
        with open_source(tmp_path / "out.raw", format="raw") as source:
            again = import_image(store, source, name="again")
    assert (again.root.hex(), again.bytes_written) == (ROOT_ID, 0)
