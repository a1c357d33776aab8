/* Finding: old turns of one conversation by words and vectors, and conversations by words of their
 *          texts and titles. */
#include "pipe/history_db_int.h"

#include "rag/split.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { CANDIDATES = 50, MAX_WORDS = 32, RRF = 60 };

/* --- turns of a conversation ------------------------------------------------------------------ */

/* The words of a text, quoted one by one and joined by OR: nothing of it is FTS5's syntax. */
static void quote_words(sp_buf *out, const char *conv, const char *text)
{
    size_t n = 0;
    sp_buf_printf(out, "conv : \"%s\" AND text : (", conv);
    for (const unsigned char *p = (const unsigned char *)text; *p && n < MAX_WORDS;) {
        size_t k = 0;
        while (p[k] >= 0x80 || (p[k] >= '0' && p[k] <= '9') || (p[k] >= 'A' && p[k] <= 'Z') ||
               (p[k] >= 'a' && p[k] <= 'z'))
            k++;
        if (k > 1) {
            sp_buf_puts(out, n++ ? " OR \"" : "\"");
            sp_buf_put(out, p, k);
            sp_buf_putc(out, '"');
        }
        p += k ? k : 1;
    }
    sp_buf_puts(out, n ? ")" : "\"\")");
}

/* The same for PostgreSQL, of words as ICU splits them: letters, marks, digits and _ only. */
typedef struct any_words {
    sp_buf match;
    size_t n;
} any_words;

static sp_err put_any(void *arg, const sp_rag_token *t)
{
    any_words *w = arg;
    if (w->n < MAX_WORDS)
        sp_buf_printf(&w->match, "%s'%s'", w->n++ ? " | " : "", t->whole);
    return SP_OK;
}

static sp_err ask_any(sp_buf *out, const sp_hdb *h, const char *conv, const char *text)
{
    any_words w = {0};
    if (!h->is_pg) {
        quote_words(out, conv, text);
        return SP_OK;
    }
    sp_err err = sp_rag_split(text, strlen(text), put_any, &w);
    *out = w.match;
    return err;
}

typedef struct candidate {
    int64_t seq;
    double score;
    int dot;
} candidate;

static int by_score(const void *a, const void *b)
{
    const candidate *x = a, *y = b;
    return x->score != y->score ? (x->score < y->score ? 1 : -1)
           : x->seq < y->seq    ? -1
                                : x->seq > y->seq;
}

static void vote(candidate *list, size_t *n, int64_t seq, size_t rank)
{
    size_t i = 0;
    while (i < *n && list[i].seq != seq)
        i++;
    if (i == *n)
        list[(*n)++] = (candidate){.seq = seq};
    list[i].score += 1.0 / (double)(RRF + rank);
}

static sp_err vote_words(sp_hdb *h, const char *id, int64_t end, const char *text, candidate *list,
                         size_t *n, sp_diag *d)
{
    /* Of a file rank alone first, over the index: rows are looked up for the best only. */
    static const char lite[] =
        "SELECT item.seq FROM (SELECT rowid AS r, bm25(item_fts, 0, 1) AS b FROM item_fts WHERE "
        "item_fts MATCH ?1 ORDER BY b LIMIT ?2) JOIN item ON item.seq = r WHERE item.conv=?5 AND "
        "item.pos < ?3 AND item.role <> 'system' AND item.gone IS NULL ORDER BY b LIMIT ?4";
    static const char pg[] =
        "SELECT best.seq FROM (SELECT seq, pos, role, gone, ts_rank(stems, q) AS b FROM item, "
        "(SELECT to_tsquery('english', ?1) AS q) AS asked WHERE conv=?5 AND stems @@ q ORDER BY b "
        "DESC, seq LIMIT ?2) AS best WHERE pos < ?3 AND role <> 'system' AND gone IS NULL ORDER BY "
        "b DESC, seq LIMIT ?4";
    sp_buf match = {0};
    sp_rows *r = NULL;
    sp_err err = ask_any(&match, h, id, text);
    if (err != SP_OK || match.failed)
        err = SP_FAIL(d, SP_NOMEM, "search");
    if (err == SP_OK) {
        r = sp_db_query(h->db, h->is_pg ? pg : lite, "siiis", sp_buf_str(&match),
                        (int64_t)(4 * CANDIDATES), end, (int64_t)CANDIDATES, id);
        err = r ? SP_OK : sp_db_error(h->db, d);
    }
    for (size_t rank = 1; err == SP_OK && sp_rows_next(r); rank++)
        vote(list, n, sp_rows_int(r, 0), rank);
    sp_buf_fini(&match);
    return sp_rows_end(r, err, d);
}

