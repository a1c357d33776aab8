/* Hash map from byte strings to u32, and from u64 to u32. Open addressing, no deletion.
 * Keys of the byte map are borrowed: they must outlive the map.
 * Hash: 64-bit multiply-mix with a per-process random seed, so that input cannot aim at one slot.
 * Threads: writers alone; readers together. */
#ifndef SP_BASE_MAP_H
#define SP_BASE_MAP_H

#include "base/err.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef struct sp_map_slot {
    const char *key; /* NULL = free; in the u64 map, non-NULL marks use */
    uint64_t num;    /* key length, or the u64 key itself */
    uint32_t val;
} sp_map_slot;

typedef struct sp_map {
    sp_map_slot *slot;
    size_t cap, n; /* cap is a power of two */
    uint64_t seed;
} sp_map;

SP_MUST sp_err sp_map_init(sp_map *m, size_t n_expect);
void sp_map_fini(sp_map *m);
/* Sets or replaces. */
SP_MUST sp_err sp_map_set(sp_map *m, const char *key, size_t n, uint32_t val);
bool sp_map_find(const sp_map *m, const char *key, size_t n, uint32_t *val);
SP_MUST sp_err sp_map_set_u64(sp_map *m, uint64_t key, uint32_t val);
bool sp_map_find_u64(const sp_map *m, uint64_t key, uint32_t *val);

#endif
