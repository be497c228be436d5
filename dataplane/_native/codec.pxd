"""What other kernels use of the codec."""

from libc.stdint cimport int64_t, uint8_t

from libdeflate cimport libdeflate_decompressor
from zstd cimport ZSTD_DCtx

cpdef enum Codec:  # the values of dataplane.extent.ExtentCodec
    RAW = 0
    DEFLATE = 1
    ZLIB = 2
    ZSTD = 3

cdef class Decoder:
    cdef ZSTD_DCtx* zstd
    cdef libdeflate_decompressor* deflate
    # Decode exactly target_length bytes from at most source_length; bytes behind the stream are ignored. True when it
    # worked.
    cdef bint decode(self, int codec, const uint8_t* source, int64_t source_length,
                     uint8_t* target, int64_t target_length) noexcept nogil
