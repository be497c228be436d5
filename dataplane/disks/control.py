"""Control: how another process asks the one that has a disk open to freeze it, over a socket in the disk's folder.

Requests and answers are lines of JSON. What a connection has frozen is released when it ends.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self

from dataplane import errors
from dataplane.dataclass import asdict
from dataplane.disks.disk import Disk, Frozen, open_disk
from dataplane.disks.folder import CONTROL_NAME, DiskStatus
from dataplane.errors import DataplaneError, IoFailed, StoreLocked
from dataplane.store.layout import naming
from dataplane.store.store import Store

LINE_MAX = 1 << 16
CONNECTIONS_MAX = 16
ATTACH_S = 5.0
"""How long to look for an owner that is just coming or going."""

ANSWER_S = 600.0
"""How long an owner may take to freeze: it waits for the disk, and for a snapshot under way."""


class OwnerGone(StoreLocked):
    """The process that had a disk open went while it was asked: whoever asks again finds the disk free, or another
    owner."""


class Freezable(Protocol):
    """A disk that is open here or elsewhere, as far as snapshots need it; see ``Disk``."""

    folder: Path

    def freeze(self) -> Frozen:
        """Fix what the disk holds at a moment."""

    def rebase(self, frozen: Frozen, root: bytes) -> None:
        """Let the disk read from a root that is what was frozen."""

    def release(self) -> None:
        """End what freeze began without merging."""

    def resize(self, size: int) -> None:
        """Make the disk larger."""

    def status(self) -> DiskStatus:
        """Return what is known of the disk."""


@contextmanager
def attached(store: Store, path: str | os.PathLike[str]) -> Iterator[Freezable]:
    """Give the disk in folder `path`: opened here, or through the process that has it open.

    Raises NotFound, Corrupt, IoFailed, or StoreLocked when its owner takes no requests.
    """
    deadline = time.monotonic() + ATTACH_S
    while True:
        try:
            disk: Disk | RemoteDisk = open_disk(store, path)
            break
        except StoreLocked:
            with contextlib.suppress(OSError):
                disk = RemoteDisk(Path(path))
                break
            if time.monotonic() > deadline:
                raise
        time.sleep(0.05)
    with disk:
        yield disk


def tries() -> Iterator[bool]:
    """Yield for each time that owners who go are asked anew, whether it is the last."""
    deadline = time.monotonic() + ATTACH_S
    while time.monotonic() < deadline:
        yield False
        time.sleep(0.05)
    yield True


@contextmanager
def short_path(folder: Path) -> Iterator[str]:
    """Give a path of the control socket that is short enough for an address, however long the folder's is."""
    fd = os.open(folder, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{fd}/{CONTROL_NAME}"
    finally:
        os.close(fd)


class RemoteDisk:
    """A disk that another process has open. A context manager; used by one thread at a time."""

    def __init__(self, folder: Path) -> None:
        """Connect; raises OSError when nobody listens."""
        self.folder = folder
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            self._socket.settimeout(ANSWER_S)
            with short_path(folder) as address:
                self._socket.connect(address)
        except OSError:
            self._socket.close()
            raise
        self._lines = self._socket.makefile("rb")

    def freeze(self) -> Frozen:
        """Ask the owner to freeze the disk; raises what that raises there, or OwnerGone."""
        fields = self._ask("freeze")
        root = fields.pop("base_root")
        return Frozen(base_root=bytes.fromhex(root) if root else None, **fields)

    def rebase(self, frozen: Frozen, root: bytes) -> None:
        """Ask the owner to go on over a new root."""
        self._ask("rebase", root=root.hex())

    def release(self) -> None:
        """Tell the owner that nothing will be merged now; one that is gone has nothing frozen."""
        with contextlib.suppress(OwnerGone):
            self._ask("release")

    def resize(self, size: int) -> None:
        """Ask the owner to make the disk larger."""
        self._ask("resize", size=size)

    def status(self) -> DiskStatus:
        """Ask the owner what is known of the disk."""
        fields = self._ask("status")
        root = fields.pop("base_root")
        return DiskStatus(base_root=bytes.fromhex(root) if root else None, **fields)

    def _ask(self, verb: str, **fields: object) -> dict[str, Any]:
        """Return the answer; raises what an error says, OwnerGone, StoreLocked for none in time, or IoFailed."""
        try:
            with naming(self.folder / CONTROL_NAME, "asking"):
                self._socket.sendall(json.dumps({"verb": verb, **fields}).encode() + b"\n")
                line = self._lines.readline(LINE_MAX)
        except IoFailed as error:
            if isinstance(error.__cause__, ConnectionError):
                raise OwnerGone(f"disk {self.folder}: whoever had it open has gone: try again") from error
            if isinstance(error.__cause__, TimeoutError):
                raise StoreLocked(f"disk {self.folder}: whoever has it open does not answer: try again") from error
            raise
        if not line.endswith(b"\n"):
            raise OwnerGone(f"disk {self.folder}: whoever had it open has gone: try again")
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            kind = getattr(errors, str(answer["error"]), DataplaneError)
            raise kind(answer["text"])
        return answer

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._lines.close()
        self._socket.close()


class ControlListener:
    """Takes requests for a disk that is open here, in threads of its own. A context manager."""

    def __init__(self, disk: Disk) -> None:
        """Listen in the disk's folder; raises IoFailed."""
        self._disk = disk
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._slots = threading.BoundedSemaphore(CONNECTIONS_MAX)
        self._connections: set[socket.socket] = set()
        self._closed = False
        path = disk.folder / CONTROL_NAME
        try:
            with naming(path, "listening on"), short_path(disk.folder) as address:
                path.unlink(missing_ok=True)  # of an owner that was killed: the lock is ours
                self._socket.bind(address)
                path.chmod(0o600)
                self._socket.listen(CONNECTIONS_MAX)
        except BaseException:
            self._socket.close()
            raise
        self._thread = threading.Thread(target=self._accept, name="disk-control", daemon=True)
        self._thread.start()

    def _accept(self) -> None:
        while not self._closed:
            try:
                connection, _ = self._socket.accept()
            except OSError:
                return
            if not self._slots.acquire(blocking=False):
                connection.close()
                continue
            self._connections.add(connection)
            threading.Thread(target=self._serve, args=(connection,), name="disk-control", daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        session = Session(self._disk)
        try:
            with connection, connection.makefile("rb") as lines, contextlib.suppress(OSError):
                while line := lines.readline(LINE_MAX):
                    connection.sendall(json.dumps(session.answer(line)).encode() + b"\n")
        finally:
            session.end()
            self._connections.discard(connection)
            self._slots.release()

    def close(self) -> None:
        """Stop listening and end connections; a second call does nothing."""
        if self._closed:
            return
        self._closed = True
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()
        for connection in list(self._connections):
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        with contextlib.suppress(OSError):
            (self._disk.folder / CONTROL_NAME).unlink()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class Session:
    """What one connection has asked for."""

    def __init__(self, disk: Disk) -> None:
        self._disk = disk
        self._frozen: Frozen | None = None

    def answer(self, line: bytes) -> dict[str, Any]:
        """Do what a request says and return the answer; errors are answers too."""
        try:
            request = json.loads(line)
            return self._do(str(request["verb"]), request)
        except DataplaneError as error:
            return {"error": type(error).__name__, "text": str(error)}
        except (ValueError, KeyError, TypeError):
            return {"error": "UsageError", "text": "a disk's control socket takes lines of JSON that it knows"}

    def _do(self, verb: str, request: dict[str, Any]) -> dict[str, Any]:
        if verb == "freeze" and self._frozen is None:
            self._frozen = self._disk.freeze()
            return plain(self._frozen)
        if verb == "rebase" and self._frozen is not None:
            frozen, self._frozen = self._frozen, None
            self._disk.rebase(frozen, bytes.fromhex(request["root"]))
            return {}
        if verb == "release" and self._frozen is not None:
            self.end()
            return {}
        if verb == "resize":
            self._disk.resize(int(request["size"]))
            return {}
        if verb == "status":
            return plain(self._disk.status())
        raise ValueError(verb)

    def end(self) -> None:
        """Release what is still frozen."""
        if self._frozen is not None:
            self._frozen = None
            self._disk.release()


def plain(value: Frozen | DiskStatus) -> dict[str, Any]:
    """Return a value as JSON has it."""
    fields = asdict(value)
    fields["base_root"] = value.base_root.hex() if value.base_root else None
    return fields
