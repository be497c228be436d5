"""The digest table beside a Python set."""

from __future__ import annotations

import random
import threading
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dataplane.engine.scan import ChunkState
from dataplane.engine.table import DigestTable

KEY_SIZES = (16, 32)
KNOWN_SIZES = {16: (20, 30), 32: (40, 60)}


def keys_of(numbers: Sequence[int], key_size: int) -> list[bytes]:
    """Few numbers give few keys, so that some come twice; 0 is the all-zero key, which no slot can hold."""
    return [random.Random(number).randbytes(key_size) if number else bytes(key_size) for number in numbers]


def states_of(count: int) -> bytearray:
    return bytearray([ChunkState.DATA]) * count


def filled(keys: Sequence[bytes], key_size: int) -> DigestTable:
    table = DigestTable(key_size)
    table.claim(b"".join(keys), states_of(len(keys)))
    return table


@given(
    key_size=st.sampled_from(KEY_SIZES),
    batches=st.lists(st.lists(st.tuples(st.integers(0, 40), st.sampled_from(ChunkState)), max_size=30), max_size=6),
)
def test_claim_matches_set(key_size: int, batches: list[list[tuple[int, ChunkState]]]) -> None:
    table = DigestTable(key_size)
    known: set[bytes] = set()
    for batch in batches:
        keys = keys_of([number for number, _ in batch], key_size)
        states = bytearray(state for _, state in batch)
        expected = bytearray(states)
        fresh = 0
        for place, key in enumerate(keys):
            if states[place] == ChunkState.DATA:
                expected[place] = ChunkState.SEEN if key in known else ChunkState.NEW
                fresh += key not in known
                known.add(key)
        assert table.claim(b"".join(keys), states) == fresh
        assert states == expected
        assert len(table) == len(known)


@given(
    key_size=st.sampled_from(KEY_SIZES),
    held=st.lists(st.integers(0, 60), max_size=60),
    asked=st.lists(st.tuples(st.integers(0, 60), st.sampled_from(ChunkState)), max_size=60),
)
def test_mark_known_matches_set(key_size: int, held: list[int], asked: list[tuple[int, ChunkState]]) -> None:
    table = filled(keys_of(held, key_size), key_size)
    keys = keys_of([number for number, _ in asked], key_size)
    states = bytearray(state for _, state in asked)
    known = [state == ChunkState.DATA and number in held for number, state in asked]
    expected = [ChunkState.SEEN if hit else state for hit, (_, state) in zip(known, asked, strict=True)]
    assert table.mark_known(b"".join(keys), states) == sum(known)
    assert states == bytearray(expected)
    assert len(table) == len(set(held)), "looking up inserts nothing"


@given(
    key_size=st.sampled_from(KEY_SIZES),
    left=st.lists(st.integers(0, 200), max_size=300),
    right=st.lists(st.integers(0, 200), max_size=300),
)
def test_update_matches_set(key_size: int, left: list[int], right: list[int]) -> None:
    table, other = (filled(keys_of(numbers, key_size), key_size) for numbers in (left, right))
    assert table.update(other) == len(set(right) - set(left))
    assert len(table) == len({*left, *right})
    assert len(other) == len(set(right))
    union = keys_of([*left, *right], key_size)
    assert table.mark_known(b"".join(union), states_of(len(union))) == len(union)


@pytest.mark.parametrize("key_size", KEY_SIZES)
def test_update_with_itself_adds_nothing(key_size: int) -> None:
    """At every fill, also when the next insertion would make a shard grow under the loop that reads it."""
    for count in range(0, 4000, 37):
        table = filled(keys_of(range(count), key_size), key_size)
        assert table.update(table) == 0
        assert len(table) == count


@pytest.mark.parametrize("key_size", KEY_SIZES)
def test_zero_key_is_a_key(key_size: int) -> None:
    table = DigestTable(key_size)
    states = states_of(2)
    assert table.mark_known(bytes(2 * key_size), states) == 0
    assert table.claim(bytes(2 * key_size), states) == 1
    assert list(states) == [ChunkState.NEW, ChunkState.SEEN]
    assert len(table) == 1
    assert table.mark_known(bytes(key_size), states_of(1)) == 1
    assert table.mark_known(bytes(key_size - 1) + b"\1", states_of(1)) == 0


