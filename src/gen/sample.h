/* Choosing the next token from logits.
 *
 * Order: logit_bias, repetition_penalty, frequency and presence penalties, temperature, top_k,
 * top_p, min_p, draw. temperature 0, or below 1e-5, takes the largest (the lowest id on a tie). The
 * draw uses the session's own generator, so one seed gives one text whatever else runs.
 * Owner: sp_sampler owns its tables. Threads: one session, one thread. */
#ifndef SP_GEN_SAMPLE_H
#define SP_GEN_SAMPLE_H

#include "base/err.h"
#include "base/rng.h"
#include "dev/dev.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { SP_TOP_MAX = 20, SP_BIAS_MAX = 300 }; /* as OpenAI's limits */

typedef struct sp_bias {
    uint32_t id;
    float add;
} sp_bias;

typedef struct sp_sample_cfg {
    float temperature;        /* >= 0 */
    size_t top_k;             /* 0: all */
    float top_p;              /* (0, 1] */
    float min_p;              /* [0, 1] */
    float repetition_penalty; /* > 0; 1: none; over prompt and answer */
    float presence_penalty, frequency_penalty; /* over the answer */
    uint64_t seed;
    sp_bias bias[SP_BIAS_MAX];
    size_t n_bias;
} sp_sample_cfg;

typedef struct sp_top {
    uint32_t id;
    float logprob;
} sp_top;

typedef struct sp_sampler sp_sampler;

void sp_sample_cfg_init(sp_sample_cfg *c); /* greedy, no penalties, seed 0 */
SP_MUST sp_err sp_sampler_new(sp_sampler **out, const sp_sample_cfg *cfg, size_t n_vocab);
void sp_sampler_free(sp_sampler *s);
/* Notes a prompt token (repetition penalty). */
void sp_sampler_see(sp_sampler *s, uint32_t id);
/* Adds to the logits of the next pick, beside cfg.bias; borrowed until then. */
void sp_sampler_bend(sp_sampler *s, const sp_bias *bend, size_t n);
/* Picks from logits [n_vocab] and notes the choice. allowed: NULL, or a byte for each token.
 * SP_FORMAT when no logit that may be picked is finite. */
SP_MUST sp_err sp_sampler_next(sp_sampler *s, uint32_t *out, const float *logits,
                               const uint8_t *allowed);
/* The same from the best of a row of logits on a device, whose mass is of cfg's temperature: the
 * token that sp_sampler_next would pick from all of it. false: that takes all of it, and nothing
 * changed. */
bool sp_sampler_best(sp_sampler *s, uint32_t *out, const sp_dev_best *best, const uint8_t *allowed);
/* Are the logits of the next pick changed before it? */
bool sp_sampler_bends(const sp_sampler *s);
/* Notes a token that is chosen without logits, as if it had been the only one allowed. */
void sp_sampler_take(sp_sampler *s, uint32_t id);
/* Log-probabilities under the model itself (before any penalty or temperature): of id, and the
 * n_top most likely, best first. */
void sp_sample_logprobs(const float *logits, size_t n_vocab, uint32_t id, float *logprob,
                        sp_top *top, size_t n_top);

#endif
