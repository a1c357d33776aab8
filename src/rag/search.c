/* Search: three ranks and their fusion, and filters over attributes.
 * Source: Cormack et al. 2009 (reciprocal rank fusion; there k = 60, here what did best on the
 * questions of bench/rag/). */
#include "rag/store_int.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#define WIDE 0.7 /* share of a wide question in the score of a chunk; see docs/RETRIEVAL.md */
enum { CANDIDATES = 100, RRF = 20, MAX_DEPTH = 8 };

/* --- vectors in memory ------------------------------------------------------------------------ */

/* Its documents; with SQLite their vectors too. */
static sp_err read_vectors(sp_rag_store *s, loaded *l, sp_diag *d)
{
    int64_t n_chunk = 0, n_doc = 0;
    bool in_memory = !sp_db_is_pg(s->db);
    SP_TRY(sp_db_int(s->db, &n_doc, d, "SELECT count(*) FROM document WHERE coll=?", "i", l->coll));
    SP_TRY(
        sp_db_int(s->db, &n_chunk, d,
                  "SELECT count(*) FROM chunk WHERE doc IN (SELECT seq FROM document WHERE coll=?)",
                  "i", l->coll));
    l->n_chunk = (size_t)n_chunk;
    l->doc = sp_mem_array((size_t)n_doc + 1, sizeof *l->doc);
    if (!l->doc || (in_memory && sp_vecs_reserve(&l->vecs, (size_t)n_chunk + 1) != SP_OK))
        return SP_FAIL(d, SP_NOMEM, "%lld vectors in memory", (long long)n_chunk);
    sp_rows *q = in_memory
                     ? sp_db_query(s->db,
                                   "SELECT document.seq, chunk.seq, vec FROM document LEFT JOIN "
                                   "chunk ON chunk.doc=document.seq WHERE document.coll=? "
                                   "ORDER BY document.seq, pos",
                                   "i", l->coll)
                     : sp_db_query(s->db, "SELECT seq FROM document WHERE coll=? ORDER BY seq", "i",
                                   l->coll);
    sp_err err = q ? SP_OK : sp_db_error(s->db, d);
    while (err == SP_OK && sp_rows_next(q)) {
        int64_t doc = sp_rows_int(q, 0);
        if (l->n_doc > (size_t)n_doc)
            err = SP_FAIL(d, SP_AGAIN, "the collection is being changed");
        else if (l->n_doc == 0 || l->doc[l->n_doc - 1] != doc)
            l->doc[l->n_doc++] = doc;
        size_t n = 0;
        const void *vec = in_memory ? sp_rows_blob(q, 2, &n) : NULL;
        if (err == SP_OK && n == SP_VEC_DIM)
            err = sp_vecs_add(&l->vecs, sp_rows_int(q, 1), (uint32_t)(l->n_doc - 1), vec);
    }
    return sp_rows_end(q, err, d);
}

/* An index of a big collection's vectors alone, so that no other tenant's rows stand in its way. */
static sp_err make_index(sp_rag_store *s, const loaded *l, sp_diag *d)
{
    char sql[256];
    long long c = (long long)l->coll;
    if (!sp_db_is_pg(s->db) || l->n_chunk < s->hnsw_from)
        return SP_OK;
    snprintf(sql, sizeof sql,
             "CREATE INDEX IF NOT EXISTS chunk_v_c%lld ON chunk USING hnsw (v vector_ip_ops) WHERE "
             "coll='c%lld'",
             c, c);
    return sp_db_run(s->db, d, sql, "");
}

static void drop(loaded *l)
{
    sp_vecs_fini(&l->vecs);
    sp_mem_free(l->doc);
    *l = (loaded){0};
}

