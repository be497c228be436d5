"""The NBD protocol's numbers and headers, all big-endian.

Names are those of the protocol document, https://github.com/NetworkBlockDevice/nbd/blob/master/doc/proto.md, without
their prefixes.
"""

from __future__ import annotations

import struct
from enum import IntEnum, IntFlag

INIT_PASSWORD = 0x4E42444D41474943  # "NBDMAGIC"
OPTION_MAGIC = 0x49484156454F5054  # "IHAVEOPT"
OPTION_REPLY_MAGIC = 0x3E889045565A9
REQUEST_MAGIC = 0x25609513
SIMPLE_REPLY_MAGIC = 0x67446698
STRUCTURED_REPLY_MAGIC = 0x668E33EF

GREETING = struct.Struct(">QQH")  # init password, option magic, handshake flags
CLIENT_FLAGS = struct.Struct(">I")
OPTION = struct.Struct(">QII")  # magic, option, length of its data
OPTION_REPLY = struct.Struct(">QIII")  # magic, option, reply, length of its data
EXPORT_NAME_REPLY = struct.Struct(">QH")  # size, transmission flags; then 124 zero bytes unless NO_ZEROES
EXPORT_NAME_ZEROES = bytes(124)
REQUEST = struct.Struct(">IHHQQI")  # magic, flags, command, cookie, offset, length
SIMPLE_REPLY = struct.Struct(">IIQ")  # magic, error, cookie
STRUCTURED_REPLY = struct.Struct(">IHHQI")  # magic, flags, type, cookie, length of its payload
OFFSET = struct.Struct(">Q")
OFFSET_HOLE = struct.Struct(">QI")  # offset, length
BLOCK_DESCRIPTOR = struct.Struct(">II")  # length, status flags
ERROR = struct.Struct(">IH")  # error, length of the message that follows

BLOCK_SIZE_MIN = 1
BLOCK_SIZE_PREFERRED = 4096
PAYLOAD_SIZE_MAX = 32 << 20

ALLOCATION_CONTEXT = "base:allocation"
ALLOCATION_ID = 1

STRING_SIZE_MAX = 4096
"""Bytes of an export's or a context's name: the protocol's own bound."""


class HandshakeFlag(IntFlag):
    """What the server can do; the client answers with the same bits."""

    FIXED_NEWSTYLE = 1
    NO_ZEROES = 2


class Option(IntEnum):
    """What a client may ask for before transmission."""

    EXPORT_NAME = 1
    ABORT = 2
    LIST = 3
    STARTTLS = 5
    INFO = 6
    GO = 7
    STRUCTURED_REPLY = 8
    LIST_META_CONTEXT = 9
    SET_META_CONTEXT = 10


class Reply(IntEnum):
    """What the server answers an option with."""

    ACK = 1
    SERVER = 2
    INFO = 3
    META_CONTEXT = 4
    ERR_UNSUP = (1 << 31) + 1
    ERR_POLICY = (1 << 31) + 2
    ERR_INVALID = (1 << 31) + 3
    ERR_TLS_REQD = (1 << 31) + 5
    ERR_UNKNOWN = (1 << 31) + 6
    ERR_SHUTDOWN = (1 << 31) + 7
    ERR_TOO_BIG = (1 << 31) + 9


class Info(IntEnum):
    """What INFO replies tell of an export."""

    EXPORT = 0
    NAME = 1
    DESCRIPTION = 2
    BLOCK_SIZE = 3


class TransmissionFlag(IntFlag):
    """What an export can do."""

    HAS_FLAGS = 1 << 0
    READ_ONLY = 1 << 1
    SEND_FLUSH = 1 << 2
    SEND_FUA = 1 << 3
    SEND_TRIM = 1 << 5
    SEND_WRITE_ZEROES = 1 << 6
    SEND_DF = 1 << 7
    CAN_MULTI_CONN = 1 << 8
    SEND_CACHE = 1 << 10
    SEND_FAST_ZERO = 1 << 11


class Command(IntEnum):
    """What a request asks for."""

    READ = 0
    WRITE = 1
    DISC = 2
    FLUSH = 3
    TRIM = 4
    CACHE = 5
    WRITE_ZEROES = 6
    BLOCK_STATUS = 7


class CommandFlag(IntFlag):
    """How a request wants it."""

    FUA = 1 << 0
    NO_HOLE = 1 << 1
    DF = 1 << 2
    REQ_ONE = 1 << 3
    FAST_ZERO = 1 << 4


ALLOWED_FLAGS: dict[Command, int] = {
    Command.READ: int(CommandFlag.DF | CommandFlag.FUA),
    Command.WRITE: int(CommandFlag.FUA),
    Command.FLUSH: 0,
    Command.TRIM: int(CommandFlag.FUA),
    Command.CACHE: 0,
    Command.WRITE_ZEROES: int(CommandFlag.FUA | CommandFlag.NO_HOLE | CommandFlag.FAST_ZERO),
    Command.BLOCK_STATUS: int(CommandFlag.REQ_ONE | CommandFlag.FUA),
}
"""As numbers: the complement of a flag leaves out bits without a name. FUA where nothing is written has no effect."""

WRITING = frozenset({Command.WRITE, Command.TRIM, Command.WRITE_ZEROES})


class ChunkType(IntEnum):
    """What a chunk of a structured reply holds."""

    NONE = 0
    OFFSET_DATA = 1
    OFFSET_HOLE = 2
    BLOCK_STATUS = 5
    ERROR = (1 << 15) + 1


CHUNK_DONE = 1
"""The flag of a reply's last chunk."""


class Error(IntEnum):
    """Why a request failed; the values do not depend on the system."""

    EPERM = 1
    EIO = 5
    EINVAL = 22
    ENOSPC = 28
    ENOTSUP = 95
    ESHUTDOWN = 108


class Allocation(IntFlag):
    """Status flags of base:allocation."""

    HOLE = 1
    ZERO = 2


def structured(cookie: int, kind: ChunkType, length: int, *, done: bool) -> bytes:
    """Return the header of a chunk with a payload of `length` bytes."""
    return STRUCTURED_REPLY.pack(STRUCTURED_REPLY_MAGIC, CHUNK_DONE if done else 0, kind, cookie, length)
