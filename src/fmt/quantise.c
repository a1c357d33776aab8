#include "fmt/quantise.h"

#include <math.h>
#include <string.h>

enum { GROUP = 32, GROUPS = 8, TRIES = 20 };

static void to_bf16(uint16_t *out, const float *x, size_t n)
{
    for (size_t i = 0; i < n; i++)
        out[i] = sp_bf16_from_f32(x[i]);
}

static void to_q8_0(sp_blk_q8_0 *out, const float *x, size_t n)
{
    for (size_t b = 0; b < n / 32; b++, x += 32) {
        float most = 0;
        for (size_t i = 0; i < 32; i++)
            most = fabsf(x[i]) > most ? fabsf(x[i]) : most;
        float d = most / 127, inverse = d != 0 ? 1 / d : 0;
        out[b].d = sp_f16_from_f32(d);
        for (size_t i = 0; i < 32; i++)
            out[b].qs[i] = (int8_t)roundf(x[i] * inverse);
    }
}

/* The largest value becomes -8, with its sign in the scale. */
static void to_q4_0(sp_blk_q4_0 *out, const float *x, size_t n)
{
    for (size_t b = 0; b < n / 32; b++, x += 32) {
        float most = 0;
        uint8_t q[32];
        for (size_t i = 0; i < 32; i++)
            most = fabsf(x[i]) > fabsf(most) ? x[i] : most;
        float d = most / -8, inverse = d != 0 ? 1 / d : 0;
        out[b].d = sp_f16_from_f32(d);
        for (size_t i = 0; i < 32; i++) {
            float v = x[i] * inverse + 8.5f;
            q[i] = (uint8_t)(v < 15 ? v : 15);
        }
        for (size_t i = 0; i < 16; i++)
            out[b].qs[i] = (uint8_t)(q[i] | q[i + 16] << 4);
    }
}

static float clamp(float v, float top)
{
    return v > 0 ? v < top ? v : top : 0;
}

/* What is left of the group's squares, weighed, at scale d and minimum m: x is near d q - m. q
 * [32]. */
static double left_over(const float *x, const float *w, float d, float m, uint8_t *q)
{
    double sum = 0;
    for (size_t i = 0; i < GROUP; i++) {
        q[i] = (uint8_t)(d > 0 ? clamp(roundf((x[i] + m) / d), 15) : 0);
        double miss = (double)(d * (float)q[i] - m - x[i]);
        sum += (double)w[i] * miss * miss;
    }
    return sum;
}

/* The scale and minimum, neither below 0, that fit best for these q: weighed least squares. */
static void refit(float *d, float *m, const float *x, const float *w, const uint8_t *q)
{
    double sw = 0, sx = 0, sq = 0, sqq = 0, sqx = 0;
    for (size_t i = 0; i < GROUP; i++) {
        double v = (double)w[i], a = (double)q[i], b = (double)x[i];
        sw += v;
        sx += v * b;
        sq += v * a;
        sqq += v * a * a;
        sqx += v * a * b;
    }
    double det = sw * sqq - sq * sq;
    if (!(det > 0))
        return;
    double slope = (sw * sqx - sq * sx) / det, low = (slope * sq - sx) / sw;
    if (low < 0) { /* the line goes through 0 */
        low = 0;
        slope = sqq > 0 ? sqx / sqq : 0;
    }
    if (slope > 0) {
        *d = (float)slope;
        *m = (float)low;
    }
}

/* Larger values weigh more: they meet larger sums. */
static void fit_group(float *d, float *m, const float *x)
{
    float w[GROUP], least = 0, most = x[0], square = 0;
    uint8_t q[GROUP];
    for (size_t i = 0; i < GROUP; i++) {
        least = x[i] < least ? x[i] : least;
        most = x[i] > most ? x[i] : most;
        square += x[i] * x[i];
    }
    for (size_t i = 0; i < GROUP; i++)
        w[i] = sqrtf(square / GROUP) + fabsf(x[i]) + 1e-30f;
    *m = -least;
    *d = most > least ? (most - least) / 15 : 0;
    double best = left_over(x, w, *d, *m, q);
    for (int k = 0; k<TRIES && * d> 0;
         k++) { /* ranges from 12 to 17 steps wide, each refitted to what it gives */
        float try_d = (most - least) / (12.0f + 0.25f * (float)k), try_m = -least;
        (void)left_over(x, w, try_d, try_m, q);
        refit(&try_d, &try_m, x, w, q);
        double miss = left_over(x, w, try_d, try_m, q);
        if (miss < best) {
            best = miss;
            *d = try_d;
            *m = try_m;
        }
    }
}

static void to_q4_k(sp_blk_q4_k *out, const float *x, size_t n)
{
    for (size_t b = 0; b < n / 256; b++, x += 256) {
        float d[GROUPS], m[GROUPS], most_d = 0, most_m = 0, w[GROUP];
        uint8_t scale[GROUPS], low[GROUPS], q[GROUPS][GROUP];
        for (size_t j = 0; j < GROUPS; j++) {
            fit_group(&d[j], &m[j], x + j * GROUP);
            most_d = d[j] > most_d ? d[j] : most_d;
            most_m = m[j] > most_m ? m[j] : most_m;
        }
        out[b].d = sp_f16_from_f32(most_d / 63);
        out[b].dmin = sp_f16_from_f32(most_m / 63);
        float each_d = sp_f16_to_f32(out[b].d), each_m = sp_f16_to_f32(out[b].dmin);
        memset(out[b].scales, 0, sizeof out[b].scales);
        for (size_t i = 0; i < GROUP; i++)
            w[i] = 1;
        for (size_t j = 0; j < GROUPS;
             j++) { /* the numbers again, for the scales as they are stored */
            scale[j] = (uint8_t)(each_d > 0 ? clamp(roundf(d[j] / each_d), 63) : 0);
            low[j] = (uint8_t)(each_m > 0 ? clamp(roundf(m[j] / each_m), 63) : 0);
            (void)left_over(x + j * GROUP, w, each_d * (float)scale[j], each_m * (float)low[j],
                            q[j]);
        }
        for (size_t j = 0; j < 4; j++) { /* the layout that sp_k4_scale_min reads */
            out[b].scales[j] = (uint8_t)(scale[j] | (scale[j + 4] >> 4) << 6);
            out[b].scales[j + 4] = (uint8_t)(low[j] | (low[j + 4] >> 4) << 6);
            out[b].scales[j + 8] = (uint8_t)((scale[j + 4] & 15) | (low[j + 4] & 15) << 4);
        }
        for (size_t j = 0; j < GROUPS; j += 2)
            for (size_t i = 0; i < GROUP; i++)
                out[b].qs[j / 2 * GROUP + i] = (uint8_t)(q[j][i] | q[j + 1][i] << 4);
    }
}

bool sp_quantise_can(sp_type type)
{
    return type == SP_F32 || type == SP_F16 || type == SP_BF16 || type == SP_Q8_0 ||
           type == SP_Q4_0 || type == SP_Q4_K;
}

void sp_quantise_row(void *out, sp_type type, const float *x, size_t n)
{
    switch (type) {
    case SP_F16:
        for (size_t i = 0; i < n; i++)
            ((sp_f16 *)out)[i] = sp_f16_from_f32(x[i]);
        break;
    case SP_BF16:
        to_bf16(out, x, n);
        break;
    case SP_Q8_0:
        to_q8_0(out, x, n);
        break;
    case SP_Q4_0:
        to_q4_0(out, x, n);
        break;
    case SP_Q4_K:
        to_q4_k(out, x, n);
        break;
    default:
        memcpy(out, x, n * sizeof *x);
    }
}
