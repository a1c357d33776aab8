/* Quantising KV pages and reading them back, written once for every ISA over the primitives of
 * gemm_tile.h and these:
 *   vs_load, vs_store (u32 lanes as bytes), vs_clamp (to 0..255), vs_round (vf to nearest even)
 *   vf_load, vf_put, vf_set1, vf_add, vf_sub, vf_absmax (max(a, |b|)), vf_fma
 * Lanes are tokens for keys and dimensions for values; four codes of a lane are one 32-bit word of a
 * plane. Bit for bit what ref/planes.c computes. */

INLINE float planes_sum(vf *part)
{ /* over 32 lanes, by halves */
    float t[VR];
    for (size_t n = SP_PAGE_TOK / VR / 2; n; n /= 2)
        for (size_t i = 0; i < n; i++)
            part[i] = vf_add(part[i], part[i + n]);
    vf_put(t, part[0]);
    for (size_t n = VR / 2; n; n /= 2)
        for (size_t i = 0; i < n; i++)
            t[i] += t[i + n];
    return t[0];
}

/* Scales of 32 tokens from their largest magnitudes: rounded up, so that no code is clipped. */
INLINE void planes_scales(sp_f16 *scale, float *inv, const float *top)
{
    for (size_t j = 0; j < SP_PAGE_TOK; j++) {
        scale[j] = sp_f16_up(top[j] / 127.0f);
        float s = sp_f16_to_f32(scale[j]);
        inv[j] = s > 0 ? 1.0f / s : 0;
    }
}

INLINE vs planes_code(vf x, vf inv)
{
    return vs_clamp(vs_addi(vs_round(vf_mul(x, inv)), 128));
}

/* Two words of codes (the low and the high nibble's elements) into one word of each plane. */
INLINE void planes_split(uint8_t *hi, uint8_t *lo, vs a, vs b)
{
    vs_store(hi, vs_or(vs_and(vs_srl(a, 4), 0x0f0f0f0f), vs_and(b, (int)0xf0f0f0f0)));
    if (lo)
        vs_store(lo, vs_or(vs_and(a, 0x0f0f0f0f), vs_and(vs_sll(b, 4), (int)0xf0f0f0f0)));
}

INLINE vs planes_join(const uint8_t *hi, const uint8_t *lo, bool high)
{
    vs h = vs_load(hi), l = lo ? vs_load(lo) : vs_zero();
    if (high)
        return vs_or(vs_and(h, (int)0xf0f0f0f0), vs_and(vs_srl(l, 4), 0x0f0f0f0f));
    return vs_or(vs_and(vs_sll(h, 4), (int)0xf0f0f0f0), vs_and(l, 0x0f0f0f0f));
}

/* Four key codes (dimensions 4 g ..) of VR tokens from j0 on; adds the squares of what lo leaves. */
INLINE vs planes_key(const sp_f16 *kt, const float *mean, size_t g, size_t j0, vf inv, vf *left)
{
    vs word = vs_zero();
    for (size_t i = 4 * g; i < 4 * g + 4; i++) {
        vf x = vf_sub(vf_half((const uint8_t *)(kt + i * SP_PAGE_TOK + j0)), vf_set1(mean[i]));
        vs c = planes_code(x, inv);
        vf lo = vf_add(vf_cvt(vs_and(c, 15)), vf_set1(-7.5f));
        *left = vf_fma(lo, lo, *left); /* exact: multiples of 1/4 below 2^14 */
        word = vs_or(word, vs_sll(c, (int)(8 * (i % 4))));
    }
    return word;
}

