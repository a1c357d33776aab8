#include "rag/rdf.h"

#include "base/utf8.h"
#include "rag/parse.h"

#include <serd/serd.h>
#include <stdio.h>
#include <string.h>

static const char name_iri[] = "<urn:sparing:name:";

/* --- terms ------------------------------------------------------------------------------------ */

static bool is_plain(char c)
{
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '-' ||
           c == '.' || c == '~';
}

static int hex_of(char c)
{
    return c >= '0' && c <= '9'                 ? c - '0'
           : (c | 32) >= 'a' && (c | 32) <= 'f' ? (c | 32) - 'a' + 10
                                                : -1;
}

static void put_decoded(sp_buf *out, const char *p, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        int hi = p[i] == '%' && i + 2 < n ? hex_of(p[i + 1]) : -1,
            lo = hi >= 0 ? hex_of(p[i + 2]) : -1;
        sp_buf_putc(out, lo >= 0 ? (char)(hi * 16 + lo) : p[i]);
        i += lo >= 0 ? 2 : 0;
    }
}

/* A name's IRI becomes the name again; other terms stay. */
static void put_term(sp_buf *out, const char *iri, size_t n)
{
    size_t k = sizeof name_iri - 1;
    if (n > k && memcmp(iri, name_iri, k) == 0)
        put_decoded(out, iri + k, n - k - 1);
    else
        sp_buf_put(out, iri, n);
}

void sp_rdf_label(sp_buf *out, const char *term)
{
    size_t n = strlen(term);
    if (term[0] == '"') {
        const char *end = memrchr(term, '"', n);
        for (const char *p = term + 1; p < end; p++) {
            bool escaped = *p == '\\' && p + 1 < end;
            p += escaped;
            sp_buf_putc(out, escaped && strchr("nrt", *p) ? ' ' : *p);
        }
    } else if (term[0] == '<' && n > 2) {
        size_t from = n - 1;
        while (from > 1 && term[from - 1] != '#' && term[from - 1] != '/' && term[from - 1] != ':')
            from--;
        sp_buf text = {0};
        put_decoded(&text, term + (from < n - 1 ? from : 1), from < n - 1 ? n - 1 - from : n - 2);
        /* what is encoded is no text */
        if (memchr(sp_buf_str(&text), 0, text.len) ||
            !sp_utf8_is_valid(sp_buf_str(&text), text.len)) {
            sp_buf_clear(&text);
            sp_buf_put(&text, term + 1, n - 2);
        }
        for (size_t i = 0; i < text.len; i++) {
            const char *p = text.p;
            bool hump = i && p[i] >= 'A' && p[i] <= 'Z' && p[i - 1] >= 'a' && p[i - 1] <= 'z';
            if (hump)
                sp_buf_putc(out, ' ');
            sp_buf_putc(out, p[i] == '_' ? ' ' : hump ? (char)(p[i] + 32) : p[i]);
        }
        out->failed = out->failed || text.failed;
        sp_buf_fini(&text);
    } else {
        sp_buf_puts(out, term);
    }
}

/* --- reading ---------------------------------------------------------------------------------- */

typedef struct reading {
    const sp_triple_sink *to;
    SerdEnv *env;
    sp_err err;
    sp_diag *d;
    unsigned line;
    char message[200];
} reading;

static void put_escaped(sp_buf *out, const char *p, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        char c = p[i];
        if (c == '"' || c == '\\')
            sp_buf_putc(out, '\\');
        if (c == '\n' || c == '\r' || c == '\t')
            sp_buf_printf(out, "\\%c", c == '\n' ? 'n' : c == '\r' ? 'r' : 't');
        else
            sp_buf_putc(out, c);
    }
}

