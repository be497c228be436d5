"""Imports point down, native modules have one door, and starting up imports nothing heavy."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Collection, Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

GROUND_FLOOR = ("hints", "dataclass", "errors", "limits", "extent", "byte_reader", "image_source")

# A package may import those of lower rank and itself; packages of one rank do not know each other.
RANKS = {
    **{f"dataplane.{module}": 0 for module in GROUND_FLOOR},
    "dataplane._native": 1,
    "dataplane.engine": 2,
    "dataplane.readers": 3,
    "dataplane.formats": 4,
    "dataplane.store": 4,
    "dataplane.ingest": 5,
    "dataplane.analysis": 6,
    "dataplane.upkeep": 6,
    "dataplane.disks": 6,
    "dataplane.nbd": 7,
    "dataplane": 8,  # the public names, which __init__.py fetches from everywhere below
    "dataplane.cli": 9,
    "dataplane.__main__": 10,
    "service": 11,
}

SERVICE_MAY_USE = ("dataplane", "dataplane.errors", "dataplane.limits")
CONTROL_PLANE = (
    *("service", "grpc", "grpc_health", "grpc_reflection", "google", "sqlalchemy", "cryptography"),
    *("jwt", "prometheus_client", "opentelemetry", "starlette", "uvicorn"),
)
HEAVY = (
    *("inspect", "dataclasses", "typing", "locale", "shutil", "subprocess", "tempfile", "logging", "argparse"),
    "numpy",
    "sqlite3",
    "grpc",
    "urllib3",
    "sqlalchemy",
    "google.protobuf",
    "cryptography",
    "asyncio",
    "multiprocessing",
)


def test_every_package_and_module_has_a_place() -> None:
    found = {
        f"dataplane.{path.stem}" for path in (ROOT / "dataplane").iterdir() if path.suffix == ".py" or is_package(path)
    }
    assert found - {"dataplane.__init__"} - RANKS.keys() == set()


def test_imports_point_down() -> None:
    wrong = [
        f"{module} imports {target}"
        for module, target in imports_of("dataplane")
        if target.split(".")[0] == "dataplane" and not may_import(module, target)
    ]
    assert wrong == []


def test_ground_floor_is_standard_library_only() -> None:
    wrong = [
        f"{module} imports {target}"
        for module, target in imports_of("dataplane")
        if layer_of(module)[1] == 0 and target.split(".")[0] not in {*sys.stdlib_module_names, "dataplane"}
    ]
    assert wrong == []


def test_library_knows_nothing_of_the_control_plane() -> None:
    wrong = [
        f"{module} imports {target}" for module, target in imports_of("dataplane") if within(target, CONTROL_PLANE)
    ]
    assert wrong == []


def test_service_uses_public_names_only() -> None:
    public = public_names()
    wrong = []
    for module, target in imports_of("service"):
        owner, _, name = target.rpartition(".")
        if target.split(".")[0] != "dataplane" or target in SERVICE_MAY_USE or owner in SERVICE_MAY_USE[1:]:
            continue
        if owner != "dataplane" or name not in public:
            wrong.append(f"{module} imports {target}")
    assert wrong == []


def test_no_package_outside_the_service_knows_it() -> None:
    folders = [folder for folder in ("dataplane", "ext") if (ROOT / folder).exists()]
    sources = [path for folder in folders for path in (ROOT / folder).rglob("*.p[yx]*")]
    wrong = [
        str(path) for path in sources if re.search(rb"^\s*(from|import|cimport) service\b", path.read_bytes(), re.M)
    ]
    assert wrong == []


def test_native_module_has_one_door() -> None:
    doors: dict[str, set[str]] = {path.stem: set() for path in (ROOT / "ext").glob("*.pyx")}
    for package in ("dataplane", "service"):
        for module, target in imports_of(package):
            match = re.match(r"dataplane\._native\.(\w+)", target)
            if match:
                doors.setdefault(match[1], set()).add(module)
    assert {name: len(modules) for name, modules in doors.items() if len(modules) != 1} == {}, doors
    assert [door for modules in doors.values() for door in modules if not door.startswith("dataplane.engine.")] == []


def test_native_modules_cimport_without_cycles() -> None:
    cimports = {
        path.stem: set(re.findall(r"^\s*from dataplane\._native\.(\w+) cimport", path.read_text(), re.M)) - {path.stem}
        for path in (ROOT / "ext").glob("*.pyx")
    }
    while leaves := [name for name, needed in cimports.items() if not needed & cimports.keys()]:
        for name in leaves:
            del cimports[name]
    assert cimports == {}


@pytest.mark.parametrize("program", ["import dataplane", "from dataplane.cli.main import main; main(['--version'])"])
def test_start_imports_nothing_heavy(program: str) -> None:
    report = f"""
import sys
try:
    {program}
except SystemExit as stopped:
    assert not stopped.code, stopped.code