static void planes_put(const sp_planes *out, const sp_f16 *kt, const sp_f16 *v, size_t d)
{
    float mean[SP_MAX_HEAD], top[SP_PAGE_TOK], inv[SP_PAGE_TOK], err[SP_PAGE_TOK];
    sp_planes_zero_rest(out, d);
    for (size_t i = 0; i < d; i++) {
        vf part[SP_PAGE_TOK / VR];
        for (size_t j = 0; j < SP_PAGE_TOK / VR; j++)
            part[j] = vf_half((const uint8_t *)(kt + i * SP_PAGE_TOK + j * VR));
        out->k_mean[i] = sp_f16_from_f32(planes_sum(part) / SP_PAGE_TOK);
        mean[i] = sp_f16_to_f32(out->k_mean[i]);
    }
    for (size_t j = 0; j < SP_PAGE_TOK; j += VR) {
        vf most = vf_zero();
        for (size_t i = 0; i < d; i++)
            most = vf_absmax(most, vf_sub(vf_half((const uint8_t *)(kt + i * SP_PAGE_TOK + j)), vf_set1(mean[i])));
        vf_put(top + j, most);
    }
    planes_scales(out->k_scale, inv, top);
    for (size_t j = 0; j < SP_PAGE_TOK; j += VR) {
        vf left = vf_zero(), in = vf_load(inv + j);
        for (size_t g = 0; g < d / 8; g++) {
            vs a = planes_key(kt, mean, g, j, in, &left), b = planes_key(kt, mean, g + d / 8, j, in, &left);
            size_t at = (g * SP_PAGE_TOK + j) * 4;
            planes_split(out->k_hi + at, out->k_lo ? out->k_lo + at : NULL, a, b);
        }
        vf_put(err + j, left);
    }
    for (size_t j = 0; j < SP_PAGE_TOK; j++) {
        float most[VR];
        vf m = vf_zero();
        out->k_err[j] = sp_bf16_up(sp_f16_to_f32(out->k_scale[j]) * __builtin_sqrtf(err[j]) * SP_ERR_UP);
        for (size_t i = 0; i < d; i += VR)
            m = vf_absmax(m, vf_half((const uint8_t *)(v + j * d + i)));
        vf_put(most, m);
        top[j] = 0;
        for (size_t i = 0; i < VR; i++)
            top[j] = most[i] > top[j] ? most[i] : top[j];
    }
    planes_scales(out->v_scale, inv, top);
    for (size_t u = 0; u < 4; u++) {
        for (size_t i = 0; i < d; i += VR) {
            vs word[2] = {vs_zero(), vs_zero()};
            for (size_t j = 0; j < 8; j++) {
                size_t tok = 4 * u + j % 4 + j / 4 * 16;
                vs c = planes_code(vf_half((const uint8_t *)(v + tok * d + i)), vf_set1(inv[tok]));
                word[j / 4] = vs_or(word[j / 4], vs_sll(c, (int)(8 * (j % 4))));
            }
            size_t at = (u * d + i) * 4;
            planes_split(out->v_hi + at, out->v_lo ? out->v_lo + at : NULL, word[0], word[1]);
        }
    }
}

static void planes_get(float *kt, float *v, const sp_planes *in, size_t d)
{
    const vf zero = vf_set1(in->k_lo ? -128.0f : -120.5f);
    for (size_t j = 0; j < SP_PAGE_TOK; j += VR) {
        vf scale = vf_half((const uint8_t *)(in->k_scale + j));
        for (size_t g = 0; g < d / 4; g++) {
            size_t at = (g % (d / 8) * SP_PAGE_TOK + j) * 4;
            vs word = planes_join(in->k_hi + at, in->k_lo ? in->k_lo + at : NULL, g >= d / 8);
            for (size_t i = 0; i < 4; i++) {
                vf c = vf_add(vf_cvt(vs_and(vs_srl(word, (int)(8 * i)), 255)), zero);
                vf mean = vf_set1(sp_f16_to_f32(in->k_mean[4 * g + i]));
                vf_put(kt + (4 * g + i) * SP_PAGE_TOK + j, vf_fma(scale, c, mean));
            }
        }
    }
    for (size_t u = 0; u < 8; u++) {
        float scale[4];
        for (size_t j = 0; j < 4; j++)
            scale[j] = sp_f16_to_f32(in->v_scale[4 * u + j]);
        for (size_t i = 0; i < d; i += VR) {
            size_t at = (u % 4 * d + i) * 4;
            vs word = planes_join(in->v_hi + at, in->v_lo ? in->v_lo + at : NULL, u >= 4);
            for (size_t j = 0; j < 4; j++) {
                vf c = vf_add(vf_cvt(vs_and(vs_srl(word, (int)(8 * j)), 255)), zero);
                vf_put(v + (4 * u + j) * d + i, vf_mul1(c, scale[j]));
            }
        }
    }
}