/* A node as a term, absolute. false: it cannot be one. */
static bool put_node(sp_buf *out, const SerdEnv *env, const SerdNode *node, const SerdNode *type,
                     const SerdNode *lang)
{
    if (node->type == SERD_LITERAL) {
        sp_buf_puts(out, "\"");
        put_escaped(out, (const char *)node->buf, node->n_bytes);
        sp_buf_puts(out, "\"");
        if (lang && lang->buf)
            sp_buf_printf(out, "@%s", (const char *)lang->buf);
        if (type && type->buf) {
            sp_buf_puts(out, "^^");
            return put_node(out, env, type, NULL, NULL);
        }
    } else if (node->type == SERD_BLANK) {
        sp_buf_printf(out, "_:%s", (const char *)node->buf);
    } else {
        SerdNode whole = serd_env_expand_node(env, node);
        bool fine = whole.buf && serd_uri_string_has_scheme(whole.buf) &&
                    !strpbrk((const char *)whole.buf, "<>\" {}|\\^`\n\r\t");
        if (!fine) {
            serd_node_free(&whole);
            return false;
        }
        sp_buf iri = {0};
        sp_buf_printf(&iri, "<%s>", (const char *)whole.buf);
        put_term(out, iri.p ? iri.p : "", iri.len);
        out->failed = out->failed || iri.failed;
        sp_buf_fini(&iri);
        serd_node_free(&whole);
    }
    return out->len <= SP_RDF_TERM && sp_utf8_is_valid(sp_buf_str(out), out->len);
}

static SerdStatus on_triple(void *arg, SerdStatementFlags flags, const SerdNode *graph,
                            const SerdNode *s, const SerdNode *p, const SerdNode *o,
                            const SerdNode *type, const SerdNode *lang)
{
    reading *r = arg;
    sp_buf term[3] = {{0}};
    (void)flags;
    (void)graph;
    bool fine = put_node(&term[0], r->env, s, NULL, NULL) &&
                put_node(&term[1], r->env, p, NULL, NULL) &&
                put_node(&term[2], r->env, o, type, lang);
    if (term[0].failed || term[1].failed || term[2].failed)
        r->err = SP_FAIL(r->d, SP_NOMEM, "triples");
    else if (!fine)
        r->err = SP_FAIL(r->d, SP_FORMAT,
                         "a term is longer than %d bytes, not UTF-8, relative, or has a prefix "
                         "that was not declared, near %.60s",
                         SP_RDF_TERM, (const char *)s->buf);
    else
        r->err = r->to->put(r->to->arg, &(sp_triple){sp_buf_str(&term[0]), sp_buf_str(&term[1]),
                                                     sp_buf_str(&term[2]), NULL});
    for (size_t i = 0; i < 3; i++)
        sp_buf_fini(&term[i]);
    return r->err == SP_OK ? SERD_SUCCESS : SERD_FAILURE;
}

static SerdStatus on_base(void *arg, const SerdNode *uri)
{
    return serd_env_set_base_uri(((reading *)arg)->env, uri);
}

static SerdStatus on_prefix(void *arg, const SerdNode *name, const SerdNode *uri)
{
    return serd_env_set_prefix(((reading *)arg)->env, name, uri);
}

static SerdStatus on_error(void *arg, const SerdError *e)
{
    reading *r = arg;
    if (!r->message[0]) {
        r->line = e->line;
        vsnprintf(r->message, sizeof r->message, e->fmt, *e->args);
        r->message[strcspn(r->message, "\n")] = 0;
    }
    return SERD_SUCCESS;
}

static sp_err read_rdf(const sp_triple_sink *to, SerdSyntax syntax, const char *scope,
                       const char *p, size_t n, sp_diag *d)
{
    FILE *f = fmemopen((char *)(uintptr_t)p, n, "r");
    reading r = {.to = to, .env = serd_env_new(NULL), .d = d};
    SerdReader *reader = serd_reader_new(syntax, &r, NULL, on_base, on_prefix, on_triple, NULL);
    sp_err err = f && r.env && reader ? SP_OK : SP_FAIL(d, SP_NOMEM, "triples");
    if (err == SP_OK) {
        serd_reader_set_strict(reader, true);
        serd_reader_add_blank_prefix(reader, (const uint8_t *)scope);
        serd_reader_set_error_sink(reader, on_error, &r);
        SerdStatus st = serd_reader_read_file_handle(reader, f, NULL);
        err = r.err;
        if (err == SP_OK && (st > SERD_FAILURE || r.message[0]))
            err = SP_FAIL(d, SP_FORMAT, "line %u: %s", r.line,
                          r.message[0] ? r.message : (const char *)serd_strerror(st));
    }
    serd_reader_free(reader);
    serd_env_free(r.env);
    if (f)
        fclose(f);
    return err;
}

