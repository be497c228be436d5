"""Builds the native kernels of ext/ and the protobuf stubs of proto/; everything else is in pyproject.toml.

Switches, as environment variables: DATAPLANE_DEBUG=1 (no optimisation, assertions, bounds checks),
DATAPLANE_ANNOTATE=1 (Cython's HTML beside each source), DATAPLANE_SANITIZE=1 (AddressSanitizer and UBSan).
"""

import os
import platform
import re
import subprocess
import sys
import sysconfig
from pathlib import Path
from shutil import which

from Cython.Build import cythonize
from setuptools import Extension, find_packages, setup
from setuptools.command.build_clib import build_clib
from setuptools.command.build_ext import build_ext
from setuptools.command.build_py import build_py

ROOT = Path(__file__).resolve().parent
os.chdir(ROOT)
DEBUG = os.environ.get("DATAPLANE_DEBUG") == "1"
ANNOTATE = os.environ.get("DATAPLANE_ANNOTATE") == "1"
SANITIZE = os.environ.get("DATAPLANE_SANITIZE") == "1"
X86_64 = platform.machine().lower() in ("x86_64", "amd64")
ARM64 = platform.machine().lower() in ("aarch64", "arm64")

CFLAGS = ["-O0", "-g3", "-UNDEBUG"] if DEBUG else ["-O3", "-g1"]
CFLAGS += ["-fno-strict-aliasing", "-fvisibility=hidden", "-Wall", "-Wno-unused-function", "-Wno-unused-variable"]
LDFLAGS = []
if SANITIZE:
    CFLAGS += ["-fsanitize=address,undefined", "-fno-omit-frame-pointer", "-fno-sanitize-recover=undefined"]
    LDFLAGS += ["-fsanitize=address,undefined"]

HEADERS = {
    "stdlib.h": "libc6-dev",
    "Python.h": "python3-dev",
    "xxhash.h": "libxxhash-dev",
    "zstd.h": "libzstd-dev",
    "libdeflate.h": "libdeflate-dev",
}

KERNELS = {  # native module: libraries it links
    "allocation": [],
    "batches": [],
    "block_map": [],
    "blockio": [],
    "cluster_map": [],
    "codec": ["zstd", "deflate"],
    "counts": [],
    "cpu": ["zstd", "deflate"],
    "cutter": [],
    "fold": [],
    "gear": [],
    "grain_map": [],
    "packs": [],
    "pieces": [],
    "plan": [],
    "run_builder": [],
    "run_merge": [],
    "runs": [],
    "scan": [],
    "survey": [],
    "table": [],
    "sweep": [],
    "walk": [],
    "window": [],
}


def blake3_library():
    """The official C sources of BLAKE3 with their assembly, as a static library; None where pkg-config knows it."""
    if which("pkg-config") and subprocess.run(["pkg-config", "--exists", "libblake3"], check=False).returncode == 0:
        return None
    folders = [path.parent for path in sorted(Path("/usr/share/cargo/registry").glob("blake3-*/c/blake3.c"))]
    if not folders:
        sys.exit("dataplane: the C sources of BLAKE3 are missing: install libblake3-dev, or librust-blake3-dev")
    folder = folders[-1]
    sources = [folder / "blake3.c", folder / "blake3_dispatch.c", folder / "blake3_portable.c"]
    if X86_64:
        sources += [folder / f"blake3_{isa}_x86-64_unix.S" for isa in ("sse2", "sse41", "avx2", "avx512")]
    elif ARM64:
        sources += [folder / "blake3_neon.c"]
    flags = ["-O3", "-fvisibility=hidden"]
    return {"sources": [str(source) for source in sources], "include_dirs": [str(folder)], "cflags": flags}


def static_libraries():
    """XXH3, the zero test and the gear hash compiled once for each instruction set, and BLAKE3."""
    variants = {"baseline": []}
    if X86_64:
        variants |= {"avx2": ["-mavx2"], "avx512": ["-mavx512f", "-mavx512bw", "-mavx512vl"]}
    libraries = [
        (f"dp_{kernel}_{isa}", {"sources": [f"ext/{kernel}_{isa}.c"], "cflags": [*CFLAGS, *flags, *more]})
        for kernel, more in {"scan": [], "gear": ["-funroll-loops"]}.items()
        for isa, flags in variants.items()
    ]
    blake3 = blake3_library()
    if blake3 is not None:
        libraries.append(("dp_blake3", blake3))
    return libraries


LIBRARIES = static_libraries()
BLAKE3_INCLUDES = [folder for name, build in LIBRARIES for folder in build.get("include_dirs", [])]


