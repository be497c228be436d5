"""What a window keeps mapped of a file."""

cdef extern from "mapping.h":
    ctypedef struct dp_mapping:
        pass
