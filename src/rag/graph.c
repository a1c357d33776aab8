/* The graph of terms: a chunk names terms and is about some of them; two chunks that share a term
 * are neighbours. No model is asked: terms are what documents themselves mark (headings, code,
 * links, definitions), and noun phrases of their text.
 *
 * A question reaches chunks on two ways: over the terms it names, and from the chunks found first
 * over the terms these name, to those that are about them. A term weighs by how rare it is:
 * ln(chunks / chunks that name it). */
#include "rag/store_int.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

enum { MAX_GRAM = 6, MAX_Q_WORDS = 64, MAX_TERM_CHUNKS = 400, MAX_SCORES = 4096, MAX_BRIDGES = 24 };
#define MENTION 0.25 /* of a chunk that only names a term, against one that is about it */
#define PHRASE 0.1   /* of a chunk with the term as a phrase of its text */
#define HOP 0.5      /* of the second way, against the first */

typedef struct score {
    int64_t seq;
    double v;
} score;

typedef struct scores { /* open addressing by seq */
    score slot[MAX_SCORES];
    size_t n;
} scores;

static void add(scores *t, int64_t seq, double v)
{
    size_t i = (size_t)((uint64_t)seq * 0x9e3779b97f4a7c15u >> 52) % MAX_SCORES;
    while (t->slot[i].seq && t->slot[i].seq != seq)
        i = (i + 1) % MAX_SCORES;
    if (!t->slot[i].seq) {
        if (t->n == MAX_SCORES / 2)
            return; /* full enough: later terms weigh less */
        t->n++;
        t->slot[i].seq = seq;
    }
    t->slot[i].v += v;
}

static int best_first(const void *a, const void *b)
{
    const score *x = a, *y = b;
    return x->v != y->v ? (x->v < y->v ? 1 : -1) : x->seq < y->seq ? -1 : x->seq > y->seq;
}

/* Adds a term's chunks; too common ones say nothing. */
static sp_err spread(sp_rag_store *s, scores *t, int64_t term, int64_t n_all, double weight,
                     sp_diag *d)
{
    int64_t df = 0;
    SP_TRY(sp_db_int(s->db, &df, d,
                     "SELECT count(*) FROM (SELECT 1 FROM mention WHERE term=? LIMIT ?) AS some",
                     "ii", term, (int64_t)MAX_TERM_CHUNKS + 1));
    if (df == 0 || df > MAX_TERM_CHUNKS)
        return SP_OK;
    double idf = log((double)n_all / (double)df) + 0.1;
    sp_rows *q = sp_db_query(s->db, "SELECT chunk, about FROM mention WHERE term=?", "i", term);
    while (q && sp_rows_next(q)) {
        int64_t about = sp_rows_int(q, 1);
        add(t, sp_rows_int(q, 0), weight * idf * (about > 0 ? 1 : about == 0 ? MENTION : PHRASE));
    }
    return sp_rows_end(q, q ? SP_OK : sp_db_error(s->db, d), d);
}

sp_err sp_rag_named(const char *text, sp_err (*found)(void *arg, const char *key, bool *known),
                    void *arg)
{
    struct { const char *p; size_t n; } word[MAX_Q_WORDS];
    size_t n = 0;
    for (const char *p = text; *p && n < MAX_Q_WORDS;) {
        size_t k = strcspn(p, " \t\n,;:?!()\"'");
        while (k > 1 && p[k - 1] == '.')
            k--;
        if (k) {
            word[n].p = p;
            word[n++].n = k;
        }
        p += k ? k : 1;
    }
    for (size_t i = 0; i < n;) {
        size_t used = 0;
        for (size_t len = n - i < MAX_GRAM ? n - i : MAX_GRAM; len && !used; len--) {
            char key[96];
            bool known = false;
            if (sp_rag_term_key(key, word[i].p,
                                (size_t)(word[i + len - 1].p + word[i + len - 1].n - word[i].p)))
                SP_TRY(found(arg, key, &known));
            used = known ? len : 0;
        }
        i += used ? used : 1;
    }
    return SP_OK;
}

typedef struct naming {
    sp_rag_store *s;
    scores *t;
    int64_t coll, n_all;
    sp_diag *d;
} naming;

static sp_err on_term(void *arg, const char *key, bool *known)
{
    naming *m = arg;
    int64_t term;
    sp_err err = sp_db_int(m->s->db, &term, m->d, "SELECT seq FROM term WHERE coll=? AND key=?",
                           "is", m->coll, key);
    if (err == SP_NOTFOUND)
        return SP_OK;
    *known = err == SP_OK;
    return err == SP_OK ? spread(m->s, m->t, term, m->n_all, 1, m->d) : err;
}