def extensions():
    """One extension for each kernel in ext/, named apart from its folder."""
    system_blake3 = [] if BLAKE3_INCLUDES else ["blake3"]
    return [
        Extension(
            f"dataplane._native.{name}",
            [f"ext/{name}.pyx"],
            include_dirs=["ext", *BLAKE3_INCLUDES],
            libraries=[*libraries, *(system_blake3 if name in ("scan", "cpu") else [])],
            extra_compile_args=CFLAGS,
            extra_link_args=LDFLAGS,
            depends=[
                "setup.py",
                *sorted(str(path) for end in ("[ch]", "pxi") for path in Path("ext").glob(f"*.{end}")),
            ],
        )
        for name, libraries in KERNELS.items()
        if (ROOT / f"ext/{name}.pyx").exists()
    ]


class BuildLibraries(build_clib):
    """Lets static libraries hold assembly, and says which package brings a missing header."""

    def build_libraries(self, libraries):
        if ".S" not in self.compiler.src_extensions:
            self.compiler.src_extensions.append(".S")
        self.check_headers()
        super().build_libraries(libraries)

    def check_headers(self):
        if which(self.compiler.compiler_so[0]) is None:
            sys.exit(f"dataplane: the C compiler {self.compiler.compiler_so[0]} is missing (Debian package gcc)")
        missing = []
        for header, package in HEADERS.items():
            probe = subprocess.run(
                [*self.compiler.compiler_so, *(f"-I{d}" for d in self.python_includes()), "-E", "-x", "c", "-"],
                input=f"#include <{header}>\n",
                text=True,
                capture_output=True,
                check=False,
            )
            if probe.returncode:
                missing.append(f"{header} (Debian package {package})")
        if missing:
            sys.exit("dataplane: headers are missing: " + ", ".join(missing))

    @staticmethod
    def python_includes():
        return {sysconfig.get_path("include"), sysconfig.get_path("platinclude")}


class BuildExtensions(build_ext):
    """Cythonizes at build time, so that asking for metadata needs no compiler."""

    def finalize_options(self):
        self.distribution.ext_modules = cythonize(
            self.distribution.ext_modules,
            include_path=["ext", "."],
            build_dir="build/cython",
            annotate=ANNOTATE,
            compiler_directives={
                "language_level": 3,
                "boundscheck": DEBUG,
                "wraparound": False,
                "initializedcheck": DEBUG,
                "cdivision": True,
                "embedsignature": True,
            },
        )
        super().finalize_options()
        self.parallel = self.parallel or os.cpu_count()


class BuildPython(build_py):
    """Generates service/_pb before Python files are collected."""

    def run(self):
        generate_stubs(ROOT / "proto", ROOT / "service" / "_pb")
        # In a fresh tree the stubs' packages were not there yet when the list of packages was made.
        self.packages = sorted({*self.packages, *find_packages(str(ROOT), include=["service._pb", "service._pb.*"])})
        super().run()


def generate_stubs(protos, target):
    """Compile every .proto under `protos` into `target`, importing each other as ``service._pb.…``."""
    sources = sorted(str(path.relative_to(protos)) for path in protos.rglob("*.proto"))
    if not sources:
        return
    import google.rpc
    import grpc_tools
    from grpc_tools import protoc

    includes = [protos, Path(grpc_tools.__file__).parent / "_proto", Path(google.rpc.__path__[0]).parents[1]]
    target.mkdir(parents=True, exist_ok=True)
    outputs = [f"--{kind}_out={target}" for kind in ("python", "grpc_python", "mypy", "mypy_grpc")]
    os.environ["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"  # protoc-gen-mypy
    if protoc.main(["protoc", *(f"-I{path}" for path in includes), *outputs, *sources]) != 0:
        sys.exit("dataplane: protoc failed on " + ", ".join(sources))
    packages = "|".join(sorted({path.split("/")[0] for path in sources}))
    for path in [*target.rglob("*.py"), *target.rglob("*.pyi")]:
        text = path.read_text()
        text = re.sub(rf"^(\s*)from ({packages})\b", r"\1from service._pb.\2", text, flags=re.M)
        text = re.sub(rf"^(\s*)import ({packages})\.([\w.]+)$", r"\1import service._pb.\2.\3", text, flags=re.M)
        if path.suffix == ".pyi":
            text = re.sub(rf"(?<![\w.])({packages})\.(?=[\w.]*_pb2)", r"service._pb.\1.", text)
            text = text.replace("service._pb.service._pb.", "service._pb.")
            # Abstract only for type checkers: the generated base answers UNIMPLEMENTED.
            text = re.sub(r"^ *@abc\.abstractmethod\n", "", text, flags=re.M)
        path.write_text(text)
    for folder in [target, *(path for path in target.rglob("*") if path.is_dir() and path.name != "__pycache__")]:
        (folder / "__init__.py").write_text('"""Generated from proto/ at build time."""\n')


setup(
    ext_modules=extensions(),
    libraries=LIBRARIES,
    cmdclass={"build_clib": BuildLibraries, "build_ext": BuildExtensions, "build_py": BuildPython},
)
