#include "gen/draft_text.h"

#include "base/mem.h"
#include "base/utf8.h"

#include <string.h>

typedef struct source {
    sp_draft_source base;
    sp_draft_text_cfg cfg;
    sp_draft_kind kind;       /* the inner one's name over the functions here */
    bool we_space, it_spaces; /* encoding a text puts a space before it */
    sp_draft_run *run;        /* [cap_seq] */
    size_t *of;               /* [cap_seq] whose place in the runs it is */
} source;

typedef struct drafter {
    sp_drafter base;
    source *source;
    sp_drafter *inner;
    sp_ids own;      /* the text in the inner drafter's tokens */
    size_t n_read;   /* tokens of the answer's text that are in it, but for `rest` */
    sp_buf rest;     /* bytes that do not make a character yet */
    sp_draft said;   /* what the inner drafter guessed */
    sp_draft guess;  /* the same in the answer's tokens */
    size_t guess_at; /* it is for a text of so many tokens */
} drafter;

/* Bytes of a token that follows prev, behind what is in out. */
static void decode(const sp_tok *t, sp_buf *out, const uint32_t *tok, size_t i, bool special)
{
    sp_tok_decode_after(t, out, i ? tok[i - 1] : SP_TOK_NONE, tok[i], special);
}

/* Encodes bytes that go on with a text: without the space that some kinds put before. */
static sp_err encode_on(const sp_tok *t, sp_ids *out, bool spaces, const char *p, size_t n)
{
    size_t skip = spaces && n && p[0] == ' ';
    return n > skip ? sp_tok_encode(t, out, p + skip, n - skip, SP_SPECIAL_NONE, NULL) : SP_OK;
}

/* Of what the inner drafter guessed, that which came true is kept in its own tokens, which it has
 * read. Returns the bytes it stands for. */
static size_t keep_said(drafter *p)
{
    sp_buf piece = {0};
    size_t at = 0;
    for (size_t i = 0; i < p->said.n; i++) {
        piece.len = 0;
        sp_tok_decode_after(p->source->cfg.its, &piece,
                            p->own.n ? p->own.id[p->own.n - 1] : SP_TOK_NONE, p->said.tok[i],
                            false);
        if (piece.failed || !piece.len || piece.len > p->rest.len - at ||
            memcmp(piece.p, p->rest.p + at, piece.len) != 0 ||
            sp_ids_push(&p->own, p->said.tok[i]) != SP_OK)
            break;
        at += piece.len;
    }
    sp_buf_fini(&piece);
    p->said = (sp_draft){0};
    return at;
}

/* What is whole of the bytes in `rest` becomes tokens of the inner drafter. */
static sp_err flush(drafter *p, bool is_first)
{
    const source *s = p->source;
    if (p->rest.failed || !p->rest.len)
        return p->rest.failed ? SP_NOMEM : SP_OK;
    size_t at = keep_said(p), end = p->rest.len - sp_utf8_tail(p->rest.p, p->rest.len);
    if (at < end) {
        SP_TRY(encode_on(s->cfg.its, &p->own, !is_first && s->it_spaces, p->rest.p + at, end - at));
        at = end;
    }
    memmove(p->rest.p, p->rest.p + at, p->rest.len - at);
    p->rest.len -= at;
    return SP_OK;
}

/* Brings the inner drafter's text up to the answer's. A control token is one there too, where it
 * has one of the same text. */
static sp_err follow(drafter *p, const sp_draft_text *t)
{
    const source *s = p->source;
    bool is_first = !p->n_read;
    if (is_first && sp_tok_adds_bos(s->cfg.its))
        SP_TRY(sp_ids_push(&p->own, sp_tok_bos(s->cfg.its)));
    while (p->n_read < t->n) {
        uint32_t id = t->tok[p->n_read++];
        sp_str piece = sp_tok_piece(s->cfg.ours, id);
        if (p->n_read == 1 && id == sp_tok_bos(s->cfg.ours) && sp_tok_adds_bos(s->cfg.its))
            continue;
        if (!sp_tok_is_control(s->cfg.ours, id)) {
            decode(s->cfg.ours, &p->rest, t->tok, p->n_read - 1, true);
            continue;
        }
        SP_TRY(flush(p, is_first && p->own.n == 0));
        SP_TRY(sp_tok_encode(s->cfg.its, &p->own, piece.p, piece.n, SP_SPECIAL_ALL, NULL));
    }
    return flush(p, is_first && p->own.n == 0);
}

/* What was said, as the answer's tokens. A token of these is as likely as all of the others' that
 * begin in it. */
static sp_err translate(drafter *p, size_t n, const sp_draft_text *t)
{
    source *s = p->source;
    sp_buf text = {0}, piece = {0};
    sp_ids ids = {0};
    size_t begin[SP_DRAFT_MAX], n_said = 0, at = 0, k = 0;
    p->guess = (sp_draft){0};
    for (; n_said < p->said.n && !sp_tok_is_end(s->cfg.its, p->said.tok[n_said]); n_said++) {
        uint32_t prev = n_said ? p->said.tok[n_said - 1] : p->own.id[p->own.n - 1];
        begin[n_said] = text.len;
        sp_tok_decode_after(s->cfg.its, &text, prev, p->said.tok[n_said], false);
    }
    size_t len = text.len - sp_utf8_tail(text.p, text.len);
    /* it would come with a space before it */
    bool is_apart = s->we_space && len && text.p[0] != ' ';
    sp_err err = text.failed ? SP_NOMEM : SP_OK;
    if (err == SP_OK && !is_apart)
        err = encode_on(s->cfg.ours, &ids, s->we_space, text.p, len);
    for (size_t i = 0; i < ids.n && i < n && i < SP_DRAFT_MAX && err == SP_OK; i++) {
        piece.len = 0;
        sp_tok_decode_after(s->cfg.ours, &piece, i ? ids.id[i - 1] : t->tok[t->n - 1], ids.id[i],
                            true);
        at += piece.len;
        p->guess.tok[i] = ids.id[i];
        p->guess.p[i] = 1;
        for (; k < n_said && begin[k] < at; k++)
            p->guess.p[i] *= p->said.p[k];
        p->guess.n = i + 1;
        err = piece.failed ? SP_NOMEM : SP_OK;
    }
    sp_ids_fini(&ids);
    sp_buf_fini(&piece);
    sp_buf_fini(&text);
    return err;
}