/* The collection's vectors as its rows are now. */
static sp_err load(sp_rag_store *s, int64_t coll, loaded **out, sp_diag *d)
{
    int64_t version;
    SP_TRY(sp_db_int(s->db, &version, d, "SELECT version FROM collection WHERE seq=?", "i", coll));
    loaded *l = NULL, *oldest = &s->in_memory[0];
    for (size_t i = 0; i < s->n_in_memory; i++) {
        if (s->in_memory[i].coll == coll)
            l = &s->in_memory[i];
        if (s->in_memory[i].n_write < oldest->n_write)
            oldest = &s->in_memory[i];
    }
    if (!l)
        l = s->n_in_memory < MAX_LOADED ? &s->in_memory[s->n_in_memory++] : oldest;
    if (l->coll != coll || l->version != version) {
        drop(l);
        l->coll = coll;
        sp_err err = read_vectors(s, l, d);
        if (err == SP_OK)
            err = make_index(s, l, d);
        if (err != SP_OK) {
            drop(l);
            return err;
        }
        l->version = version;
    }
    l->n_write = ++s->clock;
    *out = l;
    return SP_OK;
}

/* --- filters ---------------------------------------------------------------------------------- */

static const char *const compares[] = {"eq", "ne", "gt", "gte", "lt", "lte", "in", "nin", NULL};

static sp_err check(const json_t *f, int depth, sp_diag *d)
{
    const char *type = json_string_value(json_object_get(f, "type"));
    const json_t *list = json_object_get(f, "filters"), *v = json_object_get(f, "value");
    if (depth > MAX_DEPTH)
        return SP_FAIL(d, SP_INVAL, "filters are nested deeper than %d", MAX_DEPTH);
    if (!type)
        return SP_FAIL(d, SP_INVAL, "filters: an object with type is expected");
    if (strcmp(type, "and") == 0 || strcmp(type, "or") == 0) {
        if (!json_is_array(list) || json_array_size(list) == 0)
            return SP_FAIL(d, SP_INVAL, "filters: type %s needs a list `filters`", type);
        for (size_t i = 0; i < json_array_size(list); i++)
            SP_TRY(check(json_array_get(list, i), depth + 1, d));
        return SP_OK;
    }
    size_t k = 0;
    while (compares[k] && strcmp(compares[k], type) != 0)
        k++;
    if (!compares[k])
        return SP_FAIL(d, SP_INVAL,
                       "filters: type %.20s is none of eq, ne, gt, gte, lt, lte, in, nin, and, or",
                       type);
    if (!json_is_string(json_object_get(f, "key")))
        return SP_FAIL(d, SP_INVAL, "filters: type %s needs a string `key`", type);
    bool list_wanted = k >= 6;
    if (!v || json_is_array(v) != list_wanted || json_is_object(v))
        return SP_FAIL(d, SP_INVAL, "filters: type %s needs `value`, %s", type,
                       list_wanted ? "a list" : "a string, number or boolean");
    return SP_OK;
}

sp_err sp_rag_filter_check(const json_t *filter, sp_diag *d)
{
    return filter ? check(filter, 0, d) : SP_OK;
}

static int compare(const json_t *a, const json_t *b, bool *comparable)
{
    *comparable = true;
    if (json_is_number(a) && json_is_number(b)) {
        double x = json_number_value(a), y = json_number_value(b);
        return x < y ? -1 : x > y;
    }
    if (json_is_string(a) && json_is_string(b))
        return strcmp(json_string_value(a), json_string_value(b));
    *comparable = json_equal(a, b);
    return 0;
}

static bool holds(const json_t *f, const json_t *attributes, int depth)
{
    const char *type = json_string_value(json_object_get(f, "type"));
    const json_t *list = json_object_get(f, "filters"), *want = json_object_get(f, "value");
    bool any = strcmp(type, "or") == 0, comparable = false;
    if (any || strcmp(type, "and") == 0) {
        for (size_t i = 0; i < json_array_size(list); i++)
            if (depth < MAX_DEPTH && holds(json_array_get(list, i), attributes, depth + 1) == any)
                return any;
        return !any;
    }
    const json_t *v = json_object_get(attributes, json_string_value(json_object_get(f, "key")));
    if (json_is_array(want)) {
        bool in = false;
        for (size_t i = 0; v && i < json_array_size(want); i++)
            in = in || (compare(v, json_array_get(want, i), &comparable) == 0 && comparable);
        return in == (strcmp(type, "in") == 0);
    }
    int c = v ? compare(v, want, &comparable) : 0;
    if (strcmp(type, "ne") == 0)
        return !comparable || c != 0;
    return comparable && (strcmp(type, "eq") == 0    ? c == 0
                          : strcmp(type, "gt") == 0  ? c > 0
                          : strcmp(type, "gte") == 0 ? c >= 0
                          : strcmp(type, "lt") == 0  ? c < 0
                                                     : c <= 0);
}

