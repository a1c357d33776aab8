/* Facts: triples that were imported or added, beside the terms that documents mark. A term of a
 * fact is found by how it reads. */
#include "base/sha256.h"
#include "base/utf8.h"
#include "rag/store_int.h"

#include <stdlib.h>

#define RDFS_LABEL "<http://www.w3.org/2000/01/rdf-schema#label>"

enum { MAX_NAMED = 16, MAX_NEAR = 256, KEY_BYTES = 96, SCOPE_BYTES = 16 };

static bool is_term(const char *s, bool object)
{
    size_t n = s ? strlen(s) : 0;
    if (n == 0 || n > SP_RDF_TERM)
        return false;
    if (s[0] == '"')
        return object && n > 1 && strrchr(s, '"') > s;
    return s[0] != '<' || (n > 2 && s[n - 1] == '>');
}

/* Reads and looks up like the label; a name without two letters, or a long one, is its own key, as
 * far as whole characters fit. */
static void make_key(char key[KEY_BYTES], const char *label)
{
    if (sp_rag_term_key(key, label, strlen(label)))
        return;
    size_t n = strnlen(label, KEY_BYTES - 1);
    n -= sp_utf8_tail(label, n);
    memcpy(key, label, n);
    key[n] = 0;
}

/* A hash of the collection, the terms and the source. */
static sp_err make_fact_id(char id[65], int64_t coll, const sp_triple *t, const char *source)
{
    sp_sha256 sha;
    const sp_sha256_part part[] = {{&coll, sizeof coll},
                                   {t->subject, strlen(t->subject) + 1},
                                   {t->predicate, strlen(t->predicate) + 1},
                                   {t->object, strlen(t->object) + 1},
                                   {source, strlen(source)}};
    SP_TRY(sp_sha256_of(&sha, part, 5));
    sp_sha256_hex(id, &sha);
    return SP_OK;
}

static sp_err insert(sp_rag_store *s, int64_t coll, const sp_triple *t, const char *source,
                     sp_diag *d)
{
    const char *const term[3] = {t->subject, t->predicate, t->object};
    sp_buf name[3] = {{0}};
    char key[3][96], id[65];
    bool failed = false;
    for (size_t i = 0; i < 3; i++) {
        if (!is_term(term[i], i == 2))
            return SP_FAIL(d, SP_INVAL, "%.80s is no %s of a fact", term[i] ? term[i] : "",
                           i == 0   ? "subject"
                           : i == 1 ? "predicate"
                                    : "object");
    }
    for (size_t i = 0; i < 3; i++) {
        sp_rdf_label(&name[i], term[i]);
        make_key(key[i], sp_buf_str(&name[i]));
        failed = failed || name[i].failed;
    }
    failed = failed || make_fact_id(id, coll, t, source) != SP_OK;
    sp_err err =
        failed ? SP_FAIL(d, SP_NOMEM, "facts")
               : sp_db_run(s->db, d,
                           "INSERT INTO fact(id, coll, subj, pred, obj, subj_name, pred_name, "
                           "obj_name, subj_key, obj_key, source) "
                           "VALUES(?,?,?,?,?,?,?,?,?,?,?) ON CONFLICT DO NOTHING",
                           "sisssssssss", id, coll, term[0], term[1], term[2], sp_buf_str(&name[0]),
                           sp_buf_str(&name[1]), sp_buf_str(&name[2]), key[0], key[2], source);
    for (size_t i = 0; i < 3; i++)
        sp_buf_fini(&name[i]);
    return err;
}

sp_err sp_rag_fact_put(sp_rag_store *s, const char *tenant, const char *coll, const sp_triple *t,
                       bool *is_new, sp_diag *d)
{
    int64_t seq;
    SP_TRY(sp_rag_coll_seq(s, tenant, coll, &seq, d));
    SP_TRY(insert(s, seq, t, t->source ? t->source : "", d));
    *is_new = sp_db_changes(s->db) == 1;
    return SP_OK;
}

/* --- files ------------------------------------------------------------------------------------ */

