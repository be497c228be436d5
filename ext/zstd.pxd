"""The parts of libzstd that the codec uses."""

cdef extern from "zstd.h" nogil:
    ctypedef struct ZSTD_CCtx:
        pass
    ctypedef struct ZSTD_DCtx:
        pass
    ctypedef enum ZSTD_cParameter:
        ZSTD_c_compressionLevel
        ZSTD_c_contentSizeFlag
        ZSTD_c_checksumFlag
    ZSTD_CCtx* ZSTD_createCCtx()
    size_t ZSTD_freeCCtx(ZSTD_CCtx* context)
    size_t ZSTD_CCtx_setParameter(ZSTD_CCtx* context, ZSTD_cParameter parameter, int value)
    size_t ZSTD_compress2(ZSTD_CCtx* context, void* target, size_t capacity, const void* source, size_t length)
    ZSTD_DCtx* ZSTD_createDCtx()
    size_t ZSTD_freeDCtx(ZSTD_DCtx* context)
    size_t ZSTD_decompressDCtx(ZSTD_DCtx* context, void* target, size_t capacity, const void* source, size_t length)
    size_t ZSTD_findFrameCompressedSize(const void* source, size_t length)
    unsigned int ZSTD_isError(size_t code)
    const char* ZSTD_getErrorName(size_t code)
    int ZSTD_minCLevel()
    int ZSTD_maxCLevel()
    const char* ZSTD_versionString()
