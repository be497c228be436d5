"""The gate against getting slower: instructions of kernels and of a small import beside those that were kept.

When one of these fails on purpose, ``python -m benchmarks.instructions --keep`` keeps the new counts, and the commit
says why they changed.
"""

from __future__ import annotations

import json

import pytest

from benchmarks.instructions import CASES, KEPT, count, environment

CHANGE_MAX = {"small_import": 0.10}
"""By how much a count may grow; an import waits for disks and threads, and polls meanwhile."""


def test_every_case_works_and_has_a_count() -> None:
    for case in CASES.values():
        case()()
    assert set(json.loads(KEPT.read_text())["counts"]) == set(CASES)


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_case_takes_no_more_instructions_than_before(case: str) -> None:
    kept = json.loads(KEPT.read_text())
    here = environment()
    if here != kept["environment"]:
        different = [f"{name} {here.get(name)}" for name in here if here[name] != kept["environment"].get(name)]
        pytest.skip(f"counts were kept with another environment: {', '.join(different)}")
    change = count(case) / kept["counts"][case] - 1
    assert change <= CHANGE_MAX.get(case, 0.03), f"{case} takes {change:+.1%} instructions"
