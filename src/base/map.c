/* Open-addressing hash map. Load factor stays <= 1/2. */
#include "base/map.h"

#include "base/mem.h"
#include "base/rng.h"

#include <string.h>

static const char USED[1] = "";

static uint64_t mix(uint64_t a, uint64_t b)
{
    __extension__ typedef unsigned __int128 u128;
    u128 r = (u128)a * b;
    return (uint64_t)r ^ (uint64_t)(r >> 64);
}

static uint64_t hash_bytes(uint64_t seed, const char *p, size_t n)
{
    uint64_t h = seed ^ n;
    for (; n >= 8; p += 8, n -= 8) {
        uint64_t v;
        memcpy(&v, p, 8);
        h = mix(h ^ v, 0x9e3779b97f4a7c15u);
    }
    uint64_t v = 0;
    memcpy(&v, p, n);
    return mix(mix(h ^ v, 0x9e3779b97f4a7c15u), 0xd6e8feb86659fd93u);
}

static uint64_t hash_u64(uint64_t seed, uint64_t k)
{
    return mix(mix(seed ^ k, 0x9e3779b97f4a7c15u), 0xd6e8feb86659fd93u);
}

sp_err sp_map_init(sp_map *m, size_t n_expect)
{
    size_t cap = 16;
    if (n_expect > SIZE_MAX / 8 / sizeof(sp_map_slot))
        return SP_LIMIT;
    while (cap < n_expect * 2)
        cap *= 2;
    sp_map_slot *slot = sp_mem_array(cap, sizeof *slot);
    if (!slot)
        return SP_NOMEM;
    *m = (sp_map){.slot = slot, .cap = cap, .seed = sp_rng_entropy()};
    return SP_OK;
}

void sp_map_fini(sp_map *m)
{
    sp_mem_free(m->slot);
    *m = (sp_map){0};
}

static sp_map_slot *probe(const sp_map *m, uint64_t h, const char *key, uint64_t num)
{
    for (size_t i = (size_t)h & (m->cap - 1);; i = (i + 1) & (m->cap - 1)) {
        sp_map_slot *s = &m->slot[i];
        if (!s->key)
            return s;
        if (s->num == num && (key == USED || memcmp(s->key, key, (size_t)num) == 0))
            return s;
    }
}

static uint64_t slot_hash(const sp_map *m, const sp_map_slot *s)
{
    return s->key == USED ? hash_u64(m->seed, s->num) : hash_bytes(m->seed, s->key, (size_t)s->num);
}

static sp_err put(sp_map *m, uint64_t h, const char *key, uint64_t num, uint32_t val)
{
    if (m->n * 2 >= m->cap) {
        sp_map big = *m;
        big.cap = m->cap * 2;
        big.slot = sp_mem_array(big.cap, sizeof *big.slot);
        if (!big.slot)
            return SP_NOMEM;
        for (size_t i = 0; i < m->cap; i++)
            if (m->slot[i].key)
                *probe(&big, slot_hash(m, &m->slot[i]), m->slot[i].key, m->slot[i].num) = m->slot[i];
        sp_mem_free(m->slot);
        *m = big;
    }
    sp_map_slot *s = probe(m, h, key, num);
    if (!s->key)
        m->n++;
    *s = (sp_map_slot){.key = key, .num = num, .val = val};
    return SP_OK;
}

sp_err sp_map_set(sp_map *m, const char *key, size_t n, uint32_t val)
{
    return put(m, hash_bytes(m->seed, key, n), key, n, val);
}

bool sp_map_find(const sp_map *m, const char *key, size_t n, uint32_t *val)
{
    const sp_map_slot *s = probe(m, hash_bytes(m->seed, key, n), key, n);
    if (!s->key)
        return false;
    *val = s->val;
    return true;
}

sp_err sp_map_set_u64(sp_map *m, uint64_t key, uint32_t val)
{
    return put(m, hash_u64(m->seed, key), USED, key, val);
}

bool sp_map_find_u64(const sp_map *m, uint64_t key, uint32_t *val)
{
    const sp_map_slot *s = probe(m, hash_u64(m->seed, key), USED, key);
    if (!s->key)
        return false;
    *val = s->val;
    return true;
}
