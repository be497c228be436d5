"""Reading many small pieces of one reader at a time: one native call for files, few requests for URLs."""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Sequence

from dataplane.byte_reader import ByteReader
from dataplane.engine import blockio
from dataplane.errors import SourceUnavailable
from dataplane.limits import KIB, MIB
from dataplane.readers.checks import check_range
from dataplane.readers.file import unreadable

_GAP_SIZE_MAX = 128 * KIB
"""Bytes between two pieces that are cheaper to fetch along than to ask for in a request of their own."""

_REQUESTS_MAX = 4
"""Requests under way at once."""

_SPAN_SIZE_MAX = 4 * MIB
"""Bytes of one request that holds several pieces."""


def gather(reader: ByteReader, offsets: Sequence[int], length: int) -> bytearray:
    """Return the pieces of ``length`` bytes at ``offsets`` (bytes, any order), one behind the other.

    Raises InvalidImage when a piece is not wholly inside the reader, SourceUnavailable when reading fails.
    """
    if offsets:
        check_range(reader, min(offsets), length)
        check_range(reader, max(offsets), length)
    buffer = bytearray(len(offsets) * length)
    fd = reader.fileno()
    if fd is None:
        _fetch(reader, offsets, length, buffer)
        return buffer
    try:
        blockio.read_pieces(fd, array("q", offsets), length, buffer)
    except OSError as error:
        raise unreadable(reader.name, error) from error
    except EOFError as error:
        raise SourceUnavailable(f"{reader.name} has become shorter while it was read") from error
    return buffer


def _fetch(reader: ByteReader, offsets: Sequence[int], length: int, buffer: bytearray) -> None:
    """Fill ``buffer`` by few requests, some of them at once."""

    def fetch(span: list[int]) -> None:
        start = offsets[span[0]]
        held = reader.read_at(start, offsets[span[-1]] + length - start)
        for piece in span:
            at = offsets[piece] - start
            buffer[piece * length : (piece + 1) * length] = held[at : at + length]

    spans = list(_spans(sorted(range(len(offsets)), key=offsets.__getitem__), offsets, length))
    if len(spans) < 2:
        for span in spans:
            fetch(span)
        return
    from concurrent.futures import ThreadPoolExecutor  # and with it logging: only a network needs it

    with ThreadPoolExecutor(min(len(spans), _REQUESTS_MAX), "gathering") as threads:
        try:
            # In order, so that the failure reported is the first one.
            for _ in threads.map(fetch, spans):
                pass
        except BaseException:
            threads.shutdown(wait=False, cancel_futures=True)
            raise


def _spans(order: Sequence[int], offsets: Sequence[int], length: int) -> Iterator[list[int]]:
    """Group pieces, given in order of offset, that one request may fetch together."""
    span: list[int] = []
    for piece in order:
        end = offsets[piece] + length
        if span and (
            offsets[piece] - offsets[span[-1]] - length > _GAP_SIZE_MAX or end - offsets[span[0]] > _SPAN_SIZE_MAX
        ):
            yield span
            span = []
        span.append(piece)
    if span:
        yield span
