/* sample FILE: answers drawn by a grammar alone, without a model: any token that the mask allows,
 * with the vocabulary of a GGUF file. Each line of the input is a JSON object: {"schema": …} |
 * {"regex": "…"} | {"gbnf": "…"} | {"json_object": true}, and maybe "n" (answers, 1), "tokens"
 * (after which it is closed as soon as can be, 60), "seed", "strict", "text" (asked whether it is
 * in the language). Each line of the output is one too: {"out": [..], "open": answers that were not
 * done after 40 times the tokens, "loose": [..], "ms": mask's mean, "is": whether the text is} or
 * {"error": "…"}. */
#include "base/clock.h"
#include "base/mem.h"
#include "base/rng.h"
#include "gen/gbnf.h"
#include "gen/schema.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct draw {
    sp_grammars *all;
    const sp_tok *tok;
    sp_rng rng;
    size_t n_tok; /* after which it is closed */
    size_t n_mask;
    double ms;
} draw;

/* What ends things, best first. */
static int rank_of(const draw *s, uint32_t id)
{
    static const char *const closing[] = {"}", "]", "\"", "0", "1", "a", ":", ","};
    sp_str p = sp_tok_piece(s->tok, id);
    if (sp_tok_is_end(s->tok, id))
        return -1;
    for (int i = 0; i < 8; i++)
        if (p.n == 1 && p.p[0] == closing[i][0])
            return i;
    return 8;
}

/* One of those allowed; SP_TOK_NONE: none is. */
static uint32_t pick(draw *s, const uint8_t *mask, bool close)
{
    uint32_t best = SP_TOK_NONE, n = 0;
    int rank = 99;
    for (uint32_t id = 0; id < sp_tok_count(s->tok); id++) {
        if (!mask[id])
            continue;
        int r = close && sp_rng_unit(&s->rng) < 0.9 ? rank_of(s, id) : 8;
        if (r < rank) {
            rank = r;
            n = 0;
        }
        if (r == rank && sp_rng_unit(&s->rng) * ++n < 1)
            best = id;
    }
    return best;
}

/* false: it was not done in time. */
static bool answer(draw *s, sp_grammar *g, sp_buf *out, sp_diag *d)
{
    sp_grammar_at at = sp_grammar_start(g);
    for (size_t i = 0; i < 40 * s->n_tok; i++) {
        const uint8_t *mask;
        if (sp_grammar_must_end(g, at))
            return true;
        uint64_t t = sp_clock_ns();
        if (sp_grammar_mask(g, at, &mask) != SP_OK)
            return SP_FAIL(d, SP_LIMIT, "a mask failed") == SP_OK;
        s->ms += sp_clock_ms(t);
        s->n_mask++;
        uint32_t id = pick(s, mask, i >= s->n_tok);
        if (id == SP_TOK_NONE)
            return SP_FAIL(d, SP_INVAL, "a dead end after: %.150s", sp_buf_str(out)) == SP_OK;
        if (sp_tok_is_end(s->tok, id))
            return true;
        sp_str p = sp_tok_piece(s->tok, id);
        if (sp_grammar_step(g, &at, p.p, p.n) != SP_OK || !at.state)
            return SP_FAIL(d, SP_INVAL, "a token that the mask allows leads out") == SP_OK;
        sp_buf_put(out, p.p, p.n);
    }
    return false;
}

static sp_err compile(sp_buf *pattern, sp_buf *loose, const json_t *j, sp_diag *d)
{
    const char *regex = json_string_value(json_object_get(j, "regex"));
    if (json_object_get(j, "schema"))
        return sp_grammar_schema(pattern, json_is_true(json_object_get(j, "strict")) ? NULL : loose,
                                 json_object_get(j, "schema"), d);
    if (json_object_get(j, "json_object"))
        return sp_grammar_object(pattern, d);
    if (json_object_get(j, "gbnf"))
        return sp_grammar_gbnf(pattern, json_string_value(json_object_get(j, "gbnf")), d);
    sp_buf_puts(pattern, regex ? regex : "");
    return SP_OK;
}

