/* The index of words: what a chunk's row holds, and the rank of words. Both databases index words
 * that are already broken and folded (split.h); an English stemmer is all they add. */
#include "rag/store_int.h"

#include "base/log.h"
#include "rag/split.h"

#include <stdio.h>

enum { MAX_WORDS = 48, MAX_PHRASES = 4, CATCH_UP = 200 };

/* --- rows
 * ----------------------------------------------------------------------------------------- */

sp_err sp_rag_word_put(sp_rag_store *s, int64_t chunk, const char *coll, const char *place,
                       const char *text, size_t n_text, sp_diag *d)
{
    sp_buf where = {0}, words = {0}, parts = {0}, place_parts = {0};
    sp_err err = sp_rag_split_index(&where, &place_parts, place, strlen(place));
    if (err == SP_OK)
        err = sp_rag_split_index(&words, &parts, text, n_text);
    sp_buf_puts(&where, sp_buf_str(&place_parts));
    if (err != SP_OK || where.failed)
        err = SP_FAIL(d, SP_NOMEM, "words of a chunk");
    else
        err = sp_db_run(s->db, d,
                        "INSERT INTO word(chunk, coll, place, text, parts) VALUES(?,?,?,?,?) ON "
                        "CONFLICT(chunk) DO NOTHING",
                        "issss", chunk, coll, sp_buf_str(&where), sp_buf_str(&words),
                        sp_buf_str(&parts));
    sp_buf_fini(&where);
    sp_buf_fini(&words);
    sp_buf_fini(&parts);
    sp_buf_fini(&place_parts);
    return err;
}

static sp_err catch_up_some(sp_rag_store *s, size_t *n, sp_diag *d)
{
    sp_arena a;
    sp_arena_init(&a, 0);
    struct { int64_t seq; const char *coll, *place, *text; } row[CATCH_UP];
    sp_rows *q = sp_db_query(s->db,
                             "SELECT seq, coll, place, text FROM chunk WHERE NOT EXISTS(SELECT 1 "
                             "FROM word WHERE chunk=chunk.seq) LIMIT ?",
                             "i", (int64_t)CATCH_UP);
    sp_err err = q ? SP_OK : sp_db_error(s->db, d);
    for (*n = 0; err == SP_OK && *n < CATCH_UP && sp_rows_next(q); ++*n) {
        row[*n].seq = sp_rows_int(q, 0);
        row[*n].coll = sp_rows_keep(&a, q, 1);
        row[*n].place = sp_rows_keep(&a, q, 2);
        row[*n].text = sp_rows_keep(&a, q, 3);
        if (!row[*n].coll || !row[*n].place || !row[*n].text)
            err = SP_FAIL(d, SP_NOMEM, "index of words");
    }
    err = sp_rows_end(q, err, d);
    if (err == SP_OK)
        err = sp_db_begin(s->db, d);
    if (err == SP_OK) {
        for (size_t i = 0; i < *n && err == SP_OK; i++)
            err = sp_rag_word_put(s, row[i].seq, row[i].coll, row[i].place, row[i].text,
                                  strlen(row[i].text), d);
        err = sp_db_finish(s->db, err, d);
    }
    sp_arena_fini(&a);
    return err;
}

/* The index of earlier versions goes last: whoever is killed before that begins again where it
 * was. */
sp_err sp_rag_word_catch_up(sp_rag_store *s, sp_diag *d)
{
    static const char *const lite[] = {"DROP TRIGGER IF EXISTS chunk_in",
                                       "DROP TRIGGER IF EXISTS chunk_out", "DROP TABLE chunk_fts"};
    int64_t old;
    bool pg = sp_db_is_pg(s->db);
    SP_TRY(sp_db_int(s->db, &old, d,
                     pg ? "SELECT count(*) FROM information_schema.columns WHERE "
                          "table_schema='sparing' AND table_name='chunk' AND column_name='words'"
                        : "SELECT count(*) FROM sqlite_master WHERE name='chunk_fts'",
                     ""));
    if (!old)
        return SP_OK;
    sp_log(SP_LOG_INFO, "documents: the index of words is made anew");
    for (size_t n = CATCH_UP; n == CATCH_UP;)
        SP_TRY(catch_up_some(s, &n, d));
    if (pg)
        return sp_db_run(s->db, d, "ALTER TABLE chunk DROP COLUMN IF EXISTS words", "");
    SP_TRY(sp_db_begin(s->db, d));
    sp_err err = SP_OK;
    for (size_t i = 0; i < 3 && err == SP_OK; i++)
        err = sp_db_run(s->db, d, lite[i], "");
    return sp_db_finish(s->db, err, d);
}

