/* The inside of sp_model, shared by loading, the forward pass and encoders. Not for other
 * folders. */
#ifndef SP_MODEL_WEIGHTS_H
#define SP_MODEL_WEIGHTS_H

#include "model/identity.h"
#include "model/model.h"

/* Vectors are device memory, f32; NULL where the model has none. */
typedef struct sp_layer {
    /* [n_head d, n_embd], with gates [n_head 2 d, n_embd]; [n_head_kv d, n_embd] twice */
    sp_dev_weight qkv[3];
    sp_dev_weight attn_out; /* [n_embd, n_head d] */
    /* latents: [n_query, n_embd]; qkv then has [n_head d_query, n_query], or n_embd without
     * low_q, and [d_head, n_embd] */
    sp_dev_weight low_q;
    /* latents: of keys into queries [n_head n, d_query - d_rot], values [n_head d_value, n] */
    sp_dev_weight absorb, value;
    /* recurrent layers: what is mixed; SP_MIX_CONV: b, c, x of [3 n_embd, n_embd]; others:
     * [n_chan, n_embd] */
    sp_dev_weight mix_in;
    sp_dev_weight mix_out;  /* ... and what becomes of it: [n_embd, what it gives] */
    /* SP_MIX_DELTA: [n_head d_v, n_embd], [n_head, n_embd] twice, or both in mix_beta */
    sp_dev_weight mix_gate, mix_beta, mix_alpha;
    sp_dev_weight mix_step; /* SP_MIX_SSM, with mix_gate: [n_head, n_embd] */
    sp_dev_weight glu[2];   /* gate, up: [n_ff, n_embd] */
    sp_dev_weight ffn_down; /* [n_embd, n_ff] */
    sp_dev_weight shared_glu[2], shared_down; /* beside experts: as glu and ffn_down */
    sp_dev_weight shared_gate; /* [1, n_embd] */
    sp_dev_weight router;   /* [n_expert, n_embd] */
    /* gate, up: [n_expert n_ff_expert, n_embd]; or both in each expert, gate first */
    sp_dev_weight expert_glu[2], expert_pair;
    sp_dev_weight expert_down;                /* [n_expert n_embd, n_ff_expert] */
    float *attn_norm, *ffn_norm, *attn_post_norm, *ffn_post_norm; /* [n_embd] */
    /* [n_embd] of LayerNorm; zeros where the file has none */
    float *attn_norm_bias, *ffn_norm_bias;
    /* [n_embd] of the stream after each addition: weights, bias */
    float *attn_sum_norm[2], *ffn_sum_norm[2];
    float *head_norm[2];    /* of queries and keys: [d], or all heads of them */
    float *value_norm;      /* [d]: ones */
    /* [n_side, n_embd]: of the stream as it began, of the stream */
    sp_dev_weight side_in, side_gate;
    sp_dev_weight side_out;           /* [n_embd, n_side] */
    float *side_post_norm;            /* [n_embd] */
    /* SP_FFN_BESIDE, [n_embd]: behind the dense part, before the experts, behind them */
    float *beside_norm[3];
    float *router_norm;               /* ... [n_embd] */
    float *expert_scale;              /* ... [n_expert], or NULL */
    /* [1] or NULL; its value, else 1: of the stream behind the layer */
    float *out_scale, scale;
    float *low_q_norm;      /* latents: [n_query]; head_norm[1] is of them [n] */
    float *sinks;           /* [n_head] */
    float *mix_dt, *mix_a, *mix_skip; /* [n_head] */
    float *mix_norm;        /* [d_v]; SP_MIX_SSM: [n_head d_v] or NULL */
    float *conv;            /* [n_tap, n_chan], the weight of the oldest input first */
    float *conv_bias;       /* [n_chan] or NULL */
    float *qkv_bias[3], *attn_out_bias, *glu_bias[2], *ffn_down_bias;
    /* as the rows of their matrices; pick_bias [n_expert] */
    float *router_bias, *pick_bias, *expert_glu_bias[2], *expert_down_bias;
} sp_layer;

