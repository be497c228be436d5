/* The gear hash at every byte of a buffer, compiled once for each instruction set: GEAR_VARIANT names the copy and the
 * compiler flags choose the code.
 *
 * The hash behind byte i is the sum of gear[byte i - k] << k over the last 32 bytes, in 32 bits: what
 * `hash = (hash << 1) + gear[byte]` leaves. It is a function of those bytes alone, and its low byte one of the last
 * eight: vectors find that low byte at 32 or 64 places at once. Where it is 0, once in 256 bytes, ten
 * bits are looked at, and where those are 0, the whole hash. */
#include <stddef.h>
#include <stdint.h>
#if defined(__AVX2__)
#include <immintrin.h>
#endif

#include "gear_table.h"
#include "gear_variants.h"

#define GEAR_JOIN2(a, b) a##_##b
#define GEAR_JOIN(a, b) GEAR_JOIN2(a, b)
#define GEAR_NAME(function) GEAR_JOIN(function, GEAR_VARIANT)

#define GEAR_WINDOW 32
#define GEAR_LOW_BITS 10
#define GEAR_BITS_MAX 24

typedef struct {
    const uint8_t *bytes;
    ptrdiff_t last; /* where a hash last had low bits of 0 */
    uint32_t *places;
    uint8_t *bits;
    size_t count;
} gear_finding;

/* Note that the hash behind byte `at` is `hash`, whose GEAR_LOW_BITS are 0. */
static inline void note(gear_finding *found, ptrdiff_t at, uint32_t hash)
{
    int high_bits = hash ? __builtin_clz(hash) : 32;
    if (at - found->last > GEAR_QUIET && at >= 0) {
        int bits = GEAR_LOW_BITS + high_bits;
        found->places[found->count] = (uint32_t)(at + 1);
        found->bits[found->count++] = (uint8_t)(bits < GEAR_BITS_MAX ? bits : GEAR_BITS_MAX);
    }
    found->last = at;
}

/* Return the sum of gear[byte[at - k]] << k over the last `count` bytes, an even number: two chains of additions that do
 * not wait for each other. More of them would make the compiler gather, which is slower. */
static inline uint32_t hash_of(const uint8_t *bytes, ptrdiff_t at, int count)
{
    const uint8_t *first = bytes + at + 1 - count;
    uint32_t older = 0, newer = 0;
#pragma GCC unroll 16
    for (int i = 0; i < count / 2; i++) {
        older = (older << 1) + dp_gear[first[i]];
        newer = (newer << 1) + dp_gear[first[i + count / 2]];
    }
    return (older << (count / 2)) + newer;
}

/* Roll over the bytes from `at` to `end`. */
static void roll(gear_finding *found, ptrdiff_t at, ptrdiff_t end)
{
    uint32_t hash = 0;
    for (ptrdiff_t i = at - GEAR_WINDOW + 1; i < at; i++)
        hash = (hash << 1) + dp_gear[found->bytes[i]];
    for (; at < end; at++) {
        hash = (hash << 1) + dp_gear[found->bytes[at]];
        if ((hash & ((1 << GEAR_LOW_BITS) - 1)) == 0)
            note(found, at, hash);
    }
}

#if defined(__AVX512BW__)

#define GEAR_STEP 64
typedef __m512i gear_vector;
#define LOAD(from) _mm512_loadu_si512((const void *)(from))
#define STORE(to, value) _mm512_storeu_si512((void *)(to), value)
#define SET(value) _mm512_set1_epi8((char)(value))
#define AND _mm512_and_si512
#define ADD _mm512_add_epi8
#define SHIFT16L _mm512_slli_epi16
#define EQUAL(left, right) ((uint64_t)_mm512_cmpeq_epi8_mask(left, right))

#elif defined(__AVX2__)