bool sp_rag_filter_holds(const json_t *filter, const json_t *attributes)
{
    return holds(filter, attributes, 0);
}

/* A byte for each document of l: may it be found? */
static sp_err allow(sp_rag_store *s, const loaded *l, const json_t *filter, uint8_t **out,
                    sp_diag *d)
{
    uint8_t *ok = sp_mem_alloc(l->n_doc + 1);
    sp_rows *q = sp_db_query(
        s->db, "SELECT seq, attributes FROM document WHERE coll=? ORDER BY seq", "i", l->coll);
    sp_err err = ok && q ? SP_OK : SP_FAIL(d, SP_NOMEM, "filter");
    for (size_t i = 0; err == SP_OK && i < l->n_doc && sp_rows_next(q); i++) {
        json_t *j = json_loads(sp_rows_str(q, 1), 0, NULL);
        ok[i] = l->doc[i] == sp_rows_int(q, 0) && sp_rag_filter_holds(filter, j);
        json_decref(j);
    }
    err = sp_rows_end(q, err, d);
    if (err == SP_OK)
        *out = ok;
    else
        sp_mem_free(ok);
    return err;
}

bool sp_rag_is_allowed(const loaded *l, const uint8_t *ok, int64_t doc)
{
    size_t lo = 0, hi = l->n_doc;
    while (ok && lo < hi) {
        size_t mid = (lo + hi) / 2;
        if (l->doc[mid] == doc)
            return ok[mid];
        if (l->doc[mid] < doc)
            lo = mid + 1;
        else
            hi = mid;
    }
    return !ok;
}

/* --- vectors ---------------------------------------------------------------------------------- */

void sp_rag_vec_text(char out[SP_RAG_VEC_TEXT], const int8_t vec[SP_VEC_DIM])
{
    size_t n = 0;
    for (size_t i = 0; i < SP_VEC_DIM; i++)
        n += (size_t)snprintf(out + n, SP_RAG_VEC_TEXT - n, "%c%d", i ? ',' : '[', vec[i]);
    snprintf(out + n, SP_RAG_VEC_TEXT - n, "]");
}

static sp_err rank_pg(sp_rag_store *s, const loaded *l, const uint8_t *ok, const int8_t *vec,
                      sp_vec_hit *out, size_t *n, sp_diag *d)
{
    char v[SP_RAG_VEC_TEXT], sql[512];
    sp_buf docs = {0};
    bool index = !ok && l->n_chunk >= s->hnsw_from;
    sp_rag_vec_text(v, vec);
    sp_buf_putc(&docs, '{');
    for (size_t i = 0; ok && i < l->n_doc; i++)
        if (ok[i])
            sp_buf_printf(&docs, "%s%lld", docs.len > 1 ? "," : "", (long long)l->doc[i]);
    sp_buf_putc(&docs, '}');
    /* OFFSET 0 keeps the ordering out of the index: every row is looked at */
    snprintf(sql, sizeof sql,
             index ? "SELECT seq FROM chunk WHERE coll='c%lld' AND ?2='{}' ORDER BY v <#> CAST(?1 "
                     "AS vector) LIMIT %d"
                   : "SELECT seq FROM (SELECT seq, v <#> CAST(?1 AS vector) AS far FROM chunk "
                     "WHERE coll='c%lld' AND v IS NOT NULL AND (?2='{}' OR doc=ANY(CAST(?2 AS "
                     "BIGINT[]))) OFFSET 0) AS near ORDER BY far, seq LIMIT %d",
             (long long)l->coll, CANDIDATES);
    sp_rows *q = docs.failed ? NULL : sp_db_query(s->db, sql, "ss", v, sp_buf_str(&docs));
    sp_err err = docs.failed ? SP_FAIL(d, SP_NOMEM, "search") : q ? SP_OK : sp_db_error(s->db, d);
    bool none = ok && docs.len == 2;
    for (*n = 0; err == SP_OK && !none && *n < CANDIDATES && sp_rows_next(q);)
        out[(*n)++] = (sp_vec_hit){sp_rows_int(q, 0), 0};
    sp_buf_fini(&docs);
    return sp_rows_end(q, err, d);
}

