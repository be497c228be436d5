/* The copies of scan_kernel.h that this build holds, and which of them this CPU can run. */
#pragma once
#include <stddef.h>
#include <stdint.h>

#include "cpu_level.h"

#define SCAN_DECLARE(isa)                                                        \
    int dp_is_zero_##isa(const uint8_t *bytes, size_t length);                   \
    void dp_xxh3_128_##isa(const uint8_t *bytes, size_t length, uint8_t *digest);

SCAN_DECLARE(baseline)
#if defined(__x86_64__)
SCAN_DECLARE(avx2)
SCAN_DECLARE(avx512)
#endif

typedef struct {
    const char *name;
    int (*is_zero)(const uint8_t *bytes, size_t length);
    void (*xxh3_128)(const uint8_t *bytes, size_t length, uint8_t *digest);
} dp_scan_variant;

#define SCAN_VARIANT_MAX 3

/* Fill `variants` with those this CPU can run, the fastest first; return how many. */
static inline int dp_scan_variants(dp_scan_variant *variants)
{
    int count = 0;
#if defined(__x86_64__)
    if (dp_cpu_level() >= DP_CPU_AVX512)
        variants[count++] = (dp_scan_variant){"avx512", dp_is_zero_avx512, dp_xxh3_128_avx512};
    if (dp_cpu_level() >= DP_CPU_AVX2)
        variants[count++] = (dp_scan_variant){"avx2", dp_is_zero_avx2, dp_xxh3_128_avx2};
#endif
    variants[count++] = (dp_scan_variant){"baseline", dp_is_zero_baseline, dp_xxh3_128_baseline};
    return count;
}
