"""Parsers have no recursion and no endless loops: an image cannot choose how deep or how long they go."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
WRITERS = {"qcow2_layout.py"}
PARSERS = [
    path
    for path in sorted([*ROOT.glob("dataplane/formats/*.py"), *ROOT.glob("ext/*_map.pyx")])
    if path.name not in WRITERS
]

Function = ast.FunctionDef | ast.AsyncFunctionDef


def cycles(source: str) -> set[str]:
    """Return the functions of a module that call themselves, by way of each other as well."""
    calls: dict[str, set[str]] = {}
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, Function):
            called = calls.setdefault(node.name, set())
            for inner in ast.walk(node):
                if not isinstance(inner, ast.Call):
                    continue
                if isinstance(inner.func, ast.Name):
                    called.add(inner.func.id)
                elif isinstance(inner.func, ast.Attribute) and isinstance(inner.func.value, ast.Name):
                    called |= {inner.func.attr} if inner.func.value.id == "self" else set()
    reached = {name: called & calls.keys() for name, called in calls.items()}
    for _ in calls:
        reached = {name: found.union(*(reached[other] for other in found)) for name, found in reached.items()}
    return {name for name, found in reached.items() if name in found}


@pytest.mark.parametrize("path", PARSERS, ids=[path.name for path in PARSERS])
def test_parser_has_no_recursion_and_no_endless_loop(path: Path) -> None:
    source = path.read_text()
    assert "while True" not in source
    assert "while 1" not in source
    if path.suffix == ".py":
        assert cycles(source) == set()


def test_recursion_would_be_found() -> None:
    assert cycles("def f():\n    g()\ndef g():\n    h()\ndef h():\n    f()\ndef free():\n    f()\n") == {"f", "g", "h"}
    assert cycles("class A:\n    def f(self):\n        self.f()\n") == {"f"}
