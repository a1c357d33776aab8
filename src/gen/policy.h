/* A learned policy over an answer in the making: a small network that looks at what is known of the
 * answer at the end of a sentence, or after so many tokens, and says what is done there.
 *
 *   in   f32 [SP_POLICY_IN]                  what is known, each about -2 to 2 (control_learned.c)
 *   mid  f32 [SP_POLICY_MID] = tanh(in)
 *   out  f32 [SP_POLICY_ACTS]                softmax over the acts that are possible: probabilities
 *
 * Owner:   plain data. Threads: immutable after open; pure.
 * Errors:  SP_FORMAT: this is no such file, or a number in it is not finite.
 * Format:  docs/FORMATS.md. Trained by pipe/control_train.h. */
#ifndef SP_GEN_POLICY_H
#define SP_GEN_POLICY_H

#include "base/buf.h"
#include "base/err.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum {
    SP_POLICY_IN = 22,
    SP_POLICY_MID = 24,
    SP_POLICY_BYTES = 1 << 20, /* of a file, at most */
    SP_POLICY_ORIGIN = 4096
};

typedef enum sp_policy_act {
    SP_ACT_GO,
    SP_ACT_PENALISE, /* tokens that would go on with a repetition are less likely for a while */
    SP_ACT_PRUNE,    /* the next sentence is taken back if the answer has said it before */
    SP_ACT_STOP,     /* the answer ends with this sentence */
    SP_ACT_ANSWER,   /* thoughts end with this sentence */
    SP_POLICY_ACTS
} sp_policy_act;

typedef struct sp_policy {
    float in[SP_POLICY_MID][SP_POLICY_IN], in_bias[SP_POLICY_MID];
    float out[SP_POLICY_ACTS][SP_POLICY_MID], out_bias[SP_POLICY_ACTS];
    char origin[SP_POLICY_ORIGIN]; /* what it was trained on, the curve and the held-out result: one
                                      line of JSON */
} sp_policy;

/* One decision. */
typedef struct sp_policy_step {
    float x[SP_POLICY_IN];
    uint8_t act, may; /* may: bits 1 << sp_policy_act */
} sp_policy_step;

/* Nearly always goes on; weights are drawn by seed. */
void sp_policy_start(sp_policy *p, uint64_t seed);
SP_MUST sp_err sp_policy_open(sp_policy *out, const char *p, size_t n, sp_diag *d);
/* Appends the file. */
void sp_policy_write(sp_buf *out, const sp_policy *p);
/* Probabilities of the acts in may, which has SP_ACT_GO; the others have 0. mid NULL: not
 * wanted. */
void sp_policy_run(const sp_policy *p, double prob[SP_POLICY_ACTS], float mid[SP_POLICY_MID],
                   const float x[SP_POLICY_IN], unsigned may);
/* Was it trained on the model of this name? */
bool sp_policy_is_for(const sp_policy *p, const char *model);
/* go, penalise, prune, stop, answer; static */
const char *sp_policy_name(sp_policy_act act);

#endif
