"""The scan kernel beside its slow twin, in every compiled copy."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from collections.abc import Iterator

import blake3
import pytest
import xxhash
from hypothesis import given
from hypothesis import strategies as st

from dataplane.engine import scan
from dataplane.engine.scan import ChunkState
from tests.native.shapes import unaligned
from tests.oracles import chunks as oracle

KEY = bytes(range(32))
SIZES = (1, 2, 3, 15, 16, 17, 127, 128, 129, 240, 241, 511, 512, 513, 1023, 1024, 1025, 4095, 4096, 4097)


@pytest.fixture(params=scan.variants())
def variant(request: pytest.FixtureRequest) -> Iterator[str]:
    before = scan.chosen_variant()
    yield scan.choose_variant(request.param)
    scan.choose_variant(before)


def scanned(data: bytes | memoryview, chunk_size: int, key: bytes | None) -> oracle.Scanned:
    count = len(data) // chunk_size
    digests = bytearray(b"\xee" * ((16 if key is None else 32) * count))
    states = bytearray(b"\xee" * count)
    scan.scan_chunks(data, chunk_size, digests, states, key)
    return oracle.Scanned(bytes(digests), bytes(states))


def random_chunks(seed: int, count: int, chunk_size: int) -> bytes:
    """About a third of the chunks are zeros, and a third have one byte that is not."""
    chance = random.Random(seed)
    pieces = []
    for _ in range(count):
        piece = bytearray(chunk_size)
        kind = chance.randrange(3)
        if kind == 1:
            piece[chance.randrange(chunk_size)] = 1 + chance.randrange(255)
        elif kind == 2:
            piece[:] = chance.randbytes(chunk_size)
        pieces.append(bytes(piece))
    return b"".join(pieces)


@pytest.mark.parametrize("key", [None, KEY])
@pytest.mark.parametrize("chunk_size", SIZES)
def test_scan_matches_oracle_small_chunks(variant: str, chunk_size: int, key: bytes | None) -> None:
    data = random_chunks(chunk_size, 12, chunk_size)
    assert scanned(data, chunk_size, key) == oracle.scan(data, chunk_size, key)


@pytest.mark.parametrize("key", [None, KEY])
@pytest.mark.parametrize("chunk_bits", range(12, 23))
def test_scan_matches_oracle_chunks_of_stores(variant: str, chunk_bits: int, key: bytes | None) -> None:
    data = random_chunks(chunk_bits, 3, 1 << chunk_bits)
    assert scanned(data, 1 << chunk_bits, key) == oracle.scan(data, 1 << chunk_bits, key)


@given(seed=st.integers(0, 1 << 32), count=st.integers(0, 9), chunk_size=st.integers(1, 700), shift=st.integers(0, 64))
def test_scan_matches_oracle_any_shape(seed: int, count: int, chunk_size: int, shift: int) -> None:
    data = random_chunks(seed, count, chunk_size)
    for key in (None, KEY):
        assert scanned(unaligned(data, shift), chunk_size, key) == oracle.scan(data, chunk_size, key)


@pytest.mark.parametrize("shift", [1, 3, 7, 8, 13, 31, 63])
def test_scan_matches_oracle_unaligned(variant: str, shift: int) -> None:
    data = random_chunks(shift, 5, 4096)
    for key in (None, KEY):
        assert scanned(unaligned(data, shift), 4096, key) == oracle.scan(data, 4096, key)


def test_scan_empty_writes_nothing(variant: str) -> None:
    assert scanned(b"", 4096, None) == oracle.Scanned(b"", b"")
    assert scanned(b"", 4096, KEY) == oracle.Scanned(b"", b"")


def test_scan_zeros_have_no_digest(variant: str) -> None:
    assert scanned(bytes(3 * 4096), 4096, KEY) == oracle.Scanned(bytes(96), bytes([ChunkState.ZERO] * 3))


@pytest.mark.parametrize("size", [1, 63, 64, 511, 512, 513, 1024, 4096, 4099])
def test_is_zero_one_byte_anywhere_is_seen(variant: str, size: int) -> None:
    edges = {place + step for place in range(0, size + 1, 512) for step in (-65, -64, -1, 0, 1, 63, 64)}
    for position in sorted(edges & set(range(size))):
        data = bytearray(size)
        assert scan.is_zero(data)
        data[position] = 0x80
        assert not scan.is_zero(data), position


def test_is_zero_empty_counts_as_zero(variant: str) -> None:
    assert scan.is_zero(b"")


def test_is_zero_looks_at_its_own_bytes_only(variant: str) -> None:
    for shift in range(1, 65):
        room = bytearray(b"\xff" * 2048)
        room[shift : shift + 1100] = bytes(1100)
        assert scan.is_zero(memoryview(room)[shift : shift + 1100])


@given(data=st.binary(max_size=3000), shift=st.integers(0, 17))
def test_digests_of_buffers_match_packages(data: bytes, shift: int) -> None:
    view = unaligned(data, shift)
    assert scan.xxh3(view) == xxhash.xxh3_128(data).digest()
    assert scan.blake3(view) == blake3.blake3(data).digest()
    assert scan.blake3(view, KEY) == blake3.blake3(data, key=KEY).digest()


@pytest.mark.parametrize("length", [0, 1, 16, 17, 128, 129, 240, 241, 1023, 1024, 1025, 65536, 1 << 20])
def test_xxh3_every_copy_matches_package(variant: str, length: int) -> None:
    data = random.Random(length).randbytes(length)
    assert scan.xxh3(data) == xxhash.xxh3_128(data).digest()


def test_digests_are_frozen() -> None:
    """Golden values: a change of these un-deduplicates every store there is."""
    data = bytes(range(256)) * 256
    assert scan.xxh3(data).hex() == xxhash.xxh3_128_hexdigest(data) == "9b31b2ce54c6e35a9a1db56d610a5516"
    assert scan.blake3(data).hex() == "f16c9f867cc5384c7329aa4481eba6518c50ab21bf8a615e26bad55e57569b2c"
    assert scan.blake3(data, KEY).hex() == "1b21977732c6b875d673983e65b43781f9fce85966cdb1c28558deddbb77c2e2"


@pytest.mark.parametrize(
    ("length", "chunk_size", "digests", "states", "key"),
    [
        (100, 64, 16, 1, None),  # ragged
        (128, 0, 32, 2, None),
        (128, -64, 32, 2, None),
        (128, 64, 31, 2, None),
        (128, 64, 33, 2, None),
        (128, 64, 32, 1, None),
        (128, 64, 32, 3, None),
        (128, 64, 32, 2, KEY),  # XXH3's room for BLAKE3's digests
        (128, 64, 64, 2, KEY[:31]),
        (128, 64, 64, 2, KEY + b"\0"),
        (128, 64, 64, 2, b""),
        (0, 64, 0, 1, None),
    ],
)
def test_scan_wrong_shape_is_refused(
    length: int, chunk_size: int, digests: int, states: int, key: bytes | None
) -> None:
    with pytest.raises(ValueError, match=r"."):
        scan.scan_chunks(bytes(length), chunk_size, bytearray(digests), bytearray(states), key)


def test_scan_read_only_results_are_refused() -> None:
    with pytest.raises((ValueError, BufferError)):
        scan.scan_chunks(bytes(64), 64, bytes(16), bytes(1))


def test_blake3_key_of_other_length_is_refused() -> None:
    with pytest.raises(ValueError, match="32 bytes"):
        scan.blake3(b"abc", b"short")


def test_variants_have_a_baseline_and_the_fastest_is_chosen() -> None:
    assert scan.variants()[-1] == "baseline"
    assert scan.choose_variant() == scan.variants()[0] == scan.chosen_variant()


def test_choose_variant_unknown_is_refused() -> None:
    with pytest.raises(ValueError, match="sse9"):
        scan.choose_variant("sse9")
    assert scan.chosen_variant() in scan.variants()


@pytest.mark.parametrize("name", [*scan.variants(), "no-such"])
def test_environment_chooses_variant(name: str) -> None:
    report = "from dataplane.engine import scan; print(scan.chosen_variant(), scan.xxh3(bytes(range(256)) * 9).hex())"
    environment = {**os.environ, "DATAPLANE_CPU": name}
    done = subprocess.run([sys.executable, "-c", report], capture_output=True, text=True, env=environment, check=False)
    if name == "no-such":
        assert "DATAPLANE_CPU=no-such" in done.stderr
    else:
        assert done.stdout.split() == [name, xxhash.xxh3_128_hexdigest(bytes(range(256)) * 9)]
