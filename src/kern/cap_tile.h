/* A soft cap on scores, over the primitives of gemm_tile.h and vec_tile.h. On its own because
 * x86/attn_vnni.c does without vec_tile.h, and because equal scores must have equal bits wherever
 * in a register they lie.
 *
 * cap * tanh(s / cap) for cap > 0. tanh(x) = x P(x^2) / Q(x^2) on |x| <= 9.02, where it is 1 to the
 * last bit: a minimax fit (weighted least squares, own); relative error below 4e-7 in f32, and
 * |result| <= |s| but for that. NaN becomes a number. */
INLINE vf vf_cap(vf s, float cap)
{
    vf x = vf_max(vf_min(vf_mul1(s, 1.0f / cap), vf_set1(9.02f)), vf_set1(-9.02f)),
       y = vf_mul(x, x);
    vf p = vf_set1(1.3319043645765305e-08f), q = vf_set1(7.76200749896816e-07f);
    p = vf_fma(p, y, vf_set1(2.0583460354828276e-05f));
    q = vf_fma(q, y, vf_set1(0.0003283090773038566f));
    p = vf_fma(p, y, vf_set1(0.0034940331242978573f));
    q = vf_fma(q, y, vf_set1(0.025871068239212036f));
    p = vf_fma(p, y, vf_set1(0.13379716873168945f));
    q = vf_fma(q, y, vf_set1(0.4671303331851959f));
    p = vf_fma(p, y, vf_set1(1.0f));
    q = vf_fma(q, y, vf_set1(1.0f));
    return vf_mul1(vf_div(vf_mul(x, p), q), cap);
}
