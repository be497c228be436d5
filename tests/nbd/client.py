"""An NBD client made by hand from the protocol document: it says what it is told to, also what no client should."""

from __future__ import annotations

import socket
import ssl
import struct
import time
from dataclasses import dataclass, field
from pathlib import Path

GREETING = b"NBDMAGICIHAVEOPT"
ABORT, LIST, STARTTLS, INFO, GO, STRUCTURED, LIST_META, SET_META = 2, 3, 5, 6, 7, 8, 9, 10
ACK, SERVER, INFO_REPLY, META = 1, 2, 3, 4
ERROR = 1 << 31
UNSUP, POLICY, INVALID, TLS_REQD, UNKNOWN, TOO_BIG = (ERROR + n for n in (1, 2, 3, 5, 6, 9))
READ, WRITE, DISC, FLUSH, TRIM, CACHE, ZEROES, STATUS = range(8)
FUA, NO_HOLE, DF, REQ_ONE, FAST_ZERO = 1, 2, 4, 8, 16
EPERM, EIO, EINVAL, ENOSPC, ENOTSUP, ESHUTDOWN = 1, 5, 22, 28, 95, 108
TIMEOUT_S = 60


@dataclass
class Answer:
    """What came back for one request: (type, payload) of a structured reply's chunks, or a simple one's data."""

    error: int = 0
    data: bytes = b""
    chunks: list[tuple[int, bytes]] = field(default_factory=list)

    def content(self, offset: int, length: int) -> bytes:
        """Return the bytes that the chunks of a read make up."""
        found = bytearray(b"?" * length)
        covered = 0
        for kind, payload in self.chunks:
            (at,) = struct.unpack_from(">Q", payload)
            if kind == 1:
                piece = payload[8:]
            else:
                assert kind == 2
                piece = bytes(struct.unpack(">I", payload[8:])[0])
            found[at - offset : at - offset + len(piece)] = piece
            covered += len(piece)
        assert (covered, len(found)) == (length, length)
        return bytes(found)

    def extents(self) -> list[tuple[int, int]]:
        """Return (length, flags) of a block status."""
        ((kind, payload),) = self.chunks
        assert kind == 5
        assert payload[:4] == b"\0\0\0\1"
        return list(struct.iter_unpack(">II", payload[4:]))


class Client:
    """A connection."""

    def __init__(self, address: str | Path | tuple[str, int]) -> None:
        family = socket.AF_INET if isinstance(address, tuple) else socket.AF_UNIX
        self.socket: socket.socket = socket.socket(family, socket.SOCK_STREAM)
        self.socket.settimeout(TIMEOUT_S)
        for _ in range(600):
            try:
                self.socket.connect(address if isinstance(address, tuple) else str(address))
                break
            except BlockingIOError:  # the server has not got round to those who came before
                time.sleep(0.1)
        self.structured = False
        self.cookie = 0

    # ------------------------------------------------------------------------------------------ bytes
    def send(self, data: bytes) -> None:
        self.socket.sendall(data)

    def receive(self, length: int) -> bytes:
        data = b""
        while len(data) < length:
            piece = self.socket.recv(length - len(data))
            if not piece:
                raise EOFError(f"{len(data)} of {length} bytes")
            data += piece
        return data

    def is_closed(self) -> bool:
        """Wait for the server to end the connection."""
        try:
            while self.socket.recv(1 << 16):
                pass
        except ConnectionResetError:
            pass
        return True

    def close(self) -> None:
        self.socket.close()

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # ------------------------------------------------------------------------------------------ negotiation
    def greet(self, flags: int = 3) -> Client:
        assert self.receive(18) == GREETING + b"\0\3"
        self.send(struct.pack(">I", flags))
        return self

    def ask(self, option: int, data: bytes = b"") -> None:
        self.send(b"IHAVEOPT" + struct.pack(">II", option, len(data)) + data)

    def reply(self) -> tuple[int, int, bytes]:
        """Return (option, reply, data) of the next option reply."""
        magic, option, kind, length = struct.unpack(">QIII", self.receive(20))
        assert magic == 0x3E889045565A9
        return option, kind, self.receive(length)

    def option(self, option: int, data: bytes = b"") -> list[tuple[int, bytes]]:
        """Ask, and return (reply, data) of the replies up to an ACK or an error."""
        self.ask(option, data)
        found = []
        while True:
            about, kind, payload = self.reply()
            assert about == option
            found.append((kind, payload))
            if kind == ACK or kind >= ERROR:
                return found

    def start_tls(self, context: ssl.SSLContext, name: str) -> None:
        assert self.option(STARTTLS) == [(ACK, b"")]
        self.socket = context.wrap_socket(self.socket, server_hostname=name)

    def go(self, name: str = "", *infos: int) -> tuple[int, int]:
        """Begin transmission; return (size, flags)."""
        replies = self.option(GO, string(name) + struct.pack(f">{len(infos) + 1}H", len(infos), *infos))
        assert replies[-1] == (ACK, b"")
        (export,) = (data for kind, data in replies if kind == INFO_REPLY and data[:2] == b"\0\0")
        size, flags = struct.unpack(">QH", export[2:])
        return size, flags

    def begin(self, name: str = "", *, structured: bool = True) -> tuple[int, int]:
        """Haggle as most clients do."""
        self.greet()
        if structured:
            assert self.option(STRUCTURED) == [(ACK, b"")]
            self.structured = True
            self.option(SET_META, context_query(name, "base:allocation"))
        return self.go(name)

    # ------------------------------------------------------------------------------------------ transmission
    def request(self, command: int, offset: int = 0, length: int = 0, flags: int = 0, data: bytes = b"") -> int:
        self.cookie += 1
        self.send(struct.pack(">IHHQQI", 0x25609513, flags, command, self.cookie, offset, length) + data)
        return self.cookie

    def answer(self, read_length: int = 0) -> tuple[int, Answer]:
        """Return (cookie, answer) of the next reply; `read_length` is what a simple reply without an error holds."""
        if not self.structured:
            magic, error, cookie = struct.unpack(">IIQ", self.receive(16))
            assert magic == 0x67446698
            return cookie, Answer(error, b"" if error else self.receive(read_length))
        answer = Answer()
        while True:
            magic, flags, kind, cookie, length = struct.unpack(">IHHQI", self.receive(20))
            assert magic == 0x668E33EF
            payload = self.receive(length)
            if kind == 0x8001:
                answer.error, size = struct.unpack_from(">IH", payload)
                assert size == length - 6
            elif kind:
                answer.chunks.append((kind, payload))
            if flags & 1:
                return cookie, answer

    def do(self, command: int, offset: int = 0, length: int = 0, flags: int = 0, data: bytes = b"") -> Answer:
        """Send one request and return its answer."""
        cookie = self.request(command, offset, length, flags, data)
        answered, answer = self.answer(length if command == READ else 0)
        assert answered == cookie
        return answer

    def read(self, offset: int, length: int, flags: int = 0) -> bytes:
        answer = self.do(READ, offset, length, flags)
        assert answer.error == 0
        return answer.content(offset, length) if self.structured else answer.data

    def write(self, offset: int, data: bytes, flags: int = 0) -> int:
        """Write, and return the error."""
        return self.do(WRITE, offset, len(data), flags, data).error


def string(text: str) -> bytes:
    return struct.pack(">I", len(text.encode())) + text.encode()


def context_query(export: str, *queries: str) -> bytes:
    return string(export) + struct.pack(">I", len(queries)) + b"".join(map(string, queries))