#define GEAR_STEP 32
typedef __m256i gear_vector;
#define LOAD(from) _mm256_loadu_si256((const __m256i *)(from))
#define STORE(to, value) _mm256_storeu_si256((__m256i *)(to), value)
#define SET(value) _mm256_set1_epi8((char)(value))
#define AND _mm256_and_si256
#define ADD _mm256_add_epi8
#define SHIFT16L _mm256_slli_epi16
#define EQUAL(left, right) ((uint64_t)(uint32_t)_mm256_movemask_epi8(_mm256_cmpeq_epi8(left, right)))

#endif

#if defined(GEAR_STEP)

#define GEAR_BLOCK 8192 /* fits uint16_t; its sums stay in the first-level cache */
#define GEAR_MASK 64    /* places that a mask tells of */

/* Return the sums over four bytes behind each of GEAR_STEP places: byte[i - k] << k. */
static inline gear_vector sums_of_four(const uint8_t *bytes)
{
    gear_vector sum = LOAD(bytes - 3);
    for (int i = 2; i >= 0; i--)
        sum = ADD(ADD(sum, sum), LOAD(bytes - i));
    return sum;
}

/* Note the places in GEAR_BLOCK bytes. Sums over four bytes go through memory, which shifts them by four places for
 * nothing. Masks are gathered first, then hits whose ten bits are 0: each jump to one would be mispredicted. */
static void search_block(gear_finding *found, ptrdiff_t at)
{
    _Alignas(64) uint8_t fours[GEAR_STEP + GEAR_BLOCK];
    uint64_t masks[GEAR_BLOCK / GEAR_MASK];
    uint16_t steps[GEAR_BLOCK / GEAR_MASK], likely[GEAR_BLOCK];
    const uint8_t *bytes = found->bytes + at;
    const gear_vector upper = SET(0xf0), wanted = SET(GEAR_LOW);
    size_t hits = 0, candidates = 0;
    for (int i = 0; i < 4; i++) /* those of the four places before */
        fours[GEAR_STEP - 4 + i] =
            (uint8_t)(bytes[i - 4] + 2 * bytes[i - 5] + 4 * bytes[i - 6] + 8 * bytes[i - 7]);
#pragma GCC unroll 8
    for (int i = 0; i < GEAR_BLOCK; i += GEAR_STEP)
        STORE(fours + GEAR_STEP + i, sums_of_four(bytes + i));
#pragma GCC unroll 8
    for (int i = 0; i < GEAR_BLOCK; i += GEAR_MASK) {
        uint64_t mask = 0;
        for (int part = 0; part < GEAR_MASK; part += GEAR_STEP) {
            const uint8_t *four = fours + GEAR_STEP + i + part;
            mask |= EQUAL(ADD(LOAD(four), AND(SHIFT16L(LOAD(four - 4), 4), upper)), wanted) << part;
        }
        masks[hits] = mask;
        steps[hits] = (uint16_t)i;
        hits += mask != 0;
    }
    for (size_t i = 0; i < hits; i++)
        for (uint64_t mask = masks[i]; mask; mask &= mask - 1) {
            int hit = steps[i] + __builtin_ctzll(mask);
            likely[candidates] = (uint16_t)hit;
            candidates += (hash_of(bytes, hit, GEAR_LOW_BITS) & ((1 << GEAR_LOW_BITS) - 1)) == 0;
        }
    for (size_t i = 0; i < candidates; i++)
        note(found, at + likely[i], hash_of(bytes, likely[i], GEAR_WINDOW));
}

#endif

/* Find the places to cut in `length` bytes, of which GEAR_CONTEXT before `bytes` can be read too; see gear_variants.h. */
size_t GEAR_NAME(dp_gear_find)(const uint8_t *bytes, size_t length, uint32_t *places, uint8_t *bits)
{
    gear_finding found = {bytes, -2 * GEAR_CONTEXT, places, bits, 0};
    ptrdiff_t at = -GEAR_QUIET, end = (ptrdiff_t)length;
#if defined(GEAR_STEP)
    for (; end - at >= GEAR_BLOCK; at += GEAR_BLOCK)
        search_block(&found, at);
#endif
    roll(&found, at, end);
    return found.count;
}
