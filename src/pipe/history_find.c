/* Finding: old turns of one conversation by words and vectors, and conversations by words of their
 *          texts and titles. */
#include "pipe/history_db_int.h"

#include "rag/split.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { CANDIDATES = 50, MAX_WORDS = 32, RRF = 60 };

/* --- turns of a conversation ------------------------------------------------------------------ */

/* The words of a text, quoted one by one and joined by OR: nothing of it is FTS syntax. */
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
    sp_buf match = {0};
    quote_words(&match, id, text);
    /* Rank alone first, over the index: rows are looked up for the best only. */
    sqlite3_stmt *s = sp_sql_query(h->db,
                                   "SELECT item.seq FROM (SELECT rowid AS r, bm25(item_fts, 0, 1) "
                                   "AS b FROM item_fts WHERE item_fts "
                                   "MATCH ? ORDER BY b LIMIT ?)"
                                   " JOIN item ON item.seq = r WHERE item.pos < ? AND item.role <> "
                                   "'system' AND item.gone IS NULL ORDER BY b LIMIT ?",
                                   "siii", sp_buf_str(&match), (int64_t)(4 * CANDIDATES), end,
                                   (int64_t)CANDIDATES);
    sp_err err = match.failed ? SP_FAIL(d, SP_NOMEM, "search") : s ? SP_OK : sp_sql_error(h->db, d);
    int rc = SQLITE_DONE;
    for (size_t rank = 1; err == SP_OK && (rc = sqlite3_step(s)) == SQLITE_ROW; rank++)
        vote(list, n, sqlite3_column_int64(s, 0), rank);
    if (err == SP_OK && rc != SQLITE_DONE)
        err = sp_sql_error(h->db, d);
    sqlite3_finalize(s);
    sp_buf_fini(&match);
    return err;
}

static sp_err vote_vectors(sp_hdb *h, const char *id, int64_t end, const int8_t *vec,
                           candidate *list, size_t *n, sp_diag *d)
{
    candidate best[CANDIDATES];
    size_t n_best = 0;
    sqlite3_stmt *s = sp_sql_query(h->db,
                                   "SELECT seq, vec FROM item WHERE conv=? AND pos < ? AND vec IS "
                                   "NOT NULL AND role <> 'system' AND gone IS NULL",
                                   "si", id, end);
    sp_err err = s ? SP_OK : sp_sql_error(h->db, d);
    int rc = SQLITE_DONE;
    while (err == SP_OK && (rc = sqlite3_step(s)) == SQLITE_ROW) {
        const int8_t *v = sqlite3_column_blob(s, 1);
        size_t dim = sqlite3_column_bytes(s, 1) == SP_HDB_DIM ? SP_HDB_DIM : 0;
        int dot = 0;
        for (size_t i = 0; i < dim; i++)
            dot += v[i] * vec[i];
        if (n_best == CANDIDATES && dot <= best[n_best - 1].dot)
            continue;
        size_t at = n_best < CANDIDATES ? n_best++ : CANDIDATES - 1;
        for (; at && best[at - 1].dot < dot; at--)
            best[at] = best[at - 1];
        best[at] = (candidate){.seq = sqlite3_column_int64(s, 0), .dot = dot};
    }
    if (err == SP_OK && rc != SQLITE_DONE)
        err = sp_sql_error(h->db, d);
    sqlite3_finalize(s);
    for (size_t i = 0; i < n_best && err == SP_OK; i++)
        vote(list, n, best[i].seq, i + 1);
    return err;
}