/* --- fusion ----------------------------------------------------------------------------------- */

static void cast(vote *list, size_t *n, int64_t seq, int which, size_t rank)
{
    size_t i = 0;
    while (i < *n && list[i].seq != seq)
        i++;
    if (i == *n)
        list[(*n)++] = (vote){.seq = seq};
    list[i].rank[which] = (int)rank;
    list[i].score += 1.0 / (double)(RRF + rank);
}

/* Of phrases in quotes that some chunks hold, only these chunks are answers. */
static void keep_found(vote *list, size_t *n)
{
    size_t kept = 0;
    for (size_t i = 0; i < *n; i++)
        if (list[i].rank[0])
            list[kept++] = list[i];
    *n = kept;
}

static int by_score(const void *a, const void *b)
{
    const vote *x = a, *y = b;
    return x->score != y->score ? (x->score < y->score ? 1 : -1)
           : x->seq < y->seq    ? -1
                                : x->seq > y->seq;
}

static int by_dot(const void *a, const void *b)
{
    const sp_vec_hit *x = a, *y = b;
    return x->dot != y->dot ? (x->dot < y->dot ? 1 : -1) : x->key < y->key ? -1 : x->key > y->key;
}

/* Ranks what is on the list by the sentence of each that is most like the question. */
static sp_err rank_sentences(sp_rag_store *s, const int8_t *vec, const vote *list, size_t n,
                             sp_vec_hit *out, size_t *n_out, sp_diag *d)
{
    int32_t dot[SP_RAG_SENTS];
    sp_err err = SP_OK;
    *n_out = 0;
    for (size_t i = 0; i < n && err == SP_OK; i++) {
        size_t size = 0;
        sp_rows *q = sp_db_query(s->db, "SELECT sent FROM chunk WHERE seq=?", "i", list[i].seq);
        err = sp_rows_first(s->db, q, d);
        const void *sent = err == SP_OK ? sp_rows_blob(q, 0, &size) : NULL;
        size_t n_sent = size / SP_VEC_DIM;
        if (n_sent && n_sent <= SP_RAG_SENTS) {
            s->kern->dot_i8(dot, vec, sent, n_sent, SP_VEC_DIM);
            sp_vec_hit *h = &out[(*n_out)++];
            *h = (sp_vec_hit){list[i].seq, dot[0]};
            for (size_t k = 1; k < n_sent; k++)
                h->dot = dot[k] > h->dot ? dot[k] : h->dot;
        }
        err = sp_rows_end(q, err == SP_NOTFOUND ? SP_OK : err, d); /* a chunk that has just gone */
    }
    qsort(out, *n_out, sizeof *out, by_dot);
    return err;
}

