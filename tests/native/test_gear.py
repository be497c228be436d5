"""The gear kernel beside its slow twin, in every compiled copy."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from collections.abc import Iterator
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dataplane.engine import gear
from tests.native.shapes import unaligned
from tests.oracles import cdc as oracle

GOLDEN = [
    (252, 12), (4330, 10), (4613, 11), (5970, 11), (6261, 13), (6475, 12), (6728, 11),
    (7544, 10), (9667, 10), (9908, 10), (10756, 10), (11050, 11), (11421, 13), (11995, 10),
]  # fmt: skip

GOLDEN_TABLE = [0xE220A863, 0x910A2D64, 0x3FADB6E2, 0x338C5062]


@pytest.fixture(params=gear.variants())
def variant(request: pytest.FixtureRequest) -> Iterator[str]:
    before = gear.chosen_variant()
    yield gear.choose_variant(request.param)
    gear.choose_variant(before)


def found(data: bytes | memoryview) -> list[tuple[int, int]]:
    places, bits = gear.find(data)
    return list(zip(places.tolist(), bits, strict=True))


def content(seed: int, length: int, fill: str) -> bytes:
    """Return bytes of a kind; few values, or a pattern, come close to the places far more often than chance does."""
    chance = random.Random(f"{seed} {fill}")
    if fill == "random":
        return chance.randbytes(length)
    if fill == "few":
        return bytes(chance.choices(chance.randbytes(3), k=length))
    if fill == "pattern":
        pattern = chance.randbytes(chance.randrange(1, 9))
        return (pattern * (length // len(pattern) + 1))[:length]
    return bytes([chance.randrange(256)]) * length


FILLS = st.sampled_from(["random", "few", "pattern", "one"])


@given(seed=st.integers(0, 1 << 32), length=st.integers(0, 18_000), fill=FILLS, shift=st.integers(0, 64))
def test_every_copy_matches_oracle(seed: int, length: int, fill: str, shift: int) -> None:
    data = content(seed, gear.CONTEXT + length, fill)
    expected = oracle.places(data, gear.CONTEXT)
    for name in gear.variants():
        gear.choose_variant(name)
        assert found(unaligned(data, shift)) == expected, name
    gear.choose_variant()


@pytest.mark.parametrize("byte", [0, 0xFF, 0x9D, 0x20])
def test_runs_of_one_byte_have_no_places(variant: str, byte: int) -> None:
    """0x9d is the one byte whose runs have a low byte of 0 everywhere."""
    assert found(bytes([byte]) * 10_000) == []


def test_search_may_start_anywhere(variant: str) -> None:
    """A stream that is split at any byte has the same places, given the context that comes before."""
    data = random.Random(2).randbytes(gear.CONTEXT + 40_000)
    whole = found(data)
    for at in [*range(gear.CONTEXT, gear.CONTEXT + 3000, 61), 20_000, 39_999]:
        later = found(data[at - gear.CONTEXT :])
        assert [(place + at - gear.CONTEXT, bits) for place, bits in later] == [one for one in whole if one[0] > at]


def test_places_keep_their_distance_and_bits_their_shares(variant: str) -> None:
    places, bits = gear.find(random.Random(3).randbytes(8 << 20))
    assert min(b - a for a, b in pairwise(places)) > 64
    expected = (8 << 20) / 1024 * (1 - 1 / 1024) ** 64
    assert len(places) == pytest.approx(expected, rel=0.04)
    for level in range(10, 15):
        assert sum(one >= level for one in bits) == pytest.approx(expected / 2 ** (level - 10), rel=0.2)


def test_places_are_frozen(variant: str) -> None:
    """Golden values: a change of these un-deduplicates what was ever cut."""
    data = random.Random("gear").randbytes(12_000)
    assert found(data) == GOLDEN
    assert [oracle.gear(byte) for byte in (0, 1, 127, 255)] == GOLDEN_TABLE


def test_less_than_the_context_is_refused() -> None:
    with pytest.raises(ValueError, match="context"):
        gear.find(bytes(gear.CONTEXT - 1))
    assert found(bytes(gear.CONTEXT)) == []


def test_copies_are_chosen_by_name() -> None:
    assert gear.variants()[-1] == "baseline"
    assert gear.choose_variant() == gear.variants()[0] == gear.chosen_variant()
    with pytest.raises(ValueError, match="sse9"):
        gear.choose_variant("sse9")


def test_environment_chooses_variant() -> None:
    environment = {**os.environ, "DATAPLANE_CPU": "baseline"}
    report = "from dataplane.engine import gear; print(gear.chosen_variant())"
    done = subprocess.run([sys.executable, "-c", report], capture_output=True, text=True, env=environment, check=True)
    assert done.stdout.strip() == "baseline"
