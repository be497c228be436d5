"""Publishing: durable files move from a writer's folder to where readers look for them."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from dataplane.store.layout import naming, sync_folder
from dataplane.store.store import Store


def publish(
    store: Store, packs: list[tuple[bytes, Path]], runs: list[tuple[bytes, Path, int]]
) -> list[tuple[bytes, int]]:
    """Move packs (name, path) and runs (name, path, entries) into place and return (name, size) of the packs.

    Packs first, since runs name them; durable on return. Until the ledger names them they are garbage. Raises NoSpace
    or IoFailed and leaves none of them.
    """
    layout = store.layout
    moves = [(path, layout.pack(name)) for name, path in packs] + [(path, layout.run(name)) for name, path, _ in runs]
    sizes = [(name, path.stat().st_size) for name, path in packs]
    done: list[Path] = []
    try:
        for path, target in moves:
            with naming(target, "creating"):
                if not target.parent.exists():
                    target.parent.mkdir(exist_ok=True)
                    sync_folder(layout.packs)
                os.rename(path, target)
            done.append(target)
        for folder in {target.parent for target in done}:
            sync_folder(folder)
    except BaseException:
        for target in done:
            with contextlib.suppress(OSError):  # what cannot be removed is garbage for collection
                target.unlink(missing_ok=True)
        raise
    return sizes
