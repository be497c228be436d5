/* Which of the copies that are compiled for instruction sets this CPU can run. */
#pragma once

enum { DP_CPU_BASELINE, DP_CPU_AVX2, DP_CPU_AVX512 };

/* Return the highest level; each has those below it. */
static inline int dp_cpu_level(void)
{
#if defined(__x86_64__)
    __builtin_cpu_init();
    if (__builtin_cpu_supports("avx2")) {
        if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl"))
            return DP_CPU_AVX512;
        return DP_CPU_AVX2;
    }
#endif
    return DP_CPU_BASELINE;
}
