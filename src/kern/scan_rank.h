/* A key's rank, over the primitives of gemm_tile.h and vec_tile.h. On its own because attn_tail and every attn_pick
 * must see the same bits: what one bounds, the other leaves out. */
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
