"""The parts of libdeflate that the codec uses."""

cdef extern from "libdeflate.h" nogil:
    struct libdeflate_decompressor:
        pass
    enum libdeflate_result:
        LIBDEFLATE_SUCCESS
    const char* LIBDEFLATE_VERSION_STRING
    libdeflate_decompressor* libdeflate_alloc_decompressor()
    void libdeflate_free_decompressor(libdeflate_decompressor* decompressor)
    libdeflate_result libdeflate_deflate_decompress_ex(
        libdeflate_decompressor* decompressor, const void* source, size_t source_length,
        void* target, size_t target_length, size_t* source_used, size_t* target_used)
    libdeflate_result libdeflate_zlib_decompress_ex(
        libdeflate_decompressor* decompressor, const void* source, size_t source_length,
        void* target, size_t target_length, size_t* source_used, size_t* target_used)
