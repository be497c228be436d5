"""The gear kernel's code for AVX-512 beside its slow twin, on machines that have no such instructions."""

from __future__ import annotations

import ctypes
import random
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from dataplane.engine import gear
from tests.native.test_gear import content
from tests.oracles import cdc as oracle

ROOT = Path(__file__).resolve().parents[2]
Places = list[tuple[int, int]]

BUILD = """
#define __AVX512BW__ 1
#undef __AVX2__
#include "avx512_scalar.h"
#define GEAR_VARIANT emulated
#include "gear_kernel.h"
"""


@pytest.fixture(scope="module")
def emulated(tmp_path_factory: pytest.TempPathFactory) -> Callable[[bytes, int], Places]:
    """Return the kernel, compiled with the instructions it names written out in C."""
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("no C compiler here")
    library = tmp_path_factory.mktemp("gear") / "gear.so"
    flags = ["-O1", "-Wall", "-Werror", "-fsanitize=undefined,bounds", "-fno-sanitize-recover=all", "-shared", "-fPIC"]
    includes = [f"-I{ROOT / 'ext'}", f"-I{ROOT / 'tests' / 'native'}"]
    subprocess.run(
        [compiler, *flags, *includes, "-x", "c", "-", "-o", str(library)], input=BUILD, text=True, check=True
    )
    function = ctypes.CDLL(str(library)).dp_gear_find_emulated
    function.restype = ctypes.c_size_t
    function.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_void_p, ctypes.c_void_p)

    def find(data: bytes, shift: int) -> Places:
        """Search `data`, which begins `shift` bytes behind a cache line."""
        room = ctypes.create_string_buffer(len(data) + 128)
        start = ctypes.addressof(room) + (-ctypes.addressof(room) & 63) + shift
        ctypes.memmove(start, data, len(data))
        length = len(data) - gear.CONTEXT
        most = length // gear.PLACES_EVERY + 2
        places, bits = (ctypes.c_uint32 * most)(), (ctypes.c_uint8 * most)()
        count = function(start + gear.CONTEXT, length, places, bits)
        return [(places[i] + gear.CONTEXT, bits[i]) for i in range(count)]

    return find


@pytest.mark.parametrize("fill", ["random", "few", "pattern", "one"])
def test_emulated_avx512_matches_oracle(emulated: Callable[[bytes, int], Places], fill: str) -> None:
    """Lengths around those at which the vectors' blocks begin and end, and any others, at every alignment."""
    chance = random.Random(fill)
    lengths = [0, 1, 4096, 8127, 8128, 8129, 16319, 16320, 16321, *(chance.randrange(30_000) for _ in range(24))]
    for number, length in enumerate(lengths):
        data = content(number, gear.CONTEXT + length, fill)
        assert emulated(data, number * 13 % 64) == oracle.places(data, gear.CONTEXT), (number, length)


def test_emulated_avx512_matches_the_compiled_copies(emulated: Callable[[bytes, int], Places]) -> None:
    """Much more than plain Python can look at."""
    data = random.Random(9).randbytes(gear.CONTEXT + (4 << 20))
    places, bits = gear.find(data)
    assert emulated(data, 7) == list(zip(places.tolist(), bits, strict=True))
