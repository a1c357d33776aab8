/* A model that says what it is told, for end-to-end tests of what is done with an answer: the program `sparing` with this file linked
 * over some functions of src/gen. What the model says next stands in its prompt, between the last [[say]] and [[/say]]; a prompt without
 * one is answered by the model itself. Everything else is as it is: prompts are computed, tokens are masked by grammars, text is streamed.
 * A token that a grammar forbids is not said, and from there on the model goes on by itself.
 *
 * Between the marks may stand several texts with [[or]] between them. Where they part the model is unsure: it likes the first a little
 * better than the others, which are all alike to it. One whose sentence it has read before the marks it is sure of. A prompt that ends with the
 * beginning of one of them is gone on with.
 *
 * Threads: sessions are made on any thread; tokens are chosen on the step thread. */
#include "gen/session.h"

#include "base/mem.h"

#include <pthread.h>
#include <string.h>

enum { TEXTS = 4 };

typedef struct script {
    struct script *next;
    const sp_session *session;
    const sp_tok *tok;
    sp_buf say[TEXTS]; /* [n_say] whole answers */
    size_t n_say;
    size_t sure;       /* the one that was read; n_say: none */
    sp_buf said;       /* as much of one of them as has been said */
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

static const char open[] = "[[say]]", close[] = "[[/say]]", apart[] = "[[or]]";

/* The last text between the marks of a prompt. */
static bool find_script(sp_str *out, const sp_buf *prompt)
{
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

/* Is this text begun as what was said? */
static bool goes_on(const script *c, size_t i)
{
    return c->said.len <= c->say[i].len && memcmp(sp_buf_str(&c->said), sp_buf_str(&c->say[i]), c->said.len) == 0;
}

/* The next token of text i, spelled as the tokenizer spells what is left of it. */
static uint32_t next_token(const script *c, size_t i)
{
    sp_ids ids = {0};
    if (c->said.len >= c->say[i].len)
        return c->end;
    SP_ASSERT(sp_tok_encode(c->tok, &ids, c->say[i].p + c->said.len, c->say[i].len - c->said.len, SP_SPECIAL_ALL, NULL) == SP_OK && ids.n);
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
    now->lost = true;
    for (size_t i = 0; i < now->n_say; i++)
        now->lost = now->lost && !goes_on(now, i);
    if (now->lost)
        now = NULL;
}

/* The texts, apart. */
static void read_texts(script *c, sp_str all)
{
    const char *p = all.p, *end = all.p + all.n, *at;
    while (c->n_say < TEXTS) {
        at = memmem(p, (size_t)(end - p), apart, sizeof apart - 1);
        sp_buf_put(&c->say[c->n_say++], p, (size_t)((at ? at : end) - p));
        if (!at)
            break;
        p = at + sizeof apart - 1;
    }
}

/* The text of which the sentence, from where it parts from the first (the second, for that one), stands in the prompt before the marks. */
static size_t find_read(const script *c, const char *prompt, size_t n)
{
    for (size_t i = 0; i < c->n_say && c->n_say > 1; i++) {
        const sp_buf *a = &c->say[i], *b = &c->say[i ? 0 : 1];
        size_t k = 0;
        while (k < a->len && k < b->len && a->p[k] == b->p[k])
            k++;
        const char *dot = k < a->len ? memchr(a->p + k, '.', a->len - k) : NULL;
        size_t end = dot ? (size_t)(dot - a->p) : a->len;
        if (k < end && memmem(prompt, n, a->p + k, end - k))
            return i;
    }
    return c->n_say;
}

/* What of a text the prompt ends with. */
static void go_on(script *c, const sp_buf *prompt)
{
    size_t most = 0;
    for (size_t i = 0; i < c->n_say; i++)
        for (size_t n = c->say[i].len; n > most; n--)
            if (n <= prompt->len && memcmp(prompt->p + prompt->len - n, c->say[i].p, n) == 0) {
                most = n;
                sp_buf_clear(&c->said);
                sp_buf_put(&c->said, c->say[i].p, n);
            }
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
        read_texts(c, text);
        c->sure = find_read(c, sp_buf_str(&prompt), (size_t)(text.p - sp_buf_str(&prompt)));
        go_on(c, &prompt);
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
        for (size_t i = 0; i < c->n_say; i++)
            sp_buf_fini(&c->say[i]);
        sp_buf_fini(&c->said);
        sp_mem_free(c->logits);
        sp_mem_free(c);
    }
    __real_sp_session_free(s, pool);
}

/* The logits of what comes next. */
static void say_next(script *c)
{
    static const float SURE = 1e9f, FIRST = 10.1f, OTHER = 10;
    uint32_t id[TEXTS];
    size_t n = 0;
    for (size_t i = 0; i < c->n_say; i++)
        if (goes_on(c, i))
            id[n++] = next_token(c, i);
    bool parts = false;
    for (size_t i = 1; i < n; i++)
        parts = parts || id[i] != id[0];
    if (!parts || (c->sure < c->n_say && goes_on(c, c->sure))) {
        c->logits[parts ? next_token(c, c->sure) : id[0]] = SURE;
        return;
    }
    for (size_t i = 0; i < sp_tok_count(c->tok); i++)
        c->logits[i] = -SURE;
    for (size_t i = n; i-- > 0;)
        c->logits[id[i]] = i ? OTHER : FIRST;
}

sp_err __wrap_sp_session_accept(sp_session *s, const float *logits, sp_event **out, bool *done, sp_finish *finish, sp_diag *d)
{
    pthread_mutex_lock(&lock);
    script *c = *find(s);
    pthread_mutex_unlock(&lock);
    now = c && !c->lost ? c : NULL;
    if (now) {
        memcpy(c->logits, logits, sp_tok_count(c->tok) * sizeof *logits);
        say_next(c);
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
