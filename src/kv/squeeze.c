#include "kv/squeeze.h"

#include <math.h>
#include <string.h>

enum { BLOCK = 64, BLOCK_BYTES = 4 + BLOCK * 3 / 2, MOST = 2047 };

size_t sp_kv_squeeze_bytes(size_t n)
{
    return (n + BLOCK - 1) / BLOCK * BLOCK_BYTES;
}

/* Its own inverse. */
static void turn(float x[BLOCK])
{
    for (size_t half = 1; half < BLOCK; half *= 2) {
        for (size_t i = 0; i < BLOCK; i += 2 * half) {
            for (size_t j = i; j < i + half; j++) {
                float a = x[j], b = x[j + half];
                x[j] = a + b;
                x[j + half] = a - b;
            }
        }
    }
    for (size_t i = 0; i < BLOCK; i++)
        x[i] *= 0.125f; /* 1 / sqrt(BLOCK) */
}

/* The number is step * (code - 2048); a pair of codes takes three bytes. */
static bool put_block(uint8_t *out, float x[BLOCK])
{
    float most = 0;
    turn(x);
    for (size_t i = 0; i < BLOCK; i++) {
        if (!isfinite(x[i]))
            return false;
        most = fabsf(x[i]) > most ? fabsf(x[i]) : most;
    }
    float step = most / MOST, by = most > 0 ? MOST / most : 0;
    if (!isfinite(by)) /* so small that it counts as nothing */
        step = by = 0;
    memcpy(out, &step, sizeof step);
    out += sizeof step;
    for (size_t i = 0; i < BLOCK; i += 2, out += 3) {
        unsigned a = (unsigned)(lrintf(x[i] * by) + MOST + 1);
        unsigned b = (unsigned)(lrintf(x[i + 1] * by) + MOST + 1);
        out[0] = (uint8_t)a;
        out[1] = (uint8_t)(a >> 8 | b << 4);
        out[2] = (uint8_t)(b >> 4);
    }
    return true;
}

static void get_block(float x[BLOCK], const uint8_t *in)
{
    float step;
    memcpy(&step, in, sizeof step);
    in += sizeof step;
    for (size_t i = 0; i < BLOCK; i += 2, in += 3) {
        int a = in[0] | (in[1] & 15) << 8, b = in[1] >> 4 | in[2] << 4;
        x[i] = step * (float)(a - MOST - 1);
        x[i + 1] = step * (float)(b - MOST - 1);
    }
    turn(x);
}

bool sp_kv_squeeze(uint8_t *out, const float *x, size_t n)
{
    for (size_t i = 0; i < n; i += BLOCK, out += BLOCK_BYTES) {
        float block[BLOCK] = {0};
        memcpy(block, x + i, (n - i < BLOCK ? n - i : BLOCK) * sizeof *x);
        if (!put_block(out, block))
            return false;
    }
    return true;
}

void sp_kv_unsqueeze(float *out, const uint8_t *in, size_t n)
{
    for (size_t i = 0; i < n; i += BLOCK, in += BLOCK_BYTES) {
        float block[BLOCK];
        get_block(block, in);
        memcpy(out + i, block, (n - i < BLOCK ? n - i : BLOCK) * sizeof *out);
    }
}
