"""The digest table: a set of fixed-size digests that many threads insert into at once."""

from libc.stdint cimport uint8_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcpy

from dataplane._native.scan cimport DATA, NEW, SEEN

cdef extern from "<pthread.h>" nogil:
    int pthread_mutex_init(pthread_mutex_t* mutex, const void* attributes)
    int pthread_mutex_destroy(pthread_mutex_t* mutex)
    int pthread_mutex_lock(pthread_mutex_t* mutex)
    int pthread_mutex_unlock(pthread_mutex_t* mutex)

cdef extern from *:
    """
    /* The first slot to look at: the digest's second word scaled to the capacity (multiply-shift, so that capacities
     * need not be powers of two). The first byte chose the shard. */
    static inline uint64_t dp_home_slot(const uint8_t *key, uint64_t capacity)
    {
        uint64_t word;
        __builtin_memcpy(&word, key + 8, sizeof word);
        return (uint64_t)(((unsigned __int128)word * capacity) >> 64);
    }

    /* Return whether two keys of 16 or 32 bytes differ; nearly always the first 16 tell. */
    static inline int dp_differ(const uint8_t *one, const uint8_t *other, int size)
    {
        uint64_t a[2], b[2];
        for (int at = 0; at < size; at += 16) {
            __builtin_memcpy(a, one + at, sizeof a);
            __builtin_memcpy(b, other + at, sizeof b);
            if ((a[0] ^ b[0]) | (a[1] ^ b[1]))
                return 1;
        }
        return 0;
    }

    static inline void dp_prefetch(const uint8_t *bytes)
    {
        __builtin_prefetch(bytes, 1);
    }
    """
    uint64_t dp_home_slot(const uint8_t* key, uint64_t capacity) nogil
    bint dp_differ(const uint8_t* one, const uint8_t* other, int size) nogil
    void dp_prefetch(const uint8_t* bytes) nogil

cdef enum:
    CAPACITY_MIN = 32
    AHEAD = 8  # so many keys later the slot that is being fetched is looked at: a miss takes as long as eight hits

cdef uint8_t[32] ZERO_KEY


cdef inline bint is_empty(const uint8_t* slot, int key_size) noexcept nogil:
    return not dp_differ(slot, ZERO_KEY, key_size)


cdef uint8_t* find(Shard* shard, const uint8_t* key, int key_size) noexcept nogil:
    """Return the slot that holds `key`, or the empty slot where it belongs."""
    cdef uint64_t at = dp_home_slot(key, shard.capacity)
    cdef uint8_t* slot
    while True:
        slot = shard.slots + at * key_size
        if not dp_differ(slot, key, key_size) or is_empty(slot, key_size):
            return slot
        at += 1
        if at == shard.capacity:
            at = 0


cdef bint grow(Shard* shard, int key_size) noexcept nogil:
    """Move the shard into half as much space again; return False when memory is short."""
    cdef Shard larger = shard[0]
    cdef uint64_t at
    cdef uint8_t* slot
    larger.capacity = shard.capacity + shard.capacity // 2 if shard.capacity else CAPACITY_MIN
    larger.slots = <uint8_t*> calloc(larger.capacity, key_size)
    if larger.slots == NULL:
        return False
    for at in range(shard.capacity):
        slot = shard.slots + at * key_size
        if not is_empty(slot, key_size):
            memcpy(find(&larger, slot, key_size), slot, key_size)
    free(shard.slots)
    shard.slots = larger.slots
    shard.capacity = larger.capacity
    return True


cdef int check_shapes(const uint8_t[::1] digests, uint8_t[::1] states, int key_size) except -1:
    if digests.shape[0] != states.shape[0] * key_size:
        raise ValueError(f"{states.shape[0]} states need {states.shape[0] * key_size} bytes of digests, "
                         f"not {digests.shape[0]}")
    return 0


