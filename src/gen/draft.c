#include "gen/draft.h"

#include "base/mem.h"

#include <string.h>

enum {
    TRUST = 8 /* tokens of agreement that a prediction is worth as long as it is right; as a likely
                 one is 0.76 then */
};

size_t sp_draft_agree(const uint32_t *a, size_t n_a, const uint32_t *b, size_t n_b)
{
    size_t m = 0;
    while (m < SP_DRAFT_MATCH && m < n_a && m < n_b && a[n_a - 1 - m] == b[n_b - 1 - m])
        m++;
    return m;
}

/* --- prompt lookup ------------------------------------------------------------------------------
 */

static sp_err start_lookup(sp_draft_source *s, sp_drafter **out, const sp_draft_answer *a)
{
    static sp_drafter all = {
        &sp_draft_lookup}; /* it has no state, and so one serves all; never written */
    (void)s;
    (void)a;
    *out = &all;
    return SP_OK;
}

static void propose_lookup(sp_drafter *d, sp_draft *out, const sp_draft_text *t)
{
    size_t at = 0, n = t->n;
    const uint32_t *tok = t->tok;
    (void)d;
    for (size_t i = n; i-- > 1 && out->match < SP_DRAFT_MATCH;) { /* the newest of the longest */
        bool longer =
            tok[i - 1] == tok[n - 1] &&
            (!out->match || (i > out->match && tok[i - 1 - out->match] == tok[n - 1 - out->match]));
        size_t m = longer ? sp_draft_agree(tok, i, tok, n) : 0;
        if (m > out->match) {
            out->match = m;
            at = i;
        }
    }
    out->n = out->match ? SP_DRAFT_MAX : 0;
    for (size_t i = 0; i < out->n;
         i++) /* past the end it goes round, as the text does where it loops */
        out->tok[i] = at + i < n ? tok[at + i] : out->tok[at + i - n];
}

static void end_lookup(sp_drafter *d, const sp_draft_text *t)
{
    (void)d;
    (void)t;
}

const sp_draft_kind sp_draft_lookup = {
    .id = SP_DRAFT_LOOKUP, .start = start_lookup, .propose = propose_lookup, .end = end_lookup};

/* --- prediction ---------------------------------------------------------------------------------
 */

typedef struct prediction {
    sp_drafter base;
    const uint32_t *text; /* [n] borrowed */
    size_t n;
    size_t place;            /* where in the text the last guess began */
    size_t n_tried, n_right; /* tokens guessed; of them, chosen */
} prediction;

static sp_err start_prediction(sp_draft_source *s, sp_drafter **out, const sp_draft_answer *a)
{
    (void)s;
    *out = NULL;
    if (!a->n_predicted)
        return SP_OK;
    prediction *p = sp_mem_alloc(sizeof *p);
    if (!p)
        return SP_NOMEM;
    *p = (prediction){.base.kind = &sp_draft_prediction, .text = a->predicted, .n = a->n_predicted};
    *out = &p->base;
    return SP_OK;
}

/* Of equal places the one behind the last guess counts. */
static void propose_prediction(sp_drafter *d, sp_draft *out, const sp_draft_text *t)
{
    prediction *p = (prediction *)d;
    size_t at = 0, most = 0;
    for (size_t i = 1; i < p->n; i++) {
        size_t m = sp_draft_agree(p->text, i, t->tok + t->n_prompt, t->n - t->n_prompt);
        if (m > most || (m && m == most && at <= p->place && i > p->place)) {
            most = m;
            at = i;
        }
    }
    if (!most)
        return;
    p->place = at;
    out->match = most + TRUST * (1 + p->n_right) / (1 + p->n_tried);
    out->n = p->n - at < SP_DRAFT_MAX ? p->n - at : SP_DRAFT_MAX;
    memcpy(out->tok, p->text + at, out->n * sizeof *out->tok);
}

static void took_prediction(sp_drafter *d, const sp_draft_text *t, const sp_draft *guess)
{
    prediction *p = (prediction *)d;
    p->n_tried += guess->n > 0;
    p->n_right += guess->n > 0 && guess->tok[0] == t->tok[t->n - 1];
}

static void end_prediction(sp_drafter *d, const sp_draft_text *t)
{
    (void)t;
    sp_mem_free(d);
}

const sp_draft_kind sp_draft_prediction = {.id = SP_DRAFT_PREDICTION,
                                           .start = start_prediction,
                                           .propose = propose_prediction,
                                           .took = took_prediction,
                                           .end = end_prediction};