/* "_:x" becomes "_:", the scope and "x". */
static void put_scope(sp_buf *term, const char *scope)
{
    if (!*scope || strncmp(sp_buf_str(term), "_:", 2) != 0)
        return;
    sp_buf whole = {0};
    sp_buf_printf(&whole, "_:%s%s", scope, term->p + 2);
    whole.failed = whole.failed || term->failed;
    sp_buf_fini(term);
    *term = whole;
}

static sp_err read_csv(const sp_triple_sink *to, const char *scope, const char *p, size_t n,
                       sp_diag *d)
{
    const char *end = p + n;
    sp_buf field[4] = {{0}};
    sp_err err = SP_OK;
    for (size_t row = 1; p < end && err == SP_OK; row++) {
        size_t n_field = 0;
        bool more = true, closed = true;
        for (; more && closed && n_field < 4; n_field++) {
            sp_buf_clear(&field[n_field]);
            closed = sp_rag_csv_field(&field[n_field], &p, end, ',', &more);
        }
        if (!closed)
            err = SP_FAIL(d, SP_FORMAT, "row %zu: a quote is never closed", row);
        else if (n_field == 1 && field[0].len == 0)
            continue; /* an empty line */
        else if (more || n_field < 3)
            err = SP_FAIL(
                d, SP_FORMAT,
                "row %zu: a triple has a subject, a predicate, an object and perhaps a source",
                row);
        for (size_t i = 0; i < n_field && err == SP_OK; i++) {
            if (i == 0 || i == 2)
                put_scope(&field[i], scope);
            const char *s = sp_buf_str(&field[i]);
            bool rdf = s[0] == '<'   ? field[i].len > 2 && s[field[i].len - 1] == '>'
                       : s[0] == '"' ? i == 2 && field[i].len > 1 && strrchr(s, '"') > s
                                     : true;
            if (field[i].failed)
                err = SP_FAIL(d, SP_NOMEM, "triples");
            else if ((i < 3 && field[i].len == 0) || field[i].len > SP_RDF_TERM ||
                     !sp_utf8_is_valid(s, field[i].len) || strlen(s) != field[i].len || !rdf)
                err = SP_FAIL(
                    d, SP_FORMAT,
                    "row %zu, field %zu: empty, longer than %d bytes, not UTF-8 or not a term", row,
                    i + 1, SP_RDF_TERM);
        }
        if (err == SP_OK)
            err = to->put(
                to->arg,
                &(sp_triple){sp_buf_str(&field[0]), sp_buf_str(&field[1]), sp_buf_str(&field[2]),
                             n_field == 4 && field[3].len ? sp_buf_str(&field[3]) : NULL});
    }
    for (size_t i = 0; i < 4; i++)
        sp_buf_fini(&field[i]);
    return err;
}

typedef enum format { NONE, NT, TTL, CSV } format;

static format format_of(const char *name)
{
    static const struct {
        const char *end;
        format f;
    } known[] = {{".nt", NT}, {".ttl", TTL}, {".csv", CSV}};
    size_t n = strlen(name);
    for (size_t i = 0; i < 3; i++) {
        size_t k = strlen(known[i].end);
        if (n > k && strcmp(name + n - k, known[i].end) == 0)
            return known[i].f;
    }
    return NONE;
}

static sp_err unknown(const char *name, sp_diag *d)
{
    return SP_FAIL(d, SP_UNSUP, "%.80s: triples are .nt, .ttl or .csv", name);
}

sp_err sp_rdf_read(const sp_triple_sink *to, const char *name, const char *scope, const char *p,
                   size_t n, sp_diag *d)
{
    format f = format_of(name);
    if (f == NONE)
        return unknown(name, d);
    if (f == CSV)
        return read_csv(to, scope, p, n, d);
    if (memchr(p, 0, n))
        return SP_FAIL(d, SP_FORMAT, "a byte 0 is not text");
    return n ? read_rdf(to, f == NT ? SERD_NTRIPLES : SERD_TURTLE, scope, p, n, d) : SP_OK;
}

