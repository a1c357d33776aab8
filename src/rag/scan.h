/* Exact nearest neighbours over int8 vectors in memory: every row is looked at, by one thread, at
 * the speed memory is read. Vectors are unit vectors times SP_VEC_GAIN * 127, cut off at +-127;
 * likeness is their dot product.
 * Owner: sp_vecs owns its memory. Threads: one at a time. */
#ifndef SP_RAG_SCAN_H
#define SP_RAG_SCAN_H

#include "base/err.h"
#include "kern/kern.h"

enum { SP_VEC_DIM = 384, SP_VEC_K = 1024 };
/* Elements of unit vectors of 384 lie around 1/sqrt(384): a gain of 4 uses the range, and cuts off
 * what is more than 5 times that. */
#define SP_VEC_GAIN 4.0f

typedef struct sp_vecs {
    int8_t *at;    /* [n, SP_VEC_DIM], 64-byte aligned */
    int64_t *key;  /* [n] */
    uint32_t *doc; /* [n]: number of its document in the caller's list, for filters */
    size_t n, cap;
} sp_vecs;

typedef struct sp_vec_hit {
    int64_t key;
    int32_t dot;
} sp_vec_hit;

void sp_vec_quantise(int8_t out[SP_VEC_DIM], const float *unit);
void sp_vecs_fini(sp_vecs *v);
SP_MUST sp_err sp_vecs_reserve(sp_vecs *v, size_t n);
SP_MUST sp_err sp_vecs_add(sp_vecs *v, int64_t key, uint32_t doc, const int8_t *vec);
/* out [k]: the best k <= SP_VEC_K rows, best first, ties by key. allowed: NULL, or a byte for each
 * document. */
void sp_vecs_search(const sp_vecs *v, const sp_kern *kern, const int8_t *q, const uint8_t *allowed,
                    size_t k, sp_vec_hit *out, size_t *n_out);

#endif
