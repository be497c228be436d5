"""The codec: zstd in both directions and inflate, many chunks at a call, every output bounded before it is written."""

from libc.stdint cimport int64_t, uint8_t, uint32_t
from libc.string cimport memcpy

from libdeflate cimport LIBDEFLATE_SUCCESS, libdeflate_alloc_decompressor, libdeflate_deflate_decompress_ex, \
    libdeflate_free_decompressor, libdeflate_zlib_decompress_ex
from zstd cimport ZSTD_CCtx, ZSTD_CCtx_setParameter, ZSTD_c_compressionLevel, ZSTD_compress2, ZSTD_createCCtx, \
    ZSTD_createDCtx, ZSTD_decompressDCtx, ZSTD_findFrameCompressedSize, ZSTD_freeCCtx, ZSTD_freeDCtx, ZSTD_isError, \
    ZSTD_maxCLevel, ZSTD_minCLevel

from dataplane._native.scan cimport NEW

LEVEL_MIN = max(ZSTD_minCLevel(), -50)
LEVEL_MAX = ZSTD_maxCLevel()


cdef class Encoder:
    """One thread's compressor. Not safe for concurrent use.

    `level` is a zstd level from LEVEL_MIN to LEVEL_MAX, or None to store everything as it is. A chunk that zstd does
    not make smaller is stored as it is, so an encoded chunk is never longer than the plain one, and equal lengths
    mean raw.
    """

    cdef ZSTD_CCtx* zstd

    def __cinit__(self, level: int | None):
        if level is None:
            return
        if not LEVEL_MIN <= level <= LEVEL_MAX:
            raise ValueError(f"zstd level {level} is not between {LEVEL_MIN} and {LEVEL_MAX}")
        self.zstd = ZSTD_createCCtx()
        if self.zstd == NULL:
            raise MemoryError("no memory for a zstd compressor")
        if ZSTD_isError(ZSTD_CCtx_setParameter(self.zstd, ZSTD_c_compressionLevel, level)):
            raise ValueError(f"zstd refuses level {level}")

    def __dealloc__(self):
        ZSTD_freeCCtx(self.zstd)

    cdef size_t encode_one(self, const uint8_t* plain, size_t length, uint8_t* target) noexcept nogil:
        """Write the encoded chunk, at most `length` bytes, and return its length."""
        cdef size_t got
        if self.zstd != NULL and length > 1:
            # One byte less than the plain length: the compressor itself gives up on what does not gain.
            got = ZSTD_compress2(self.zstd, target, length - 1, plain, length)
            if not ZSTD_isError(got):
                return got
        memcpy(target, plain, length)
        return length

    def encode(self, const uint8_t[::1] plain not None, Py_ssize_t chunk_size, const uint8_t[::1] digests not None,
               const uint8_t[::1] states not None, uint8_t[::1] encoded not None, uint8_t[::1] ids not None,
               uint32_t[::1] lengths not None) -> tuple[int, int]:
        """Encode the chunks of `plain` whose state is NEW, one behind the other; return (chunks, bytes in `encoded`).

        `digests` has 32 bytes and `states` one for each chunk. The first results of `ids` (32 bytes each) and `lengths`
        (encoded bytes each) say what is in `encoded`, in order. `encoded` must have room for all of `plain`. The GIL is
        released. Raises ValueError when the shapes do not fit.
        """
        cdef Py_ssize_t count = states.shape[0]
        cdef Py_ssize_t made = 0
        cdef size_t used = 0
        cdef Py_ssize_t i
        if chunk_size < 1 or plain.shape[0] // chunk_size < count or digests.shape[0] != 32 * count:
            raise ValueError(f"{count} chunks of {chunk_size} bytes do not fit {plain.shape[0]} bytes of data "
                             f"and {digests.shape[0]} bytes of digests")
        if encoded.shape[0] // chunk_size < count or ids.shape[0] < 32 * count or lengths.shape[0] < count:
            raise ValueError(f"{count} chunks of {chunk_size} bytes need more room than {encoded.shape[0]} bytes, "
                             f"{ids.shape[0]} bytes of ids and {lengths.shape[0]} lengths")
        with nogil:
            for i in range(count):
                if states[i] == NEW:
                    lengths[made] = <uint32_t> self.encode_one(&plain[i * chunk_size], chunk_size, &encoded[used])
                    memcpy(&ids[32 * made], &digests[32 * i], 32)
                    used += lengths[made]
                    made += 1
        return made, used

    def encode_bytes(self, const uint8_t[::1] plain not None) -> bytes:
        """Return one encoded chunk; equal in length to `plain` means it is stored as it is. Releases the GIL."""
        cdef bytearray target = bytearray(plain.shape[0])
        cdef uint8_t[::1] room = target
        cdef size_t length = 0
        if plain.shape[0]:
            with nogil:
                length = self.encode_one(&plain[0], plain.shape[0], &room[0])
        return bytes(room[:length])

    def encoded_length(self, const uint8_t[::1] plain not None, uint8_t[::1] room not None) -> int:
        """Return the length of one encoded chunk, which is left in `room`; that of `plain` means it is stored as it is.

        Releases the GIL. Raises ValueError when `room` is shorter than `plain`.
        """
        cdef size_t length = 0
        if room.shape[0] < plain.shape[0]:
            raise ValueError(f"{plain.shape[0]} bytes do not fit {room.shape[0]}")
        if plain.shape[0]:
            with nogil:
                length = self.encode_one(&plain[0], plain.shape[0], &room[0])
        return length


