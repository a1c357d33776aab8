/* Documents from the command line: search, collections. */
#include "cmd/shelf.h"

#include "base/clock.h"
#include "base/utf8.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static sp_err embed(sp_encoder *e, int8_t out[SP_VEC_DIM], const char *text, size_t n, sp_diag *d)
{
    sp_ids ids = {0};
    float v[SP_VEC_DIM];
    sp_err err = sp_tok_encode_whole(sp_encoder_vocab(e), &ids, sp_encoder_cap(e), text, n, d);
    if (err == SP_OK)
        err = sp_encoder_run(e, v, ids.id, ids.n, NULL, 0, d);
    if (err == SP_OK)
        sp_vec_quantise(out, v);
    sp_ids_fini(&ids);
    return err;
}

/* --- search ----------------------------------------------------------------------------------- */

static sp_err read_how(unsigned *out, const char *v, sp_diag *d)
{
    static const struct { const char *name; unsigned how; } of[] = {
        {"all", SP_RAG_ALL}, {"words", SP_RAG_WORDS}, {"vectors", SP_RAG_VECTORS},
        {"graph", SP_RAG_GRAPH}, {"plain", SP_RAG_PLAIN}};
    for (size_t i = 0; i < sizeof of / sizeof of[0]; i++)
        if (strcmp(of[i].name, v) == 0) {
            *out = of[i].how;
            return SP_OK;
        }
    return SP_FAIL(d, SP_INVAL, "ranks: %.20s is none of all, plain, words, vectors, graph", v);
}

/* The first characters of a passage, each line of them as far in as the path above. */
static void put_beginning(sp_buf *out, const char *text)
{
    enum { MOST = 240 };
    size_t n = strlen(text), k = n < MOST ? n : MOST;
    k -= sp_utf8_tail(text, k);
    sp_buf_puts(out, "   ");
    for (size_t i = 0; i < k; i++) {
        sp_buf_putc(out, text[i]);
        if (text[i] == '\n')
            sp_buf_puts(out, "   ");
    }
    sp_buf_puts(out, k < n ? "…\n" : "\n");
}

static void print_hits(const sp_rag_hit *h, size_t n, double ms, bool json)
{
    sp_buf out = {0};
    for (size_t i = 0; i < n; i++) {
        if (json) {
            sp_buf_printf(&out,
                          "%s{\"score\":%.4f,\"cosine\":%.4f,\"chunk\":\"%s\",\"file\":\"%s\","
                          "\"ranks\":[%d,%d,%d,%d],\"path\":",
                          i ? "," : "", h[i].score, h[i].cosine, h[i].chunk, h[i].doc,
                          h[i].rank_word, h[i].rank_vec, h[i].rank_sent, h[i].rank_graph);
            sp_buf_json_str(&out, h[i].path, strlen(h[i].path));
            sp_buf_puts(&out, ",\"place\":");
            sp_buf_json_str(&out, h[i].place, strlen(h[i].place));
            sp_buf_puts(&out, ",\"text\":");
            sp_buf_json_str(&out, h[i].text, strlen(h[i].text));
            sp_buf_putc(&out, '}');
        } else {
            sp_buf_printf(&out, "%zu. %s  (%.3f)\n   %s\n", i + 1, h[i].place, h[i].score,
                          h[i].path);
            put_beginning(&out, h[i].text);
        }
    }
    if (json)
        printf("{\"ms\":%.3f,\"hits\":[%s]}\n", ms, sp_buf_str(&out));
    else
        printf("%s", n ? sp_buf_str(&out) : "nothing found\n");
    fflush(stdout);
    sp_buf_fini(&out);
}

static sp_err search(sp_shelf *s, const sp_opts *o, const char *coll, unsigned how,
                     const char *text, sp_diag *d)
{
    sp_arena a;
    sp_rag_hit *hit;
    size_t n;
    int8_t vec[SP_VEC_DIM], wide_vec[SP_VEC_DIM];
    uint64_t since = sp_clock_ns();
    /* what was asked before it stands before the last tab */
    const char *wide = strchr(text, '\t') ? text : NULL;
    text = wide ? strrchr(text, '\t') + 1 : text;
    SP_TRY(embed(s->encoder, vec, text, strlen(text), d));
    if (wide)
        SP_TRY(embed(s->encoder, wide_vec, wide, strlen(wide), d));
    const sp_rag_query q = {.tenant = TENANT(o),
                            .coll = coll,
                            .text = text,
                            .vec = vec,
                            .wide = wide,
                            .wide_vec = wide ? wide_vec : NULL,
                            .how = how,
                            .cap = (size_t)sp_opt_int(o, "limit")};
    sp_arena_init(&a, 0);
    sp_err err = sp_rag_search(s->store, &a, &q, &hit, &n, d);
    if (err == SP_OK)
        print_hits(hit, n, sp_clock_ms(since), sp_opt_flag(o, "json"));
    sp_arena_fini(&a);
    return err;
}

