/* A run's entry, and the arithmetic of looking it up; store/FORMAT.md says the same in words. */
#pragma once
#include <stdint.h>

/* A run's entry as it lies in the file, little-endian; store/FORMAT.md has the same table. */
typedef struct {
    uint8_t id[32];
    uint32_t pack;           /* index into the run's list of packs */
    uint32_t offset;         /* of the encoded chunk in the pack, in bytes */
    uint32_t stored_length;  /* encoded bytes; equal to plain_length when stored as it is */
    uint32_t plain_length;
} dp_run_entry;
_Static_assert(sizeof(dp_run_entry) == 48, "a run entry has 48 bytes");
#if __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "store files are little-endian and read in place"
#endif

static int dp_compare_entries(const void *a, const void *b)
{
    return __builtin_memcmp(a, b, 32);
}
static inline uint64_t dp_word(const uint8_t *bytes)
{
    uint64_t word;
    __builtin_memcpy(&word, bytes, sizeof word);
    return word;
}
static inline uint64_t dp_key(const uint8_t *id) { return __builtin_bswap64(dp_word(id)); }
static inline uint64_t dp_scale(uint64_t word, uint64_t size)
{
    return (uint64_t)(((unsigned __int128)word * size) >> 64);
}
static inline uint64_t dp_interpolate(uint64_t part, uint64_t whole, uint64_t size)
{
    return (uint64_t)((unsigned __int128)part * size / whole);
}

/* Order of two ids: their first words nearly always tell. */
static inline int dp_order(const uint8_t *a, const uint8_t *b)
{
    uint64_t x = dp_key(a), y = dp_key(b);
    return x < y ? -1 : x > y ? 1 : __builtin_memcmp(a, b, 32);
}

/* Bit of an id in word `word` of its filter block. */
static inline uint32_t dp_filter_bit(const uint8_t *id, int word)
{
    return (uint32_t)1 << ((dp_word(id + 16) >> (5 * word)) & 31);
}

/* A count file's entry has the shape of a run's: instead of a place it says how many roots use the chunk and which,
 * as the sum of their numbers. Entries of one id add up; a root that goes adds what takes it away. */
typedef struct {
    uint8_t id[32];
    int32_t roots;
    uint32_t size;    /* stored bytes of the chunk; the same in every entry of an id */
    uint64_t owners;  /* sum of the numbers of the roots, modulo 2^64 */
} dp_count_entry;
_Static_assert(sizeof(dp_count_entry) == sizeof(dp_run_entry), "both kinds of entries have one size");

static inline void dp_add_counts(dp_run_entry *into, const dp_run_entry *more)
{
    dp_count_entry *a = (dp_count_entry *)into;
    const dp_count_entry *b = (const dp_count_entry *)more;
    a->roots += b->roots;
    a->owners += b->owners;
}
static inline int dp_counts_nothing(const dp_run_entry *entry)
{
    const dp_count_entry *counts = (const dp_count_entry *)entry;
    return counts->roots == 0 && counts->owners == 0;
}
