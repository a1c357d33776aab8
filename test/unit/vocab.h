/* A vocabulary as a GGUF file in memory, for tests and fuzzing. */
#ifndef SP_TEST_VOCAB_H
#define SP_TEST_VOCAB_H

#include "base/buf.h"
#include "base/mem.h"
#include "text/tokenizer.h"

#include <string.h>

typedef struct vocab {
    sp_buf b;
    uint64_t n_key;
    void *copy; /* aligned, as the reader needs it */
    sp_gguf *g;
    sp_tok *t;
} vocab;

static inline void vocab_num(vocab *v, uint64_t x, size_t n)
{
    sp_buf_put(&v->b, &x, n);
}

static inline void vocab_text(vocab *v, const char *s, size_t n)
{
    vocab_num(v, n, 8);
    sp_buf_put(&v->b, s, n);
}

static inline void vocab_key(vocab *v, const char *key, uint32_t type)
{
    vocab_text(v, key, strlen(key));
    vocab_num(v, type, 4);
    v->n_key++;
}

static inline void vocab_array(vocab *v, const char *key, uint32_t type, size_t n)
{
    vocab_key(v, key, 9);
    vocab_num(v, type, 4);
    vocab_num(v, n, 8);
}

/* Begins a file: model, then tokens with their types and scores. */
static inline void vocab_begin(vocab *v, const char *model, const sp_str *token, const int32_t *type, const float *score, size_t n)
{
    sp_buf_put(&v->b, "GGUF\3\0\0\0\0\0\0\0\0\0\0\0........", 24);
    vocab_key(v, "tokenizer.ggml.model", 8);
    vocab_text(v, model, strlen(model));
    vocab_array(v, "tokenizer.ggml.tokens", 8, n);
    for (size_t i = 0; i < n; i++)
        vocab_text(v, token[i].p, token[i].n);
    vocab_array(v, "tokenizer.ggml.token_type", 5, n);
    sp_buf_put(&v->b, type, n * sizeof *type);
    vocab_array(v, "tokenizer.ggml.scores", 6, n);
    sp_buf_put(&v->b, score, n * sizeof *score);
}

static inline sp_err vocab_open(vocab *v, sp_diag *d)
{
    if (v->b.failed || !(v->copy = sp_mem_align(v->b.len)))
        return SP_NOMEM;
    memcpy(v->b.p + 16, &v->n_key, 8);
    memcpy(v->copy, v->b.p, v->b.len);
    sp_err err = sp_gguf_open_mem(&v->g, v->copy, v->b.len, d);
    return err == SP_OK ? sp_tok_open(&v->t, v->g, d) : err;
}

static inline void vocab_fini(vocab *v)
{
    sp_tok_close(v->t);
    sp_gguf_close(v->g);
    sp_mem_free(v->copy);
    sp_buf_fini(&v->b);
}

#endif
