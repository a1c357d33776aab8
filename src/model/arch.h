/* Hyper-parameters of a decoder or an encoder, read from GGUF and bounded. An architecture is a row
 * of the table in arch_family.c: what its blocks are made of, and a reader for the keys that only
 * it has. The forward pass knows these fields and no names. Immutable after reading.
 *
 * Source:  the GGUF keys as llama.cpp reads them; each family's mathematics as in
 *          `transformers`. */
#ifndef SP_MODEL_ARCH_H
#define SP_MODEL_ARCH_H

#include "dev/dev.h"
#include "fmt/gguf.h"
#include "kv/page.h"

enum { SP_MAX_LAYER = 512 };

/* What mixes the tokens of a layer. Attention has KV pages, the others have a state of fixed
 * size (sp_arch_state). */
typedef enum sp_mix {
    SP_MIX_ATTN,
    SP_MIX_CONV,  /* a short convolution between two gates: out(c * conv(b * x)) */
    SP_MIX_DELTA, /* the gated delta rule behind a short convolution */
    SP_MIX_SSM,   /* a state space (Mamba-2) behind a short convolution */
    SP_MIX_BOTH,  /* attention and a state space, both of the same normed stream, added */
    SP_MIX_NONE   /* the layer is a feed-forward part alone */
} sp_mix;
/* What a layer does with each token: down(act(gate) * up), the same by the experts that a router
 * chooses for it, or down(act(up)); BESIDE: the first and the second, each with norms of its
 * own; NONE: the layer mixes tokens and does nothing else. */
typedef enum sp_ffn { SP_FFN_GLU, SP_FFN_EXPERTS, SP_FFN_PLAIN, SP_FFN_BESIDE, SP_FFN_NONE } sp_ffn;

/* Which table of angles turns the queries and keys of a layer. */
typedef enum sp_rope_of {
    SP_ROPE_FULL,
    SP_ROPE_WINDOW,
    SP_ROPE_TABLES,
    SP_ROPE_OFF = SP_ROPE_TABLES
} sp_rope_of;

typedef enum sp_rope_scaling {
    SP_ROPE_NONE,
    SP_ROPE_LINEAR,
    SP_ROPE_YARN,
    SP_ROPE_LONG
} sp_rope_scaling;

typedef struct sp_arch_rope {
    sp_rope_scaling scaling;
    bool is_plain;              /* factors that the file gives do not hold */
    bool is_smooth;             /* YaRN: bounds of what is stretched lie between pairs, too */
    size_t d_rot;               /* leading elements of a head that turn */
    float base;
    float factor;               /* > 0; positions are divided by it (linear, YaRN) */
    float attn;                 /* what cos and sin are multiplied by, beside what YaRN says */
    float beta_fast, beta_slow; /* YaRN: turns over ctx that are kept, that are stretched */
    float log_mul;              /* YaRN: > 0, how much of its factor of cos and sin is taken back */
    size_t ctx;                 /* context the model was trained at before it was stretched */
} sp_arch_rope;

/* Norms of queries and keys. */
typedef enum sp_head_norm {
    SP_HEAD_NORM_NONE,
    SP_HEAD_NORM_EACH,  /* each head alone, before RoPE */
    SP_HEAD_NORM_LAST,  /* the same after RoPE */
    SP_HEAD_NORM_WHOLE  /* all heads as one row, before RoPE */
} sp_head_norm;

/* What a text's vector is made of: its tokens' last states. The numbers are those of the key
 * pooling_type. */
typedef enum sp_pooling {
    SP_POOL_NONE, /* the file does not say: it is no encoder */
    SP_POOL_MEAN,
    SP_POOL_CLS,  /* the first token's */
    SP_POOL_LAST,
    SP_POOL_RANK, /* no vector but a score of how well a text answers a question */
    SP_POOLINGS
} sp_pooling;

