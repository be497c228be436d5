"""The picture and the table of what benchmarks reached."""

from __future__ import annotations

import json
from pathlib import Path
from xml.etree import ElementTree

import pytest

from benchmarks import picture
from benchmarks.report import is_reached, tables

SVG = "{http://www.w3.org/2000/svg}"


def row(
    ratio: float, sense: str = "at least", value: float = 2, goal: str | None = "as fast as <light>"
) -> dict[str, object]:
    found: dict[str, object] = {
        "name": "a", "rate": 3e9, "baseline": "b", "baseline_rate": None, "ratio": ratio, "ratio_best": ratio,
    }  # fmt: skip
    return found | ({} if goal is None else {"goal": goal, "goal_sense": sense, "goal_value": 2.0})


@pytest.mark.parametrize(
    ("ratio", "sense", "reached"),
    [(2, "at least", True), (1.9, "at least", False), (2, "at most", True), (2.1, "at most", False)],
)
def test_reached_depends_on_the_sense(ratio: float, sense: str, reached: bool) -> None:
    asked = row(ratio, sense)
    assert is_reached(asked) is reached
    assert ("missed" not in tables([asked])[2]) is reached


def test_picture_has_a_bar_for_each_goal_and_words_that_are_text() -> None:
    drawn = ElementTree.fromstring(picture.picture([row(4), row(1), row(9, goal=None), row(1, "at most")]))
    words = [element.text for element in drawn.iter(f"{SVG}text")]
    assert words[0] == "2 of 3 goals met"
    assert words.count("as fast as <light>") == 3
    assert "1.00 (≥ 2) missed" in words
    assert [bar.get("class") for bar in drawn.iter(f"{SVG}rect")] == ["met", "missed", "met"]
    assert (len(list(drawn.iter(f"{SVG}circle"))), len(list(drawn.iter(f"{SVG}path")))) == (2, 1)


@pytest.mark.parametrize(
    ("ratio", "sense", "far"),
    [
        (2, "at least", 0),
        (16, "at least", 1),
        (900, "at least", 1),
        (0.25, "at most", 1),
        (0, "at least", -1),
        (5.6569, "at most", -0.5),
    ],
)
def test_bars_go_to_the_good_side_and_no_further_than_the_scale(ratio: float, sense: str, far: float) -> None:
    assert picture.share(row(ratio, sense)) == pytest.approx(far, abs=1e-4)


def test_picture_of_a_file(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(json.dumps({"benchmarks": [{"extra_info": {}}, {"extra_info": row(3)}]}))
    assert picture.main([str(tmp_path / "a.json"), str(tmp_path / "a.svg")]) == 0
    assert "1 of 1 goals met" in (tmp_path / "a.svg").read_text()
    assert picture.main([]) == 2