typedef struct importing {
    sp_rag_store *s;
    int64_t coll;
    /* the file's whole name, and the last part of it, by which earlier versions knew it */
    const char *name, *base;
    sp_diag *d;
} importing;

/* The same fact of a file known by its base name alone is this one. */
static sp_err on_triple(void *arg, const sp_triple *t)
{
    const importing *m = arg;
    char old[65];
    if (!t->source && m->base != m->name) {
        SP_TRY(make_fact_id(old, m->coll, t, m->base));
        SP_TRY(sp_db_run(m->s->db, m->d, "DELETE FROM fact WHERE id=?", "s", old));
    }
    return insert(m->s, m->coll, t, t->source ? t->source : m->name, m->d);
}

/* Names that the triples themselves give with rdfs:label take the place of those made from IRIs. */
static sp_err apply_labels(sp_rag_store *s, int64_t coll, sp_diag *d)
{
    sp_rows *q =
        sp_db_query(s->db,
                    "SELECT subj, obj_name, obj_key FROM fact WHERE coll=? AND pred='" RDFS_LABEL
                    "' ORDER BY seq DESC",
                    "i", coll);
    sp_err err = q ? SP_OK : sp_db_error(s->db, d);
    while (err == SP_OK && sp_rows_next(q)) {
        const char *subj = sp_rows_str(q, 0), *name = sp_rows_str(q, 1), *key = sp_rows_str(q, 2);
        err = sp_db_run(s->db, d, "UPDATE fact SET subj_name=?, subj_key=? WHERE coll=? AND subj=?",
                        "ssis", name, key, coll, subj);
        if (err == SP_OK)
            err =
                sp_db_run(s->db, d, "UPDATE fact SET obj_name=?, obj_key=? WHERE coll=? AND obj=?",
                          "ssis", name, key, coll, subj);
        if (err == SP_OK)
            err = sp_db_run(s->db, d, "UPDATE fact SET pred_name=? WHERE coll=? AND pred=?", "sis",
                            name, coll, subj);
    }
    return sp_rows_end(q, err, d);
}

sp_err sp_rag_fact_import(sp_rag_store *s, const char *tenant, const char *coll, const char *name,
                          const char *p, size_t n_bytes, size_t *n, sp_diag *d)
{
    const char *slash = strrchr(name, '/');
    importing m = {.s = s, .name = name, .base = slash ? slash + 1 : name, .d = d};
    char hex[65], scope[SCOPE_BYTES];
    sp_sha256 sha;
    const sp_sha256_part part = {name, strlen(name)};
    const sp_triple_sink sink = {on_triple, &m};
    int64_t count = 0;
    if (sp_sha256_of(&sha, &part, 1) != SP_OK)
        return SP_FAIL(d, SP_NOMEM, "facts");
    sp_sha256_hex(hex, &sha);
    snprintf(scope, sizeof scope, "f%.14s", hex);
    SP_TRY(sp_rag_coll_seq(s, tenant, coll, &m.coll, d));
    SP_TRY(sp_db_begin(s->db, d));
    sp_err err =
        sp_db_run(s->db, d, "DELETE FROM fact WHERE coll=? AND source=?", "is", m.coll, name);
    if (err == SP_OK)
        err = sp_rdf_read(&sink, name, scope, p, n_bytes, d);
    if (err == SP_OK)
        err = apply_labels(s, m.coll, d);
    if (err == SP_OK)
        err = sp_db_int(s->db, &count, d, "SELECT count(*) FROM fact WHERE coll=?", "i", m.coll);
    *n = (size_t)count;
    return sp_db_finish(s->db, err, d);
}

sp_err sp_rag_fact_delete(sp_rag_store *s, const char *tenant, const char *coll, const sp_triple *t,
                          sp_diag *d)
{
    int64_t seq;
    SP_TRY(sp_rag_coll_seq(s, tenant, coll, &seq, d));
    SP_TRY(sp_db_run(s->db, d,
                     "DELETE FROM fact WHERE coll=? AND subj=? AND pred=? AND obj=? AND "
                     "source=coalesce(?, source)",
                     "issss", seq, t->subject, t->predicate, t->object, t->source));
    return sp_db_changes(s->db) ? SP_OK
                                : SP_FAIL(d, SP_NOTFOUND, "there is no fact %.60s, %.60s, %.60s",
                                          t->subject, t->predicate, t->object);
}