/* Multi-head latent attention. A position's keys and values of all heads are made of one latent;
 * what makes them is moved into the queries and behind the attention ("absorbed"), so that one key,
 * the latent and then d_rot elements with RoPE, stands in the page.
 * Source: DeepSeek-AI 2024 (DeepSeek-V2) section 2.1, appendix C. */
typedef struct sp_arch_latent {
    size_t n;       /* elements of a latent; 0: the model has none */
    size_t n_query; /* elements that queries are made from; 0: from the stream itself */
    /* of a head's query before absorption, d_rot with RoPE last; d_head is n + d_rot */
    size_t d_query;
    size_t d_value; /* of a head behind attention */
} sp_arch_latent;

typedef struct sp_arch_layer {
    sp_mix mix;
    sp_ffn ffn;
    sp_rope_of rope;
    bool is_bare;  /* attention takes the stream without a norm */
    /* > 0: a query sees the last `window` positions, its own among them; both ways: window / 2
     * on each side; 0: all */
    size_t window;
    size_t n_ff;   /* experts: of the part that all tokens take beside theirs; 0: there is none */
    /* with attention: which of the layers with pages it is, or, shared, whose keys and values it
     * attends */
    size_t i_page;
    bool is_shared;
    unsigned kept; /* > 0: layers with this number share keys and values; sp_dev_attn.kept */
    size_t n_head_kv, d_head; /* with attention */
    size_t state_at; /* with a state: its byte offset in a sequence's */
} sp_arch_layer;

/* What recurrent layers are made of; all of a model's are alike. A layer's state begins with the
 * newest n_tap - 1 inputs of its convolution, f32 [n_tap - 1, n_chan]. */
typedef struct sp_arch_state {
    /* of the convolution: inputs of a channel that one output sees, channels */
    size_t n_tap, n_chan;
    /* SP_MIX_DELTA, SP_MIX_SSM: behind them, for each of n_head heads, f32 [d_v / 16, d_k, 16];
     * see sp_dev_delta and sp_dev_ssm, whose groups are n_head_k. */
    size_t n_head, n_head_k, d_v, d_k;
    size_t n_number;      /* numbers of a token beside what is mixed: steps, or alpha and beta, of
                             all heads */
    /* as in sp_dev_delta; alpha and beta come out of one matrix, by heads of keys */
    bool neighbours, joined;
    /* of all layers' states of one sequence; 0: the model has no recurrent layers */
    size_t n_bytes;
} sp_arch_state;

typedef struct sp_arch {
    const char *name; /* "llama" */
    size_t n_vocab, n_ctx, n_layer, n_embd;
    size_t n_ff;      /* the widest layer's */
    size_t n_ff_expert;
    sp_dev_route route; /* n_expert 0: no layer has experts */
    /* KV heads, elements of heads and turned ones: the most of any layer */
    size_t n_head, n_head_kv, d_head, d_rot;
    size_t n_next;    /* blocks behind the layers that guess tokens further on from what these give;
                         0: the file has none */
    bool known_next;  /* ... and of a kind that is known */
    size_t first;     /* sp_arch_next: the block's number in the file; else 0 */
    size_t n_page_layer; /* layers with KV pages */
    sp_kv_heads page_heads[SP_MAX_LAYER];    /* [n_page_layer] */
    bool has_own_heads; /* page_heads differ */
    /* elements that each layer adds by a matrix of its own, from a row for the token in this
     * layer; 0: none */
    size_t n_side;
    sp_arch_latent latent;
    sp_arch_state state;
    float norm_eps;
    sp_act act;
    bool both_ways;   /* tokens see later ones, too: it reads whole texts and has no pages */
    sp_pooling pooling;
    bool learned_pos; /* a learned row is added at each position */
    size_t n_pos;     /* so many */
    size_t n_type;    /* of learned types of tokens; 0: there are none */
    size_t n_label;   /* SP_POOL_RANK: scores of the last matrix */
    /* vectors are widened to n_dense and come out as n_out; 0: they stay as they are */
    size_t n_dense, n_out;
    bool layer_norm;  /* norms take the mean away and may have a bias; else RMS */
    bool embd_norm;   /* the stream begins with a norm */
    bool final_norm;  /* ... and ends with one */
    bool sum_norm;    /* the stream is normed after each addition to it */
    bool pre_norm;    /* branches take the normed stream; else the stream as it is */
    bool post_norm;   /* what branches give is normed before it is added */
    sp_head_norm head_norm;
    /* of each head's values, without weights; a layer without values takes its keys before their
     * norm for them */
    bool value_norm;
    /* what attention gives is multiplied by a sigmoid of the stream; queries and these gates
     * come out of one matrix */
    bool attn_gate;
    bool plain_experts; /* experts and the part beside them are down(act(up)) */
    /* the part beside experts is multiplied by a sigmoid of the stream, one for each token */
    bool shared_gate;
    bool embd_name;   /* the final norm is called after the embedding */
    /* the norm before the feed-forward part is called after what it comes behind */
    bool late_name;
    bool sinks;       /* every query head has one more score that takes weight from its keys */
    bool rope_halves; /* RoPE turns elements i and i + d_rot / 2, not 2i and 2i + 1 */
    float embd_scale, attn_scale, branch_scale, logit_scale; /* products; 1 where there is none */
    float attn_cap, logit_cap;      /* s -> cap * tanh(s / cap) of scores and logits; 0: none */
    /* queries times 1 + temp_scale * ln(1 + floor(position / rope[0].ctx)); 0: none */
    float temp_scale;
    sp_arch_rope rope[SP_ROPE_TABLES];
    sp_arch_layer layer[SP_MAX_LAYER];
} sp_arch;

