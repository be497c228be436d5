"""The haggling before transmission: newstyle fixed, options one after the other, everything a client sends bounded."""

from __future__ import annotations

import asyncio
import ssl
import struct

from dataplane.dataclass import dataclass, field
from dataplane.nbd import protocol as nbd
from dataplane.nbd.exports import Export, Exports
from dataplane.nbd.protocol import HandshakeFlag, Info, Option, Reply, TransmissionFlag

OPTION_SIZE_MAX = 64 << 10
"""Bytes of an option's data that are looked at; a name has at most 4,096."""

OPTION_SIZE_SKIPPED_MAX = 1 << 20
"""Longer options are skipped up to here; a client that sends more is disconnected."""

OPTIONS_MAX = 128
QUERIES_MAX = 64

U16 = struct.Struct(">H")
U32 = struct.Struct(">I")


class Disconnected(Exception):
    """The connection is to end: the client asked for it, or breaks the protocol."""


class BadOption(Exception):
    """An option's data makes no sense."""


@dataclass(slots=True)
class Agreement:
    """What client and server have agreed on."""

    export: Export
    flags: TransmissionFlag
    structured: bool = False
    allocation: bool = False
    """Whether base:allocation may be asked for."""


@dataclass(slots=True)
class Terms:
    """What holds so far; begins anew when a connection becomes encrypted."""

    structured: bool = False
    context_export: str | None = None
    """The export for which base:allocation was asked."""
    opened: dict[str, Export] = field(default_factory=dict)


