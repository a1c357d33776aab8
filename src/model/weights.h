/* The inside of sp_model, shared by loading and the forward pass. Not for other folders. */
#ifndef SP_MODEL_WEIGHTS_H
#define SP_MODEL_WEIGHTS_H

#include "model/model.h"

typedef struct sp_layer {
    sp_dev_weight qkv[3];   /* [n_head d, n_embd], [n_head_kv d, n_embd] twice */
    sp_dev_weight attn_out; /* [n_embd, n_head d] */
    sp_dev_weight glu[2];   /* gate, up: [n_ff, n_embd] */
    sp_dev_weight ffn_down; /* [n_embd, n_ff] */
    float *attn_norm, *ffn_norm;                                      /* [n_embd] */
    float *qkv_bias[3], *attn_out_bias, *glu_bias[2], *ffn_down_bias; /* NULL where absent */
} sp_layer;

struct sp_model {
    sp_dev *dev;
    sp_arch arch;
    sp_dev_weight embd, output; /* [n_vocab, n_embd]; the same bytes when tied */
    void *packed;               /* device memory of all packed matrices */
    float *output_norm;         /* [n_embd] */
    sp_layer *layer;            /* [n_layer] */
    float *rope_freq;           /* host [d_rot / 2] */
    float rope_scale;
    size_t weight_bytes;
    sp_sha256 id;
};

#endif