/* --- looking up ------------------------------------------------------------------------------- */

static const char columns[] =
    "SELECT subj, pred, obj, source, subj_name, pred_name, obj_name FROM fact ";

static sp_err read_fact(sp_rag_fact *out, sp_arena *a, sp_rows *q, sp_diag *d)
{
    const char *text[7];
    for (int i = 0; i < 7; i++) {
        text[i] = sp_rows_keep(a, q, i);
        if (!text[i])
            return SP_FAIL(d, SP_NOMEM, "facts");
    }
    const char *slash = text[3][0] == '/' ? strrchr(text[3], '/') : NULL;
    *out = (sp_rag_fact){{text[0], text[1], text[2], text[3]},
                         {text[4], text[5], text[6]},
                         slash ? slash + 1 : text[3]};
    return SP_OK;
}

sp_err sp_rag_fact_list(sp_rag_store *s, sp_arena *a, const char *tenant, const char *coll,
                        const char *name, size_t cap, sp_rag_fact **out, size_t *n, sp_diag *d)
{
    int64_t seq, count;
    char key[96] = "", sql[256];
    SP_TRY(sp_rag_coll_seq(s, tenant, coll, &seq, d));
    SP_TRY(sp_db_int(s->db, &count, d, "SELECT count(*) FROM fact WHERE coll=?", "i", seq));
    cap = (size_t)count < cap ? (size_t)count : cap;
    if (name)
        make_key(key, name);
    *n = 0;
    *out = sp_arena_alloc(a, (cap + 1) * sizeof **out);
    snprintf(sql, sizeof sql, "%sWHERE coll=? %sORDER BY seq LIMIT ?", columns,
             name ? "AND (subj_key=?2 OR obj_key=?2) " : "AND ?2='' ");
    sp_rows *q = sp_db_query(s->db, sql, "isi", seq, key, (int64_t)cap);
    sp_err err = *out && q ? SP_OK : *out ? sp_db_error(s->db, d) : SP_FAIL(d, SP_NOMEM, "facts");
    while (err == SP_OK && sp_rows_next(q))
        err = read_fact(&(*out)[(*n)++], a, q, d);
    return sp_rows_end(q, err, d);
}

typedef struct about { /* what a text names, and facts near it */
    sp_rag_store *s;
    int64_t coll;
    sp_diag *d;
    char key[MAX_NAMED][96];
    size_t n_key;
    struct near {
        int64_t seq;
        double score;
    } near[MAX_NEAR];
    size_t n_near;
    const char *text;
} about;

static sp_err on_name(void *arg, const char *key, bool *known)
{
    about *b = arg;
    int64_t one;
    sp_err err =
        sp_db_int(b->s->db, &one, b->d,
                  "SELECT 1 FROM fact WHERE coll=?1 AND (subj_key=?2 OR obj_key=?2) LIMIT 1", "is",
                  b->coll, key);
    *known = err == SP_OK;
    if (*known && b->n_key < MAX_NAMED)
        snprintf(b->key[b->n_key++], sizeof b->key[0], "%s", key);
    return err == SP_NOTFOUND ? SP_OK : err;
}

/* Words of the text that the three names hold, by their beginnings: "founded" meets "foundation" in
 * its first five letters. */
static double overlap(const char *text, const char *const name[3])
{
    double n = 0;
    for (const char *p = text; *p;) {
        size_t k = strcspn(p, " \t\n,.;:?!()\"'"), m = k < 5 ? k : 5;
        bool in = false;
        for (size_t i = 0; i < 3 && k > 2 && !sp_rag_is_common(p, k) && !in; i++)
            for (const char *q = name[i]; *q && !in; q++)
                in = (q == name[i] || q[-1] == ' ') && strncasecmp(q, p, m) == 0;
        n += in;
        p += k ? k : 1;
    }
    return n;
}