cdef class DigestTable:
    """A set of digests of `key_size` bytes (16 or 32), safe for concurrent use.

    Open addressing with linear probing in 64 shards, each with its own lock and growth by half at four fifths full: an
    entry costs `key_size` / 0.8 to `key_size` / 0.53 bytes (40 to 60 bytes for 32-byte keys, 20 to 30 for 16-byte
    keys). Keys must be uniformly distributed, as digests are: they are their own hash.
    """

    def __cinit__(self, int key_size):
        cdef int i
        if key_size not in (16, 32):
            raise ValueError(f"a digest has 16 or 32 bytes, not {key_size}")
        self.key_size = key_size
        for i in range(SHARD_COUNT):
            pthread_mutex_init(&self.shards[i].lock, NULL)

    def __dealloc__(self):
        cdef int i
        for i in range(SHARD_COUNT):
            free(self.shards[i].slots)
            pthread_mutex_destroy(&self.shards[i].lock)

    cdef void fetch_ahead(self, const uint8_t* digests, const uint8_t* states, Py_ssize_t i,
                          Py_ssize_t count) noexcept nogil:
        """Have the slot of the digest AHEAD after `i` fetched. Takes no lock: a shard that grows meanwhile sends the
        fetch astray, which harms nothing."""
        cdef const uint8_t* key = digests + (i + AHEAD) * self.key_size
        cdef Shard* shard
        if i + AHEAD < count and states[i + AHEAD] == DATA:
            shard = &self.shards[key[0] >> 2]
            dp_prefetch(shard.slots + dp_home_slot(key, shard.capacity) * self.key_size)

    cdef int insert(self, const uint8_t* key) noexcept nogil:
        cdef Shard* shard = &self.shards[key[0] >> 2]
        cdef uint8_t* slot
        cdef int result = 1
        pthread_mutex_lock(&shard.lock)
        if is_empty(key, self.key_size):
            result = not shard.has_zero_key
            shard.has_zero_key = True
        elif shard.count * 5 >= shard.capacity * 4 and not grow(shard, self.key_size):
            result = -1
        else:
            slot = find(shard, key, self.key_size)
            if is_empty(slot, self.key_size):
                memcpy(slot, key, self.key_size)
                shard.count += 1
            else:
                result = 0
        pthread_mutex_unlock(&shard.lock)
        return result

    cdef bint contains(self, const uint8_t* key) noexcept nogil:
        cdef Shard* shard = &self.shards[key[0] >> 2]
        cdef bint found
        pthread_mutex_lock(&shard.lock)
        if is_empty(key, self.key_size):
            found = shard.has_zero_key
        else:
            found = shard.capacity != 0 and not is_empty(find(shard, key, self.key_size), self.key_size)
        pthread_mutex_unlock(&shard.lock)
        return found

    def claim(self, const uint8_t[::1] digests not None, uint8_t[::1] states not None) -> int:
        """Insert the digest of every DATA state, which becomes NEW (not met before) or SEEN; return how many are NEW.

        Of threads that claim the same digest at once exactly one sees NEW. The GIL is released. Raises MemoryError.
        """
        cdef Py_ssize_t i
        cdef Py_ssize_t count = states.shape[0]
        cdef Py_ssize_t fresh = 0
        cdef int result = 0
        check_shapes(digests, states, self.key_size)
        with nogil:
            for i in range(count):
                self.fetch_ahead(&digests[0], &states[0], i, count)
                if states[i] == DATA:
                    result = self.insert(&digests[i * self.key_size])
                    if result < 0:
                        break
                    states[i] = NEW if result else SEEN
                    fresh += result
        if result < 0:
            raise MemoryError(f"the digest table cannot grow past {self.memory_bytes} bytes")
        return fresh

    def mark_known(self, const uint8_t[::1] digests not None, uint8_t[::1] states not None) -> int:
        """Turn every DATA state whose digest is in the table into SEEN; return how many were. Releases the GIL."""
        cdef Py_ssize_t i
        cdef Py_ssize_t count = states.shape[0]
        cdef Py_ssize_t known = 0
        check_shapes(digests, states, self.key_size)
        with nogil:
            for i in range(count):
                self.fetch_ahead(&digests[0], &states[0], i, count)
                if states[i] == DATA and self.contains(&digests[i * self.key_size]):
                    states[i] = SEEN
                    known += 1
        return known

    def update(self, DigestTable other not None) -> int:
        """Insert every digest of `other`, which nobody may be changing; return how many were not there. Releases the
        GIL.

        Raises ValueError for keys of another size, MemoryError when memory is short.
        """
        cdef int shard
        cdef uint64_t at
        cdef uint8_t* slot
        cdef Py_ssize_t fresh = 0
        cdef int result = 0
        if other.key_size != self.key_size:
            raise ValueError(f"digests of {other.key_size} bytes do not fit a table of {self.key_size}")
        if other is self:
            return 0  # inserting may grow the very shard that is being read
        with nogil:
            for shard in range(SHARD_COUNT):
                if other.shards[shard].has_zero_key:
                    fresh += self.insert(ZERO_KEY)
                for at in range(other.shards[shard].capacity):
                    slot = other.shards[shard].slots + at * self.key_size
                    if not is_empty(slot, self.key_size):
                        result = self.insert(slot)
                        if result < 0:
                            break
                        fresh += result
                if result < 0:
                    break
        if result < 0:
            raise MemoryError(f"the digest table cannot grow past {self.memory_bytes} bytes")
        return fresh

    def __len__(self):
        cdef int i
        cdef Py_ssize_t total = 0
        for i in range(SHARD_COUNT):
            total += self.shards[i].count + self.shards[i].has_zero_key
        return total

    @property
    def memory_bytes(self) -> int:
        """Bytes that the slots occupy now."""
        cdef int i
        cdef Py_ssize_t total = 0
        for i in range(SHARD_COUNT):
            total += self.shards[i].capacity * self.key_size
        return total
