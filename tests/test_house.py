"""What every part of the tree owes the rest: docstrings, stubs, sizes, and the words a newcomer needs."""

from __future__ import annotations

import ast
import importlib
import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
KERNELS = sorted(path.stem for path in (ROOT / "ext").glob("*.pyx"))
LINES_MAX = 500


def sources(*suffixes: str) -> Iterator[Path]:
    """Yield our own files with these suffixes; nothing generated, built or installed."""
    for folder in ("dataplane", "service", "ext", "tests", "benchmarks", ".ci"):
        for path in sorted((ROOT / folder).rglob("*")):
            if path.suffix in suffixes and "_pb" not in path.parts and path.is_file():
                yield path


def test_package_docstring_is_one_sentence() -> None:
    wrong = []
    for path in sources(".py"):
        if path.name == "__init__.py":
            text = ast.get_docstring(ast.parse(path.read_text())) or ""
            if not re.fullmatch(r"[A-Z`][^\n]*[^.\s]\.", text.partition("\n\n")[0].replace("\n", " ")):
                wrong.append(f"{path.relative_to(ROOT)}: {text!r}")
    assert wrong == []


def test_every_module_says_what_it_is() -> None:
    ours = [path for path in sources(".py") if "tests" not in path.parts and path.name != "__main__.py"]
    wrong = [str(path) for path in ours if not ast.get_docstring(ast.parse(path.read_text()))]
    directives = re.compile(r"(# cython: .*\n)*")  # Cython takes them above everything else only
    wrong += [str(path) for path in sources(".pyx") if not directives.sub("", path.read_text(), 1).startswith('"""')]
    assert wrong == []


def test_every_python_file_defers_annotations() -> None:
    line = "from __future__ import annotations"
    ours = [path for path in sources(".py") if path.name not in ("__init__.py", "__main__.py")]
    wrong = [str(path) for path in ours if line not in path.read_text()]
    assert wrong == []


def test_stubs_are_what_the_kernels_have(tmp_path: Path) -> None:
    """Names, methods and parameters, both ways, as mypy's own comparison sees them."""
    allowed = tmp_path / "allowed"
    allowed.write_text(
        r"dataplane\._native\.\w+\.__(reduce_cython|setstate_cython|test|pyx_capi)__" + "\n"  # Cython's own
        r"dataplane\._native\.\w+\.\w+\.__(init|reduce_cython|setstate_cython)__" + "\n"
    )
    options = ["--concise", "--ignore-disjoint-bases", "--ignore-unused-allowlist", "--allowlist", allowed]
    run_quietly([sys.executable, "-m", "mypy.stubtest", "dataplane._native", *options])


@pytest.mark.parametrize("kernel", KERNELS)
def test_kernel_says_what_it_is(kernel: str) -> None:
    assert importlib.import_module(f"dataplane._native.{kernel}").__doc__


def test_stubs_without_a_kernel_are_gone() -> None:
    assert sorted(path.stem for path in (ROOT / "dataplane" / "_native").glob("*.pyi")) == KERNELS


@pytest.mark.parametrize("package", ["dataplane", "service"])
def test_package_is_typed(package: str) -> None:
    assert (ROOT / package / "py.typed").is_file()


def test_no_file_holds_two_ideas() -> None:
    lengths = {path: len(path.read_text().splitlines()) for path in sources(".py", ".pyx", ".pxd", ".c", ".h")}
    assert {str(path.relative_to(ROOT)): count for path, count in lengths.items() if count > LINES_MAX} == {}


def test_readme_names_the_two_commands() -> None:
    first_screen = "".join((ROOT / "README.md").read_text().splitlines(keepends=True)[:40])
    assert "make demo" in first_screen
    assert "make test" in first_screen


def test_readme_verbs_exist() -> None:
    shown = set(re.findall(r"^(?:\$ )?dataplane ([a-z]+)\b", (ROOT / "README.md").read_text(), re.M))
    helped = run_quietly([sys.executable, "-m", "dataplane.cli.main", "--help"]) if shown else ""
    assert {verb for verb in shown if not re.search(rf"\b{verb}\b", helped)} == set()
    assert shown >= {"init", "import", "export", "ls", "stat", "rm", "measure", "doctor", "serve", "image"}


def test_changelog_has_this_version() -> None:
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    changes = (ROOT / "CHANGELOG.md").read_text()
    assert "## [Unreleased]" in changes
    assert f"## [{version}]" in changes or "### Added" in changes


def test_contributing_builds_and_tests_in_three_commands() -> None:
    text = (ROOT / "CONTRIBUTING.md").read_text()
    first_block = text.split("```")[1].partition("\n")[2].strip().splitlines()
    assert 1 <= len(first_block) <= 3
    assert first_block[-1].startswith("make test")


def test_licence_is_the_one_declared() -> None:
    assert tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["license"] == "Apache-2.0"
    text = (ROOT / "LICENSE").read_text()
    assert "Apache License" in text
    assert "END OF TERMS AND CONDITIONS" in text


def test_make_lists_its_targets() -> None:
    listed = run_quietly(["make", "--no-print-directory", "help"])
    assert re.findall(r"make ([a-z-]+)", listed) == [
        "help",
        "setup",
        "demo",
        "demo-boot",
        "test",
        "test-slow",
        "lint",
        "bench",
        "bench-peers",
        "fuzz",
        "clean",
    ]


@pytest.mark.slow
def test_clean_environment_installs_and_imports(tmp_path: Path) -> None:
    """``pip install .`` from a copy of the tree, in an environment of its own that knows nothing of this one."""
    tree, store, disk = tmp_path / "tree", tmp_path / "store", tmp_path / "disk.raw"
    ignored = shutil.ignore_patterns(".*", "build", "*.so", "*.egg-info", "_pb", "__pycache__")
    shutil.copytree(ROOT, tree, ignore=ignored)
    run_quietly([sys.executable, "-m", "venv", tmp_path / "venv"])
    programs = tmp_path / "venv" / "bin"
    run_quietly([programs / "python", "-m", "pip", "install", "--quiet", "--disable-pip-version-check", tree])
    disk.write_bytes(bytes(1 << 20) + os.urandom(1 << 20))

    dataplane = programs / "dataplane"
    assert run_quietly([dataplane, "--version"], cwd=tmp_path).strip()
    assert run_quietly([dataplane, "doctor"], cwd=tmp_path).strip()
    run_quietly([dataplane, "init", store], cwd=tmp_path)
    imported = json.loads(run_quietly([dataplane, "import", store, disk, "--name", "disk", "--json"], cwd=tmp_path))
    assert (imported["virtual_size"], imported["data_size"]) == (2 << 20, 1 << 20)
    assert "READY" in run_quietly([programs / "python", "-c", READ_A_SERVICE_STUB], cwd=tmp_path)


READ_A_SERVICE_STUB = "from service._pb.yandex.cloud.compute.v1 import image_pb2; print(image_pb2.Image.Status.keys())"


def run_quietly(command: list[object], cwd: Path = ROOT) -> str:
    """Run a command that has to succeed and return its standard output; without this environment's switches."""
    environment = {
        key: value for key, value in os.environ.items() if not key.startswith(("DATAPLANE_", "PYTHON", "MAKE"))
    }
    done = subprocess.run(
        [str(word) for word in command], capture_output=True, text=True, cwd=cwd, env=environment, check=False
    )
    assert done.returncode == 0, f"{' '.join(map(str, command))}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    return done.stdout