static sp_err add_near(about *b, const char *key, double base)
{
    sp_rows *q =
        sp_db_query(b->s->db,
                    "SELECT seq, subj_name, pred_name, obj_name FROM fact WHERE coll=?1 AND "
                    "(subj_key=?2 OR obj_key=?2) AND pred<>'" RDFS_LABEL "' ORDER BY seq LIMIT 64",
                    "is", b->coll, key);
    while (q && sp_rows_next(q) && b->n_near < MAX_NEAR) {
        int64_t seq = sp_rows_int(q, 0);
        bool there = false;
        for (size_t i = 0; i < b->n_near && !there; i++)
            there = b->near[i].seq == seq;
        const char *const name[3] = {sp_rows_str(q, 1), sp_rows_str(q, 2), sp_rows_str(q, 3)};
        if (!there)
            b->near[b->n_near++] = (struct near){seq, base + overlap(b->text, name)};
    }
    return sp_rows_end(q, q ? SP_OK : sp_db_error(b->s->db, b->d), b->d);
}

/* From the ends of what was found so far. */
static sp_err add_further(about *b)
{
    size_t n = b->n_near;
    for (size_t i = 0; i < n; i++) {
        char end[2][96];
        sp_rows *q = sp_db_query(b->s->db, "SELECT subj_key, obj_key FROM fact WHERE seq=?", "i",
                                 b->near[i].seq);
        sp_err err = sp_rows_first(b->s->db, q, b->d);
        for (int k = 0; k < 2 && err == SP_OK; k++)
            snprintf(end[k], sizeof end[k], "%s", sp_rows_str(q, k));
        SP_TRY(sp_rows_end(q, err, b->d));
        for (size_t k = 0; k < 2; k++)
            SP_TRY(add_near(b, end[k], 0));
    }
    return SP_OK;
}

static int by_score(const void *a, const void *b)
{
    const struct near *x = a, *y = b;
    return x->score != y->score ? (x->score < y->score ? 1 : -1)
           : x->seq < y->seq    ? -1
                                : x->seq > y->seq;
}

/* Most collections have none, and a question has hundreds of runs of words. An error shows in the
 * next statement. */
static bool has_facts(sp_rag_store *s, int64_t coll)
{
    int64_t one;
    sp_diag none = {0};
    return sp_db_int(s->db, &one, &none, "SELECT 1 FROM fact WHERE coll=? LIMIT 1", "i", coll) !=
           SP_NOTFOUND;
}

sp_err sp_rag_fact_about(sp_rag_store *s, sp_arena *a, const char *tenant, const char *coll,
                         const char *text, size_t cap, sp_rag_fact **out, size_t *n, sp_diag *d)
{
    char sql[256];
    about *b = sp_mem_alloc(sizeof *b);
    *n = 0;
    *out = sp_arena_alloc(a, (cap + 1) * sizeof **out);
    sp_err err = b && *out ? SP_OK : SP_FAIL(d, SP_NOMEM, "facts");
    if (err == SP_OK) {
        b->s = s;
        b->d = d;
        b->text = text;
        err = sp_rag_coll_seq(s, tenant, coll, &b->coll, d);
    }
    if (err == SP_OK && has_facts(s, b->coll))
        err = sp_rag_named(text, on_name, b);
    for (size_t i = 0; err == SP_OK && i < b->n_key; i++)
        err = add_near(b, b->key[i], 1); /* nearer is worth a word */
    if (err == SP_OK)
        err = add_further(b);
    if (err == SP_OK)
        qsort(b->near, b->n_near, sizeof *b->near, by_score);
    snprintf(sql, sizeof sql, "%sWHERE seq=?", columns);
    for (size_t i = 0; err == SP_OK && i < b->n_near && i < cap; i++) {
        sp_rows *q = sp_db_query(s->db, sql, "i", b->near[i].seq);
        err = sp_rows_first(s->db, q, d);
        if (err == SP_OK)
            err = read_fact(&(*out)[*n], a, q, d);
        err = sp_rows_end(q, err, d);
        *n += err == SP_OK;
    }
    sp_mem_free(b);
    return err;
}
