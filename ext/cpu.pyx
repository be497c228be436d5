"""What this machine's CPU has, and which library versions the kernels were built with."""

from blake3 cimport blake3_version
from libdeflate cimport LIBDEFLATE_VERSION_STRING
from zstd cimport ZSTD_versionString

cdef extern from "xxhash.h" nogil:
    unsigned int XXH_VERSION_NUMBER

cdef extern from *:
    """
    static const char *dp_feature_names[] = {"sse2", "sse4.1", "ssse3", "avx", "avx2", "bmi2", "avx512f", "avx512bw",
                                             "avx512vl", "avx512vbmi", 0};
    static int dp_feature(int index)
    {
    #if defined(__x86_64__)
        __builtin_cpu_init();
        switch (index) {
        case 0: return __builtin_cpu_supports("sse2");
        case 1: return __builtin_cpu_supports("sse4.1");
        case 2: return __builtin_cpu_supports("ssse3");
        case 3: return __builtin_cpu_supports("avx");
        case 4: return __builtin_cpu_supports("avx2");
        case 5: return __builtin_cpu_supports("bmi2");
        case 6: return __builtin_cpu_supports("avx512f");
        case 7: return __builtin_cpu_supports("avx512bw");
        case 8: return __builtin_cpu_supports("avx512vl");
        case 9: return __builtin_cpu_supports("avx512vbmi");
        }
    #endif
        (void)index;
        return 0;
    }
    #if defined(__x86_64__)
    #define DP_MACHINE "x86_64"
    #elif defined(__aarch64__)
    #define DP_MACHINE "aarch64"
    #else
    #define DP_MACHINE "other"
    #endif
    """
    const char** dp_feature_names
    int dp_feature(int index)
    const char* DP_MACHINE


def features() -> list[str]:
    """Return the names of the vector features that this CPU has and the kernels know; ``neon`` on arm64."""
    cdef list found = []
    cdef int i = 0
    if DP_MACHINE == b"aarch64":
        return ["neon"]
    while dp_feature_names[i] != NULL:
        if dp_feature(i):
            found.append(dp_feature_names[i].decode())
        i += 1
    return found


def machine() -> str:
    """Return the instruction set that the kernels were compiled for."""
    return DP_MACHINE.decode()


def library_versions() -> dict[str, str]:
    """Return the versions of the C libraries: linked ones as they report themselves, headers as they were compiled
    in."""
    cdef unsigned int xxh = XXH_VERSION_NUMBER
    return {
        "blake3": blake3_version().decode(),
        "libdeflate": LIBDEFLATE_VERSION_STRING.decode(),
        "xxhash": f"{xxh // 10000}.{xxh // 100 % 100}.{xxh % 100}",
        "zstd": ZSTD_versionString().decode(),
    }