static sp_err run(sp_draft_source *base, sp_draft_run *r, size_t n)
{
    source *s = (source *)base;
    size_t n_run = 0;
    for (size_t i = 0; i < n && n_run < s->cfg.cap_seq; i++) {
        drafter *p = (drafter *)r[i].drafter;
        p->guess_at = 0;
        if (follow(p, &r[i].text) != SP_OK || !p->own.n)
            continue;
        s->run[n_run] = (sp_draft_run){.drafter = p->inner,
                                       .text = {p->own.id, p->own.n, p->own.n},
                                       .n = p->rest.len ? 0 : r[i].n};
        s->of[n_run++] = i;
    }
    if (n_run)
        SP_TRY(s->cfg.inner->kind->run(s->cfg.inner, s->run, n_run));
    for (size_t k = 0; k < n_run; k++) {
        sp_draft_run *x = &r[s->of[k]];
        drafter *p = (drafter *)x->drafter;
        x->n_read = s->run[k].n_read;
        p->said = (sp_draft){0};
        p->inner->kind->propose(p->inner, &p->said, &s->run[k].text);
        SP_TRY(translate(p, x->n, &x->text));
        p->guess_at = x->text.n;
    }
    return SP_OK;
}

static void propose(sp_drafter *d, sp_draft *out, const sp_draft_text *t)
{
    const drafter *p = (const drafter *)d;
    if (p->guess_at == t->n)
        *out = p->guess;
}

static void end(sp_drafter *d, const sp_draft_text *t)
{
    drafter *p = (drafter *)d;
    (void)t;
    if (p->inner)
        p->inner->kind->end(p->inner, NULL);
    sp_ids_fini(&p->own);
    sp_buf_fini(&p->rest);
    sp_mem_free(p);
}

static sp_err start(sp_draft_source *base, sp_drafter **out, const sp_draft_answer *a)
{
    source *s = (source *)base;
    *out = NULL;
    drafter *p = sp_mem_alloc(sizeof *p);
    if (!p)
        return SP_NOMEM;
    *p = (drafter){.base.kind = &s->kind, .source = s};
    sp_err err = s->cfg.inner->kind->start(s->cfg.inner, &p->inner, a);
    if (err == SP_OK && p->inner)
        *out = &p->base;
    else
        end(&p->base, NULL);
    return err;
}

static void forget(sp_draft_source *base, const uint8_t *tag, const uint8_t *conv)
{
    const source *s = (const source *)base;
    if (s->cfg.inner->kind->forget)
        s->cfg.inner->kind->forget(s->cfg.inner, tag, conv);
}

/* Does encoding a text put a space before it? */
static sp_err find_space(bool *out, const sp_tok *t)
{
    sp_ids ids = {0};
    sp_buf text = {0};
    sp_err err = sp_tok_encode(t, &ids, "a", 1, SP_SPECIAL_NONE, NULL);
    for (size_t i = 0; i < ids.n; i++)
        sp_tok_decode(t, &text, ids.id[i], false);
    *out = text.len && text.p[0] == ' ';
    err = text.failed ? SP_NOMEM : err;
    sp_buf_fini(&text);
    sp_ids_fini(&ids);
    return err;
}

sp_err sp_draft_text_new(sp_draft_source **out, const sp_draft_text_cfg *cfg, sp_diag *d)
{
    source *s = sp_mem_alloc(sizeof *s);
    if (!s)
        return SP_FAIL(d, SP_NOMEM, "draft model");
    *s = (source){.cfg = *cfg};
    s->kind = (sp_draft_kind){.id = cfg->inner->kind->id,
                              .start = start,
                              .run = run,
                              .propose = propose,
                              .end = end,
                              .forget = forget};
    s->base.kind = &s->kind;
    s->run = sp_mem_array(cfg->cap_seq, sizeof *s->run);
    s->of = sp_mem_array(cfg->cap_seq, sizeof *s->of);
    sp_err err = s->run && s->of ? SP_OK : SP_NOMEM;
    if (err == SP_OK)
        err = find_space(&s->we_space, cfg->ours);
    if (err == SP_OK)
        err = find_space(&s->it_spaces, cfg->its);
    if (err != SP_OK) {
        sp_draft_text_free(&s->base);
        return SP_FAIL(d, err, "draft model: its vocabulary cannot spell a letter");
    }
    *out = &s->base;
    return SP_OK;
}

void sp_draft_text_free(sp_draft_source *base)
{
    source *s = (source *)base;
    if (!s)
        return;
    sp_mem_free(s->run);
    sp_mem_free(s->of);
    sp_mem_free(s);
}