/* n_vocab, n_pos, n_type and n_label stay 0: the tensors say them. On an error out's contents
 * are undefined. Errors: SP_UNSUP names the architecture or feature; SP_FORMAT names the key. */
SP_MUST sp_err sp_arch_read(sp_arch *out, const sp_gguf *g, sp_diag *d);
/* The first of a's blocks that guess: a model of one layer that attends, whose stream begins with
 * the token that comes next and what the model gave at this one. Errors: SP_UNSUP: there is none,
 * or none that is known for the family. */
SP_MUST sp_err sp_arch_next(sp_arch *out, const sp_arch *a, sp_diag *d);
/* Does the device do all that the model is made of? Errors: SP_UNSUP names what it does not. */
SP_MUST sp_err sp_arch_fits_device(const sp_arch *a, const sp_dev *dev, sp_diag *d);
bool sp_arch_attends(const sp_arch_layer *l);   /* it has KV pages */
bool sp_arch_has_state(const sp_arch_layer *l); /* it has a state */
/* Bytes of one recurrent layer's state, a multiple of 64. */
size_t sp_arch_state_bytes(const sp_arch *a);
size_t sp_arch_state_conv(const sp_arch *a); /* of it, the inputs of the convolution */
/* Bytes of what all recurrent layers take of the leading SP_KV_GUESS_TOK - 1 tokens of a step; 0:
 * there are none. */
size_t sp_arch_kept_bytes(const sp_arch *a);
/* Elements of a token in it, for each layer: what is mixed, and the numbers of heads beside it. */
size_t sp_arch_kept_mix(const sp_arch *a);
size_t sp_arch_kept_beside(const sp_arch *a);
/* Radians per position of each pair, [d_rot / 2], and the scale of cos and sin. factors: divisors
 * of the frequencies that the file gives (Llama 3, LongRoPE), or NULL.
 * Source: Su et al. 2021 (RoPE); Peng et al. 2023 (YaRN) section 3. */
void sp_arch_rope_table(const sp_arch *a, sp_rope_of which, const float *factors, float *freq,
                        float *scale);
/* Is the file meant for vectors or scores of texts? */
bool sp_arch_is_encoder(const sp_arch *a);
const char *sp_pooling_name(sp_pooling p); /* "mean" */
size_t sp_arch_dim(const sp_arch *a);      /* of an encoder's vectors */

#endif