/* From a chunk over the rarest terms that are marked in it, then over phrases. */
static sp_err bridge(sp_rag_store *s, scores *t, int64_t n_all, int64_t chunk, double weight,
                     sp_diag *d)
{
    int64_t term[MAX_BRIDGES];
    size_t n = 0;
    sp_rows *q = sp_db_query(s->db,
                                   "SELECT term, df FROM (SELECT term, about, (SELECT count(*) FROM mention m WHERE m.term=mention.term) AS df FROM mention WHERE chunk=?) "
                                   "AS near WHERE df > 1 ORDER BY about < 0, df, term LIMIT ?",
                                   "ii", chunk, (int64_t)MAX_BRIDGES);
    while (q && sp_rows_next(q))
        term[n++] = sp_rows_int(q, 0);
    SP_TRY(sp_rows_end(q, q ? SP_OK : sp_db_error(s->db, d), d));
    for (size_t i = 0; i < n; i++)
        SP_TRY(spread(s, t, term[i], n_all, weight, d));
    return SP_OK;
}

sp_err sp_rag_graph_rank(sp_rag_store *s, int64_t coll, const char *text, const int64_t *start,
                         size_t n_start, int64_t *out, size_t cap, size_t *n, sp_diag *d)
{
    int64_t n_all = 0;
    *n = 0;
    SP_TRY(
        sp_db_int(s->db, &n_all, d,
                  "SELECT count(*) FROM chunk WHERE doc IN (SELECT seq FROM document WHERE coll=?)",
                  "i", coll));
    scores *t = sp_mem_alloc(sizeof *t);
    if (!t)
        return SP_FAIL(d, SP_NOMEM, "search");
    naming m = {s, t, coll, n_all, d};
    sp_err err = sp_rag_named(text, on_term, &m);
    for (size_t i = 0; i < n_start && err == SP_OK; i++)
        err = bridge(s, t, n_all, start[i], HOP / (double)(i + 1), d);
    if (err == SP_OK) {
        size_t k = 0;
        for (size_t i = 0; i < MAX_SCORES; i++)
            if (t->slot[i].seq)
                t->slot[k++] = t->slot[i];
        qsort(t->slot, k, sizeof *t->slot, best_first);
        for (*n = 0; *n < k && *n < cap; (*n)++)
            out[*n] = t->slot[*n].seq;
    }
    sp_mem_free(t);
    return err;
}

sp_err sp_rag_graph(sp_rag_store *s, sp_arena *a, const char *tenant, const char *coll,
                    const char *name, size_t cap, sp_rag_term **out, size_t *n, sp_diag *d)
{
    char key[96] = "";
    int64_t seq, term = 0, n_all = 0;
    SP_TRY(sp_rag_coll_seq(s, tenant, coll, &seq, d));
    SP_TRY(
        sp_db_int(s->db, &n_all, d,
                  "SELECT count(*) FROM chunk WHERE doc IN (SELECT seq FROM document WHERE coll=?)",
                  "i", seq));
    if (name) {
        sp_err err = sp_rag_term_key(key, name, strlen(name))
                         ? sp_db_int(s->db, &term, d, "SELECT seq FROM term WHERE coll=? AND key=?",
                                     "is", seq, key)
                         : SP_NOTFOUND;
        if (err != SP_OK)
            return err == SP_NOTFOUND ? SP_FAIL(d, err, "no document marks the term %.80s", name)
                                      : err;
    }
    *out = sp_arena_alloc(a, (cap + 1) * sizeof **out);
    *n = 0;
    sp_rows *q = name ? sp_db_query(s->db,
                                    "SELECT term.name, (SELECT count(*) FROM mention WHERE "
                                    "term=term.seq), count(*) FROM mention m1 JOIN mention m2 ON "
                                    "m1.chunk=m2.chunk JOIN term ON term.seq=m2.term WHERE "
                                    "m1.term=? AND m2.term<>m1.term GROUP BY term.seq, term.name",
                                    "i", term)
                      : sp_db_query(s->db,
                                    "SELECT name, count(*) AS c, count(*) FROM term JOIN mention "
                                    "ON term=seq WHERE coll=? GROUP BY seq ORDER BY c DESC LIMIT ?",
                                    "ii", seq, (int64_t)cap);
    sp_err err = *out && q ? SP_OK : SP_FAIL(d, SP_NOMEM, "graph");
    while (err == SP_OK && sp_rows_next(q)) {
        int64_t df = sp_rows_int(q, 1);
        double w = (double)sp_rows_int(q, 2) * (name ? log((double)n_all / (double)df) + 0.1 : 1);
        size_t at = *n;
        if (*n == cap && w <= (*out)[cap - 1].weight)
            continue;
        at = *n < cap ? (*n)++ : cap - 1;
        for (; at && (*out)[at - 1].weight < w; at--)
            (*out)[at] = (*out)[at - 1];
        (*out)[at] = (sp_rag_term){sp_rows_keep(a, q, 0), df, w};
        err = (*out)[at].name ? SP_OK : SP_FAIL(d, SP_NOMEM, "graph");
    }
    return sp_rows_end(q, err, d);
}
