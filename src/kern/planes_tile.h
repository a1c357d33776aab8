/* Quantising KV pages and reading them back, written once for every ISA over the primitives of
 * gemm_tile.h and these:
 *   vs_load, vs_store (u32 lanes as bytes), vs_clamp (to 0..255), vs_round (vf to nearest even)
 *   vf_load, vf_put, vf_set1, vf_add, vf_sub, vf_absmax (max(a, |b|)), vf_fma Lanes are tokens for
 *   keys and dimensions for values; four codes of a token's key are one 32-bit word of a plane. Bit
 *   for bit what ref/planes.c computes. */

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

/* Two words of codes (the low and the high nibble's elements) of VR tokens into one word of each
 * plane: side by side in hi, to rows ld bytes apart in lo. */
INLINE void planes_split(uint8_t *hi, uint8_t *lo, size_t ld, vs a, vs b)
{
    int32_t word[VR];
    vs_store(hi, vs_or(vs_and(vs_srl(a, 4), 0x0f0f0f0f), vs_and(b, (int)0xf0f0f0f0)));
    if (!lo)
        return;
    vs_put(word, vs_or(vs_and(a, 0x0f0f0f0f), vs_and(vs_sll(b, 4), (int)0xf0f0f0f0)));
    for (size_t j = 0; j < VR; j++)
        memcpy(lo + j * ld, &word[j], 4);
}

INLINE vs planes_join(const uint8_t *hi, const uint8_t *lo, size_t ld, bool high)
{
    uint8_t word[4 * VR] = {0};
    vs h = vs_load(hi);
    for (size_t j = 0; lo && j < VR; j++)
        memcpy(word + 4 * j, lo + j * ld, 4);
    vs l = vs_load(word);
    if (high)
        return vs_or(vs_and(h, (int)0xf0f0f0f0), vs_and(vs_srl(l, 4), 0x0f0f0f0f));
    return vs_or(vs_and(vs_sll(h, 4), (int)0xf0f0f0f0), vs_and(l, 0x0f0f0f0f));
}

/* Four key codes (dimensions 4 g ..) of VR tokens from j0 on; left [d][32] takes what lo leaves. */
INLINE vs planes_key(const sp_f16 *kt, const float *mean, size_t g, size_t j0, vf inv, float *left)
{
    vs word = vs_zero();
    for (size_t i = 4 * g; i < 4 * g + 4; i++) {
        vf x = vf_sub(vf_half((const uint8_t *)(kt + i * SP_PAGE_TOK + j0)), vf_set1(mean[i]));
        vs c = planes_code(x, inv);
        vf_put(left + i * SP_PAGE_TOK + j0, vf_add(vf_cvt(vs_and(c, 15)), vf_set1(-7.5f)));
        word = vs_or(word, vs_sll(c, (int)(8 * (i % 4))));
    }
    return word;
}

/* out[i][j] = sum over k of a[k][i] * a[k][j], 32 columns. */
static void planes_gram(float *out, const float *a, size_t n_k)
{
    enum { N = 2 };
    for (size_t i = 0; i < SP_PAGE_TOK; i += 4) {
        for (size_t j = 0; j < SP_PAGE_TOK; j += N * VR) {
            vf acc[4][N];
            UNROLL
            for (size_t e = 0; e < 4; e++) {
                UNROLL
                for (size_t b = 0; b < N; b++)
                    acc[e][b] = vf_zero();
            }
            for (size_t k = 0; k < n_k; k++) {
                UNROLL
                for (size_t b = 0; b < N; b++) {
                    vf x = vf_load(a + k * SP_PAGE_TOK + j + b * VR);
                    UNROLL
                    for (size_t e = 0; e < 4; e++)
                        acc[e][b] = vf_fma1(x, a[k * SP_PAGE_TOK + i + e], acc[e][b]);
                }
            }
            UNROLL
            for (size_t e = 0; e < 4; e++) {
                UNROLL
                for (size_t b = 0; b < N; b++)
                    vf_put(out + (i + e) * SP_PAGE_TOK + j + b * VR, acc[e][b]);
            }
        }
    }
}

static void planes_bound(sp_planes_bound *out, const float *left, size_t d) /* left [d][32] */
{
    _Static_assert(SP_PAGE_TOK % (2 * VR) == 0, "planes_gram");
    float g[2][SP_PAGE_TOK * SP_PAGE_TOK], t[SP_SPEC_STEPS], rest = 0;
    planes_gram(g[0], left, d);
    for (size_t j = 0; j < SP_PAGE_TOK; j++)
        rest = g[0][j * SP_PAGE_TOK + j] > rest ? g[0][j * SP_PAGE_TOK + j] : rest;
    for (size_t s = 0; s < SP_SPEC_STEPS; s++) {
        t[s] = sp_spec_scale(g[s % 2]);
        planes_gram(g[(s + 1) % 2], g[s % 2], SP_PAGE_TOK);
    }
    out->err = __builtin_sqrtf(rest) * SP_ERR_UP;
    out->spec = sp_spec_bound(g[SP_SPEC_STEPS % 2], t);
}