class Negotiation:
    """One client's haggling over one connection."""

    def __init__(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        exports: Exports,
        tls: ssl.SSLContext | None,
    ) -> None:
        """With `tls` nothing but encryption can be agreed on before the connection is encrypted."""
        self._reader = reader
        self._writer = writer
        self._exports = exports
        self._tls = tls
        self._encrypted = False
        self._no_zeroes = False
        self._terms = Terms()

    async def run(self) -> Agreement:
        """Haggle until there is an export to transmit. Raises Disconnected; opened exports are closed then."""
        try:
            agreement = await self._haggle()
        except BaseException:
            self._close_all_but(None)
            raise
        self._close_all_but(agreement.export)
        return agreement

    async def _haggle(self) -> Agreement:
        flags = HandshakeFlag.FIXED_NEWSTYLE | HandshakeFlag.NO_ZEROES
        self._writer.write(nbd.GREETING.pack(nbd.INIT_PASSWORD, nbd.OPTION_MAGIC, flags))
        await self._writer.drain()
        (answer,) = nbd.CLIENT_FLAGS.unpack(await self._reader.readexactly(nbd.CLIENT_FLAGS.size))
        if answer & ~int(flags) or not answer & HandshakeFlag.FIXED_NEWSTYLE:
            raise Disconnected("the client's flags are not known")
        self._no_zeroes = bool(answer & HandshakeFlag.NO_ZEROES)
        for _ in range(OPTIONS_MAX):
            magic, option, length = nbd.OPTION.unpack(await self._reader.readexactly(nbd.OPTION.size))
            if magic != nbd.OPTION_MAGIC:
                raise Disconnected("what should be an option is none")
            if length > OPTION_SIZE_MAX:
                await self._skip(option, length)
                continue
            data = await self._reader.readexactly(length)
            try:
                agreement = await self._take(option, data)
            except BadOption as error:
                self._reply(option, Reply.ERR_INVALID, str(error).encode())
                agreement = None
            await self._writer.drain()
            if agreement is not None:
                return agreement
        raise Disconnected("the client goes on asking and never begins")

    async def _skip(self, option: int, length: int) -> None:
        if length > OPTION_SIZE_SKIPPED_MAX or option == Option.EXPORT_NAME:
            raise Disconnected(f"an option of {length} bytes")
        while length:
            length -= len(await self._reader.readexactly(min(length, OPTION_SIZE_MAX)))
        self._reply(option, Reply.ERR_TOO_BIG, f"an option has at most {OPTION_SIZE_MAX} bytes".encode())
        await self._writer.drain()

    async def _take(self, option: int, data: bytes) -> Agreement | None:
        """Answer one option; return what it agreed on if that was the last."""
        if option == Option.ABORT:
            self._reply(option, Reply.ACK)
            await self._writer.drain()
            raise Disconnected("the client ended the negotiation")
        if self._tls is not None and not self._encrypted and option != Option.STARTTLS:
            if option == Option.EXPORT_NAME:
                raise Disconnected("the client asked for an export without encryption")
            self._reply(option, Reply.ERR_TLS_REQD, b"this server speaks TLS only")
        elif option == Option.STARTTLS:
            await self._start_tls(data)
        elif option == Option.EXPORT_NAME:
            return await self._export_name(data)
        elif option == Option.LIST:
            self._list(data)
        elif option in (Option.INFO, Option.GO):
            return await self._info(Option(option), data)
        elif option == Option.STRUCTURED_REPLY:
            if data:
                raise BadOption("this option has no data")
            self._terms.structured = True
            self._reply(option, Reply.ACK)
        elif option in (Option.LIST_META_CONTEXT, Option.SET_META_CONTEXT):
            await self._meta_context(Option(option), data)
        else:
            self._reply(option, Reply.ERR_UNSUP)
        return None

    # ------------------------------------------------------------------------------------------ options
    async def _start_tls(self, data: bytes) -> None:
        if data:
            raise BadOption("this option has no data")
        if self._tls is None:
            self._reply(Option.STARTTLS, Reply.ERR_POLICY, b"this server has no certificate")
            return
        if self._encrypted:
            raise BadOption("the connection is encrypted already")
        # What came in with the request was not encrypted: it must not be taken for what comes after.
        if self._reader._buffer:  # type: ignore[attr-defined]
            raise Disconnected("the client did not wait for encryption to begin")
        self._reply(Option.STARTTLS, Reply.ACK)
        await self._writer.drain()
        try:
            await self._writer.start_tls(self._tls)
        except (ssl.SSLError, OSError) as error:
            raise Disconnected("encryption failed") from error
        self._encrypted = True
        self._close_all_but(None)
        self._terms = Terms()

    async def _export_name(self, data: bytes) -> Agreement:
        export = await self._open(text(data))
        if export is None:
            raise Disconnected("no such export")  # this option has no way to say so
        flags = flags_of(export)
        zeroes = b"" if self._no_zeroes else nbd.EXPORT_NAME_ZEROES
        self._writer.write(nbd.EXPORT_NAME_REPLY.pack(export.device.size, flags) + zeroes)
        return self._agreement(export, flags)

    def _list(self, data: bytes) -> None:
        if data:
            raise BadOption("this option has no data")
        for name in self._exports.names():
            encoded = name.encode()
            self._reply(Option.LIST, Reply.SERVER, U32.pack(len(encoded)) + encoded)
        self._reply(Option.LIST, Reply.ACK)

    async def _info(self, option: Option, data: bytes) -> Agreement | None:
        fields = Fields(data)
        name = fields.string()
        wanted = {fields.number(U16) for _ in range(fields.number(U16))}
        fields.end()
        export = await self._open(name)
        if export is None:
            self._reply(option, Reply.ERR_UNKNOWN, b"no such export")
            return None
        flags = flags_of(export)
        self._reply(option, Reply.INFO, struct.pack(">HQH", Info.EXPORT, export.device.size, flags))
        sizes = (nbd.BLOCK_SIZE_MIN, nbd.BLOCK_SIZE_PREFERRED, nbd.PAYLOAD_SIZE_MAX)
        self._reply(option, Reply.INFO, struct.pack(">HIII", Info.BLOCK_SIZE, *sizes))
        if Info.NAME in wanted:
            self._reply(option, Reply.INFO, U16.pack(Info.NAME) + export.name.encode())
        if Info.DESCRIPTION in wanted and export.description:
            self._reply(option, Reply.INFO, U16.pack(Info.DESCRIPTION) + export.description.encode())
        self._reply(option, Reply.ACK)
        return self._agreement(export, flags) if option == Option.GO else None

    async def _meta_context(self, option: Option, data: bytes) -> None:
        setting = option == Option.SET_META_CONTEXT
        if setting:
            self._terms.context_export = None  # a later question replaces an earlier one, even one that fails
        fields = Fields(data)
        name = fields.string()
        count = fields.number(U32)
        if count > QUERIES_MAX:
            raise BadOption(f"at most {QUERIES_MAX} contexts can be asked for at once")
        queries = [fields.string() for _ in range(count)]
        fields.end()
        if not self._terms.structured:
            raise BadOption("contexts need structured replies: ask for those first")
        if await self._open(name) is None:
            self._reply(option, Reply.ERR_UNKNOWN, b"no such export")
            return
        known = {nbd.ALLOCATION_CONTEXT} if setting else {nbd.ALLOCATION_CONTEXT, "base:"}
        if known & set(queries) or (not setting and not queries):
            if setting:
                self._terms.context_export = name
            id = U32.pack(nbd.ALLOCATION_ID if setting else 0)
            self._reply(option, Reply.META_CONTEXT, id + nbd.ALLOCATION_CONTEXT.encode())
        self._reply(option, Reply.ACK)

    # ------------------------------------------------------------------------------------------ helpers
    async def _open(self, name: str) -> Export | None:
        export = self._terms.opened.get(name)
        if export is None:
            export = await self._exports.find(name)
            if export is not None:
                self._terms.opened[name] = export
        return export

    def _close_all_but(self, kept: Export | None) -> None:
        for export in self._terms.opened.values():
            if export is not kept:
                export.closed()
        self._terms.opened.clear()

    def _agreement(self, export: Export, flags: TransmissionFlag) -> Agreement:
        terms = self._terms
        same = terms.context_export is not None and terms.opened.get(terms.context_export) is export
        return Agreement(export, flags, structured=terms.structured, allocation=same)

    def _reply(self, option: int, reply: Reply, data: bytes = b"") -> None:
        self._writer.write(nbd.OPTION_REPLY.pack(nbd.OPTION_REPLY_MAGIC, option, reply, len(data)) + data)


