"""A store as small as can be in which everything is that a store may have, so that each of its bits can be flipped."""

from __future__ import annotations

import shutil
from pathlib import Path

from dataplane.store.checkpoints import Checkpoint, save_checkpoint
from dataplane.store.store import Store
from tests.disks import KIB, MIB, disk_bytes, write_sparse
from tests.faults.damage import Patient
from tests.faults.scripts import bring

IMAGES = ("kept", "removed")


def small_patient(folder: Path) -> Patient:
    """Make a store of less than 256 KiB with rows in every table and files of every kind; its disks lie beside it.

    Two images share a chunk; one of them is removed. Of the chunks one does not compress.
    """
    with Store.create(folder / "store", chunk_size=4 * KIB) as store:
        for name in IMAGES:
            data = disk_bytes(4 * KIB, seed=1, block=4 * KIB) + f"{name}\n".encode() * (4 * KIB)
            bring(store, name, write_sparse(folder / name, data[: 12 * KIB - 100]))
        root, packs = store.pin("kept").root, sorted(store.ledger.packs())
        store.unpin("removed", undeletable=True)
        store.ledger.mark_verified(packs[:1])
        store.ledger.condemn(packs[1:])
        with store.ledger.transaction() as connection:
            save_checkpoint(
                connection,
                Checkpoint(
                    lease="0123456789abcdef", owner="somebody", source=bytes(range(32)), domain="", root=root,
                    position=4 * MIB, saved_at=1_700_000_000_000_000,
                ),
            )  # fmt: skip
            connection.execute("INSERT INTO lost_chunks (id) VALUES (?)", (bytes(range(32, 64)).hex(),))
        with store.reading("kept"):
            shutil.copytree(store.path, folder / "with a lease")
    Store.open(folder / "with a lease").close()  # which empties the ledger's log
    patient = Patient(folder / "with a lease", folder)
    assert patient.size() <= 256 * KIB
    assert all(patient.rows.values()), "a table has no row"
    return patient
