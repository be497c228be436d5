"""Quarantine: what is damaged is kept aside, never deleted; whoever is sure removes it by hand."""

from __future__ import annotations

import errno
import os
import shutil
from pathlib import Path

from dataplane.store.layout import Layout, naming, sync_folder

NO_LINKS = (errno.EPERM, errno.EOPNOTSUPP, errno.EMLINK, errno.EXDEV)


def set_aside(layout: Layout, path: Path) -> str | None:
    """Keep the file at `path` in quarantine too, durably; return its name there, None when there is no such file.

    The file stays where it is for those who have yet to open it: the caller takes it away. Raises NoSpace or IoFailed.
    """
    with naming(layout.quarantine, "keeping a damaged file in"):
        if not layout.quarantine.exists():
            layout.quarantine.mkdir(exist_ok=True)
            sync_folder(layout.root)
        number = 0
        while path.exists():
            target = layout.quarantine / (f"{path.name}.{number}" if number else path.name)
            try:
                keep(path, target)
            except FileExistsError:
                if not target.samefile(path):
                    number += 1
                    continue
            sync_folder(layout.quarantine)
            return target.name
    return None


def keep(path: Path, target: Path) -> None:
    """Link a file to `target`, or copy it where there are no links; raises FileExistsError."""
    try:
        os.link(path, target)
    except OSError as error:
        if error.errno not in NO_LINKS:
            raise
        with open(path, "rb") as source, open(target, "xb") as copy:
            shutil.copyfileobj(source, copy)
            copy.flush()
            os.fsync(copy.fileno())
