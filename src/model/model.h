/* A decoder or an encoder: weights bound to a device, and its one forward pass over a batch of
 * spans or of whole texts.
 *
 * Owner:   sp_model owns its weights' device memory and borrows the GGUF until free.
 * Threads: immutable after load, except that the device belongs to the step thread; an
 *          sp_model_work belongs to one thread.
 * Exact:   logits of a span depend only on its sequence's tokens: not on the batch, the chunking,
 *          the thread count, or whether pages were reused. F32 checkpoints agree with PyTorch to
 *          NMSE <= 1e-8 with f32 pages (test/e2e/test_model.py). */
#ifndef SP_MODEL_MODEL_H
#define SP_MODEL_MODEL_H

#include "kv/pool.h"
#include "model/arch.h"
#include "model/packed.h"

typedef struct sp_model sp_model;
typedef struct sp_model_work sp_model_work; /* activations of one forward pass */

typedef struct sp_model_text {
    const uint32_t *tok; /* [n], each < n_vocab */
    size_t n;
    size_t second;       /* > 0: tokens from here on are a second text's */
} sp_model_text;

typedef struct sp_model_span {
    sp_kv_seq *seq;       /* tokens are appended here; room must be reserved */
    const uint32_t *tok;  /* [n], each < n_vocab */
    size_t n;
    size_t n_logits;      /* of the last n_logits tokens, 0..n */
    const float *hidden;  /* sp_model_load_next: of the tokens before each of tok, f32 [n, n_embd],
                             device memory, normed
                           * (sp_model_norm_states); else NULL */
    /* NULL; or, where sp_model_gives_best, n_logits is 1 and these logits stay on the device: the
     * likeliest tokens at this temperature */
    sp_dev_best *best;
    float temperature;
    bool may_go_back;     /* tokens of it may be taken back: room is from sp_kv_seq_reserve_guess */
} sp_model_span;

typedef struct sp_model_cfg {
    /* tokens that a sequence may have at most, 0: as many as the model was trained for. Some models
     * turn heads otherwise where that is beyond the context they were first trained for */
    size_t n_ctx;
    size_t expert_bytes;    /* 0, or how much memory experts may take; the others are read from the
                             * file when tokens come to them */
    const char
        *packed_dir; /* folder of packed weights (model/packed.h), NULL or "": none. They are read
                             * where the model's id is kept: from a second start on */
    /* the layers' large matrices that the file has in BF16, F16 or Q8_0 are held as e4m3
     * (sp_dev_ops.fp8_put), which moves what the model gives; its id tells so. SP_UNSUP: the device
     * has none, or the model has no such matrix */
    bool fp8;
    /* NULL, or hears how many bytes of all matrices in the file are in place, behind each matrix
     * that is packed. On the thread that loads; weights that were packed before are not told of */
    void (*told)(void *arg, size_t n_bytes, size_t all_bytes);
    void *told_arg;
} sp_model_cfg;

/* cfg NULL: all of it 0. */
SP_MUST sp_err sp_model_load(sp_model **out, const sp_gguf *g, sp_dev *dev, const sp_model_cfg *cfg,
                             sp_diag *d);
/* Writes a file of the packed weights in the background, until it is done or the model is freed;
 * nothing where they came from one, or the device or the model has none (docs/FORMATS.md). name:
 * for people. Once for a model. Errors: SP_NOMEM. */
SP_MUST sp_err sp_model_keep_packed(sp_model *m, const char *name, const sp_packed_cfg *cfg,
                                    sp_diag *d);
/* Were the weights read from such a file? */
bool sp_model_is_from_packed(const sp_model *m);
/* For sp_model_encode alone: it has no pages, and so no identity. */
SP_MUST sp_err sp_model_load_texts(sp_model **out, const sp_gguf *g, sp_dev *dev, sp_diag *d);
/* The first block of the file that guesses tokens further on (sp_arch_next), as a model of its own
 * over `from`, which is of the same file and outlives it. n_head: it gives logits of the first
 * n_head tokens, rounded down to a multiple of 64; 0: of all. */
SP_MUST sp_err sp_model_load_next(sp_model **out, const sp_gguf *g, const sp_model *from,
                                  size_t n_head, sp_diag *d);
/* Brings rows of hidden states (sp_model_states, which are before the output norm) to what such a
 * block takes: x [n, n_embd], device memory, in place. */
SP_MUST sp_err sp_model_norm_states(const sp_model *m, float *x, size_t n);
size_t sp_model_n_logits(const sp_model *m); /* elements of a row of logits */
void sp_model_free(sp_model *m);
const sp_arch *sp_model_arch(const sp_model *m);
/* Digest of every byte of the file: see model/identity.h. */
const sp_sha256 *sp_model_id(const sp_model *m);
sp_kv_shape sp_arch_kv_shape(const sp_arch *a, const sp_kv_format *format); /* of its pages */
sp_kv_shape sp_model_kv_shape(const sp_model *m, const sp_kv_format *format);
/* Of the states that a sequence's recurrent layers have; 0: there are none. For
 * sp_kv_cfg.state_bytes. */
