#include "gen/held.h"

#include "base/mem.h"

#include <string.h>

void sp_held_fini(sp_held *h)
{
    sp_buf_fini(&h->text);
    sp_mem_free(h->tok);
    sp_mem_free(h->mark);
    sp_buf_fini(&h->how);
    *h = (sp_held){0};
}

sp_err sp_held_logprobs(sp_held *h, const float *logits, size_t n_vocab, uint32_t id, size_t n_top)
{
    if (!sp_mem_has_room(&h->tok, &h->cap_tok, h->n_tok, sizeof *h->tok))
        return SP_NOMEM;
    sp_event_tok *e = &h->tok[h->n_tok++];
    e->id = id;
    e->n_top = n_top;
    sp_sample_logprobs(logits, n_vocab, id, &e->logprob, e->top, n_top);
    return SP_OK;
}

sp_err sp_held_mark(sp_held *h, size_t at)
{
    if (!sp_mem_has_room(&h->mark, &h->cap_mark, h->n_mark, sizeof *h->mark))
        return SP_NOMEM;
    h->mark[h->n_mark++] = (sp_event_mark){at, h->text.len - at};
    return SP_OK;
}

/* Moves the marks of the first n bytes into an event; the others stay with theirs. */
sp_err sp_held_how(sp_held *h, size_t at, sp_tok_how how)
{
    for (; at < h->text.len; at++)
        sp_buf_putc(&h->how, (char)(at + 1 < h->text.len ? SP_TOK_INSIDE : how));
    return h->how.failed ? SP_NOMEM : SP_OK;
}

static sp_err give_marks(sp_held *h, sp_event *e, size_t n)
{
    size_t k = 0;
    while (k < h->n_mark && h->mark[k].at < n)
        k++;
    e->mark = k ? sp_mem_array(k, sizeof *e->mark) : NULL;
    if (k && !e->mark)
        return SP_NOMEM;
    e->n_mark = k;
    if (k)
        memcpy(e->mark, h->mark, k * sizeof *e->mark);
    for (size_t i = k; i < h->n_mark; i++)
        h->mark[i - k] = (sp_event_mark){h->mark[i].at - n, h->mark[i].n};
    h->n_mark -= k;
    return SP_OK;
}

static void cut(sp_buf *b, size_t at, size_t n)
{
    memmove(b->p + at, b->p + at + n, b->len - at - n);
    b->len -= n;
    b->p[b->len] = 0;
}

size_t sp_held_drop(sp_held *h, size_t at, size_t n)
{
    size_t n_end = 0;
    if (!n)
        return 0;
    SP_ASSERT(at + n <= h->text.len);
    cut(&h->text, at, n);
    for (size_t i = at; h->how.len && i < at + n; i++)
        n_end += h->how.p[i] != SP_TOK_INSIDE;
    if (h->how.len)
        cut(&h->how, at, n);
    for (size_t i = 0; i < h->n_mark; i++)
        h->mark[i].at -= h->mark[i].at >= at + n ? n : 0;
    return n_end;
}

sp_err sp_held_give(sp_held *h, size_t n, sp_event **out)
{
    *out = NULL;
    for (size_t i = 0; i < h->n_mark; i++)
        if (h->mark[i].at < n && h->mark[i].at + h->mark[i].n > n)
            n = h->mark[i].at;
    if (n == 0)
        return SP_OK;
    sp_event *e = sp_mem_alloc(sizeof *e);
    if (!e)
        return SP_NOMEM;
    e->kind = SP_EVENT_TEXT;
    sp_buf_put(&e->text, h->text.p, n);
    if (h->how.len)
        sp_buf_put(&e->how, h->how.p, n);
    if (e->text.failed || e->how.failed || give_marks(h, e, n) != SP_OK) {
        sp_event_free(e);
        return SP_NOMEM;
    }
    sp_buf_drop(&h->text, n);
    sp_buf_drop(&h->how, h->how.len ? n : 0);
    e->tok = h->tok;
    e->n_tok = h->n_tok;
    h->tok = NULL;
    h->n_tok = h->cap_tok = 0;
    *out = e;
    return SP_OK;
}
