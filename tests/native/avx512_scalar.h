/* The AVX-512 that ext/gear_kernel.h uses, byte by byte as Intel's manual defines it, so that its code for such CPUs
 * runs on any. Included before the kernel, in place of <immintrin.h>. */
#pragma once
#include <stdint.h>
#include <string.h>

typedef struct {
    uint8_t byte[64];
} __m512i;
typedef uint64_t __mmask64;

static __m512i _mm512_loadu_si512(const void *from)
{
    __m512i a;
    memcpy(&a, from, sizeof a);
    return a;
}

static void _mm512_storeu_si512(void *to, __m512i a) { memcpy(to, &a, sizeof a); }

static __m512i _mm512_set1_epi8(char value)
{
    __m512i a;
    memset(&a, value, sizeof a);
    return a;
}

static __m512i _mm512_and_si512(__m512i a, __m512i b)
{
    for (int i = 0; i < 64; i++)
        a.byte[i] &= b.byte[i];
    return a;
}

static __m512i _mm512_add_epi8(__m512i a, __m512i b)
{
    for (int i = 0; i < 64; i++)
        a.byte[i] = (uint8_t)(a.byte[i] + b.byte[i]);
    return a;
}

static __m512i _mm512_slli_epi16(__m512i a, unsigned int count)
{
    for (int i = 0; i < 64; i += 2) {
        uint16_t word = (uint16_t)(a.byte[i] | a.byte[i + 1] << 8);
        word = (uint16_t)(count > 15 ? 0 : word << count);
        a.byte[i] = (uint8_t)word;
        a.byte[i + 1] = (uint8_t)(word >> 8);
    }
    return a;
}

static __mmask64 _mm512_cmpeq_epi8_mask(__m512i a, __m512i b)
{
    __mmask64 mask = 0;
    for (int i = 0; i < 64; i++)
        mask |= (uint64_t)(a.byte[i] == b.byte[i]) << i;
    return mask;
}
