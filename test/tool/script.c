/* A model that says what it is told, for end-to-end tests of what is done with an answer: the program `sparing` with this file linked
 * over some functions of src/gen. What the model says next stands in its prompt, between the last [[say]] and [[/say]]; a prompt without
 * one is answered by the model itself. Everything else is as it is: prompts are computed, tokens are masked by grammars, text is streamed.
 * A token that a grammar forbids is not said, and from there on the model goes on by itself.
 *
 * Threads: sessions are made on any thread; tokens are chosen on the step thread. */
#include "gen/session.h"

#include "base/mem.h"

#include <pthread.h>
#include <string.h>

typedef struct script {
    struct script *next;
    const sp_session *session;
    const sp_tok *tok;
    sp_buf say, said; /* the whole answer, and as much of it as has been said */
    uint32_t end;     /* the token that ends it */
    float *logits;    /* [n_vocab] */
    bool lost;        /* what was said is something else */
} script;

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static script *all;
static _Thread_local script *now; /* whose token is being chosen */

sp_err __real_sp_session_new(sp_session **out, const sp_session_cfg *cfg, const sp_tok *t, const uint32_t *tok, size_t n, sp_diag *d);
void __real_sp_session_free(sp_session *s, sp_kv_pool *pool);
sp_err __real_sp_session_accept(sp_session *s, const float *logits, sp_event **out, bool *done, sp_finish *finish, sp_diag *d);
sp_err __real_sp_sampler_next(sp_sampler *s, uint32_t *out, const float *logits, const uint8_t *allowed);
void __real_sp_sampler_take(sp_sampler *s, uint32_t id);
sp_err __wrap_sp_session_new(sp_session **out, const sp_session_cfg *cfg, const sp_tok *t, const uint32_t *tok, size_t n, sp_diag *d);
void __wrap_sp_sampler_take(sp_sampler *s, uint32_t id);
void __wrap_sp_session_free(sp_session *s, sp_kv_pool *pool);
sp_err __wrap_sp_session_accept(sp_session *s, const float *logits, sp_event **out, bool *done, sp_finish *finish, sp_diag *d);
sp_err __wrap_sp_sampler_next(sp_sampler *s, uint32_t *out, const float *logits, const uint8_t *allowed);

/* The last text between the marks of a prompt. */
static bool find_script(sp_str *out, const sp_buf *prompt)
{
    static const char open[] = "[[say]]", close[] = "[[/say]]";
    const char *p = sp_buf_str(prompt), *at, *last = NULL;
    for (at = p; (at = strstr(at, open)); at += sizeof open - 1)
        last = at + sizeof open - 1;
    const char *end = last ? strstr(last, close) : NULL;
    *out = (sp_str){last, end ? (size_t)(end - last) : 0};
    return end != NULL;
}

static uint32_t end_token(const sp_tok *t)
{
    uint32_t id = 0;
    while (id < sp_tok_count(t) && !sp_tok_is_end(t, id))
        id++;
    return id;
}

/* The next token of the answer, spelled as the tokenizer spells what is left of it. */
static uint32_t next_token(const script *c)
{
    sp_ids ids = {0};
    if (c->said.len >= c->say.len)
        return c->end;
    SP_ASSERT(sp_tok_encode(c->tok, &ids, c->say.p + c->said.len, c->say.len - c->said.len, SP_SPECIAL_ALL, NULL) == SP_OK && ids.n);
    uint32_t id = ids.id[0];
    sp_ids_fini(&ids);
    return id;
}

/* A token was put, whoever chose it. */
static void note(uint32_t id)
{
    if (!now || sp_tok_is_end(now->tok, id))
        return;
    sp_str p = sp_tok_piece(now->tok, id);
    sp_buf_put(&now->said, p.p, p.n);
    now->lost = now->said.len > now->say.len || memcmp(sp_buf_str(&now->said), sp_buf_str(&now->say), now->said.len) != 0;
    if (now->lost)
        now = NULL;
}

static void remember(const sp_session *s, const sp_tok *t, const uint32_t *tok, size_t n)
{
    sp_buf prompt = {0};
    sp_str text;
    for (size_t i = 0; i < n; i++)
        sp_tok_decode_after(t, &prompt, i ? tok[i - 1] : SP_TOK_NONE, tok[i], true);
    if (find_script(&text, &prompt)) {
        script *c = sp_mem_alloc(sizeof *c);
        SP_ASSERT(c && (c->logits = sp_mem_array(sp_tok_count(t), sizeof *c->logits)));
        sp_buf_put(&c->say, text.p, text.n);
        c->end = end_token(t);
        c->session = s;
        c->tok = t;
        pthread_mutex_lock(&lock);
        c->next = all;
        all = c;
        pthread_mutex_unlock(&lock);
    }
    sp_buf_fini(&prompt);
}

static script **find(const sp_session *s)
{
    script **at = &all;
    while (*at && (*at)->session != s)
        at = &(*at)->next;
    return at;
}

sp_err __wrap_sp_session_new(sp_session **out, const sp_session_cfg *cfg, const sp_tok *t, const uint32_t *tok, size_t n, sp_diag *d)
{
    SP_TRY(__real_sp_session_new(out, cfg, t, tok, n, d));
    remember(*out, t, tok, n);
    return SP_OK;
}

void __wrap_sp_session_free(sp_session *s, sp_kv_pool *pool)
{
    pthread_mutex_lock(&lock);
    script **at = find(s), *c = *at;
    if (c)
        *at = c->next;
    pthread_mutex_unlock(&lock);
    if (c) {
        sp_buf_fini(&c->say);
        sp_buf_fini(&c->said);
        sp_mem_free(c->logits);
        sp_mem_free(c);
    }
    __real_sp_session_free(s, pool);
}

sp_err __wrap_sp_session_accept(sp_session *s, const float *logits, sp_event **out, bool *done, sp_finish *finish, sp_diag *d)
{
    pthread_mutex_lock(&lock);
    script *c = *find(s);
    pthread_mutex_unlock(&lock);
    now = c && !c->lost ? c : NULL;
    if (now) {
        memcpy(c->logits, logits, sp_tok_count(c->tok) * sizeof *logits);
        c->logits[next_token(c)] = 1e9f;
        logits = c->logits;
    }
    sp_err err = __real_sp_session_accept(s, logits, out, done, finish, d);
    now = NULL;
    return err;
}

sp_err __wrap_sp_sampler_next(sp_sampler *s, uint32_t *out, const float *logits, const uint8_t *allowed)
{
    SP_TRY(__real_sp_sampler_next(s, out, logits, allowed));
    note(*out);
    return SP_OK;
}

void __wrap_sp_sampler_take(sp_sampler *s, uint32_t id)
{
    __real_sp_sampler_take(s, id);
    note(id);
}