sp_err sp_hdb_search(sp_hdb *h, sp_arena *a, const char *tenant, const char *id, int64_t end,
                     const char *text, const int8_t *vec, size_t cap, sp_hdb_item **out, size_t *n,
                     sp_diag *d)
{
    candidate list[2 * CANDIDATES];
    size_t n_list = 0;
    char sql[512];
    SP_TRY(sp_hdb_thaw(h, tenant, id, d));
    SP_TRY(vote_words(h, id, end, text, list, &n_list, d));
    if (vec)
        SP_TRY(vote_vectors(h, id, end, vec, list, &n_list, d));
    qsort(list, n_list, sizeof *list, by_score);
    n_list = n_list < cap ? n_list : cap;
    *out = sp_arena_alloc(a, (n_list + 1) * sizeof **out);
    *n = n_list;
    sp_err err = *out ? SP_OK : SP_FAIL(d, SP_NOMEM, "search");
    snprintf(sql, sizeof sql, "%sWHERE seq=?", sp_hdb_columns);
    sqlite3_stmt *s = sp_sql_query(h->db, sql, "");
    for (size_t i = 0; i < n_list && err == SP_OK; i++) {
        sqlite3_reset(s);
        sqlite3_bind_int64(s, 1, list[i].seq);
        err = s && sqlite3_step(s) == SQLITE_ROW ? sp_hdb_read(a, s, &(*out)[i], d)
                                                 : sp_sql_error(h->db, d);
        (*out)[i].score = list[i].score;
    }
    sqlite3_finalize(s);
    return err;
}

sp_err sp_hdb_unembedded(sp_hdb *h, sp_arena *a, sp_hdb_item *out)
{
    char sql[512];
    snprintf(sql, sizeof sql, "%sWHERE vec IS NULL AND status<>'running' ORDER BY seq LIMIT 1",
             sp_hdb_columns);
    sqlite3_stmt *s = sp_sql_query(h->db, sql, "");
    sp_err err = s && sqlite3_step(s) == SQLITE_ROW ? sp_hdb_read(a, s, out, NULL) : SP_NOTFOUND;
    sqlite3_finalize(s);
    return err;
}

sp_err sp_hdb_set_vector(sp_hdb *h, int64_t seq, const int8_t *vec, sp_diag *d)
{
    return sp_sql_run(h->db, d, "UPDATE item SET vec=? WHERE seq=?", "bi", vec,
                      vec ? (size_t)SP_HDB_DIM : 0, seq);
}

/* --- conversations of a tenant ---------------------------------------------------------------- */

enum { MAX_ASKED = 12 /* words of a question */, SNIPPET = 160 /* bytes, about */, MARKS = 8 };

/* What a list is asked for, word by word. */
typedef struct asked {
    sp_buf match;             /* as FTS takes it */
    char word[MAX_ASKED][64]; /* [n] folded */
    size_t n;
} asked;

static sp_err ask_word(void *arg, const sp_rag_token *t)
{
    asked *q = arg;
    if (q->n == MAX_ASKED || strlen(t->whole) >= sizeof q->word[0])
        return SP_OK;
    snprintf(q->word[q->n], sizeof q->word[0], "%s", t->whole);
    sp_buf_printf(&q->match, "%s(\"%s\"*", q->n ? " AND " : "", t->whole);
    if (t->parts)
        sp_buf_printf(&q->match, " OR \"%s\"", t->parts);
    sp_buf_putc(&q->match, ')');
    q->n++;
    return SP_OK;
}

/* Only the last word may be a beginning: whoever types it is not done. */
static void close_words(asked *q)
{
    char *last = NULL, *p = q->match.p;
    while (p && (p = memmem(p, q->match.len - (size_t)(p - q->match.p), "\"*", 2))) {
        if (last)
            *last = ' ';
        last = ++p;
    }
}