/* --- writing ---------------------------------------------------------------------------------- */

static void put_csv(sp_buf *out, const char *s, const char *after)
{
    bool quote = strpbrk(s, ",\"\n\r") != NULL;
    sp_buf_puts(out, quote ? "\"" : "");
    for (; *s; s++) {
        if (*s == '"')
            sp_buf_putc(out, '"');
        sp_buf_putc(out, *s);
    }
    sp_buf_puts(out, quote ? "\"" : "");
    sp_buf_puts(out, after);
}

/* As N-Triples writes it; a predicate or subject that is a literal has no place there. */
static void put_ntriples(sp_buf *out, const char *term, const char *after)
{
    if (term[0] == '<' || term[0] == '"' || strncmp(term, "_:", 2) == 0) {
        sp_buf_puts(out, term);
    } else {
        sp_buf_puts(out, name_iri);
        for (; *term; term++)
            if (is_plain(*term))
                sp_buf_putc(out, *term);
            else
                sp_buf_printf(out, "%%%02X", (unsigned char)*term);
        sp_buf_putc(out, '>');
    }
    sp_buf_puts(out, after);
}

static size_t to_buf(const void *p, size_t n, void *arg)
{
    sp_buf_put(arg, p, n);
    return n;
}

static SerdStatus copy_triple(void *arg, SerdStatementFlags flags, const SerdNode *graph,
                              const SerdNode *s, const SerdNode *p, const SerdNode *o,
                              const SerdNode *type, const SerdNode *lang)
{
    return serd_writer_write_statement(arg, flags, graph, s, p, o, type, lang);
}

/* Turtle, by serd from N-Triples. */
static sp_err write_turtle(sp_buf *out, const char *ntriples, sp_diag *d)
{
    SerdEnv *env = serd_env_new(NULL);
    SerdWriter *w =
        env ? serd_writer_new(SERD_TURTLE, SERD_STYLE_ABBREVIATED, env, NULL, to_buf, out) : NULL;
    SerdReader *r =
        w ? serd_reader_new(SERD_NTRIPLES, w, NULL, NULL, NULL, copy_triple, NULL) : NULL;
    sp_err err = r ? SP_OK : SP_FAIL(d, SP_NOMEM, "triples");
    if (err == SP_OK && (serd_reader_read_string(r, (const uint8_t *)ntriples) > SERD_FAILURE ||
                         serd_writer_finish(w) > SERD_FAILURE))
        err = SP_FAIL(d, SP_FORMAT, "a term cannot be written as Turtle");
    serd_reader_free(r);
    serd_writer_free(w);
    serd_env_free(env);
    return err;
}

sp_err sp_rdf_write(sp_buf *out, const char *name, const sp_triple *t, size_t n, sp_diag *d)
{
    format f = format_of(name);
    sp_buf text = {0};
    if (f == NONE)
        return unknown(name, d);
    for (size_t i = 0; i < n; i++) {
        if (f == CSV) {
            put_csv(&text, t[i].subject, ",");
            put_csv(&text, t[i].predicate, ",");
            put_csv(&text, t[i].object, t[i].source ? "," : "\n");
            if (t[i].source)
                put_csv(&text, t[i].source, "\n");
        } else {
            put_ntriples(&text, t[i].subject, " ");
            put_ntriples(&text, t[i].predicate, " ");
            put_ntriples(&text, t[i].object, " .\n");
        }
    }
    sp_err err = text.failed ? SP_FAIL(d, SP_NOMEM, "triples") : SP_OK;
    if (err == SP_OK && f == TTL)
        err = write_turtle(out, sp_buf_str(&text), d);
    else if (err == SP_OK)
        sp_buf_put(out, text.p ? text.p : "", text.len);
    sp_buf_fini(&text);
    return err == SP_OK && out->failed ? SP_FAIL(d, SP_NOMEM, "triples") : err;
}