print([name for name in {HEAVY!r} if name in sys.modules], file=sys.stderr)
"""
    done = subprocess.run([sys.executable, "-c", report], capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.stderr.strip() == "[]"


LEDGER_ONLY = {*HEAVY, "dataplane.store.pack", "dataplane.store.runs", "dataplane._native.runs"} - {"sqlite3"}
NEEDLESS: dict[str, Collection[str]] = {
    "measure DISK --codec none": {
        *HEAVY,
        "re",
        "pathlib",
        "urllib",
        "json",
        "dataplane.store",
        "dataplane.ingest.feed",
    },
    "measure DISK": {*HEAVY, "pathlib", "urllib", "dataplane.ingest.prefetch"},
    "import STORE DISK --name another": {*HEAVY, "dataplane.ingest.prefetch"} - {"sqlite3", "shutil", "tempfile"},
    "export STORE disk -": {*HEAVY} - {"sqlite3", "shutil"},
    "diff STORE disk disk": {*HEAVY, "random"} - {"sqlite3", "shutil"},
    "verify STORE": {*HEAVY, "secrets", "random"} - {"sqlite3", "shutil"},
    "ls STORE": LEDGER_ONLY,
    "stat STORE": LEDGER_ONLY,
    "stat STORE disk": LEDGER_ONLY,
}
"""What a verb has to do without, each of them a few per cent of all the time it has: see benchmarks/bench_start.py."""


@pytest.mark.parametrize("line", NEEDLESS)
def test_verb_loads_nothing_needless(tmp_path: Path, line: str) -> None:
    places = {"DISK": str(tmp_path / "disk"), "STORE": str(tmp_path / "store")}
    (tmp_path / "disk").write_bytes(bytes(range(256)) * 4096)
    for made in (["init", "STORE"], ["import", "STORE", "DISK", "--name", "disk"], ["stat", "STORE"]):
        assert modules_after([places.get(word, word) for word in made])
    loaded = modules_after([places.get(word, word) for word in line.split()])
    assert sorted(loaded.intersection(NEEDLESS[line])) == []


@pytest.mark.parametrize("verb", ["map", "tune"])
def test_numpy_waits_until_the_disk_was_read(tmp_path: Path, verb: str) -> None:
    disk = tmp_path / "disk"
    disk.write_bytes(bytes(range(256)) * (64 << 12))
    program = f"""
import os, sys
from dataplane.cli.main import main
class Watch:
    def find_spec(self, name, path, target=None):
        if name == "numpy":
            counters = dict(line.split(": ") for line in open("/proc/self/io").read().splitlines())
            print("read before numpy:", counters["rchar"], file=sys.stderr)
sys.meta_path.insert(0, Watch())
sys.stdout = open(os.devnull, "w")
sys.exit(main([{verb!r}, {str(disk)!r}]))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOT, check=True)
    (count,) = re.findall(r"read before numpy: (\d+)", done.stderr)
    # Of what is mapped nothing counts, but 8 MiB are read to see which is quicker.
    assert int(count) > 8 << 20


def modules_after(words: list[str]) -> set[str]:
    """Run a verb in a process of its own and return what it had loaded at its end."""
    program = f"""
import os, sys
from dataplane.cli.main import main
sys.stdout = open(os.devnull, "w")
os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
code = main({words!r})
print(*sys.modules, file=sys.stderr)
sys.exit(code)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOT, check=True)
    return set(done.stderr.splitlines()[-1].split())


def test_rules_notice_an_arrow_that_points_up() -> None:
    assert not may_import("dataplane.store.pack", "dataplane.ingest.pipeline")
    assert not may_import("dataplane.store.pack", "dataplane.formats.raw")
    assert not may_import("dataplane.engine.scan", "dataplane.readers.file")
    assert not may_import("dataplane.errors", "dataplane.engine.scan")
    assert not may_import("dataplane.ingest.pipeline", "dataplane")
    assert may_import("dataplane.formats.raw", "dataplane.engine.blockio")
    assert may_import("dataplane.formats.qcow2", "dataplane.formats.qcow2_tables")
    assert may_import("dataplane.cli.main", "dataplane.Store")


def may_import(module: str, target: str) -> bool:
    """Return True when `target` lies in the layer of `module` or below; the ground floor's modules know each other."""
    own_layer, own_rank = layer_of(module)
    layer, rank = layer_of(target)
    return rank < own_rank or layer == own_layer or own_rank == rank == 0


def layer_of(name: str) -> tuple[str, int]:
    """Return the longest entry of RANKS that holds `name` (a module, or a name in one), with its rank."""
    while name not in RANKS:
        assert "." in name, f"{name} has no place in RANKS"
        name = name.rpartition(".")[0]
    return name, RANKS[name]


def within(target: str, packages: tuple[str, ...]) -> bool:
    """Return True when `target` is one of `packages` or lies in one."""
    return any(target == package or target.startswith(f"{package}.") for package in packages)


def imports_of(package: str) -> Iterator[tuple[str, str]]:
    """Yield (module, dotted name it imports) for every import in `package`, wherever it stands in a file.

    ``from a.b import c`` is ``a.b.c``: whether c is a module or a name in one, its layer is the same. A package that
    is written as a string for a lazy import counts too.
    """
    for path in sorted((ROOT / package).rglob("*.py")):
        if "_pb" in path.parts:
            continue
        parts = path.relative_to(ROOT).with_suffix("").parts
        module = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        folder = parts[:-1]
        for node in ast.walk(ast.parse(path.read_text(), str(path))):
            if isinstance(node, ast.Import):
                yield from ((module, alias.name) for alias in node.names)
            elif isinstance(node, ast.ImportFrom):
                above = folder[: len(folder) - node.level + 1] if node.level else ()
                origin = ".".join([*above, *([node.module] if node.module else [])])
                yield from ((module, f"{origin}.{alias.name}") for alias in node.names)
            elif isinstance(node, ast.Constant) and isinstance(node.value, str) and is_module(node.value):
                yield module, node.value


def is_package(path: Path) -> bool:
    """Return True for a folder of Python modules."""
    return (path / "__init__.py").exists()


def is_module(value: str) -> bool:
    """Return True for the dotted name of a module of the library, as lazy imports write it."""
    if not re.fullmatch(r"dataplane(\.\w+)+", value):
        return False
    path = ROOT / value.replace(".", "/")
    return path.is_dir() or path.with_suffix(".py").exists()


def public_names() -> set[str]:
    """Return what ``dataplane/__init__.py`` exposes."""
    import dataplane

    return set(getattr(dataplane, "__all__", ())) | {name for name in vars(dataplane) if not name.startswith("_")}