@pytest.mark.parametrize("key_size", KEY_SIZES)
def test_growth_keeps_every_key(key_size: int) -> None:
    count = 150_000
    keys = random.Random(key_size).randbytes(count * key_size)
    table = DigestTable(key_size)
    states = states_of(count)
    assert table.claim(keys, states) == count == len(table)
    assert states.count(ChunkState.NEW) == count
    again = states_of(count)
    assert table.mark_known(keys, again) == count
    strangers = random.Random(key_size + 1).randbytes(count * key_size)
    assert table.mark_known(strangers, states_of(count)) == 0


@pytest.mark.parametrize("key_size", KEY_SIZES)
def test_memory_stays_within_its_bounds(key_size: int) -> None:
    low, high = KNOWN_SIZES[key_size]
    chance = random.Random(3)
    table = DigestTable(key_size)
    while len(table) < 200_000:
        more = 1 + len(table) // 7
        table.claim(chance.randbytes(more * key_size), states_of(more))
        if len(table) > 5_000:
            assert low <= table.memory_bytes / len(table) <= high, len(table)


def test_empty_table_costs_nothing() -> None:
    table = DigestTable(32)
    assert len(table) == 0
    assert table.memory_bytes == 0


@pytest.mark.parametrize("key_size", KEY_SIZES)
def test_keys_of_one_home_slot_are_told_apart(key_size: int) -> None:
    """The worst an attacker can do: one shard, one home slot, differences in the bytes that no hash looks at."""
    count = 3000
    keys = [b"\x07" + number.to_bytes(7) + b"\xff" * (key_size - 8) for number in range(count)]
    table = DigestTable(key_size)
    assert table.claim(b"".join(keys), states_of(count)) == count
    assert table.claim(b"".join(keys), states_of(count)) == 0
    assert table.mark_known(b"\x07" + b"\xee" * 7 + b"\xff" * (key_size - 8), states_of(1)) == 0


@pytest.mark.parametrize("key_size", KEY_SIZES)
@pytest.mark.parametrize("shuffled", [False, True])
def test_claims_at_once_see_each_key_new_once(key_size: int, shuffled: bool) -> None:
    """In one order threads meet at the same slots, and while they grow; in several each is first somewhere."""
    threads, count = 3, 30_000
    keys = keys_of(range(count), key_size)
    for attempt in range(4):
        chance = random.Random(attempt)
        orders = [chance.sample(range(count), count) if shuffled else list(range(count)) for _ in range(threads)]
        results = claim_at_once(DigestTable(key_size), keys, orders)
        seen_new = [
            place
            for order, states in zip(orders, results, strict=True)
            for place, state in zip(order, states, strict=True)
            if state == ChunkState.NEW
        ]
        assert sorted(seen_new) == list(range(count))
        assert all(set(states) <= {ChunkState.NEW, ChunkState.SEEN} for states in results)


def claim_at_once(table: DigestTable, keys: Sequence[bytes], orders: Sequence[Sequence[int]]) -> list[bytearray]:
    """Claim all keys in a thread for each of `orders`, and return the states that each got."""
    start = threading.Barrier(len(orders))
    joined = [b"".join(keys[place] for place in order) for order in orders]
    results = [states_of(len(keys)) for _ in orders]

    def claim(number: int) -> None:
        start.wait()
        table.claim(joined[number], results[number])

    crew = [threading.Thread(target=claim, args=(number,)) for number in range(len(orders))]
    for member in crew:
        member.start()
    for member in crew:
        member.join()
    assert len(table) == len(keys)
    return results


@pytest.mark.parametrize("key_size", [-1, 0, 1, 15, 17, 24, 33, 64])
def test_other_key_sizes_are_refused(key_size: int) -> None:
    with pytest.raises(ValueError, match="16 or 32"):
        DigestTable(key_size)


@pytest.mark.parametrize(("digests", "states"), [(31, 1), (33, 1), (32, 2), (32, 0), (0, 1)])
def test_wrong_shapes_are_refused(digests: int, states: int) -> None:
    table = DigestTable(32)
    for call in (table.claim, table.mark_known):
        with pytest.raises(ValueError, match="bytes of digests"):
            call(bytes(digests), states_of(states))


def test_update_other_key_size_is_refused() -> None:
    with pytest.raises(ValueError, match="do not fit"):
        DigestTable(32).update(DigestTable(16))


def test_nothing_claims_nothing() -> None:
    assert DigestTable(16).claim(b"", bytearray()) == 0
