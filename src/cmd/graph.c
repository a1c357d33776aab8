/* `sparing graph`: terms of documents and facts of a collection, shown, edited, imported and
 * exported. */
#include "cmd/shelf.h"

#include "base/file.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_SHOWN = 20, MAX_FACTS = 100 << 20, MAX_INPUT_BYTES = 1 << 30 };

static void put_terms(sp_buf *out, const sp_rag_term *t, size_t n, bool json)
{
    sp_buf_puts(out, json ? "\"terms\":[" : "");
    for (size_t i = 0; i < n; i++) {
        if (json) {
            sp_buf_puts(out, i ? ",{\"term\":" : "{\"term\":");
            sp_buf_json_str(out, t[i].name, strlen(t[i].name));
            sp_buf_printf(out, ",\"chunks\":%lld,\"weight\":%.3f}", (long long)t[i].n_chunk,
                          t[i].weight);
        } else {
            sp_buf_printf(out, "%8.2f  %s (in %lld chunks)\n", t[i].weight, t[i].name,
                          (long long)t[i].n_chunk);
        }
    }
    sp_buf_puts(out, json ? "]" : "");
}

static void put_facts(sp_buf *out, const sp_rag_fact *f, size_t n, bool json)
{
    static const char *const key[] = {"subject", "predicate", "object", "source"};
    sp_buf_puts(out, json ? "\"facts\":[" : "");
    for (size_t i = 0; i < n; i++) {
        const char *const text[] = {f[i].name[0], f[i].name[1], f[i].name[2], f[i].shown};
        if (!json)
            sp_buf_printf(out, "%s | %s | %s%s%s%s\n", text[0], text[1], text[2],
                          text[3][0] ? " (" : "", text[3], text[3][0] ? ")" : "");
        for (size_t k = 0; k < 4 && json; k++) {
            sp_buf_printf(out, "%s\"%s\":", k ? "," : i ? ",{" : "{", key[k]);
            sp_buf_json_str(out, text[k], strlen(text[k]));
        }
        sp_buf_puts(out, json ? "}" : "");
    }
    sp_buf_puts(out, json ? "]" : "");
}

/* A term, or all: what documents say of it, and facts. A term need only be in one of them. */
static sp_err show(sp_shelf *s, const sp_opts *o, const char *coll, const char *term, sp_buf *out,
                   sp_diag *d)
{
    sp_arena a;
    sp_rag_term *t = NULL;
    sp_rag_fact *f = NULL;
    size_t n_term = 0, n_fact = 0;
    bool json = sp_opt_flag(o, "json");
    sp_diag none = {0};
    sp_arena_init(&a, 0);
    sp_err err = sp_rag_fact_list(s->store, &a, TENANT(o), coll, term, MAX_SHOWN, &f, &n_fact, d);
    if (err == SP_OK)
        err = sp_rag_graph(s->store, &a, TENANT(o), coll, term, MAX_SHOWN, &t, &n_term,
                           n_fact ? &none : d);
    err = err == SP_NOTFOUND && n_fact ? SP_OK : err;
    if (err == SP_OK) {
        sp_buf_puts(out, json ? "{" : "");
        put_terms(out, t, n_term, json);
        sp_buf_puts(out, json ? "," : "");
        put_facts(out, f, n_fact, json);
        sp_buf_puts(out, json ? "}\n" : "");
    }
    sp_arena_fini(&a);
    return err;
}

static sp_err import(sp_shelf *s, const sp_opts *o, const char *coll, const char *path, sp_buf *out,
                     sp_diag *d)
{
    sp_buf in = {0};
    char *whole = realpath(path, NULL);
    size_t n = 0;
    sp_err err = whole ? sp_file_read(&in, whole, MAX_INPUT_BYTES, d)
                       : SP_FAIL(d, SP_NOTFOUND, "%.150s: %s", path, strerror(errno));
    sp_diag why = {0};
    if (err == SP_OK) {
        err =
            sp_rag_fact_import(s->store, TENANT(o), coll, whole, sp_buf_str(&in), in.len, &n, &why);
        if (err != SP_OK)
            err = SP_FAIL(d, err, "%.200s: %s", path, why.msg);
    }
    if (err == SP_OK)
        sp_buf_printf(
            out, sp_opt_flag(o, "json") ? "{\"facts\":%zu}\n" : "%zu facts in the collection\n", n);
    sp_buf_fini(&in);
    free(whole);
    return err;
}

