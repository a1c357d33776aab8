/* Hyper-parameters of a decoder, read from GGUF and bounded. An architecture is a row of the table
 * in arch.c and a few switches here, not a second forward pass. Immutable after reading. */
#ifndef SP_MODEL_ARCH_H
#define SP_MODEL_ARCH_H

#include "fmt/gguf.h"

typedef struct sp_arch {
    const char *name; /* "llama" */
    size_t n_vocab, n_ctx, n_layer, n_embd, n_ff;
    size_t n_head, n_head_kv, d_head, d_rot;
    float norm_eps;
    float rope_base;
    enum { SP_ROPE_NONE, SP_ROPE_LINEAR, SP_ROPE_YARN } rope_scaling;
    float rope_factor;     /* > 0; positions are divided by it (linear, YaRN) */
    float rope_attn;       /* factor on queries' and keys' rotation, 1 by default */
    size_t rope_ctx;       /* YaRN: context the model was trained at */
} sp_arch;

/* Errors: SP_UNSUP names the architecture or feature; SP_FORMAT names the key. */
SP_MUST sp_err sp_arch_read(sp_arch *out, const sp_gguf *g, sp_diag *d);
/* Radians per position of each pair, [d_rot / 2], and the scale of cos and sin. factors: the
 * model's rope_freqs tensor (Llama 3), or NULL.
 * Source: Su et al. 2021 (RoPE); Peng et al. 2023 (YaRN) section 3. */
void sp_arch_rope(const sp_arch *a, const float *factors, float *freq, float *scale);

#endif