static sp_err vote_all(sp_rag_store *s, const sp_rag_query *q, loaded *l, const uint8_t *ok,
                       vote *list, size_t *n, sp_diag *d)
{
    enum { START = 5 };
    int64_t found[CANDIDATES], start[START];
    sp_vec_hit near[2 * CANDIDATES];
    size_t n_found = 0, n_near = 0, n_start = 0;
    bool exact = false;
    if (q->how & SP_RAG_WORDS)
        SP_TRY(sp_rag_word_rank(s, l, ok, q->text, found, CANDIDATES, &n_found, &exact, d));
    for (size_t i = 0; i < n_found; i++)
        cast(list, n, found[i], 0, i + 1);
    if (q->how & SP_RAG_VECTORS && q->vec && sp_db_is_pg(s->db))
        SP_TRY(rank_pg(s, l, ok, q->vec, near, &n_near, d));
    else if (q->how & SP_RAG_VECTORS && q->vec)
        sp_vecs_search(&l->vecs, s->kern, q->vec, ok, CANDIDATES, near, &n_near);
    for (size_t i = 0; i < n_near; i++)
        cast(list, n, near[i].key, 1, i + 1);
    if (exact)
        keep_found(list, n);
    if (q->how & SP_RAG_SENTENCES && q->vec) {
        SP_TRY(rank_sentences(s, q->vec, list, *n, near, &n_near, d));
        for (size_t i = 0; i < n_near; i++)
            cast(list, n, near[i].key, 2, i + 1);
    }
    if (!(q->how & SP_RAG_GRAPH) || exact)
        return SP_OK;
    qsort(list, *n, sizeof *list, by_score);
    for (; n_start < START && n_start < *n; n_start++)
        start[n_start] = list[n_start].seq;
    SP_TRY(sp_rag_graph_rank(s, l->coll, q->text, start, n_start, found, CANDIDATES, &n_found, d));
    for (size_t i = 0, rank = 1; i < n_found; i++) {
        int64_t doc = 0;
        if (ok)
            SP_TRY(sp_db_int(s->db, &doc, d, "SELECT doc FROM chunk WHERE seq=?", "i", found[i]));
        if (sp_rag_is_allowed(l, ok, doc))
            cast(list, n, found[i], 3, rank++);
    }
    return SP_OK;
}

static double cosine(const sp_kern *kern, const int8_t *a, const int8_t *b)
{
    int32_t ab, aa, bb;
    kern->dot_i8(&ab, a, b, 1, SP_VEC_DIM);
    kern->dot_i8(&aa, a, a, 1, SP_VEC_DIM);
    kern->dot_i8(&bb, b, b, 1, SP_VEC_DIM);
    return aa && bb ? ab / sqrt((double)aa * bb) : 0;
}

void sp_rag_near_put(sp_rag_near *best, size_t cap, size_t *n, const sp_rag_near *one)
{
    size_t at = *n;
    while (at && best[at - 1].cosine < one->cosine)
        at--;
    if (at == cap)
        return;
    *n += *n < cap;
    memmove(best + at + 1, best + at, (*n - at - 1) * sizeof *best);
    best[at] = *one;
}

static void find_nearest(sp_rag_hit *h, const sp_kern *kern, const int8_t *vec, const int8_t *sent,
                         size_t n_sent)
{
    const char *p = h->text, *end = p + strlen(p);
    for (size_t i = 0; i < n_sent && p < end; i++) {
        size_t n = sp_rag_sentence(p, (size_t)(end - p), i);
        sp_rag_near_put(h->near, SP_RAG_NEAR, &h->n_near,
                        &(sp_rag_near){p, n, cosine(kern, vec, sent + i * SP_VEC_DIM)});
        p += n;
    }
}

/* Adds the wide question's votes to those of the question alone, which there is room for. */
static void merge(vote *list, size_t *n, const vote *wide, size_t n_wide)
{
    for (size_t i = 0; i < *n; i++)
        list[i].score *= 1 - WIDE;
    for (size_t k = 0; k < n_wide; k++) {
        size_t i = 0;
        while (i < *n && list[i].seq != wide[k].seq)
            i++;
        if (i == *n)
            list[(*n)++] = (vote){.seq = wide[k].seq};
        list[i].score += WIDE * wide[k].score;
        for (size_t r = 0; r < 4; r++)
            if (wide[k].rank[r] && (!list[i].rank[r] || wide[k].rank[r] < list[i].rank[r]))
                list[i].rank[r] = wide[k].rank[r];
    }
}

static sp_err vote_on(sp_rag_store *s, const sp_rag_query *q, loaded *l, const uint8_t *ok,
                      vote *list, size_t *n, sp_diag *d)
{
    vote wide[3 * CANDIDATES];
    size_t n_wide = 0;
    sp_rag_query w = *q;
    SP_TRY(vote_all(s, q, l, ok, list, n, d));
    if (!q->wide)
        return SP_OK;
    w.text = q->wide;
    w.vec = q->wide_vec;
    SP_TRY(vote_all(s, &w, l, ok, wide, &n_wide, d));
    merge(list, n, wide, n_wide);
    return SP_OK;
}