static sp_err export(sp_shelf *s, const sp_opts *o, const char *coll, const char *path, sp_diag *d)
{
    sp_arena a;
    sp_rag_fact *f;
    sp_buf out = {0};
    size_t n;
    sp_arena_init(&a, 0);
    sp_err err = sp_rag_fact_list(s->store, &a, TENANT(o), coll, NULL, MAX_FACTS, &f, &n, d);
    sp_triple *t = err == SP_OK ? sp_arena_alloc(&a, (n + 1) * sizeof *t) : NULL;
    if (err == SP_OK && !t)
        err = SP_FAIL(d, SP_NOMEM, "facts");
    for (size_t i = 0; err == SP_OK && i < n; i++) {
        t[i] = f[i].t;
        t[i].source = t[i].source[0] ? t[i].source : NULL;
    }
    if (err == SP_OK)
        err = sp_rdf_write(&out, path, t, n, d);
    FILE *to = err == SP_OK ? fopen(path, "w") : NULL;
    if (err == SP_OK && (!to || (out.len && fwrite(out.p, out.len, 1, to) != 1)))
        err = SP_FAIL(d, SP_IO, "%.200s cannot be written", path);
    if (to && fclose(to) != 0 && err == SP_OK)
        err = SP_FAIL(d, SP_IO, "%.200s cannot be written", path);
    sp_buf_fini(&out);
    sp_arena_fini(&a);
    return err;
}

typedef enum action { SHOW, IMPORT, EXPORT, ADD, REMOVE, UNKNOWN } action;

static action action_of(size_t n, const char *const *rest)
{
    static const struct {
        const char *name;
        size_t n;
    } known[] = {[IMPORT] = {"import", 2},
                 [EXPORT] = {"export", 2},
                 [ADD] = {"add", 4},
                 [REMOVE] = {"remove", 4}};
    for (action a = IMPORT; a <= REMOVE; a = (action)(a + 1))
        if (n == known[a].n && strcmp(rest[0], known[a].name) == 0)
            return a;
    return n <= 1 ? SHOW : UNKNOWN;
}

int sp_cmd_graph(const sp_opts *o)
{
    sp_shelf s = {0};
    sp_diag d = {0};
    const char *const *rest;
    char coll[SP_RAG_ID];
    sp_buf out = {0};
    size_t n = sp_opts_rest(o, &rest);
    action act = action_of(n, rest);
    bool is_new = false;
    if (act == UNKNOWN) {
        (void)SP_FAIL(
            &d, SP_INVAL,
            "graph: [TERM], import FILE, export FILE, or add or remove SUBJECT PREDICATE OBJECT");
        return sp_cmd_fail(EXIT_USAGE, &d);
    }
    const sp_triple t = act >= ADD ? (sp_triple){rest[1], rest[2], rest[3], NULL} : (sp_triple){0};
    bool writes = act == IMPORT || act == ADD;
    sp_err err = writes ? SP_OK : sp_shelf_is_there(o, &d);
    if (err == SP_OK)
        err = sp_shelf_open(&s, o, false, &d);
    if (err == SP_OK)
        err = sp_shelf_coll(coll, &s, o, writes, &d);
    if (err == SP_OK)
        err = act == IMPORT   ? import(&s, o, coll, rest[1], &out, &d)
              : act == EXPORT ? export(&s, o, coll, rest[1], &d)
              : act == ADD    ? sp_rag_fact_put(s.store, TENANT(o), coll, &t, &is_new, &d)
              : act == REMOVE ? sp_rag_fact_delete(s.store, TENANT(o), coll, &t, &d)
                              : show(&s, o, coll, n ? rest[0] : NULL, &out, &d);
    if (err == SP_OK && act == ADD && !is_new)
        fprintf(stderr, "sparing: that fact is there already\n");
    if (err == SP_OK)
        printf("%s", sp_buf_str(&out));
    sp_buf_fini(&out);
    sp_shelf_close(&s);
    return err == SP_OK ? EXIT_DONE : sp_cmd_fail(sp_shelf_exit(err), &d);
}