/* --- the question
 * --------------------------------------------------------------------------------- */

/* A query for the index: words, of which one must be there, and phrases, which all must be. None of
 * the text is syntax in it. */
typedef struct asked {
    sp_buf any;                  /* of the index's own language */
    char *phrase[MAX_PHRASES];   /* as an index's text: each word between spaces */
    size_t n_phrase, n_word;
    bool pg, common;             /* common: words that say little are asked for too */
} asked;

/* Words that follow each other. n: how many of them; 0: all. */
static void put_row(const asked *q, sp_buf *out, const char *p, size_t n)
{
    size_t k = 0;
    p += *p == ' ';
    sp_buf_puts(out, q->pg ? "('" : "\"");
    for (; *p && !(n && *p == ' ' && ++k == n); p++) {
        if (*p == ' ' && !p[1])
            break;
        if (*p == ' ' && q->pg)
            sp_buf_puts(out, "' <-> '");
        else
            sp_buf_putc(out, *p);
    }
    sp_buf_puts(out, q->pg ? "')" : "\"");
}

static sp_err ask_word(void *arg, const sp_rag_token *t)
{
    enum { PARTICLE = 2 /* syllables that Korean puts behind a noun */ };
    asked *q = arg;
    const char *or = q->pg ? " | " : " OR ";
    bool weak = t->is_hiragana || (!t->parts && sp_rag_is_common(t->whole, strlen(t->whole)));
    if (q->n_word == MAX_WORDS || (weak && !q->common))
        return SP_OK;
    sp_buf_puts(&q->any, q->n_word++ ? or : "");
    put_row(q, &q->any, t->whole, 0);
    if (t->parts) {
        sp_buf_puts(&q->any, or);
        put_row(q, &q->any, t->parts, 0);
    }
    for (size_t k = 1; t->is_hangul && k <= PARTICLE && t->n_char >= k + 2; k++) {
        sp_buf_puts(&q->any, or);
        put_row(q, &q->any, t->parts, t->n_char - k);
    }
    return q->any.failed ? SP_NOMEM : SP_OK;
}

/* Where a phrase in quotes begins in p, and its bytes. false: there is none. */
static bool next_quoted(const char **p, const char **from, size_t *n)
{
    static const struct {
        const char *open, *close;
    } marks[] = {{"\"", "\""},
                 {"\xe2\x80\x9c", "\xe2\x80\x9d"},
                 {"\xe2\x80\x9e", "\xe2\x80\x9c"},
                 {"\xe3\x80\x8c", "\xe3\x80\x8d"},
                 {"\xc2\xab", "\xc2\xbb"}};
    for (; **p; ++*p)
        for (size_t i = 0; i < sizeof marks / sizeof *marks; i++) {
            size_t k = strlen(marks[i].open);
            const char *end =
                strncmp(*p, marks[i].open, k) == 0 ? strstr(*p + k, marks[i].close) : NULL;
            if (!end)
                continue;
            *from = *p + k;
            *n = (size_t)(end - *from);
            *p = end + strlen(marks[i].close);
            return true;
        }
    return false;
}

static sp_err ask_phrases(asked *q, const char *text)
{
    const char *from;
    size_t n;
    sp_err err = SP_OK;
    while (err == SP_OK && q->n_phrase < MAX_PHRASES && next_quoted(&text, &from, &n)) {
        sp_buf words = {0}, parts = {0};
        err = sp_rag_split_index(&words, &parts, from, n);
        if (err == SP_OK && words.len) {
            q->phrase[q->n_phrase] = sp_mem_alloc(words.len + 1);
            if (q->phrase[q->n_phrase])
                memcpy(q->phrase[q->n_phrase++], sp_buf_str(&words), words.len + 1);
            else
                err = SP_NOMEM;
        }
        sp_buf_fini(&words);
        sp_buf_fini(&parts);
    }
    return err;
}

