/* The copies of gear_kernel.h that this build holds, and which of them this CPU can run. */
#pragma once
#include <stddef.h>
#include <stdint.h>

#include "cpu_level.h"

#define GEAR_QUIET 64   /* a place counts unless another one, counted or not, is at most so many bytes before it */
#define GEAR_CONTEXT 96 /* bytes in front of those searched that can be read: GEAR_QUIET and the 32 of the hash */

/* Search `length` bytes behind GEAR_CONTEXT that decide on them. A place p means a cut in front of byte p, with p from 1
 * to `length`, for which the hash behind byte p - 1 has 10 to 24 bits of 0: ten low ones, and high ones. `places` and
 * `bits` get an entry for each, ascending; they have room for length / (GEAR_QUIET + 1) + 1. Return how many there are. */
#define GEAR_DECLARE(isa) \
    size_t dp_gear_find_##isa(const uint8_t *bytes, size_t length, uint32_t *places, uint8_t *bits);

GEAR_DECLARE(baseline)
#if defined(__x86_64__)
GEAR_DECLARE(avx2)
GEAR_DECLARE(avx512)
#endif

typedef struct {
    const char *name;
    size_t (*find)(const uint8_t *bytes, size_t length, uint32_t *places, uint8_t *bits);
} dp_gear_variant;

#define GEAR_VARIANT_MAX 3

/* Fill `variants` with those this CPU can run, the fastest first; return how many. */
static inline int dp_gear_variants(dp_gear_variant *variants)
{
    int count = 0;
#if defined(__x86_64__)
    if (dp_cpu_level() >= DP_CPU_AVX512)
        variants[count++] = (dp_gear_variant){"avx512", dp_gear_find_avx512};
    if (dp_cpu_level() >= DP_CPU_AVX2)
        variants[count++] = (dp_gear_variant){"avx2", dp_gear_find_avx2};
#endif
    variants[count++] = (dp_gear_variant){"baseline", dp_gear_find_baseline};
    return count;
}
