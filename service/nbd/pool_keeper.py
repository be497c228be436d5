"""Has a file made for each pooled image, and removed when there is no such image any more."""

from __future__ import annotations

import threading
import time

from dataplane.errors import DataplaneError
from service.catalog import image_rows
from service.catalog.database import Database
from service.log import get_logger
from service.nbd.pool_files import PoolFiles

LOOK_S = 3.0
RETRY_S = 60.0
"""How long what could not be made waits for the next try."""

log = get_logger(__name__)


class PoolKeeper:
    """A thread that compares the files with the catalogue now and then, so that no crash leaves one too many for long.

    Whoever made an image, a call or a worker, need not know of it.
    """

    def __init__(self, database: Database, files: PoolFiles, *, enabled: bool) -> None:
        """Begin; unless `enabled`, no image has a file."""
        self._database = database
        self._files = files
        self._enabled = enabled
        self._retry_s: dict[bytes, float] = {}
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="pool-keeper", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End, after the file that is being made."""
        self._stopping.set()
        self._thread.join()

    def _run(self) -> None:
        while True:
            try:
                self.look()
            except Exception as error:  # the next time may go well
                log.warning("pooled images not looked at", reason=str(error))
            if self._stopping.wait(LOOK_S):
                return

    def look(self) -> None:
        """Remove what is not needed and make what is missing, for the oldest images first."""
        wanted: dict[bytes, str] = {}
        if self._enabled:
            with self._database.read() as tx:
                for image_id, root in image_rows.pooled(tx):
                    wanted.setdefault(root, image_id)
        self._files.remove_all_but(set(wanted))
        now_s = time.monotonic()
        self._retry_s = {root: at for root, at in self._retry_s.items() if root in wanted and at > now_s}
        for root, image_id in wanted.items():
            if self._stopping.is_set():
                return
            if root not in self._retry_s and not self._files.is_current(root):
                self._build(image_id, root)

    def _build(self, image_id: str, root: bytes) -> None:
        reason = "no room: raise --pool-total"
        try:
            if self._files.build(image_id, root):
                return
        except DataplaneError as error:  # it may just have been deleted, too
            reason = str(error)
        self._retry_s[root] = time.monotonic() + RETRY_S
        log.warning("image is served from the store alone", resource_id=image_id, reason=reason)