/* Angles of RoPE for some of the layers. */
typedef struct sp_rope {
    float *freq; /* host [d_rot / 2]; NULL where no layer uses it */
    float scale; /* of cos and sin */
} sp_rope;

struct sp_model {
    sp_dev *dev;
    sp_arch arch;
    sp_dev_weight embd, output; /* [n_vocab, n_embd]; the same bytes when tied */
    /* [n_pos, n_embd], [n_type, n_embd]; without data where the model has none */
    sp_dev_weight position, type;
    sp_dev_weight side_table;   /* [n_vocab, n_layer n_side], in the file */
    float *side_norm;           /* [n_side] */
    sp_dev_weight dense[2];     /* of a vector: [n_dense, n_embd], [n_out, n_dense] */
    sp_dev_weight cls, cls_out; /* of a score: [n_embd, n_embd], [n_label, n_embd] */
    float *cls_bias, *cls_out_bias;
    void *packed;               /* device memory of all packed matrices */
    sp_packed_key packed_key;   /* ... and what a file of them must hold; layout "": it has none */
    sp_packed_keeper *keeper;   /* writes that file; NULL: nobody does */
    bool from_file;             /* they were read from that file */
    bool may_keep;              /* the id of the model's file is kept: such a file can be found */
    sp_dev_weight next_in;      /* sp_model_load_next: [n_embd, 2 n_embd] of the token and what the
                                   model gave */
    float *next_norm[2];        /* ... [n_embd] of each */
    bool is_next;
    float *embd_norm[2];        /* [n_embd]: weights, bias */
    float *output_norm, *output_norm_bias; /* [n_embd] */
    sp_layer *layer;            /* [n_layer] */
    sp_rope rope[SP_ROPE_TABLES];
    bool is_long;               /* angles are by the file's factors for long contexts */
    size_t weight_bytes;        /* that each step reads */
    size_t expert_bytes;        /* of all experts */
    sp_dev_shelf *shelf;        /* NULL: all of them are packed */
    sp_sha256 id;
};

/* Finds every weight of the arch in the file and checks its shape. A tensor of the file that the
 * arch does not use is an error, for its effect would be missing. m->arch is read, all but n_vocab,
 * which is set. On an error m holds what sp_weights_free frees.
 * Errors: SP_FORMAT: a tensor is missing or has another shape; SP_UNSUP: one is of another type or
 * not known. */
SP_MUST sp_err sp_weights_bind(sp_model *m, const sp_gguf *g, sp_diag *d);
/* Brings every matrix into the device's layout, in one block of memory, and gives the bytes it
 * reads to id (NULL: to none, without a shelf); matrices point into the file before. Of cfg:
 * expert_bytes > 0: experts stay in the file, and a shelf of as many bytes takes those that are
 * needed; packed_dir: a file there is read where id is known; told. is_fp8 of matrices of the
 * layers is set before: they are put as such. SP_LIMIT: the shelf does not hold those of one
 * layer. */
SP_MUST sp_err sp_weights_put(sp_model *m, const sp_gguf *g, const sp_model_cfg *cfg,
                              sp_identity *id, sp_diag *d);
void sp_weights_free(sp_model *m);
/* Matrix i of the layers, layer by layer; without data where a layer has none of that name. NULL
 * past the last. */
sp_dev_weight *sp_weights_matrix(const sp_model *m, size_t i);
/* Matrix i that belongs to no layer. NULL past the last. */
sp_dev_weight *sp_weights_top(sp_model *m, size_t i);
/* Does it hold the rows of all experts, of which a token meets some? */
bool sp_weights_is_experts(size_t i);
/* Is it a large matrix that only sp_dev_ops.matmul meets? Not those of experts, of routers, and of
 * heads one by one. */
bool sp_weights_may_be_fp8(size_t i);

#endif
