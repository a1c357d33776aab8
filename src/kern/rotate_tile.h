/* The rotation of queries, keys and values (sp_kern.rotate), written once for levels with short
 * registers over the primitives of gemm_tile.h, vf_load, vf_put, vf_add, vf_sub and
 *   vf_swap(v, h)   lane l ^ h of v, for h = 1, 2, .. VR / 2
 *   vf_minus(v, m)  v, negated in the lanes whose bit in m is set
 * Every element is what ref/ref.c computes, in the same order. */

/* x plus its neighbour h lanes away in low lanes, the neighbour minus x in high ones. */
INLINE vf butterfly(vf x, size_t h)
{
    const unsigned high[] = {0, 0xaa, 0xcc, 0, 0xf0};
    return vf_add(vf_minus(x, high[h]), vf_swap(x, h));
}

static void rotate(float *out, const float *x, float scale, size_t d, bool back)
{
    const size_t n = d & (~d + 1); /* largest power of two that divides d, at least 16 */
    const float unit = 1.0f / __builtin_sqrtf((float)n);
    for (size_t i = 0; i < d; i += VR) {
        unsigned minus = back ? 0 : sp_rot_minus(i & ~(size_t)15) >> i % 16;
        vf v = vf_mul1(vf_minus(vf_load(x + i), minus), scale);
        UNROLL
        for (size_t h = 1; h < VR; h *= 2)
            v = butterfly(v, h);
        vf_put(out + i, v);
    }
    for (size_t h = VR; h < n; h *= 2) {
        for (size_t at = 0; at < d; at += 2 * h) {
            for (size_t i = at; i < at + h; i += VR) {
                vf a = vf_load(out + i), b = vf_load(out + i + h);
                vf_put(out + i, vf_add(a, b));
                vf_put(out + i + h, vf_sub(a, b));
            }
        }
    }
    for (size_t i = 0; i < d; i += VR) {
        unsigned minus = back ? sp_rot_minus(i & ~(size_t)15) >> i % 16 : 0;
        vf_put(out + i, vf_mul1(vf_minus(vf_load(out + i), minus), unit));
    }
}
