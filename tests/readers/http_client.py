"""What the tests of HttpReader share: an object, readers of it, and how a refusal has to look."""

from __future__ import annotations

import random

import pytest

from dataplane.errors import SourceUnavailable
from dataplane.readers.http import HttpReader
from tests.readers.http_server import Server

CONTENT = random.Random(7).randbytes(1_000_003)


def open_reader(server: Server, timeout_s: float = 2.0) -> HttpReader:
    return HttpReader(server.url, allow_source=[server.host_port], timeout_s=timeout_s)


def open_and_read(server: Server, timeout_s: float = 2.0) -> bytes:
    reader = open_reader(server, timeout_s)
    try:
        return reader.read_at(0, reader.size)
    finally:
        reader.close()


def refused(server: Server, words: str, timeout_s: float = 2.0) -> None:
    with pytest.raises(SourceUnavailable, match=words) as error:
        open_and_read(server, timeout_s)
    text = str(error.value)
    assert text.startswith(f"http://{server.host_port}/images/disk.img"), text
    assert "s3cret" not in text
    assert "\n" not in text
    chain: BaseException | None = error.value
    while chain is not None:
        assert "s3cret" not in repr(chain)
        chain = chain.__cause__
