/* What the model tools share: token ids from stdin, a line for each text, and a model opened with one sequence of them. */
#ifndef TEST_TOOL_OPENED_H
#define TEST_TOOL_OPENED_H

#include "model/weights.h"

#include <stdio.h>

enum { CAP_TOK = 8192 };

typedef struct opened {
    const char *device; /* NULL: cpu */
    bool is_fp8;        /* weights, where the device holds them so */
    size_t n_thread;    /* 0: one, for two mostly wait for each other */
    uint32_t tok[CAP_TOK];
    size_t n;
    sp_gguf *gguf;
    sp_dev *dev;
    sp_model *model;
    sp_kv_pool *pool;
    sp_model_work *work;
    sp_kv_seq seq;
    sp_diag d;
} opened;

/* The next text: the ids of a line. False where there is none. */
static inline bool read_text(opened *o)
{
    int c;
    for (o->n = 0; (c = getchar()) != EOF && c != '\n';) {
        if (c == ' ')
            continue;
        ungetc(c, stdin);
        if (o->n == CAP_TOK || scanf("%u", &o->tok[o->n]) != 1)
            return false;
        o->n++;
    }
    return o->n > 0;
}

/* A model, and the first text. */
static inline bool open_model(opened *o, const char *path, sp_cpu_level mask, size_t n_ctx, size_t expert_bytes)
{
    const sp_dev_cfg cfg = {.name = o->device ? o->device : "cpu", .n_thread = o->n_thread ? o->n_thread : 1, .mask = mask};
    const sp_model_cfg model = {.n_ctx = n_ctx, .expert_bytes = expert_bytes, .fp8 = o->is_fp8};
    return read_text(o) && sp_gguf_open(&o->gguf, path, &o->d) == SP_OK && sp_dev_open(&o->dev, &cfg, &o->d) == SP_OK &&
           sp_model_load(&o->model, o->gguf, o->dev, &model, &o->d) == SP_OK;
}

/* Pages, activations and an empty sequence with room for all tokens. */
static inline bool open_seq(opened *o, const sp_kv_format *format, size_t cap_logits)
{
    const sp_kv_cfg kv = {.shape = sp_model_kv_shape(o->model, format), .window = sp_model_kv_window(o->model),
                          .state_bytes = sp_model_state_bytes(o->model), .cap_bytes = 1u << 30,
                          .model_id = *sp_model_id(o->model), .reuse = true};
    return sp_kv_pool_new(&o->pool, o->dev, &kv, &o->d) == SP_OK &&
           sp_model_work_new(&o->work, o->model, 3 * o->n, cap_logits, &o->d) == SP_OK &&
           sp_kv_seq_init(&o->seq, o->pool, "t", NULL) == SP_OK && sp_kv_seq_reserve(&o->seq, o->pool, o->n) == SP_OK;
}

static inline void close_seq(opened *o)
{
    sp_kv_seq_fini(&o->seq, o->pool);
    sp_model_work_free(o->work);
    sp_kv_pool_free(o->pool);
}

static inline void close_all(opened *o)
{
    close_seq(o);
    sp_model_free(o->model);
    sp_dev_close(o->dev);
    sp_gguf_close(o->gguf);
}

#endif
