/* Any text as a pattern, or as a JSON schema or GBNF that becomes one; then a walk through it: what a mask allows is allowed, and the errors
 * are those that the header names. */
#include "fuzz.h"

#include "gen/force.h"
#include "gen/gbnf.h"
#include "gen/schema.h"

#include <stdlib.h>

static sp_grammars *all;

static const sp_tok *tokens(void)
{
    const char *path = getenv("SPARING_FUZZ_MODEL");
    static sp_gguf *g;
    static sp_tok *t;
    if (!t && (sp_gguf_open(&g, path ? path : "test/golden/data/tiny-mha.gguf", NULL) != SP_OK || sp_tok_open(&t, g, NULL) != SP_OK || sp_grammars_new(&all, t, NULL) != SP_OK))
        abort();
    return t;
}

/* A forced token is among those that the mask allows. */
static void check_forced(sp_grammar *g, sp_grammar_at at, const sp_tok *t)
{
    sp_force f = {0};
    uint32_t id;
    const uint8_t *mask;
    const sp_force_ask ask = {.grammar = g, .at = at, .tok = t};
    if (sp_force_look(&f, &id, &ask) == SP_OK && id != SP_TOK_NONE && sp_grammar_mask(g, at, &mask) == SP_OK)
        SP_ASSERT(mask[id]);
    sp_force_fini(&f);
}

/* Up to 16 tokens of those that are allowed, chosen by the input's own bytes. */
static void walk(sp_grammar *g, const sp_tok *t, const uint8_t *p, size_t n)
{
    sp_grammar_at at = sp_grammar_start(g);
    for (size_t i = 0; i < 16 && at.state; i++) {
        const uint8_t *mask;
        size_t n_tok = sp_tok_count(t), first = n ? p[i % n] * 37u % n_tok : 0, k = 0;
        sp_err err = sp_grammar_mask(g, at, &mask);
        SP_ASSERT(err == SP_OK || err == SP_LIMIT || err == SP_NOMEM);
        if (err != SP_OK)
            return;
        while (k < n_tok && !(mask[(first + k) % n_tok] && !sp_tok_is_end(t, (uint32_t)((first + k) % n_tok))))
            k++;
        if (k == n_tok)
            return;
        sp_str piece = sp_tok_piece(t, (uint32_t)((first + k) % n_tok));
        SP_ASSERT(sp_grammar_step(g, &at, piece.p, piece.n) == SP_OK && at.state != 0);
        (void)sp_grammar_must_end(g, at);
        check_forced(g, at, t);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *p, size_t n)
{
    const sp_tok *t = tokens();
    sp_grammar *g = NULL;
    sp_diag d = {0};
    sp_buf text = {0}, loose = {0};
    json_t *j = n && p[0] == '{' ? json_loadb((const char *)p, n, JSON_REJECT_DUPLICATES | JSON_ALLOW_NUL, NULL) : NULL;
    sp_err err = SP_OK;
    if (j)
        err = sp_grammar_schema(&text, p[n - 1] & 1 ? &loose : NULL, j, &d);
    else if (memmem(p, n, "::=", 3)) {
        sp_buf_put(&loose, p, n);
        err = loose.failed ? SP_FAIL(&d, SP_NOMEM, "text") : sp_grammar_gbnf(&text, sp_buf_str(&loose), &d);
    } else
        sp_buf_put(&text, p, n);
    SP_ASSERT(err == SP_OK || d.msg[0]);
    if (err == SP_OK && !text.failed) {
        err = sp_grammar_get(&g, all, sp_buf_str(&text), &d);
        SP_ASSERT(err == SP_OK || d.msg[0]);
        if (err == SP_OK)
            walk(g, t, p, n);
    }
    sp_grammar_put(g);
    sp_buf_fini(&text);
    sp_buf_fini(&loose);
    json_decref(j);
    return 0;
}