class Fields:
    """The data of an option, taken apart from the front. Everything raises BadOption."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._position = 0

    def number(self, layout: struct.Struct) -> int:
        """Return a number."""
        return int(layout.unpack(self._take(layout.size))[0])

    def string(self) -> str:
        """Return a string behind its length."""
        return text(self._take(self.number(U32)))

    def end(self) -> None:
        """Make sure that nothing is left."""
        if self._position != len(self._data):
            raise BadOption("there is more data than the option has")

    def _take(self, length: int) -> bytes:
        if length > len(self._data) - self._position:
            raise BadOption("the option is shorter than its lengths say")
        self._position += length
        return self._data[self._position - length : self._position]


def text(data: bytes) -> str:
    """Return a name; raises BadOption."""
    if len(data) > nbd.STRING_SIZE_MAX:
        raise BadOption(f"a name has at most {nbd.STRING_SIZE_MAX} bytes")
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise BadOption("a name is UTF-8") from error


def flags_of(export: Export) -> TransmissionFlag:
    """Return what an export can do. What one connection has flushed all of them see: many may use it at once."""
    flag = TransmissionFlag
    flags = flag.HAS_FLAGS | flag.SEND_FLUSH | flag.SEND_FUA | flag.SEND_DF | flag.CAN_MULTI_CONN | flag.SEND_CACHE
    if export.refuses_writes:
        return flags | flag.READ_ONLY
    return flags | flag.SEND_TRIM | flag.SEND_WRITE_ZEROES | flag.SEND_FAST_ZERO
