#include "pipe/interleave.h"

#include "base/rng.h"

#include <string.h>

static bool has(const sp_rag_hit *list, size_t n, const sp_rag_hit *h)
{
    for (size_t i = 0; i < n; i++)
        if (list[i].seq == h->seq && strcmp(list[i].chunk, h->chunk) == 0)
            return true;
    return false;
}

size_t sp_interleave(sp_rag_hit *out, size_t cap, const sp_rag_hit *a, size_t n_a,
                     const sp_rag_hit *b, size_t n_b, uint64_t seed)
{
    const sp_rag_hit *rank[2] = {a, b};
    size_t n = 0, all[2] = {n_a, n_b}, at[2] = {0};
    sp_rng rng;
    sp_rng_init(&rng, seed);
    while (n < cap && (at[0] < all[0] || at[1] < all[1])) {
        size_t first = sp_rng_next(&rng) >> 63;
        for (size_t turn = 0; turn < 2 && n < cap; turn++) {
            size_t k = first ^ turn;
            while (at[k] < all[k] && has(out, n, &rank[k][at[k]]))
                at[k]++;
            if (at[k] == all[k])
                continue;
            out[n] = rank[k][at[k]++];
            out[n++].team = (uint8_t)(k + 1);
        }
    }
    return n;
}