static sp_err read_hit(sp_rag_store *s, sp_arena *a, const vote *v, const sp_rag_query *asked,
                       double best, sp_rag_hit *out, sp_diag *d)
{
    const int8_t *vec = asked->vec;
    sp_rows *q =
        sp_db_query(s->db,
                    "SELECT chunk.id, document.id, path, place, text, attributes, n_tok, vec, sent "
                    "FROM chunk JOIN document ON document.seq=doc WHERE chunk.seq=?",
                    "i", v->seq);
    sp_err err = sp_rows_first(s->db, q, d);
    if (err == SP_OK) {
        size_t n_vec, n_sent;
        const void *its = sp_rows_blob(q, 7, &n_vec), *sent = sp_rows_blob(q, 8, &n_sent);
        n_sent /= SP_VEC_DIM;
        *out = (sp_rag_hit){.seq = v->seq,
                            .path = sp_rows_keep(a, q, 2),
                            .place = sp_rows_keep(a, q, 3),
                            .text = sp_rows_keep(a, q, 4),
                            .attributes = sp_rows_keep(a, q, 5),
                            .n_tok = sp_rows_int(q, 6),
                            .score = v->score / best,
                            .rank_word = v->rank[0],
                            .rank_vec = v->rank[1],
                            .rank_sent = v->rank[2],
                            .rank_graph = v->rank[3]};
        if (vec && n_vec == SP_VEC_DIM)
            out->cosine = cosine(s->kern, vec, its);
        double wide = vec && asked->wide_vec && n_vec == SP_VEC_DIM
                          ? cosine(s->kern, asked->wide_vec, its)
                          : 0;
        if (wide > out->cosine) {
            out->cosine = wide;
            vec = asked->wide_vec;
        }
        snprintf(out->chunk, sizeof out->chunk, "%s", sp_rows_str(q, 0));
        snprintf(out->doc, sizeof out->doc, "%s", sp_rows_str(q, 1));
        if (!out->path || !out->place || !out->text || !out->attributes)
            err = SP_FAIL(d, SP_NOMEM, "search");
        else if (vec && n_sent && n_sent <= SP_RAG_SENTS)
            find_nearest(out, s->kern, vec, sent, n_sent);
    }
    return sp_rows_end(q, err, d);
}

sp_err sp_rag_search(sp_rag_store *s, sp_arena *a, const sp_rag_query *q, sp_rag_hit **out,
                     size_t *n, sp_diag *d)
{
    vote list[6 * CANDIDATES];
    size_t n_list = 0, n_rank = (size_t) !!(q->how & SP_RAG_WORDS) +
                                (size_t)(q->how & SP_RAG_VECTORS && q->vec) +
                                (size_t)(q->how & SP_RAG_SENTENCES && q->vec) +
                                (size_t) !!(q->how & SP_RAG_GRAPH);
    int64_t coll;
    loaded *l;
    uint8_t *ok = NULL;
    SP_TRY(sp_rag_filter_check(q->filter, d));
    SP_TRY(sp_rag_coll_seq(s, q->tenant, q->coll, &coll, d));
    SP_TRY(load(s, coll, &l, d));
    if (q->filter)
        SP_TRY(allow(s, l, q->filter, &ok, d));
    sp_err err = vote_on(s, q, l, ok, list, &n_list, d);
    sp_mem_free(ok);
    SP_TRY(err);
    qsort(list, n_list, sizeof *list, by_score);
    *n = n_list < q->cap ? n_list : q->cap;
    *out = sp_arena_alloc(a, (*n + 1) * sizeof **out);
    if (!*out)
        return SP_FAIL(d, SP_NOMEM, "search");
    for (size_t i = 0; i < *n; i++)
        SP_TRY(
            read_hit(s, a, &list[i], q, (double)(n_rank ? n_rank : 1) / (RRF + 1), &(*out)[i], d));
    return SP_OK;
}
