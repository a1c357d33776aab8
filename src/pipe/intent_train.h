/* Trains the intent model from labelled prompts, and measures it on families it has not seen.
 *
 * Prompts are lines of tab-separated columns: family, train or test, class, light or full, yes or
 * no (needs knowledge), prompt. Logistic regression by SGD with dropout of words; the slopes and
 * shifts of the probabilities are fitted on scores that five models gave, each trained without a
 * fifth of the families. Deterministic for a seed.
 *
 * Owner:   the caller frees what sp_intent_train writes.      Threads: pure.
 * Errors:  SP_FORMAT names the line and the column. */
#ifndef SP_PIPE_INTENT_TRAIN_H
#define SP_PIPE_INTENT_TRAIN_H

#include "base/buf.h"
#include "pipe/intent.h"

typedef struct sp_intent_result {
    size_t n_train, n_test, n_family, n_held;
    double cls, full, need;            /* share of test prompts judged right */
    double ece_full, ece_need;         /* expected calibration error, ten bins */
    /* under the curve of quality over the share sent to the full path */
    double area, area_length, area_random;
    /* least distance above the random mix, and above length alone, at shares 0.05 to 0.95 */
    double least_gain, least_gain_length;
    /* quality at shares 0, 0.1, ... 1: the model, length alone, random */
    double curve[3][11];
} sp_intent_result;

/* out: the model file. text [n]: the prompts. */
SP_MUST sp_err sp_intent_train(sp_buf *out, sp_intent_result *result, const char *text, size_t n,
                               sp_diag *d);
/* Only measures. */
SP_MUST sp_err sp_intent_test(sp_intent_result *result, const sp_intent_model *m, const char *text,
                              size_t n, sp_diag *d);

#endif