cdef class Decoder:
    """One thread's decompressors. Not safe for concurrent use."""

    def __cinit__(self):
        self.zstd = ZSTD_createDCtx()
        self.deflate = libdeflate_alloc_decompressor()
        if self.zstd == NULL or self.deflate == NULL:
            raise MemoryError("no memory for a decompressor")

    def __dealloc__(self):
        ZSTD_freeDCtx(self.zstd)
        if self.deflate != NULL:
            libdeflate_free_decompressor(self.deflate)

    cdef bint decode(self, int codec, const uint8_t* source, int64_t source_length,
                     uint8_t* target, int64_t target_length) noexcept nogil:
        cdef size_t used = 0
        cdef size_t got = 0
        cdef int64_t done = 0
        if codec == RAW:
            if source_length < target_length:
                return False
            memcpy(target, source, target_length)
            return True
        if codec == DEFLATE:
            return libdeflate_deflate_decompress_ex(self.deflate, source, source_length, target, target_length,
                                                    &used, &got) == LIBDEFLATE_SUCCESS and got == <size_t> target_length
        if codec == ZLIB:
            return libdeflate_zlib_decompress_ex(self.deflate, source, source_length, target, target_length,
                                                 &used, &got) == LIBDEFLATE_SUCCESS and got == <size_t> target_length
        if codec != ZSTD:
            return False
        # Frame by frame: what follows the last one needed (padding to a sector) is not zstd. One-shot decoding uses the
        # target as its window, so a frame cannot ask for more memory than that.
        while done < target_length:
            used = ZSTD_findFrameCompressedSize(source, source_length)
            if ZSTD_isError(used):
                return False
            got = ZSTD_decompressDCtx(self.zstd, target + done, target_length - done, source, used)
            if ZSTD_isError(got) or (got == 0 and used == 0):
                return False
            source += used
            source_length -= used
            done += got
        return True

    def decode_bytes(self, int codec, const uint8_t[::1] encoded not None, Py_ssize_t length) -> bytes | None:
        """Return the `length` bytes that `encoded` decodes to, or None when it decodes to anything else.

        `codec` is a Codec. Bytes behind the compressed stream are ignored. Releases the GIL. Raises ValueError for a
        negative length.
        """
        if length < 0:
            raise ValueError(f"cannot decode to {length} bytes")
        cdef bytearray target = bytearray(length)
        cdef uint8_t[::1] room = target
        cdef bint worked = True
        if length:
            with nogil:
                worked = self.decode(codec, &encoded[0] if encoded.shape[0] else NULL, encoded.shape[0],
                                     &room[0], length)
        return bytes(target) if worked else None
