"""The one error tree of the library; the command line and the service each map it in a single table."""

from __future__ import annotations


class DataplaneError(Exception):
    """Base of every error raised on purpose: the text says what happened, to what, and what to do."""


class Cancelled(DataplaneError):
    """The caller asked for the work to stop; everything it had made is undone."""


class UsageError(DataplaneError):
    """An argument is out of range or contradicts another one."""


class NotFound(DataplaneError):
    """A named thing (image, chunk, operation) does not exist."""


class AlreadyExists(DataplaneError):
    """A name is taken."""


class Corrupt(DataplaneError):
    """Stored or exported bytes differ from what was promised: a digest, checksum or length does not match."""


class NoSpace(DataplaneError):
    """The file system or quota is full (ENOSPC, EDQUOT, EFBIG); nothing was committed."""


class IoFailed(DataplaneError):
    """The operating system reported an I/O error while the store or a target was read or written."""


class SourceError(DataplaneError):
    """Base of everything that is wrong with an image source."""


class SourceUnavailable(SourceError):
    """The source cannot be read: missing, forbidden, refused by policy, unreachable, or changed meanwhile."""


class SourceForbidden(SourceUnavailable):
    """The server of a URL refuses access (401, 403 or 410): a signed URL may have expired."""


class InvalidImage(SourceError):
    """The source's bytes break the rules of its format, or it is cut short."""


class Unsupported(SourceError):
    """The source is of a format, version or feature that is refused by name."""


class StoreError(DataplaneError):
    """Base of everything that is wrong with a store as a whole."""


class StoreMissing(StoreError):
    """There is no store at the path."""


class StoreIncompatible(StoreError):
    """The store was written by another version, or its secret does not belong to it."""


class LeaseLost(StoreError):
    """This process stood still for so long that its right to commit was given up; nothing was committed."""


class StoreLocked(StoreError):
    """Another process holds what this one needs for longer than it will wait."""