int sp_cmd_search(const sp_opts *o)
{
    sp_shelf s = {0};
    sp_diag d = {0};
    const char *const *rest;
    char coll[SP_RAG_ID], *line = NULL;
    unsigned how = 0;
    size_t n = sp_opts_rest(o, &rest), cap = 0;
    sp_err err = read_how(&how, sp_opt_str(o, "ranks"), &d);
    if (err != SP_OK)
        return sp_cmd_fail(EXIT_USAGE, &d);
    err = sp_shelf_is_there(o, &d);
    if (err == SP_OK)
        err = sp_shelf_open(&s, o, true, &d);
    if (err == SP_OK)
        err = sp_shelf_coll(coll, &s, o, false, &d);
    if (err == SP_OK && n)
        err = search(&s, o, coll, how, rest[0], &d);
    /* a question a line */
    for (ssize_t k; err == SP_OK && !n && (k = getline(&line, &cap, stdin)) > 0;) {
        line[strcspn(line, "\n")] = 0;
        err = search(&s, o, coll, how, line, &d);
    }
    free(line);
    sp_shelf_close(&s);
    return err == SP_OK ? EXIT_DONE : sp_cmd_fail(sp_shelf_exit(err), &d);
}

/* --- collections ---------------------------------------------------------------- */

static sp_err list_collections(sp_shelf *s, const sp_opts *o, sp_diag *d)
{
    sp_arena a;
    sp_rag_coll *c;
    size_t n;
    bool json = sp_opt_flag(o, "json");
    sp_buf out = {0};
    sp_arena_init(&a, 0);
    sp_err err = sp_rag_coll_list(s->store, &a, TENANT(o), &c, &n, d);
    for (size_t i = 0; i < n && err == SP_OK; i++) {
        if (json) {
            sp_buf_printf(&out, "%s{\"id\":\"%s\",\"name\":", i ? "," : "", c[i].id);
            sp_buf_json_str(&out, c[i].name, strlen(c[i].name));
            sp_buf_printf(&out,
                          ",\"documents\":%lld,\"failed\":%lld,\"chunks\":%lld,\"bytes\":%lld}",
                          (long long)c[i].n_doc, (long long)c[i].n_failed, (long long)c[i].n_chunk,
                          (long long)c[i].n_bytes);
        } else {
            sp_buf_printf(&out, "%s  %s: %lld documents (%lld failed), %lld chunks, %.1f MB\n",
                          c[i].id, c[i].name, (long long)c[i].n_doc, (long long)c[i].n_failed,
                          (long long)c[i].n_chunk, (double)c[i].n_bytes * 1e-6);
        }
    }
    if (err == SP_OK)
        printf(json ? "[%s]\n" : "%s", sp_buf_str(&out));
    sp_buf_fini(&out);
    sp_arena_fini(&a);
    return err;
}

int sp_cmd_collections(const sp_opts *o)
{
    sp_shelf s = {0};
    sp_diag d = {0};
    const char *const *rest;
    size_t n = sp_opts_rest(o, &rest);
    char coll[SP_RAG_ID];
    bool remove = n == 2 && strcmp(rest[0], "delete") == 0;
    if (n && !remove) {
        (void)SP_FAIL(&d, SP_INVAL, "collections: nothing, or `delete NAME`");
        return sp_cmd_fail(EXIT_USAGE, &d);
    }
    sp_err err = sp_shelf_is_there(o, &d);
    if (err == SP_OK)
        err = sp_shelf_open(&s, o, false, &d);
    if (err == SP_OK && remove)
        err = sp_rag_coll_named(s.store, TENANT(o), rest[1], false, coll, &d);
    if (err == SP_OK)
        err =
            remove ? sp_rag_coll_delete(s.store, TENANT(o), coll, &d) : list_collections(&s, o, &d);
    sp_shelf_close(&s);
    return err == SP_OK ? EXIT_DONE : sp_cmd_fail(sp_shelf_exit(err), &d);
}