static void planes_put_values(const sp_planes *out, const sp_f16 *v, size_t d)
{
    float top[SP_PAGE_TOK], inv[SP_PAGE_TOK];
    for (size_t j = 0; j < SP_PAGE_TOK; j++) {
        vf m = vf_zero();
        for (size_t i = 0; i < d; i += VR)
            m = vf_absmax(m, vf_half((const uint8_t *)(v + j * d + i)));
        top[j] = vf_hmax(m);
    }
    planes_scales(out->v_scale, inv, top);
    for (size_t j = 0; j < SP_PAGE_TOK; j++) {
        int32_t c[SP_MAX_HEAD];
        for (size_t i = 0; i < d; i += VR)
            vs_put(c + i, planes_code(vf_half((const uint8_t *)(v + j * d + i)), vf_set1(inv[j])));
        for (size_t b = 0; b < d / 2; b++)
            out->v_hi[j * (d / 2) + b] = (uint8_t)(c[b] >> 4 | (c[b + d / 2] & 0xf0));
        for (size_t b = 0; out->v_lo && b < d / 2; b++)
            out->v_lo[j * d + b] = (uint8_t)((c[b] & 15) | (c[b + d / 2] & 15) << 4);
    }
}

static void planes_put(const sp_planes *out, const sp_f16 *kt, const sp_f16 *v, size_t d)
{
    float mean[SP_MAX_KEY], left[SP_MAX_KEY * SP_PAGE_TOK], top[SP_PAGE_TOK], inv[SP_PAGE_TOK];
    sp_planes_zero_rest(out);
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
            most = vf_absmax(most, vf_sub(vf_half((const uint8_t *)(kt + i * SP_PAGE_TOK + j)),
                                          vf_set1(mean[i])));
        vf_put(top + j, most);
    }
    planes_scales(out->k_scale, inv, top);
    for (size_t j = 0; j < SP_PAGE_TOK; j += VR) {
        vf in = vf_load(inv + j);
        for (size_t g = 0; g < d / 8; g++) {
            vs a = planes_key(kt, mean, g, j, in, left),
               b = planes_key(kt, mean, g + d / 8, j, in, left);
            planes_split(out->k_hi + (g * SP_PAGE_TOK + j) * 4,
                         out->k_lo ? out->k_lo + j * out->lo_row + 4 * g : NULL, out->lo_row, a, b);
        }
    }
    planes_bound(out->bound, left, d);
    if (v)
        planes_put_values(out, v, d);
}

static void planes_keys(float *kt, const sp_planes *in, size_t d)
{
    const float zero = in->k_lo ? -128.0f : -120.5f;
    for (size_t j = 0; j < SP_PAGE_TOK; j += VR) {
        vf scale = vf_half((const uint8_t *)(in->k_scale + j));
        for (size_t g = 0; g < d / 4; g++) {
            size_t at = g % (d / 8);
            const uint8_t *lo = in->k_lo ? in->k_lo + j * in->lo_row + 4 * at : NULL;
            vs word =
                planes_join(in->k_hi + (at * SP_PAGE_TOK + j) * 4, lo, in->lo_row, g >= d / 8);
            for (size_t i = 0; i < 4; i++) {
                vf c = vf_add(vf_cvt(vs_and(vs_srl(word, (int)(8 * i)), 255)), vf_set1(zero));
                vf mean = vf_set1(sp_f16_to_f32(in->k_mean[4 * g + i]));
                vf_put(kt + (4 * g + i) * SP_PAGE_TOK + j, vf_fma(scale, c, mean));
            }
        }
    }
}

static void planes_value(float *to, const sp_planes *in, size_t j, size_t d)
{
    const uint8_t *hi = in->v_hi + j * (d / 2), *lo = in->v_lo ? in->v_lo + j * d : NULL;
    const float zero = lo ? -128.0f : -120.5f, scale = sp_f16_to_f32(in->v_scale[j]);
    for (size_t b = 0; b < d / 2; b++) {
        uint8_t l = lo ? lo[b] : 0;
        to[b] = scale * ((float)((hi[b] & 15) << 4 | (l & 15)) + zero);
        to[b + d / 2] = scale * ((float)((hi[b] & 0xf0) | l >> 4) + zero);
    }
}

static void planes_get(float *kt, float *v, const sp_planes *in, size_t d)
{
    planes_keys(kt, in, d);
    for (size_t j = 0; v && j < SP_PAGE_TOK; j++)
        planes_value(v + j * d, in, j, d);
}
