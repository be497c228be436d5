/* FastCDC as its authors describe it, one byte at a time: what the gear kernel is measured against. */
#include <stddef.h>
#include <stdint.h>

#include "gear_table.h"

/* Cut `length` bytes into chunks of 8 KiB on average, from 2 to 64 KiB, with normalised chunking of level 2; return how
 * many. The bytes of a chunk below the least size are skipped. */
size_t fastcdc(const uint8_t *bytes, size_t length)
{
    const uint32_t strict = 0xfffe0000, loose = 0xffe00000; /* 15 bits of 0, then 11 */
    size_t count = 0;
    while (length) {
        size_t normal = length < 8192 ? length : 8192, most = length < 65536 ? length : 65536;
        size_t at = length < 2048 ? length : 2048;
        uint32_t hash = 0;
        for (; at < normal; at++) {
            hash = (hash << 1) + dp_gear[bytes[at]];
            if (!(hash & strict))
                goto cut;
        }
        for (; at < most; at++) {
            hash = (hash << 1) + dp_gear[bytes[at]];
            if (!(hash & loose))
                goto cut;
        }
        at--;
    cut:
        at = at + 1 < length ? at + 1 : length;
        bytes += at;
        length -= at;
        count++;
    }
    return count;
}
