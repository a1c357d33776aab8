/* A key's rank, over the primitives of gemm_tile.h and vec_tile.h. On its own because attn_tail and
 * every attn_pick must see the same bits: what one bounds, the other leaves out. */
/* s->est from s->raw, where there is a cap. */
INLINE void scan_cap(const sp_scan *s, size_t n_page, size_t n_q)
{
    for (size_t t = 0; t < n_q && s->cap > 0; t++) {
        float *est = s->est + t * SP_PART_TOK;
        for (size_t i = 0; i < SP_PART_TOK; i += VR)
            vf_put(est + i, vf_cap(vf_load(s->raw + t * SP_PART_TOK + i), s->cap));
        for (size_t i = 0; n_page < SP_PART_PAGES && i < SP_PART_TOK; i += SP_PART_PAGES)
            for (size_t g = n_page; g < SP_PART_PAGES; g++)
                est[i + g] = -__builtin_inff();
    }
}

/* The rank of VR keys from element i on, T queries: the largest of a z; a [T] is 2^(est - max). */
INLINE vf scan_rank(vf *a, const sp_scan *s, const float *z, size_t i, const size_t T)
{
    vf rank = vf_zero();
    UNROLL
    for (size_t t = 0; t < T; t++) {
        a[t] = vf_pow2_up(vf_load(s->est + t * SP_PART_TOK + i), s->max[t]);
        rank = vf_max(rank, vf_mul1(a[t], z[t]));
    }
    return rank;
}