static sp_err vote_vectors(sp_hdb *h, const char *id, int64_t end, const int8_t *vec,
                           candidate *list, size_t *n, sp_diag *d)
{
    candidate best[CANDIDATES];
    size_t n_best = 0;
    sp_rows *r = sp_db_query(h->db,
                             "SELECT seq, vec FROM item WHERE conv=? AND pos < ? AND vec IS "
                             "NOT NULL AND role <> 'system' AND gone IS NULL",
                             "si", id, end);
    sp_err err = r ? SP_OK : sp_db_error(h->db, d);
    while (err == SP_OK && sp_rows_next(r)) {
        size_t n_vec;
        const int8_t *v = sp_rows_blob(r, 1, &n_vec);
        size_t dim = v && n_vec == SP_HDB_DIM ? SP_HDB_DIM : 0;
        int dot = 0;
        for (size_t i = 0; i < dim; i++)
            dot += v[i] * vec[i];
        if (n_best == CANDIDATES && dot <= best[n_best - 1].dot)
            continue;
        size_t at = n_best < CANDIDATES ? n_best++ : CANDIDATES - 1;
        for (; at && best[at - 1].dot < dot; at--)
            best[at] = best[at - 1];
        best[at] = (candidate){.seq = sp_rows_int(r, 0), .dot = dot};
    }
    err = sp_rows_end(r, err, d);
    for (size_t i = 0; i < n_best && err == SP_OK; i++)
        vote(list, n, best[i].seq, i + 1);
    return err;
}

static sp_err read_seq(sp_hdb *h, sp_arena *a, int64_t seq, sp_hdb_item *out, sp_diag *d)
{
    char sql[512];
    snprintf(sql, sizeof sql, "%sWHERE seq=?", sp_hdb_columns);
    sp_rows *r = sp_db_query(h->db, sql, "i", seq);
    sp_err err = sp_rows_first(h->db, r, d);
    return sp_rows_end(r, err == SP_OK ? sp_hdb_read(a, r, out, d) : err, d);
}

/* What went between the ranking and the reading is left out. */
sp_err sp_hdb_search(sp_hdb *h, sp_arena *a, const char *tenant, const char *id, int64_t end,
                     const char *text, const int8_t *vec, size_t cap, sp_hdb_item **out, size_t *n,
                     sp_diag *d)
{
    candidate list[2 * CANDIDATES];
    size_t n_list = 0;
    SP_TRY(sp_hdb_thaw(h, tenant, id, d));
    SP_TRY(vote_words(h, id, end, text, list, &n_list, d));
    if (vec)
        SP_TRY(vote_vectors(h, id, end, vec, list, &n_list, d));
    qsort(list, n_list, sizeof *list, by_score);
    n_list = n_list < cap ? n_list : cap;
    *out = sp_arena_alloc(a, (n_list + 1) * sizeof **out);
    *n = 0;
    sp_err err = *out ? SP_OK : SP_FAIL(d, SP_NOMEM, "search");
    for (size_t i = 0; i < n_list && err == SP_OK; i++) {
        err = read_seq(h, a, list[i].seq, &(*out)[*n], d);
        if (err == SP_OK)
            (*out)[(*n)++].score = list[i].score;
        err = err == SP_NOTFOUND ? SP_OK : err;
    }
    return err;
}

