#include "rag/scan.h"

#include "base/mem.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { BLOCK = 512 };

void sp_vec_quantise(int8_t out[SP_VEC_DIM], const float *unit)
{
    for (size_t i = 0; i < SP_VEC_DIM; i++)
        out[i] = (int8_t)lrintf(fmaxf(-127, fminf(127, 127 * SP_VEC_GAIN * unit[i])));
}

void sp_vecs_fini(sp_vecs *v)
{
    sp_mem_free(v->at);
    sp_mem_free(v->key);
    sp_mem_free(v->doc);
    *v = (sp_vecs){0};
}

sp_err sp_vecs_reserve(sp_vecs *v, size_t n)
{
    if (n <= v->cap)
        return SP_OK;
    size_t cap = v->cap * 2 > n ? v->cap * 2 : n, bytes;
    if (!sp_mul_ok(&bytes, cap, SP_VEC_DIM))
        return SP_NOMEM;
    int8_t *at = sp_mem_raw(bytes);
    int64_t *key = at ? sp_mem_grow(v->key, cap * sizeof *key) : NULL;
    if (key)
        v->key = key;
    uint32_t *doc = key ? sp_mem_grow(v->doc, cap * sizeof *doc) : NULL;
    if (!doc) {
        sp_mem_free(at);
        return SP_NOMEM;
    }
    v->doc = doc;
    if (v->n)
        memcpy(at, v->at, v->n * SP_VEC_DIM);
    sp_mem_free(v->at);
    v->at = at;
    v->cap = cap;
    return SP_OK;
}

sp_err sp_vecs_add(sp_vecs *v, int64_t key, uint32_t doc, const int8_t *vec)
{
    SP_TRY(sp_vecs_reserve(v, v->n + 1));
    memcpy(v->at + v->n * SP_VEC_DIM, vec, SP_VEC_DIM);
    v->key[v->n] = key;
    v->doc[v->n++] = doc;
    return SP_OK;
}

static bool is_worse(sp_vec_hit a, sp_vec_hit b)
{
    return a.dot != b.dot ? a.dot < b.dot : a.key > b.key;
}

/* Puts h at the top of heap [n] and lets it sink. */
static void sink(sp_vec_hit *heap, size_t n, sp_vec_hit h)
{
    size_t i = 0;
    for (size_t c; (c = 2 * i + 1) < n; i = c) {
        if (c + 1 < n && is_worse(heap[c + 1], heap[c]))
            c++;
        if (!is_worse(heap[c], h))
            break;
        heap[i] = heap[c];
    }
    heap[i] = h;
}

static void rise(sp_vec_hit *heap, size_t i, sp_vec_hit h)
{
    for (; i && is_worse(h, heap[(i - 1) / 2]); i = (i - 1) / 2)
        heap[i] = heap[(i - 1) / 2];
    heap[i] = h;
}

static int by_dot(const void *a, const void *b)
{
    const sp_vec_hit *x = a, *y = b;
    return is_worse(*y, *x) ? -1 : is_worse(*x, *y);
}

void sp_vecs_search(const sp_vecs *v, const sp_kern *kern, const int8_t *q, const uint8_t *allowed,
                    size_t k, sp_vec_hit *out, size_t *n_out)
{
    int32_t dot[BLOCK];
    size_t n = 0;
    SP_ASSERT(k && k <= SP_VEC_K);
    for (size_t first = 0; first < v->n; first += BLOCK) {
        size_t n_row = v->n - first < BLOCK ? v->n - first : BLOCK;
        kern->dot_i8(dot, q, v->at + first * SP_VEC_DIM, n_row, SP_VEC_DIM);
        for (size_t i = 0; i < n_row; i++) {
            sp_vec_hit h = {v->key[first + i], dot[i]};
            if ((n == k && !is_worse(out[0], h)) || (allowed && !allowed[v->doc[first + i]]))
                continue;
            if (n < k)
                rise(out, n++, h); /* a heap with the worst on top */
            else
                sink(out, n, h);
        }
    }
    qsort(out, n, sizeof *out, by_dot);
    *n_out = n;
}