static void asked_fini(asked *q)
{
    sp_buf_fini(&q->any);
    for (size_t i = 0; i < q->n_phrase; i++)
        sp_mem_free(q->phrase[i]);
}

static sp_err ask(asked *q, const char *text)
{
    SP_TRY(ask_phrases(q, text));
    /* left out as long as others remain */
    for (int round = 0; round < 2 && q->n_word == 0; round++) {
        q->common = round || q->n_phrase;
        SP_TRY(sp_rag_split(text, strlen(text), ask_word, q));
    }
    return SP_OK;
}

/* The whole query; with_phrases: only what holds them. */
static void put_query(sp_buf *out, const asked *q, int64_t coll, bool with_phrases)
{
    if (!q->pg)
        sp_buf_printf(out, "coll:c%lld AND {place text parts}:(", (long long)coll);
    for (size_t i = 0; with_phrases && i < q->n_phrase; i++) {
        put_row(q, out, q->phrase[i], 0);
        sp_buf_puts(out, q->pg ? " & " : " AND ");
    }
    sp_buf_printf(out, q->pg ? "(%s)" : "(%s))", sp_buf_str(&q->any));
}

/* The index knows stems; a phrase is meant as it is written. */
static bool holds_phrases(const asked *q, const char *place, const char *text)
{
    for (size_t i = 0; i < q->n_phrase; i++)
        if (!strstr(text, q->phrase[i]) && !strstr(place, q->phrase[i]))
            return false;
    return true;
}

static sp_err rank(sp_rag_store *s, const loaded *l, const uint8_t *ok, const asked *want,
                   bool with_phrases, int64_t *out, size_t cap, size_t *n, sp_diag *d)
{
    sp_buf match = {0};
    char coll[24];
    *n = 0;
    snprintf(coll, sizeof coll, "c%lld", (long long)l->coll);
    put_query(&match, want, l->coll, with_phrases);
    int64_t most = ok || with_phrases ? INT64_MAX : (int64_t)cap;
    sp_rows *q =
        match.failed ? NULL
        : want->pg
            ? sp_db_query(s->db,
                          "SELECT chunk.seq, chunk.doc, word.place, word.text FROM word JOIN chunk "
                          "ON chunk.seq=word.chunk, (SELECT to_tsquery('english', ?) "
                          "AS q) AS asked WHERE word.coll=? AND words @@ q ORDER BY ts_rank(words, "
                          "q) DESC, chunk.seq LIMIT ?",
                          "ssi", sp_buf_str(&match), coll, most)
            : sp_db_query(s->db,
                          "SELECT chunk.seq, chunk.doc, word.place, word.text FROM (SELECT rowid "
                          "AS r, bm25(word_fts, 0, 2, 1, 0.5) AS b FROM word_fts "
                          "WHERE word_fts MATCH ? ORDER BY b LIMIT ?) JOIN chunk ON chunk.seq=r "
                          "JOIN word ON word.chunk=r ORDER BY b",
                          "si", sp_buf_str(&match), most);
    sp_err err = q ? SP_OK : match.failed ? SP_FAIL(d, SP_NOMEM, "search") : sp_db_error(s->db, d);
    while (err == SP_OK && *n < cap && sp_rows_next(q))
        if (sp_rag_is_allowed(l, ok, sp_rows_int(q, 1)) &&
            (!with_phrases || holds_phrases(want, sp_rows_str(q, 2), sp_rows_str(q, 3))))
            out[(*n)++] = sp_rows_int(q, 0);
    err = sp_rows_end(q, err, d);
    sp_buf_fini(&match);
    return err;
}

sp_err sp_rag_word_rank(sp_rag_store *s, const loaded *l, const uint8_t *ok, const char *text,
                        int64_t *out, size_t cap, size_t *n, bool *exact, sp_diag *d)
{
    asked q = {.pg = sp_db_is_pg(s->db)};
    sp_err err = ask(&q, text);
    *n = 0;
    if (err != SP_OK)
        err = SP_FAIL(d, err, "words of the question");
    if (err == SP_OK && q.n_word && q.n_phrase)
        err = rank(s, l, ok, &q, true, out, cap, n, d);
    *exact = *n > 0;
    if (err == SP_OK && q.n_word && !*n)
        err = rank(s, l, ok, &q, false, out, cap, n, d);
    asked_fini(&q);
    return err;
}