sp_err sp_hdb_unembedded(sp_hdb *h, sp_arena *a, sp_hdb_item *out)
{
    char sql[512];
    snprintf(sql, sizeof sql, "%sWHERE vec IS NULL AND status<>'running' ORDER BY seq LIMIT 1",
             sp_hdb_columns);
    sp_rows *r = sp_db_query(h->db, sql, "");
    sp_err err =
        sp_rows_first(h->db, r, NULL) == SP_OK ? sp_hdb_read(a, r, out, NULL) : SP_NOTFOUND;
    return sp_rows_end(r, err, NULL);
}

sp_err sp_hdb_set_vector(sp_hdb *h, int64_t seq, const int8_t *vec, sp_diag *d)
{
    return sp_db_run(h->db, d, "UPDATE item SET vec=? WHERE seq=?", "bi", vec,
                     vec ? (size_t)SP_HDB_DIM : 0, seq);
}

/* --- conversations of a tenant ---------------------------------------------------------------- */

enum { MAX_ASKED = 12 /* words of a question */, SNIPPET = 160 /* bytes, about */, MARKS = 8 };

/* What a list is asked for, word by word. */
typedef struct asked {
    bool is_pg;
    sp_buf match;             /* as the index takes it */
    size_t star;              /* in it, the mark of the last word as a beginning; 0: none yet */
    char word[MAX_ASKED][64]; /* [n] folded */
    size_t n;
} asked;

/* Words that follow each other. */
static void put_row(asked *q, const char *parts)
{
    for (sp_buf_puts(&q->match, q->is_pg ? " | ('" : " OR \""); *parts; parts++)
        if (q->is_pg && *parts == ' ')
            sp_buf_puts(&q->match, "' <-> '");
        else
            sp_buf_putc(&q->match, *parts);
    sp_buf_puts(&q->match, q->is_pg ? "')" : "\"");
}

/* Only the last word may be a beginning: whoever types it is not done. */
static sp_err ask_word(void *arg, const sp_rag_token *t)
{
    asked *q = arg;
    const char *star = q->is_pg ? ":*" : "*";
    if (q->n == MAX_ASKED || strlen(t->whole) >= sizeof q->word[0])
        return SP_OK;
    snprintf(q->word[q->n], sizeof q->word[0], "%s", t->whole);
    if (q->star && !q->match.failed)
        memset(q->match.p + q->star, ' ', strlen(star));
    sp_buf_printf(&q->match, q->is_pg ? "%s('%s'" : "%s(\"%s\"",
                  !q->n      ? ""
                  : q->is_pg ? " & "
                             : " AND ",
                  t->whole);
    q->star = q->match.len;
    sp_buf_puts(&q->match, star);
    if (t->parts)
        put_row(q, t->parts);
    sp_buf_putc(&q->match, ')');
    q->n++;
    return SP_OK;
}

/* The rest of the condition on title and id; q NULL: there is none. Values: 1 tenant, 2 most, 3
 * after or "", then the question's words and (last) their match. */
static void put_condition(sp_buf *sql, const asked *q, bool after)
{
    sp_buf_puts(sql, "WHERE tenant=?1 AND gone IS NULL AND by_response=0");
    sp_buf_puts(sql, after ? " AND (pinned, updated, id) < (SELECT pinned, updated, id FROM "
                             "conversation WHERE id=?3 AND tenant=?1)"
                           : " AND ?3=''");
    for (size_t i = 0; q && i < q->n; i++)
        sp_buf_printf(sql, "%s %s(title_words, ?%zu) > 0", i ? " AND" : " AND ((",
                      q->is_pg ? "strpos" : "instr", 4 + i);
    if (q && q->is_pg)
        sp_buf_printf(sql,
                      ") OR id IN (SELECT item.conv FROM item WHERE lex @@ to_tsquery('simple', "
                      "?%zu) AND item.gone IS NULL))",
                      4 + q->n);
    else if (q)
        sp_buf_printf(sql,
                      ") OR id IN (SELECT item.conv FROM words_fts JOIN item ON "
                      "item.seq=words_fts.rowid WHERE words_fts MATCH ?%zu AND item.gone IS NULL))",
                      4 + q->n);
    sp_buf_puts(sql, " ORDER BY pinned DESC, updated DESC, id DESC LIMIT ?2");
}

