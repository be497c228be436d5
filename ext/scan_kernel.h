/* The zero test and XXH3-128, compiled once for each instruction set: SCAN_VARIANT names the copy and the compiler
 * flags choose the code. xxHash is inlined, because its shared library is built for the platform's baseline. */
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#define XXH_INLINE_ALL
#include <xxhash.h>

#define SCAN_JOIN2(a, b) a##_##b
#define SCAN_JOIN(a, b) SCAN_JOIN2(a, b)
#define SCAN_NAME(function) SCAN_JOIN(function, SCAN_VARIANT)

/* Return 1 when all `length` bytes are zero. Data is nearly always told from zeros by its first word; the loop leaves
 * every 512 bytes, and within those it is one OR that the compiler turns into vectors. */
int SCAN_NAME(dp_is_zero)(const uint8_t *bytes, size_t length)
{
    uint64_t first;
    if (length >= sizeof first) {
        memcpy(&first, bytes, sizeof first);
        if (first)
            return 0;
    }
    while (length >= 512) {
        uint64_t words[64], any = 0;
        memcpy(words, bytes, sizeof words);
        for (int i = 0; i < 64; i++)
            any |= words[i];
        if (any)
            return 0;
        bytes += 512;
        length -= 512;
    }
    uint8_t any = 0;
    for (size_t i = 0; i < length; i++)
        any |= bytes[i];
    return any == 0;
}

/* Write the canonical (big-endian) XXH3-128 of `length` bytes, seed 0, to `digest`. */
void SCAN_NAME(dp_xxh3_128)(const uint8_t *bytes, size_t length, uint8_t *digest)
{
    XXH128_canonical_t canonical;
    XXH128_canonicalFromHash(&canonical, XXH3_128bits(bytes, length));
    memcpy(digest, canonical.digest, sizeof canonical.digest);
}