size_t sp_model_state_bytes(const sp_model *m);
size_t sp_model_kept_bytes(const sp_model *m); /* for sp_kv_cfg.kept_bytes; likewise */
/* The largest window, where every layer has one; 0: some layer sees all. For sp_kv_cfg.window. */
size_t sp_model_kv_window(const sp_model *m);
/* Bytes of weights that a step of n_tok tokens reads: all but the rows of an embedding that is not
 * the output as well; of experts, as many as n_tok tokens meet that choose evenly. */
double sp_model_weight_bytes(const sp_model *m, size_t n_tok);

/* cap_tok: tokens of the largest batch; cap_logits: rows of logits. */
SP_MUST sp_err sp_model_work_new(sp_model_work **out, const sp_model *m, size_t cap_tok,
                                 size_t cap_logits, sp_diag *d);
void sp_model_work_free(sp_model_work *w);
/* From the next pass on, keeps the stream behind layer i, which is < n_layer - 1, for
 * sp_model_states: cap_tok rows more. At most SP_MODEL_KEEP different layers, else SP_LIMIT. */
enum { SP_MODEL_KEEP = 4 };
SP_MUST sp_err sp_model_work_keep(sp_model_work *w, const sp_model *m, size_t i, sp_diag *d);
/* Hidden states of the last pass: the stream behind layer i, which is the last one or was asked
 * for, before the output norm. Device memory, f32 [sum n, n_embd] in span order, guessed tokens
 * included; valid until the next pass. NULL: this layer is not kept. */
const float *sp_model_states(const sp_model *m, const sp_model_work *w, size_t i);
/* Rows of tokens tok [n], each < n_vocab: as they enter the first layer, and of the output matrix.
 * out: device memory, f32 [n, n_embd]. */
SP_MUST sp_err sp_model_embed(const sp_model *m, float *out, const uint32_t *tok, size_t n);
SP_MUST sp_err sp_model_output_rows(const sp_model *m, float *out, const uint32_t *tok, size_t n);
/* Weights of the norm before the output matrix, device memory [n_embd]. */
const float *sp_model_output_norm(const sp_model *m);
/* Memory that such a work takes; a->n_vocab is the embedding's rows. */
size_t sp_model_work_bytes(const sp_arch *a, size_t cap_tok, size_t cap_logits);
/* Runs all spans and commits their tokens. *logits: host rows [sum n_logits, n_vocab] in span
 * order, valid until the next call; those of a span with `best` are not there before
 * sp_model_read_logits. On error no token is committed; a sequence that the call had
 * begun to pass kept tokens again for (sp_kv_seq.is_lost) must start again. */
SP_MUST sp_err sp_model_forward(const sp_model *m, sp_model_work *w, sp_kv_pool *pool,
                                const sp_model_span *span, size_t n_span, const float **logits,
                                sp_diag *d);

bool sp_model_gives_best(const sp_model *m);
/* Brings row `row` of the last pass's logits to the host, to where *logits said. */
SP_MUST sp_err sp_model_read_logits(const sp_model *m, sp_model_work *w, size_t row);

/* The last states of texts that are read whole, without pages: states [sum n, n_embd], host memory,
 * in order. A text's states do not depend on the others of the call. The work holds sum n tokens.
 * SP_INVAL: a token is not in the vocabulary. */
SP_MUST sp_err sp_model_encode(const sp_model *m, sp_model_work *w, const sp_model_text *text,
                               size_t n_text, float *states, sp_diag *d);

/* Appends to `to` what `from` holds at positions [at, at + n), as if it had been computed here: the
 * same values, keys turned to where they come to stand. tok [n]: the tokens they are of, which the
 * caller knows to be the same. Those positions of `from` lie in full pages; room in `to` must be
 * reserved. Afterwards `to` is not what a prompt of its tokens gives, and its pages are not for
 * others. SP_CORRUPT, SP_TIMEOUT: a load of `from` failed, and nothing was appended. */
SP_MUST sp_err sp_model_splice(const sp_model *m, sp_model_work *w, sp_kv_pool *pool, sp_kv_seq *to,
                               sp_kv_seq *from, size_t at, const uint32_t *tok, size_t n);

/* Multiply-adds count as two. */
typedef struct sp_model_flops {
    double per_tok;    /* linear layers, for each token */
    /* attention, for each position that a token sees in layers that see all of them */
    double per_seen;
    double per_near;   /* ... and in layers that see the last n_near positions only */
    size_t n_near;
    double per_pair;   /* of these, one query head and one key of one layer */
    double per_logits; /* the output matrix, for each row of logits */
} sp_model_flops;
sp_model_flops sp_model_flops_of(const sp_model *m);
/* Attention of n tokens, the first of which stands at position pos. */
double sp_model_flops_seen(const sp_model_flops *f, size_t pos, size_t n);

#endif
