/* Plain rows (F32, F16, BF16) times f32 activations, written once for every ISA over vf_load,
 * vf_half, vf_bf16 (loads), vf_zero, vf_fma, vf_sum and VR of gemm_tile.h, and
 *   ROWS_R, ROWS_T   rows and tokens of the register tile
 *
 * k is taken in chunks, so that the activations of a tile stay in L1 while rows pass by; a chunk's sum
 * is added to the result. The order of operations for a (row, token) pair is the same in every tile. */

enum {
    K_CHUNK = 2048,
    /* Rows at once for a single token, which is bound by memory: as few streams as possible, but enough
     * sums side by side to hide the latency of an addition. */
    ROWS_ONE = 16 / VR
};

INLINE vf rows_load(sp_type type, const void *w, size_t i)
{
    if (type == SP_F32)
        return vf_load((const float *)w + i);
    return type == SP_F16 ? vf_half((const uint8_t *)w + 2 * i) : vf_bf16((const uint8_t *)w + 2 * i);
}

INLINE float rows_one(sp_type type, const void *w, size_t i)
{
    if (type == SP_F32)
        return ((const float *)w)[i];
    uint16_t h = ((const uint16_t *)w)[i];
    return type == SP_F16 ? sp_f16_to_f32(h) : sp_bf16_to_f32(h);
}

INLINE void rows_tile(const sp_gemm_f_args *g, size_t r0, size_t t0, size_t from, size_t to, sp_type type,
                      const size_t R, const size_t T)
{
    const size_t elem = type == SP_F32 ? 4 : 2, k = g->k, ld = g->ld_x;
    const char *w = (const char *)g->w + r0 * k * elem;
    const float *x = (const float *)g->x + t0 * ld;
    vf acc[ROWS_R][ROWS_T];
    size_t i = from;
    UNROLL
    for (size_t r = 0; r < R; r++) {
        UNROLL
        for (size_t t = 0; t < T; t++)
            acc[r][t] = vf_zero();
    }
    for (; i + VR <= to; i += VR) {
        vf wv[ROWS_R];
        UNROLL
        for (size_t r = 0; r < R; r++) {
            wv[r] = rows_load(type, w + r * k * elem, i);
            if (T == 1)
                PREFETCH(w + (r * k + i) * elem + AHEAD_BYTES);
        }
        UNROLL
        for (size_t t = 0; t < T; t++) {
            vf xv = vf_load(x + t * ld + i);
            UNROLL
            for (size_t r = 0; r < R; r++)
                acc[r][t] = vf_fma(wv[r], xv, acc[r][t]);
        }
    }
    bool add = g->add || from > 0;
    UNROLL
    for (size_t r = 0; r < R; r++) {
        UNROLL
        for (size_t t = 0; t < T; t++) {
            float sum = vf_sum(acc[r][t]), *o = &g->out[(t0 + t) * g->ld + r0 + r];
            for (size_t j = i; j < to; j++)
                sum += rows_one(type, w + r * k * elem, j) * x[t * ld + j];
            *o = add ? *o + sum : sum;
        }
    }
}

INLINE size_t chunk_end(size_t k, size_t from)
{
    return k - from < K_CHUNK ? k : from + K_CHUNK;
}

INLINE void rows_strip(const sp_gemm_f_args *g, size_t t, sp_type type, const size_t T)
{
    for (size_t from = 0; from < g->k; from += K_CHUNK) {
        size_t to = chunk_end(g->k, from), r = 0;
        for (; r + ROWS_R <= g->n_row; r += ROWS_R)
            rows_tile(g, r, t, from, to, type, ROWS_R, T);
        for (; r < g->n_row; r++)
            rows_tile(g, r, t, from, to, type, 1, T);
    }
}

INLINE void rows_all(const sp_gemm_f_args *g, sp_type type)
{
    size_t t = 0;
    for (; t + ROWS_T <= g->n_tok; t += ROWS_T)
        rows_strip(g, t, type, ROWS_T);
    for (; t + 2 <= g->n_tok; t += 2)
        rows_strip(g, t, type, 2);
    for (; t < g->n_tok; t++) {
        size_t r = 0;
        for (; r + ROWS_ONE <= g->n_row; r += ROWS_ONE)
            for (size_t from = 0; from < g->k; from += K_CHUNK)
                rows_tile(g, r, t, from, chunk_end(g->k, from), type, ROWS_ONE, 1);
        for (; r < g->n_row; r++)
            for (size_t from = 0; from < g->k; from += K_CHUNK)
                rows_tile(g, r, t, from, chunk_end(g->k, from), type, 1, 1);
    }
}

static void gemm_f32(const sp_gemm_f_args *g)
{
    rows_all(g, SP_F32);
}

static void gemm_f16(const sp_gemm_f_args *g)
{
    rows_all(g, SP_F16);
}

static void gemm_bf16(const sp_gemm_f_args *g)
{
    rows_all(g, SP_BF16);
}

static void rows_init(sp_kern *kern)
{
    kern->gemm_f[SP_F32] = gemm_f32;
    kern->gemm_f[SP_F16] = gemm_f16;
    kern->gemm_f[SP_BF16] = gemm_bf16;
}
