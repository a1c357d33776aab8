#include "pipe/prompt.h"

#include "base/clock.h"
#include "base/mem.h"

#include <string.h>

void sp_context_fini(sp_context *c)
{
    sp_ids_fini(&c->prompt);
    sp_splice_free(c->splice, c->n_splice);
    *c = (sp_context){0};
}

static sp_err done(sp_context *out, uint64_t since_ns, sp_err err)
{
    out->ms = sp_clock_ms(since_ns);
    if (err != SP_OK)
        sp_context_fini(out);
    return err;
}

enum { LOOK_FROM = 64 * 1024 }; /* bytes; a shorter text is tokenised in no time */

/* Refuses a text that cannot fit before anything is made of it. */
static sp_err check_bytes(const sp_tok *t, size_t n, size_t cap_tok, sp_diag *d)
{
    size_t longest = 1, cap;
    if (cap_tok == 0 || n <= LOOK_FROM)
        return SP_OK;
    for (uint32_t id = 0; id < sp_tok_count(t); id++)
        longest = sp_tok_piece(t, id).n > longest ? sp_tok_piece(t, id).n : longest;
    if (!sp_mul_ok(&cap, cap_tok, longest) || n <= cap)
        return SP_OK;
    return SP_FAIL(
        d, SP_LIMIT,
        "the prompt has %zu bytes, more than %zu of the longest tokens: the context holds fewer", n,
        cap_tok);
}

/* Words a passed budget; other errors stay. */
static sp_err check_budget(sp_err err, size_t cap_tok, sp_diag *d)
{
    if (err != SP_LIMIT || cap_tok == 0)
        return err;
    return SP_FAIL(d, SP_LIMIT, "the prompt has more than %zu tokens, the context holds fewer",
                   cap_tok);
}

sp_err sp_prompt_ask(sp_context *out, sp_answer_cfg *answer, const sp_tok *t, const sp_chat *chat,
                     const sp_chat_ask *ask, size_t cap_tok, sp_diag *d)
{
    uint64_t since = sp_clock_ns();
    size_t n = ask->tools.n + ask->kwargs.n;
    *out = (sp_context){.prompt.most = cap_tok};
    if (!chat)
        return SP_FAIL(d, SP_UNSUP, "this model has no chat template; use /v1/completions");
    for (size_t i = 0; i < ask->n_msg; i++)
        n += sp_chat_msg_bytes(&ask->msg[i]);
    SP_TRY(check_bytes(t, n, cap_tok, d));
    return done(out, since,
                check_budget(sp_chat_render(chat, t, &out->prompt, answer, ask, d), cap_tok, d));
}

sp_err sp_prompt_chat(sp_context *out, const sp_tok *t, const sp_chat *chat, const sp_chat_msg *msg,
                      size_t n_msg, size_t cap_tok, sp_diag *d)
{
    const sp_chat_ask ask = {.msg = msg, .n_msg = n_msg, .add_answer = true};
    return sp_prompt_ask(out, NULL, t, chat, &ask, cap_tok, d);
}

sp_err sp_prompt_text(sp_context *out, const sp_tok *t, const char *text, size_t n, size_t cap_tok,
                      sp_diag *d)
{
    uint64_t since = sp_clock_ns();
    *out = (sp_context){.prompt.most = cap_tok};
    SP_TRY(check_bytes(t, n, cap_tok, d));
    sp_err err = SP_OK;
    if (sp_tok_adds_bos(t))
        err = sp_ids_push(&out->prompt, sp_tok_bos(t));
    if (err == SP_OK)
        err = sp_tok_encode(t, &out->prompt, text, n, SP_SPECIAL_ALL, d);
    return done(out, since, check_budget(err, cap_tok, d));
}

/* A mark, then a text in which nothing is one. */
static sp_err add_marked(sp_ids *out, const sp_tok *t, uint32_t mark, sp_str text, sp_diag *d)
{
    SP_TRY(sp_ids_push(out, mark));
    return sp_tok_encode(t, out, text.p, text.n, SP_SPECIAL_NONE, d);
}

sp_err sp_prompt_gap(sp_context *out, const sp_tok *t, sp_str before, sp_str behind, size_t cap_tok,
                     sp_diag *d)
{
    uint32_t mark[3];
    uint64_t since = sp_clock_ns();
    *out = (sp_context){.prompt.most = cap_tok};
    if (!sp_tok_fim(t, mark))
        return SP_FAIL(d, SP_UNSUP,
                       "suffix is not supported: this model has no marks for filling in");
    SP_TRY(check_bytes(t, before.n + behind.n, cap_tok, d));
    sp_err err = sp_tok_adds_bos(t) ? sp_ids_push(&out->prompt, sp_tok_bos(t)) : SP_OK;
    if (err == SP_OK)
        err = add_marked(&out->prompt, t, mark[0], before, d);
    if (err == SP_OK)
        err = add_marked(&out->prompt, t, mark[1], behind, d);
    if (err == SP_OK)
        err = sp_ids_push(&out->prompt, mark[2]);
    return done(out, since, check_budget(err, cap_tok, d));
}

sp_err sp_prompt_ids(sp_context *out, const sp_tok *t, const uint32_t *id, size_t n, sp_diag *d)
{
    uint64_t since = sp_clock_ns();
    *out = (sp_context){0};
    sp_err err = SP_OK;
    for (size_t i = 0; i < n && err == SP_OK; i++)
        err = id[i] < sp_tok_count(t)
                  ? sp_ids_push(&out->prompt, id[i])
                  : SP_FAIL(d, SP_INVAL, "token %u is not in the vocabulary of %zu", id[i],
                            sp_tok_count(t));
    return done(out, since, err);
}

sp_err sp_prompt_find(size_t *first, size_t *end, const sp_context *c, const sp_tok *t, size_t from,
                      const char *text, size_t n)
{
    sp_buf all = {0};
    for (size_t i = from; i < c->prompt.n; i++) {
        sp_str p = sp_tok_piece(t, c->prompt.id[i]);
        sp_buf_put(&all, p.p, p.n);
    }
    const char *at = all.len ? memmem(all.p, all.len, text, n) : NULL;
    size_t start = at ? (size_t)(at - (const char *)all.p) : 0, pos = 0;
    *first = *end = from;
    sp_err err = all.failed ? SP_NOMEM : at ? SP_OK : SP_NOTFOUND;
    sp_buf_fini(&all);
    for (size_t i = from; i < c->prompt.n && err == SP_OK; i++) {
        size_t size = sp_tok_piece(t, c->prompt.id[i]).n;
        if (pos <= start)
            *first = i;
        if (pos < start + n)
            *end = i + 1;
        pos += size;
    }
    return err;
}
