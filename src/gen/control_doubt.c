/* The controller that watches for uncertainty and knows where sentences end (sp_session_cfg.doubt,
 * one_sentence). A sentence is held until it is whole, so that one that became unsure can be
 * written anew. Sentences begin and end between tokens.
 *
 * Unsure is an answer whose newest n_tok tokens have a mean log-probability of the likeliest token
 * below `below`, and a mean entropy above `entropy`. At the answer's own end, or where a sentence
 * is shorter, fewer count. Thoughts, code, quotes and tables are left alone (prose.h). */
#include "gen/control_int.h"

#include "base/mem.h"
#include "gen/prose.h"
#include "gen/window.h"

#include <string.h>

enum {
    SENTENCE = 600, /* bytes that are held, at most */
    LEAST = 4,      /* tokens that may be judged */
    ROOM = 8        /* tokens before max_tok from which on nothing is judged */
};

struct sp_doubt {
    sp_prose prose;
    size_t seen;        /* bytes of the held text that were read */
    size_t begin;       /* of them, those before the sentence */
    size_t n_begin;     /* tokens of the answer before it */
    bool is_ending;     /* its last byte may end it: a blank follows or it does not */
    bool has_words;
    sp_window_look late[SP_WATCH_TOK]; /* a ring */
    size_t n_late;
    bool is_unsure;
    sp_window_look mean; /* of the tokens that were judged */
};

static sp_err start(sp_control *c, const uint32_t *tok, size_t n)
{
    (void)tok;
    (void)n;
    if (!c->cfg->doubt.n_tok && !c->cfg->one_sentence)
        return SP_OK;
    SP_ASSERT(c->cfg->doubt.n_tok <= SP_WATCH_TOK);
    c->doubt = sp_mem_alloc(sizeof *c->doubt);
    return c->doubt ? SP_OK : SP_NOMEM;
}

void sp_control_look(sp_control *c, const float *logits)
{
    sp_doubt *q = c->doubt;
    if (!q || !c->cfg->doubt.n_tok || c->thinking)
        return;
    sp_window_measure(&q->late[q->n_late++ % c->cfg->doubt.n_tok], logits, sp_tok_count(c->t));
}

/* Are the newest tokens unsure? least: how many there must be. */
static bool judge(sp_control *c, size_t least)
{
    sp_doubt *q = c->doubt;
    const sp_doubt_cfg *cfg = &c->cfg->doubt;
    size_t n = q->n_late < cfg->n_tok ? q->n_late : cfg->n_tok;
    sp_window_look sum = {0};
    if (!cfg->n_tok || n < least || c->thinking || sp_prose_is_protected(&q->prose))
        return false;
    for (size_t i = 0; i < n; i++) {
        sum.logprob += q->late[i].logprob;
        sum.entropy += q->late[i].entropy;
        sum.margin += q->late[i].margin;
    }
    q->mean = (sp_window_look){sum.logprob / (float)n, sum.entropy / (float)n,
                               sum.margin / (float)n};
    q->is_unsure = (double)q->mean.logprob < cfg->below && (double)q->mean.entropy > cfg->entropy;
    return q->is_unsure;
}

static bool is_word(char b)
{
    return (b >= 'a' && b <= 'z') || (b >= 'A' && b <= 'Z') || (b >= '0' && b <= '9') ||
           (unsigned char)b >= 0x80;
}

static void begin_sentence(sp_doubt *q, size_t at, size_t n_out)
{
    q->begin = at;
    q->n_begin = n_out;
    q->is_ending = q->has_words = false;
}

/* Reads the newest token. true: a sentence with words has ended, before the token or with it. */
static bool read_token(sp_doubt *q, const sp_control_now *now)
{
    const sp_buf *text = &now->held->text;
    bool ended = false, broke = false;
    if (q->seen < text->len && q->is_ending && sp_prose_blank(text->p[q->seen])) {
        ended = q->has_words;
        begin_sentence(q, q->seen, now->n_out - 1);
    }
    for (; q->seen < text->len; q->seen++) {
        char b = text->p[q->seen];
        sp_prose_step(&q->prose, b);
        broke = broke || b == '\n';
        q->has_words = q->has_words || is_word(b);
        q->is_ending = !sp_prose_is_protected(&q->prose) &&
                       sp_prose_may_end(text->p, q->begin, q->seen);
    }
    if (broke && q->has_words && !sp_prose_is_protected(&q->prose)) {
        ended = true;
        begin_sentence(q, text->len, now->n_out);
    }
    if (text->len - q->begin >= SENTENCE)
        begin_sentence(q, text->len, now->n_out);
    return ended;
}

static sp_err took(sp_control *c, const sp_control_now *now, sp_verdict *v)
{
    sp_doubt *q = c->doubt;
    size_t len = now->held->text.len;
    if (!q)
        return SP_OK;
    if (c->thinking || (c->only && now->id == c->cfg->think_close)) {
        q->seen = len;
        q->n_late = 0;
        begin_sentence(q, len, now->n_out);
        return SP_OK;
    }
    bool ended = read_token(q, now);
    if (sp_prose_is_protected(&q->prose))
        q->n_late = 0; /* it is not judged behind it either */
    if (ended && c->cfg->one_sentence) {
        *v = (sp_verdict){.ends = true, .finish = SP_FINISH_LENGTH, .n_give = q->begin};
        return SP_OK;
    }
    if (v->n_give < q->begin) /* a stop string may have begun in what would leave */
        return SP_OK;
    v->n_give = q->begin;
    if (now->n_out + ROOM < c->cfg->max_tok && judge(c, c->cfg->doubt.n_tok))
        *v = (sp_verdict){.ends = true, .finish = SP_FINISH_UNSURE, .n_give = q->begin};
    return SP_OK;
}

bool sp_control_doubts_end(sp_control *c, sp_verdict *v)
{
    sp_doubt *q = c->doubt;
    if (!q || q->n_begin >= c->cfg->max_tok || !judge(c, LEAST))
        return false;
    *v = (sp_verdict){.ends = true, .finish = SP_FINISH_UNSURE, .n_give = q->begin};
    return true;
}

void sp_control_moved(sp_control *c, size_t n)
{
    sp_doubt *q = c->doubt;
    if (!q)
        return;
    q->seen -= n < q->seen ? n : q->seen;
    q->begin -= n < q->begin ? n : q->begin;
}

bool sp_control_unsure(const sp_control *c, size_t *n_kept, sp_window_look *mean)
{
    const sp_doubt *q = c->doubt;
    if (!q)
        return false;
    *n_kept = q->n_begin;
    *mean = q->mean;
    return q->is_unsure;
}

void sp_doubt_free(sp_doubt *q)
{
    sp_mem_free(q);
}

const sp_control_kind sp_control_doubt = {.name = "doubt", .start = start, .took = took};
