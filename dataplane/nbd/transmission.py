"""Transmission: requests of one connection are read in order, worked on side by side, and answered as they are done."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import Executor
from typing import NamedTuple

from dataplane.errors import DataplaneError, NoSpace, UsageError
from dataplane.nbd import protocol as nbd
from dataplane.nbd.exports import nothing
from dataplane.nbd.negotiation import Agreement, Disconnected
from dataplane.nbd.observing import Observer
from dataplane.nbd.protocol import Allocation, ChunkType, Command, CommandFlag, Error
from dataplane.nbd.sending import ReplySender

REQUESTS_MAX = 64
"""Requests of one connection that are worked on at once; what a client sends beyond waits in its socket."""

IN_FLIGHT_SIZE_MAX = 2 * nbd.PAYLOAD_SIZE_MAX
"""Bytes of data that those may have together."""

INLINE_SIZE_MAX = 1 << 16
"""Reads of so many bytes are answered at once when all of it is in memory; copying more would keep others waiting."""

SPANS_MAX = 512
"""Runs in one answer about a range: a client asks on from where it ends."""

STATUS_LENGTH_MAX = 1 << 30
"""Bytes of the disk that are looked at for one such answer."""


DONE = "OK"
COMMAND_NAMES: dict[int, str] = {command.value: command.name for command in Command}

EXPLAINED = {
    Error.ENOSPC: "there is no room left for what was written",
    Error.EINVAL: "the request does not fit the disk",
    Error.EIO: "the disk cannot do this now: its operator finds the cause in the server's messages",
}
"""What clients are told; messages of ours name files of the server."""


class Request(NamedTuple):
    """A request as it came, but for the data of a WRITE."""

    flags: int
    command: int
    cookie: int
    offset: int
    length: int


class Refused(Exception):
    """A request that is not done."""

    def __init__(self, error: Error, text: str) -> None:
        super().__init__(text)
        self.error = error
        self.text = text


class Transmission:
    """One connection in transmission."""

    def __init__(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        agreement: Agreement,
        executor: Executor,
        report: Callable[[str], None],
        observer: Observer,
    ) -> None:
        self._report = report
        self._observer = observer
        self._reader = reader
        self._sender = ReplySender(writer)
        self._agreement = agreement
        self._device = agreement.export.device
        self._refuses_writes = agreement.export.refuses_writes
        self._executor = executor
        self._loop = asyncio.get_running_loop()
        self._lock = threading.Lock()
        self._requests = 0
        self._in_flight = 0
        self._waiting = 0
        self._ended = asyncio.Event()
        self.shutting_down = False

    async def run(self) -> None:
        """Answer requests until the client goes. Raises Disconnected, IncompleteReadError or OSError."""
        try:
            while True:
                header = await self._reader.readexactly(nbd.REQUEST.size)
                magic, flags, command, cookie, offset, length = nbd.REQUEST.unpack(header)
                if magic != nbd.REQUEST_MAGIC:
                    raise Disconnected("what should be a request is none")
                request = Request(flags, command, cookie, offset, length)
                if request.command == Command.DISC:
                    return
                await self._take(request)
        finally:
            await self.settle()
            self._sender.close()

    async def settle(self) -> None:
        """Wait for the requests that are being worked on, and until what they gave is sent."""
        await self._until(lambda: not self._requests)

    async def _take(self, request: Request) -> None:
        data = b""
        if request.command == Command.WRITE:
            if request.length > nbd.PAYLOAD_SIZE_MAX:
                raise Disconnected(f"a write of {request.length} bytes")
            data = await self._reader.readexactly(request.length)
        elif request.command == Command.READ and self._answer_at_once(request):
            if self._sender.is_behind:
                await self._sender.drain()
            return
        weight = request.length if request.command in (Command.READ, Command.WRITE) else 0
        weight = min(weight, nbd.PAYLOAD_SIZE_MAX)
        if not self._has_room(weight):
            await self._until(lambda: self._has_room(weight))
        with self._lock:
            self._requests += 1
            self._in_flight += weight
        self._executor.submit(self._work, request, data, weight)

    # ------------------------------------------------------------------------------------------ bounds
    def _has_room(self, weight: int) -> bool:
        return self._requests < REQUESTS_MAX and self._in_flight + weight <= IN_FLIGHT_SIZE_MAX

    def _end(self, weight: int) -> None:
        """Note that a request is through. In any thread."""
        with self._lock:
            self._requests -= 1
            self._in_flight -= weight
        if self._waiting:
            self._loop.call_soon_threadsafe(self._ended.set)

    async def _until(self, holds: Callable[[], bool]) -> None:
        """Wait until something holds that may change whenever a request ends."""
        self._waiting += 1  # whatever ends from here on sets the event
        try:
            while True:
                self._ended.clear()
                if holds():
                    return
                await self._ended.wait()
        finally:
            self._waiting -= 1

    def _answer_at_once(self, request: Request) -> bool:
        """Answer a read of what is in memory, and tell whether that was so."""
        if not 0 < request.length <= INLINE_SIZE_MAX or self.shutting_down:
            return False
        if request.flags and request.flags & ~nbd.ALLOWED_FLAGS[Command.READ]:
            return False
        head = self._read_head(request)
        reply = bytearray(len(head) + request.length)
        try:
            if not self._device.read_cached(request.offset, memoryview(reply)[len(head) :]):
                return False
        except DataplaneError:
            return False  # asked again where it can take its time, and be told why
        reply[: len(head)] = head
        self._observer.request_ended(COMMAND_NAMES[Command.READ], DONE, request.length)
        self._sender.send(reply, nothing)
        return True

    def _work(self, request: Request, data: bytes, weight: int) -> None:
        """Do a request and answer it, in a thread of the executor; nothing is raised, since nobody would see it."""
        reply: bytes | bytearray
        result = DONE
        try:
            reply = self._do(self._checked(request), request, data)
        except Refused as refused:
            result = refused.error.name
            reply = self._error(request, refused.error, refused.text)
        except Exception as error:  # whatever it is, the client waits for an answer
            self._report(str(error) if isinstance(error, DataplaneError) else f"a defect: {error!r}")
            kind = error_of(error)
            result = kind.name
            reply = self._error(request, kind, EXPLAINED[kind])
        self._observe(request, result)
        self._sender.send(reply, lambda: self._end(weight))

    def _observe(self, request: Request, result: str) -> None:
        """Count a request before its client can know that it has ended."""
        name = COMMAND_NAMES.get(request.command, "UNKNOWN")
        has_data = result == DONE and request.command in (Command.READ, Command.WRITE)
        self._observer.request_ended(name, result, request.length if has_data else 0)

    # ------------------------------------------------------------------------------------------ checks
    def _checked(self, request: Request) -> Command:
        """Return what a request asks for; raises Refused unless it can be done."""
        if self.shutting_down:
            raise Refused(Error.ESHUTDOWN, "the server is shutting down")
        try:
            command = Command(request.command)
        except ValueError as error:
            raise Refused(Error.EINVAL, f"command {request.command} is not known") from error
        if request.flags and request.flags & ~nbd.ALLOWED_FLAGS[command]:
            raise Refused(Error.EINVAL, f"flags {request.flags:#x} do not go with {command.name}")
        if command in nbd.WRITING and self._refuses_writes:
            raise Refused(Error.EPERM, "this export is read-only")
        if command == Command.FLUSH:
            if request.offset or request.length:
                raise Refused(Error.EINVAL, "a flush has no range")
            return command
        if request.offset > self._device.size or request.length > self._device.size - request.offset:
            error_kind = Error.ENOSPC if command in nbd.WRITING else Error.EINVAL
            raise Refused(error_kind, f"the range leaves the disk's {self._device.size} bytes")
        if command == Command.READ and request.length > nbd.PAYLOAD_SIZE_MAX:
            raise Refused(Error.EINVAL, f"a read has at most {nbd.PAYLOAD_SIZE_MAX} bytes")
        if command == Command.BLOCK_STATUS and not (self._agreement.allocation and request.length):
            raise Refused(Error.EINVAL, "no context was agreed on, or the range is empty")
        if request.flags & CommandFlag.FAST_ZERO and request.flags & CommandFlag.NO_HOLE:
            raise Refused(Error.ENOTSUP, "zeros that take room are not written faster than data")
        return command

    # ------------------------------------------------------------------------------------------ work
    def _do(self, command: Command, request: Request, data: bytes) -> bytes | bytearray:
        """Do a request that was checked, and return its reply."""
        device = self._device
        if command == Command.READ:
            return self._read(request)
        if command == Command.BLOCK_STATUS:
            return self._block_status(request)
        if command == Command.WRITE:
            device.write(request.offset, data)
        elif command == Command.TRIM:
            device.trim(request.offset, request.length)
        elif command == Command.CACHE:
            device.warm(request.offset, request.length)
        elif command == Command.WRITE_ZEROES and request.flags & CommandFlag.NO_HOLE:
            write_real_zeros(device.write, request.offset, request.length)
        elif command == Command.WRITE_ZEROES:
            device.write_zeroes(request.offset, request.length)
        if command == Command.FLUSH or (request.flags & CommandFlag.FUA and command in nbd.WRITING):
            device.flush()
        return self._done(request)

    def _read_head(self, request: Request) -> bytes:
        """Return what comes before the data of a read that is answered in one piece."""
        if not self._agreement.structured:
            return nbd.SIMPLE_REPLY.pack(nbd.SIMPLE_REPLY_MAGIC, 0, request.cookie)
        length = nbd.OFFSET.size + request.length
        head = nbd.structured(request.cookie, ChunkType.OFFSET_DATA, length, done=True)
        return head + nbd.OFFSET.pack(request.offset)

    def _read(self, request: Request) -> bytes | bytearray:
        if not request.length:
            return self._done(request)
        if self._agreement.structured and not (request.flags and request.flags & CommandFlag.DF):
            spans = [(span.length, span.zero) for span in self._device.extents(request.offset, request.length)]
            if any(zero for _, zero in spans):
                return self._read_spans(request, spans)
        head = self._read_head(request)
        reply = bytearray(len(head) + request.length)
        reply[: len(head)] = head
        self._device.read_into(request.offset, memoryview(reply)[len(head) :])
        return reply

    def _read_spans(self, request: Request, spans: list[tuple[int, bool]]) -> bytearray:
        """Read a range in which there are holes, each of which becomes a chunk without data."""
        reply = bytearray()
        offset = request.offset
        for number, (length, zero) in enumerate(spans):
            done = number == len(spans) - 1
            if zero:
                size = nbd.OFFSET_HOLE.size
                reply += nbd.structured(request.cookie, ChunkType.OFFSET_HOLE, size, done=done)
                reply += nbd.OFFSET_HOLE.pack(offset, length)
            else:
                size = nbd.OFFSET.size + length
                reply += nbd.structured(request.cookie, ChunkType.OFFSET_DATA, size, done=done)
                reply += nbd.OFFSET.pack(offset)
                start = len(reply)
                reply += bytes(length)
                with memoryview(reply) as view:
                    self._device.read_into(offset, view[start:])
            offset += length
        return reply

    def _block_status(self, request: Request) -> bytes:
        limit = 1 if request.flags & CommandFlag.REQ_ONE else SPANS_MAX
        descriptors = bytearray()
        for span in self._device.extents(request.offset, min(request.length, STATUS_LENGTH_MAX)):
            status = (Allocation.HOLE if span.hole else 0) | (Allocation.ZERO if span.zero else 0)
            descriptors += nbd.BLOCK_DESCRIPTOR.pack(span.length, status)
            limit -= 1
            if not limit:
                break
        payload = nbd.ALLOCATION_ID.to_bytes(4, "big") + descriptors
        return nbd.structured(request.cookie, ChunkType.BLOCK_STATUS, len(payload), done=True) + payload

    # ------------------------------------------------------------------------------------------ replies
    def _done(self, request: Request) -> bytes:
        if self._agreement.structured:
            return nbd.structured(request.cookie, ChunkType.NONE, 0, done=True)
        return nbd.SIMPLE_REPLY.pack(nbd.SIMPLE_REPLY_MAGIC, 0, request.cookie)

    def _error(self, request: Request, error: Error, text: str) -> bytes:
        if not self._agreement.structured:
            return nbd.SIMPLE_REPLY.pack(nbd.SIMPLE_REPLY_MAGIC, error, request.cookie)
        message = text.encode()[: nbd.STRING_SIZE_MAX]
        payload = nbd.ERROR.pack(error, len(message)) + message
        return nbd.structured(request.cookie, ChunkType.ERROR, len(payload), done=True) + payload


def error_of(error: Exception) -> Error:
    """Return what a client is told of an error."""
    if isinstance(error, NoSpace):
        return Error.ENOSPC
    if isinstance(error, UsageError):
        return Error.EINVAL
    return Error.EIO


def write_real_zeros(write: Callable[[int, bytes], None], offset: int, length: int) -> None:
    """Write zeros that take room, a few MiB at a time."""
    zeros = bytes(4 << 20)
    while length:
        step = min(length, len(zeros))
        write(offset, zeros[:step])
        offset += step
        length -= step
