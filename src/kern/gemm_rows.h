/* Plain rows (F32, F16, BF16) times activations, written once for every ISA over vf_load, vf_half,
 * vf_bf16 (loads), vf_zero, vf_fma, vf_sum4 (four sums over lanes) and VR of gemm_tile.h, and
 *   ROWS_R, ROWS_T   rows (at most 4) and tokens of the register tile
 *
 * k is taken in chunks, so that the activations of a tile stay in L1 while rows pass by; a chunk's
 * sum is added to the result. The order of operations for a (row, token) pair is the same in every
 * tile. */

enum {
    K_CHUNK = 2048,
    /* Rows at once for a single token, which is bound by memory: as few streams as possible, but
     * enough sums side by side to hide the latency of an addition. */
    ROWS_ONE = 16 / VR
};

#ifndef ROWS_PAIRS
/* 1 where weights and activations are both BF16 and one instruction adds two products a lane; the
 * including file then has vw, rows_w, rows_x and rows_add of its own. */
#define ROWS_PAIRS 0
typedef vf vw;

INLINE vw rows_w(sp_type type, const char *w)
{
    if (type == SP_F32)
        return vf_load((const float *)(const void *)w);
    return type == SP_F16 ? vf_half((const uint8_t *)w) : vf_bf16((const uint8_t *)w);
}

INLINE vw rows_x(const char *x)
{
    return vf_load((const float *)(const void *)x);
}

INLINE vf rows_add(vf acc, vw w, vw x)
{
    return vf_fma(w, x, acc);
}
#endif

enum { ROWS_STEP = ROWS_PAIRS ? 2 * VR : VR, X_BYTES = ROWS_PAIRS ? 2 : 4 };

/* Element i of a row, for what is left over after whole vectors. */
INLINE float rows_one(sp_type type, const char *p, size_t i)
{
    float f;
    uint16_t h;
    if (type == SP_F32) {
        memcpy(&f, p + 4 * i, sizeof f);
        return f;
    }
    memcpy(&h, p + 2 * i, sizeof h);
    return type == SP_F16 ? sp_f16_to_f32(h) : sp_bf16_to_f32(h);
}

INLINE void rows_tile(const sp_gemm_f_args *g, size_t r0, size_t t0, size_t from, size_t to,
                      sp_type type, const size_t R, const size_t T)
{
    const size_t elem = type == SP_F32 ? 4 : 2, w_bytes = g->k * elem, x_bytes = g->ld_x * X_BYTES;
    const char *w = (const char *)g->w + r0 * w_bytes, *x = (const char *)g->x + t0 * x_bytes;
    vf acc[ROWS_R][ROWS_T];
    size_t i = from;
    UNROLL
    for (size_t r = 0; r < R; r++) {
        UNROLL
        for (size_t t = 0; t < T; t++)
            acc[r][t] = vf_zero();
    }
    for (; i + ROWS_STEP <= to; i += ROWS_STEP) {
        vw wv[ROWS_R];
        UNROLL
        for (size_t r = 0; r < R; r++) {
            const char *at = w + r * w_bytes + i * elem;
            wv[r] = rows_w(type, at);
            if (T == 1)
                PREFETCH(at + SP_AHEAD_BYTES);
            else if (ROWS_PAIRS) /* the next rows: here products are fast enough to wait for them */
                PREFETCH(at + R * w_bytes);
        }
        UNROLL
        for (size_t t = 0; t < T; t++) {
            vw xv = rows_x(x + t * x_bytes + i * X_BYTES);
            UNROLL
            for (size_t r = 0; r < R; r++)
                acc[r][t] = rows_add(acc[r][t], wv[r], xv);
        }
    }
    bool add = g->add || from > 0;
    UNROLL
    for (size_t t = 0; t < T; t++) {
        float sum[4], *o = &g->out[(t0 + t) * g->ld + r0];
        vf_sum4(sum, acc[0][t], R > 1 ? acc[1 % ROWS_R][t] : vf_zero(),
                R > 2 ? acc[2 % ROWS_R][t] : vf_zero(), R > 3 ? acc[3 % ROWS_R][t] : vf_zero());
        UNROLL
        for (size_t r = 0; r < R; r++) {
            for (size_t j = i; j < to; j++)
                sum[r] += rows_one(type, w + r * w_bytes, j) *
                          rows_one(ROWS_PAIRS ? SP_BF16 : SP_F32, x + t * x_bytes, j);
            o[r] = add ? o[r] + sum[r] : sum[r];
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

static void gemm_bf16(const sp_gemm_f_args *g)
{
    rows_all(g, SP_BF16);
}

#if !ROWS_PAIRS
static void gemm_f32(const sp_gemm_f_args *g)
{
    rows_all(g, SP_F32);
}

static void gemm_f16(const sp_gemm_f_args *g)
{
    rows_all(g, SP_F16);
}

static void rows_init(sp_kern *kern)
{
    kern->gemm_f[SP_F32] = gemm_f32;
    kern->gemm_f[SP_F16] = gemm_f16;
    kern->gemm_f[SP_BF16] = gemm_bf16;
}
#endif