static bool is_word(unsigned char c)
{
    return c >= 0x80 || (c >= '0' && c <= '9') || (c >= 'A' && c <= 'Z') ||
           (c >= 'a' && c <= 'z') || c == '_';
}

typedef struct one_word {
    char text[64];
    bool split; /* it has inner words */
} one_word;

static sp_err first_word(void *arg, const sp_rag_token *t)
{
    one_word *w = arg;
    w->split = w->text[0] || t->parts;
    if (!w->text[0])
        snprintf(w->text, sizeof w->text, "%.60s", t->whole);
    return SP_OK;
}

/* Bytes [*from, *from + *n) of a run of letters that are a word of the question; false: none
 * are. */
static bool matches(const asked *q, const char *p, size_t n_run, size_t *from, size_t *n)
{
    one_word w = {0};
    if (sp_rag_split(p, n_run, first_word, &w) != SP_OK)
        return false;
    for (size_t i = 0; i < q->n; i++) {
        size_t k = strlen(q->word[i]);
        const char *in = memmem(p, n_run, q->word[i], k);
        bool whole = !w.split && (strcmp(w.text, q->word[i]) == 0 ||
                                  (i + 1 == q->n && strncmp(w.text, q->word[i], k) == 0));
        bool inside = (w.split || (unsigned char)q->word[i][0] >= 0xe0) && in;
        if (!whole && !inside)
            continue;
        *from = whole ? 0 : (size_t)(in - p);
        *n = whole ? n_run : k;
        return true;
    }
    return false;
}

static size_t whole_character(const char *p, size_t at)
{
    while (at && ((unsigned char)p[at] & 0xc0) == 0x80)
        at--;
    return at;
}

/* About SNIPPET bytes around the first word of the question that the text has, and the words in
 * them. */
static sp_err cut_snippet(sp_hdb_conv *c, sp_arena *a, const asked *q, sp_str text, sp_diag *d)
{
    size_t first = SIZE_MAX, begin = 0, end = 0, from, n;
    c->mark = sp_arena_alloc(a, MARKS * sizeof *c->mark);
    for (size_t i = 0; i < text.n && c->mark && c->n_mark < MARKS;) {
        size_t run = 0;
        while (i + run < text.n && is_word((unsigned char)text.p[i + run]))
            run++;
        if (run && matches(q, text.p + i, run, &from, &n)) {
            if (first == SIZE_MAX) {
                first = i + from;
                begin = whole_character(text.p, first > SNIPPET / 3 ? first - SNIPPET / 3 : 0);
                end = begin + SNIPPET < text.n ? whole_character(text.p, begin + SNIPPET) : text.n;
            }
            if (i + from + n > end)
                break;
            c->mark[c->n_mark][0] = i + from - begin;
            c->mark[c->n_mark++][1] = i + from + n - begin;
        }
        i += run ? run : 1;
        if (first != SIZE_MAX && i >= end)
            break;
    }
    if (first == SIZE_MAX)
        end = text.n > SNIPPET ? whole_character(text.p, SNIPPET) : text.n;
    c->snippet = (sp_str){sp_arena_strndup(a, text.p + begin, end - begin), end - begin};
    return c->mark && c->snippet.p ? SP_OK : SP_FAIL(d, SP_NOMEM, "search");
}

