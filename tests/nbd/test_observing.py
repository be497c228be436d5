"""What a server tells of its clients: every request once, with how it ended."""

from __future__ import annotations

import threading
import time
from collections import Counter
from pathlib import Path

from dataplane.disks.disk import Disk
from dataplane.nbd.protocol import Error
from tests.disks import KIB
from tests.nbd.client import FLUSH, READ, Client
from tests.nbd.conftest import SIZE
from tests.nbd.serving import serving


class Counting:
    """Counts, as metrics do."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.clients = 0
        self.requests: Counter[tuple[str, str]] = Counter()
        self.bytes: Counter[str] = Counter()

    def connected(self) -> None:
        self.clients += 1

    def disconnected(self) -> None:
        self.clients -= 1

    def request_ended(self, command: str, result: str, length: int) -> None:
        with self.lock:
            self.requests[command, result] += 1
            self.bytes[command] += length


def test_every_request_is_counted_once_before_it_is_answered(disk: Disk, tmp_path: Path, content: bytes) -> None:
    counting = Counting()
    with serving(tmp_path, disk, observer=counting) as served:
        with Client(served.socket) as client:
            client.begin("disk")
            assert counting.clients == 1
            assert client.read(0, 200 * KIB) == content[: 200 * KIB]
            assert client.read(0, 4 * KIB) == content[: 4 * KIB]  # now in memory, and answered at once
            assert client.write(0, b"x" * 5000) == 0
            assert client.do(FLUSH, 0, 0).error == 0
            assert client.do(READ, SIZE, 1).error == Error.EINVAL
            assert client.do(99, 0, 0).error == Error.EINVAL
            assert counting.requests == {
                ("READ", "OK"): 2,
                ("WRITE", "OK"): 1,
                ("FLUSH", "OK"): 1,
                ("READ", "EINVAL"): 1,
                ("UNKNOWN", "EINVAL"): 1,
            }
            assert +counting.bytes == {"READ": 204 * KIB, "WRITE": 5000}
        deadline_s = time.monotonic() + 60
        while counting.clients:
            assert time.monotonic() < deadline_s
            time.sleep(0.01)