static bool is_in(sp_grammar *g, const json_t *text)
{
    sp_grammar_at at = sp_grammar_start(g);
    return sp_grammar_step(g, &at, json_string_value(text), json_string_length(text)) == SP_OK &&
           at.state && sp_grammar_may_end(g, at);
}

static void serve(draw *s, const json_t *j, sp_buf *out)
{
    sp_buf pattern = {0}, loose = {0};
    sp_grammar *g = NULL;
    sp_diag d = {0};
    json_int_t n = json_object_get(j, "n") ? json_integer_value(json_object_get(j, "n")) : 1,
               n_open = 0;
    s->n_tok = json_object_get(j, "tokens")
                   ? (size_t)json_integer_value(json_object_get(j, "tokens"))
                   : 60;
    s->ms = 0, s->n_mask = 0;
    sp_rng_init(&s->rng, (uint64_t)json_integer_value(json_object_get(j, "seed")));
    uint64_t t = sp_clock_ns();
    sp_err err = compile(&pattern, &loose, j, &d);
    if (err == SP_OK)
        err = sp_grammar_get(&g, s->all, sp_buf_str(&pattern), &d);
    double ms = sp_clock_ms(t);
    sp_buf_puts(out, "{\"out\":[");
    for (json_int_t i = 0; i < n && err == SP_OK; i++) {
        sp_buf text = {0};
        bool done = answer(s, g, &text, &d);
        n_open += !done;
        err = d.code;
        if (done) {
            sp_buf_puts(out, i - n_open > 0 ? "," : "");
            sp_buf_json_str(out, sp_buf_str(&text), text.len);
        }
        sp_buf_fini(&text);
    }
    sp_buf_printf(out,
                  "],\"open\":%lld,\"loose\":[%s],\"bytes\":%zu,\"compile_ms\":%.3f,\"masks\":%zu,"
                  "\"ms\":%.4f",
                  (long long)n_open, sp_buf_str(&loose), pattern.len, ms, s->n_mask,
                  s->n_mask ? s->ms / (double)s->n_mask : 0);
    if (err == SP_OK && json_object_get(j, "text"))
        sp_buf_printf(out, ",\"is\":%s", is_in(g, json_object_get(j, "text")) ? "true" : "false");
    if (err != SP_OK) {
        sp_buf_puts(out, ",\"error\":");
        sp_buf_json_str(out, d.msg, strlen(d.msg));
    }
    if (json_object_get(j, "show")) {
        sp_buf_puts(out, ",\"pattern\":");
        sp_buf_json_str(out, sp_buf_str(&pattern), pattern.len);
    }
    sp_buf_puts(out, "}\n");
    sp_grammar_put(g);
    sp_buf_fini(&pattern);
    sp_buf_fini(&loose);
}

int main(int n_arg, char **arg)
{
    sp_gguf *file;
    sp_tok *tok;
    sp_diag d = {0};
    draw s = {0};
    char *line = NULL;
    size_t cap = 0;
    if (n_arg != 2 || sp_gguf_open(&file, arg[1], &d) != SP_OK ||
        sp_tok_open(&tok, file, &d) != SP_OK || sp_grammars_new(&s.all, tok, &d) != SP_OK) {
        fprintf(stderr, "sample: %s\n", d.msg[0] ? d.msg : "sample FILE");
        return 1;
    }
    s.tok = tok;
    while (getline(&line, &cap, stdin) > 0) {
        sp_buf out = {0};
        json_t *j = json_loads(line, 0, NULL);
        serve(&s, j, &out);
        fwrite(sp_buf_str(&out), 1, out.len, stdout);
        fflush(stdout);
        sp_buf_fini(&out);
        json_decref(j);
    }
    free(line);
    sp_grammars_free(s.all);
    sp_tok_close(tok);
    sp_gguf_close(file);
    return 0;
}
