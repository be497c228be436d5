"""The choice of a compiled copy, for a kernel that has one for each instruction set.

The module that includes this has VARIANTS, the copies that this CPU runs, the fastest first, VARIANT_COUNT of them, and
CHOSEN, the one in use, and imports os.
"""


def choose_variant(name: str | None = None) -> str:
    """Choose the compiled copy to use: `name`, or the fastest that this CPU runs; return its name.

    Raises ValueError when this build or CPU has no such copy. Only tests and benchmarks have a reason to call it.
    """
    global CHOSEN
    cdef int i
    for i in range(VARIANT_COUNT):
        if name is None or VARIANTS[i].name.decode() == name:
            CHOSEN = VARIANTS[i]
            return CHOSEN.name.decode()
    raise ValueError(f"DATAPLANE_CPU={name}: this machine runs {', '.join(variants())}")


def variants() -> list[str]:
    """Return the names of the copies that this CPU can run, the fastest first."""
    return [VARIANTS[i].name.decode() for i in range(VARIANT_COUNT)]


def chosen_variant() -> str:
    """Return the name of the copy in use."""
    return CHOSEN.name.decode()


choose_variant(os.environ.get("DATAPLANE_CPU") or None)
