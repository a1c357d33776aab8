/* The intent stage: what a request asks for, how hard it is, and whether it needs knowledge from
 * outside.
 *
 * A linear model over the words of the last user message: hashed words, word beginnings and pairs
 * of words, a few measures (length, questions, digits, code), and cues: beginnings of words that
 * hint at a class, at hard work or at a short answer. Of a long message its first 2,048 and last
 * 1,024 bytes are read: there the question is, and the time stays bounded. Probabilities are
 * calibrated on families of prompts the model had not seen (pipe/intent_train.c).
 *
 * The model file, little-endian: "sparing intent 1\n"; a line of provenance; then f32
 * dense[SP_INTENT_DENSE][SP_INTENT_OUT], f32 bias[OUT], f32 scale[OUT], f32 calibration[OUT][2]
 * (slope, shift), i8 hashed[SP_INTENT_HASH][OUT].
 *
 * Owner:   a model borrows its bytes.      Threads: pure; concurrent calls may share a model.
 * Cost:    about 40 us for a question, below 1 ms for any length. */
#ifndef SP_PIPE_INTENT_H
#define SP_PIPE_INTENT_H

#include "gen/stage.h"
#include "text/chat.h"

enum { SP_INTENT_FULL = SP_CLASSES, SP_INTENT_NEED, SP_INTENT_OUT };
enum {
    SP_INTENT_MEASURES = 12,
    SP_INTENT_CUES = 9,
    SP_INTENT_DENSE = SP_INTENT_MEASURES + SP_INTENT_CUES,
    SP_INTENT_HASH = 8192,
    SP_INTENT_FEATURES = 2048,
    SP_INTENT_BYTES = 128 << 10
};

typedef struct sp_intent_model {
    const char *origin; /* [n_origin]: where it comes from */
    size_t n_origin;
    float dense[SP_INTENT_DENSE][SP_INTENT_OUT], bias[SP_INTENT_OUT], scale[SP_INTENT_OUT],
        calibration[SP_INTENT_OUT][2];
    const int8_t *hashed; /* [SP_INTENT_HASH][SP_INTENT_OUT], borrowed */
} sp_intent_model;

typedef struct sp_intent {
    sp_class cls;
    /* probabilities: of cls; that the light path is not enough; that it needs passages */
    double sure, difficulty, need;
} sp_intent;

typedef struct sp_intent_features {
    uint32_t hashed[SP_INTENT_FEATURES]; /* < SP_INTENT_HASH, none twice */
    size_t n;
    float dense[SP_INTENT_DENSE];
    float weight;                        /* of each hashed one: 1 / sqrt(n) */
} sp_intent_features;

const char *sp_class_name(sp_class c);
/* SP_FORMAT says what is wrong with it. */
SP_MUST sp_err sp_intent_open(sp_intent_model *out, const void *p, size_t n, sp_diag *d);
void sp_intent_read(sp_intent_features *out, const char *text, size_t n);
double sp_intent_logistic(double x);
/* Scores before calibration. */
void sp_intent_score(const sp_intent_model *m, double out[SP_INTENT_OUT],
                     const sp_intent_features *f);
void sp_intent_judge(const sp_intent_model *m, sp_intent *out, const char *text, size_t n);

#endif