/* The best message of a conversation that was found; none: its title has the words. */
static sp_err find_message(sp_hdb *h, sp_arena *a, const asked *q, sp_hdb_conv *c, sp_diag *d)
{
    static const char lite[] =
        "SELECT item.id, item.text FROM words_fts JOIN item ON item.seq=words_fts.rowid WHERE "
        "words_fts MATCH ?1 AND item.conv=?2 AND item.gone IS NULL ORDER BY bm25(words_fts, 0, 1) "
        "LIMIT 1";
    static const char pg[] =
        "SELECT id, text FROM item, (SELECT to_tsquery('simple', ?1) AS q) AS asked WHERE lex @@ q "
        "AND conv=?2 AND gone IS NULL ORDER BY ts_rank(lex, q) DESC, seq LIMIT 1";
    sp_buf match = {0};
    sp_buf_printf(&match, q->is_pg ? "%s%s" : "conv : \"%s\" AND words : (%s)",
                  q->is_pg ? "" : c->id, sp_buf_str(&q->match));
    if (match.failed) {
        sp_buf_fini(&match);
        return SP_FAIL(d, SP_NOMEM, "search");
    }
    sp_rows *r = sp_db_query(h->db, q->is_pg ? pg : lite, "ss", sp_buf_str(&match), c->id);
    sp_err err = sp_rows_first(h->db, r, d);
    if (err == SP_OK) {
        snprintf(c->found, sizeof c->found, "%s", sp_rows_str(r, 0));
        err = cut_snippet(c, a, q, (sp_str){sp_rows_str(r, 1), sp_rows_bytes(r, 1)}, d);
    }
    sp_buf_fini(&match);
    return sp_rows_end(r, err == SP_NOTFOUND ? SP_OK : err, d);
}

static sp_err read_list(sp_hdb *h, sp_arena *a, sp_rows *r, const asked *q, sp_hdb_conv *out,
                        size_t *n, sp_diag *d)
{
    sp_err err = r ? SP_OK : sp_db_error(h->db, d);
    while (err == SP_OK && sp_rows_next(r)) {
        err = sp_hdb_read_conv(a, r, &out[*n], d);
        if (err == SP_OK && q)
            err = find_message(h, a, q, &out[*n], d);
        *n += err == SP_OK;
    }
    return sp_rows_end(r, err, d);
}

/* The values of put_condition. */
static sp_rows *ask_list(sp_hdb *h, const char *sql, const char *tenant, size_t cap,
                         const char *after, const asked *q)
{
    char types[MAX_ASKED + 5] = "sissssssssssssss";
    const char *v[MAX_ASKED + 1] = {0};
    for (size_t i = 0; q && i < q->n; i++)
        v[i] = q->word[i];
    if (q)
        v[q->n] = sp_buf_str(&q->match);
    types[3 + (q ? q->n + 1 : 0)] = 0;
    return sp_db_query(h->db, sql, types, tenant, (int64_t)cap, after ? after : "", v[0], v[1],
                       v[2], v[3], v[4], v[5], v[6], v[7], v[8], v[9], v[10], v[11], v[12]);
}

sp_err sp_hdb_list(sp_hdb *h, sp_arena *a, const char *tenant, const char *after, const char *words,
                   size_t cap, sp_hdb_conv **out, size_t *n, sp_diag *d)
{
    asked q = {.is_pg = h->is_pg};
    sp_buf sql = {0};
    *n = 0;
    *out = sp_arena_alloc(a, (cap + 1) * sizeof **out);
    sp_err err = *out ? SP_OK : SP_FAIL(d, SP_NOMEM, "conversations");
    if (err == SP_OK && after)
        err = sp_hdb_exists(h, tenant, after, d);
    if (err == SP_OK && words)
        err = sp_rag_split(words, strlen(words), ask_word, &q);
    const asked *by = words ? &q : NULL;
    sp_buf_puts(&sql, sp_hdb_conv_columns);
    put_condition(&sql, by, after != NULL);
    if (err == SP_OK && (sql.failed || q.match.failed))
        err = SP_FAIL(d, SP_NOMEM, "conversations");
    if (err == SP_OK && (!words || q.n)) /* marks alone are in no text */
        err =
            read_list(h, a, ask_list(h, sp_buf_str(&sql), tenant, cap, after, by), by, *out, n, d);
    sp_buf_fini(&sql);
    sp_buf_fini(&q.match);
    return err;
}