/* The rest of the condition on title and id; q NULL: there is none. */
static void put_condition(sp_buf *sql, const asked *q, const char *after)
{
    sp_buf_puts(sql, "WHERE tenant=?1 AND gone IS NULL AND by_response=0");
    if (after)
        sp_buf_puts(sql, " AND (pinned, updated, id) < (SELECT pinned, updated, id FROM "
                         "conversation WHERE id=?3 AND tenant=?1)");
    for (size_t i = 0; q && i < q->n; i++)
        sp_buf_printf(sql, "%s instr(title_words, ?%zu) > 0", i ? " AND" : " AND ((", 5 + i);
    if (q)
        sp_buf_puts(sql, ") OR id IN (SELECT item.conv FROM words_fts JOIN item ON "
                         "item.seq=words_fts.rowid WHERE words_fts MATCH ?4 AND item.gone IS "
                         "NULL))");
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
    sp_buf match = {0};
    sp_buf_printf(&match, "conv : \"%s\" AND words : (%s)", c->id, sp_buf_str(&q->match));
    sqlite3_stmt *s = sp_sql_query(h->db,
                                   "SELECT item.id, item.text FROM words_fts JOIN item ON "
                                   "item.seq=words_fts.rowid WHERE words_fts MATCH ? AND item.gone "
                                   "IS NULL ORDER BY bm25(words_fts, 0, 1) LIMIT 1",
                                   "s", sp_buf_str(&match));
    int rc = s && !match.failed ? sqlite3_step(s) : SQLITE_ERROR;
    sp_err err = rc == SQLITE_ROW || rc == SQLITE_DONE ? SP_OK : sp_sql_error(h->db, d);
    if (rc == SQLITE_ROW) {
        snprintf(c->found, sizeof c->found, "%s", (const char *)sqlite3_column_text(s, 0));
        err = cut_snippet(
            c, a, q,
            (sp_str){(const char *)sqlite3_column_text(s, 1), (size_t)sqlite3_column_bytes(s, 1)},
            d);
    }
    sqlite3_finalize(s);
    sp_buf_fini(&match);
    return err;
}

static sp_err read_list(sp_hdb *h, sp_arena *a, sqlite3_stmt *s, const asked *q, sp_hdb_conv *out,
                        size_t *n, sp_diag *d)
{
    sp_err err = SP_OK;
    int rc;
    while (err == SP_OK && (rc = sqlite3_step(s)) != SQLITE_DONE) {
        err = rc == SQLITE_ROW ? sp_hdb_read_conv(a, s, &out[*n], d) : sp_sql_error(h->db, d);
        if (err == SP_OK && q)
            err = find_message(h, a, q, &out[*n], d);
        *n += err == SP_OK;
    }
    return err;
}

sp_err sp_hdb_list(sp_hdb *h, sp_arena *a, const char *tenant, const char *after, const char *words,
                   size_t cap, sp_hdb_conv **out, size_t *n, sp_diag *d)
{
    asked q = {0};
    sp_buf sql = {0};
    sqlite3_stmt *s = NULL;
    *n = 0;
    *out = sp_arena_alloc(a, (cap + 1) * sizeof **out);
    sp_err err = *out ? SP_OK : SP_FAIL(d, SP_NOMEM, "conversations");
    if (err == SP_OK && after)
        err = sp_hdb_exists(h, tenant, after, d);
    if (err == SP_OK && words)
        err = sp_rag_split(words, strlen(words), ask_word, &q);
    close_words(&q);
    sp_buf_puts(&sql, sp_hdb_conv_columns);
    put_condition(&sql, words ? &q : NULL, after);
    if (err == SP_OK && (sql.failed || q.match.failed))
        err = SP_FAIL(d, SP_NOMEM, "conversations");
    if (err == SP_OK && (!words || q.n)) { /* marks alone are in no text */
        if (sqlite3_prepare_v2(h->db, sp_buf_str(&sql), -1, &s, NULL) != SQLITE_OK)
            err = sp_sql_error(h->db, d);
        sqlite3_bind_text(s, 1, tenant, -1, SQLITE_STATIC);
        sqlite3_bind_int64(s, 2, (int64_t)cap);
        if (after)
            sqlite3_bind_text(s, 3, after, -1, SQLITE_STATIC);
        if (words)
            sqlite3_bind_text(s, 4, sp_buf_str(&q.match), -1, SQLITE_STATIC);
        for (size_t i = 0; i < q.n; i++)
            sqlite3_bind_text(s, (int)(5 + i), q.word[i], -1, SQLITE_STATIC);
        if (err == SP_OK)
            err = read_list(h, a, s, words ? &q : NULL, *out, n, d);
        sqlite3_finalize(s);
    }
    sp_buf_fini(&sql);
    sp_buf_fini(&q.match);
    return err;
}
