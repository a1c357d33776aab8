/* Rows of documents: registered, read, or kept with the reason why not.
 *
 * A document that cannot be read any more keeps the chunks that it had: a failed read is not a
 * deletion. */
#include "rag/store_int.h"

#include "base/clock.h"
#include "base/sha256.h"
#include "base/utf8.h"

#include <stdio.h>

/* Part of a document's hash: changed when the same bytes would give other chunks or terms. */
#define CHUNK_RULES "chunks 4"

bool sp_rag_term_key(char out[96], const char *p, size_t n)
{
    size_t k = 0, letters = 0;
    for (size_t i = 0; i < n;) {
        uint32_t cp;
        size_t len = sp_utf8_decode(&cp, p + i, n - i);
        len = len ? len : 1;
        bool ascii = len == 1,
             word = !ascii || (cp >= '0' && cp <= '9') || (cp | 32) - 'a' < 26 || cp == '_';
        if (k + len >= 95)
            return false;
        if (word) {
            for (size_t c = 0; c < len; c++)
                out[k++] = ascii && cp >= 'A' && cp <= 'Z' ? (char)(cp + 32) : p[i + c];
            letters += !ascii || (cp | 32) - 'a' < 26;
        } else if (k && out[k - 1] != ' ') {
            out[k++] = ' ';
        }
        i += len;
    }
    k -= k && out[k - 1] == ' ';
    out[k] = 0;
    return letters >= 2;
}

typedef struct writer {
    sp_rag_store *s;
    int64_t coll, doc, pos;
    char doc_key[65];
    sp_diag *d;
} writer;

static sp_err write_term(writer *w, int64_t chunk, const char *name)
{
    char key[96];
    int64_t about = name[0] == SP_RAG_ABOUT ? 1 : name[0] == SP_RAG_PHRASE ? -1 : 0;
    name += about != 0;
    if (!sp_rag_term_key(key, name, strlen(name)))
        return SP_OK;
    int64_t term; /* the row's number, old or new */
    SP_TRY(sp_db_int(w->s->db, &term, w->d,
                     "INSERT INTO term(coll, key, name) VALUES(?,?,?) ON CONFLICT(coll, key) DO "
                     "UPDATE SET name=term.name RETURNING seq",
                     "iss", w->coll, key, name));
    return sp_db_run(w->s->db, w->d,
                     "INSERT INTO mention(term, chunk, about) VALUES(?,?,?) ON CONFLICT(term, "
                     "chunk) DO UPDATE SET about=excluded.about "
                     "WHERE excluded.about > mention.about",
                     "iii", term, chunk, about);
}

/* "chunk_" and a hash of document, place, text and, for repeats, its number. */
static sp_err make_chunk_id(char out[SP_RAG_ID], const writer *w, const sp_rag_chunk *c)
{
    sp_sha256 h;
    char hex[65];
    const sp_sha256_part part[] = {{w->doc_key, 64},
                                   {&w->pos, sizeof w->pos},
                                   {c->place, strlen(c->place) + 1},
                                   {c->text, c->n}};
    SP_TRY(sp_sha256_of(&h, part, 4));
    sp_sha256_hex(hex, &h);
    snprintf(out, SP_RAG_ID, "chunk_%.24s", hex);
    return SP_OK;
}

static sp_err write_chunk(writer *w, const sp_rag_chunk *c)
{
    char id[SP_RAG_ID], coll_word[24];
    snprintf(coll_word, sizeof coll_word, "c%lld", (long long)w->coll);
    SP_TRY(make_chunk_id(id, w, c));
    int64_t seq;
    SP_TRY(sp_db_int(w->s->db, &seq, w->d,
                     "INSERT INTO chunk(doc, pos, id, coll, place, text, n_tok) "
                     "VALUES(?,?,?,?,?,?,?) RETURNING seq",
                     "iisssSi", w->doc, w->pos++, id, coll_word, c->place, c->text, c->n,
                     (int64_t)c->n_tok));
    sp_err err = sp_rag_word_put(w->s, seq, coll_word, c->place, c->text, c->n, w->d);
    for (size_t i = 0; i < c->n_terms && err == SP_OK; i += strlen(c->terms + i) + 1)
        err = write_term(w, seq, c->terms + i);
    return err;
}

/* Identity of the bytes under the rules in force, and a key of the document's place. */
static sp_err hash_put(const sp_rag_put *p, sp_sha256 *sha, char key[65], sp_diag *d)
{
    sp_sha256 k;
    const sp_sha256_part what[] = {{CHUNK_RULES, sizeof CHUNK_RULES},
                                   {&p->max_tok, sizeof p->max_tok},
                                   {p->bytes, p->n_bytes}};
    const sp_sha256_part where[] = {{p->coll, strlen(p->coll) + 1}, {p->path, strlen(p->path)}};
    if (sp_sha256_of(sha, what, 3) != SP_OK || sp_sha256_of(&k, where, 2) != SP_OK)
        return SP_FAIL(d, SP_NOMEM, "document");
    sp_sha256_hex(key, &k);
    return SP_OK;
}

typedef struct known { /* the row at a path */
    int64_t seq;
    char id[SP_RAG_ID];
    bool there, same, waits; /* same: of these bytes, and read */
    int64_t n_chunk, n_bad;
    char notes[SP_RAG_WHY];
} known;

static sp_err find_known(sp_rag_store *s, int64_t coll, const char *path, const sp_sha256 *sha,
                         known *out, sp_diag *d)
{
    sp_rows *q = sp_db_query(s->db,
                             "SELECT seq, id, CASE WHEN sha=? AND error IS NULL THEN 1 ELSE 0 END, "
                             "(SELECT count(*) FROM chunk WHERE doc=document.seq),"
                             " state, n_bad, notes FROM document LEFT JOIN outcome ON "
                             "outcome.doc=document.seq WHERE coll=? AND path=?",
                             "bis", sha->b, sizeof sha->b, coll, path);
    sp_err err = sp_rows_first(s->db, q, d);
    *out = (known){.there = err == SP_OK};
    if (err == SP_OK) {
        out->seq = sp_rows_int(q, 0);
        snprintf(out->id, sizeof out->id, "%s", sp_rows_str(q, 1));
        out->waits = strcmp(sp_rows_str(q, 4), "waiting") == 0;
        out->same = sp_rows_int(q, 2) && !out->waits;
        out->n_chunk = sp_rows_int(q, 3);
        out->n_bad = sp_rows_int(q, 5);
        snprintf(out->notes, sizeof out->notes, "%s", sp_rows_str(q, 6));
    }
    return sp_rows_end(q, err == SP_NOTFOUND ? SP_OK : err, d);
}

static sp_err set_outcome(sp_rag_store *s, int64_t doc, const char *state, size_t n_bad,
                          const char *notes, sp_diag *d)
{
    return sp_db_run(s->db, d,
                     "INSERT INTO outcome(doc, state, n_bad, notes) VALUES(?,?,?,?) ON "
                     "CONFLICT(doc) DO UPDATE SET state=excluded.state,"
                     " n_bad=excluded.n_bad, notes=excluded.notes",
                     "isis", doc, state, (int64_t)n_bad, notes);
}

/* The row at the path, made if it is not there; what it had stays. */
static sp_err register_doc(writer *w, const sp_rag_put *p, const sp_sha256 *sha, const known *have,
                           sp_diag *d)
{
    char made[SP_RAG_ID];
    snprintf(made, sizeof made, "file-%.32s", w->doc_key);
    w->doc = have->seq;
    if (have->there)
        return sp_db_run(w->s->db, d,
                         "UPDATE document SET id=?, sha=?, n_bytes=?, attributes=coalesce(?, "
                         "attributes), error=NULL WHERE seq=?",
                         "sbisi", p->id ? p->id : made, sha->b, sizeof sha->b, (int64_t)p->n_bytes,
                         p->attributes, w->doc);
    return sp_db_int(w->s->db, &w->doc, d,
                     "INSERT INTO document(coll, id, path, title, sha, n_bytes, created, "
                     "attributes) VALUES(?,?,?,?,?,?,?,?) RETURNING seq",
                     "isssbiis", w->coll, p->id ? p->id : made, p->path, p->path, sha->b,
                     sizeof sha->b, (int64_t)p->n_bytes, (int64_t)sp_clock_wall(),
                     p->attributes ? p->attributes : "{}");
}

static sp_err drop_chunks(writer *w, sp_diag *d)
{
    SP_TRY(sp_db_run(w->s->db, d, "DELETE FROM chunk WHERE doc=?", "i", w->doc));
    return sp_db_run(
        w->s->db, d,
        "DELETE FROM term WHERE coll=? AND NOT EXISTS(SELECT 1 FROM mention WHERE term=term.seq)",
        "i", w->coll);
}

/* How its reading ended. */
static sp_err conclude(writer *w, const sp_rag_document *x, sp_diag *d)
{
    const sp_rag_report *r = &x->report;
    const char *why = x->n_chunk ? NULL : sp_buf_str(&r->why);
    SP_TRY(sp_db_run(w->s->db, d, "UPDATE document SET title=?, error=? WHERE seq=?", "ssi",
                     x->title, why, w->doc));
    if (why || r->n_bad || r->notes.len)
        return set_outcome(w->s, w->doc,
                           why        ? "empty"
                           : r->n_bad ? "partial"
                                      : "remark",
                           r->n_bad, why ? why : sp_buf_str(&r->notes), d);
    return sp_db_run(w->s->db, d, "DELETE FROM outcome WHERE doc=?", "i", w->doc);
}

static sp_err store_all(writer *w, const sp_rag_put *p, const sp_sha256 *sha, const known *have,
                        const sp_rag_document *x, sp_diag *d)
{
    SP_TRY(register_doc(w, p, sha, have, d));
    if (have->there)
        SP_TRY(drop_chunks(w, d));
    for (size_t i = 0; i < x->n_chunk; i++)
        SP_TRY(write_chunk(w, &x->chunk[i]));
    SP_TRY(conclude(w, x, d));
    return sp_rag_touch(w->s, w->coll, d);
}

static sp_err set_attributes(sp_rag_store *s, const known *have, const sp_rag_put *p, int64_t coll,
                             sp_diag *d)
{
    if (!p->attributes && !p->id)
        return SP_OK;
    SP_TRY(sp_db_run(s->db, d, "UPDATE document SET attributes=coalesce(?, attributes) WHERE seq=?",
                     "si", p->attributes, have->seq));
    return sp_rag_touch(s, coll, d);
}

static void say_outcome(sp_rag_outcome *out, sp_rag_done done, size_t n_chunk, size_t n_bad,
                        const char *notes)
{
    out->done = done;
    out->n_chunk = n_chunk;
    out->n_bad = n_bad;
    snprintf(out->why, sizeof out->why, "%s", notes);
    out->why[strlen(out->why) - sp_utf8_tail(out->why, strlen(out->why))] = 0;
}

static sp_err begin_put(writer *w, const sp_rag_put *p, sp_sha256 *sha, known *have,
                        sp_rag_outcome *out, sp_diag *d)
{
    SP_TRY(sp_rag_coll_seq(w->s, p->tenant, p->coll, &w->coll, d));
    SP_TRY(hash_put(p, sha, w->doc_key, d));
    SP_TRY(find_known(w->s, w->coll, p->path, sha, have, d));
    snprintf(out->id, SP_RAG_ID, "%s", p->id ? p->id : "");
    if (!p->id)
        snprintf(out->id, SP_RAG_ID, "file-%.32s", w->doc_key);
    if (!have->same)
        return SP_OK;
    say_outcome(out, SP_RAG_SAME, (size_t)have->n_chunk, (size_t)have->n_bad, have->notes);
    return set_attributes(w->s, have, p, w->coll, d);
}

sp_err sp_rag_doc_put(sp_rag_store *s, const sp_rag_put *p, sp_rag_outcome *out, sp_diag *d)
{
    sp_sha256 sha;
    known have;
    sp_rag_document x;
    writer w = {.s = s, .d = d};
    SP_TRY(begin_put(&w, p, &sha, &have, out, d));
    if (have.same)
        return SP_OK;
    const sp_rag_source in = {p->path, p->bytes, p->n_bytes, p->vocab, p->max_tok, p->budget};
    sp_err err = sp_rag_document_read(&x, &in, d);
    if (err == SP_OK)
        err = sp_db_begin(s->db, d);
    if (err == SP_OK)
        err = sp_db_finish(s->db, store_all(&w, p, &sha, &have, &x, d), d);
    if (err == SP_OK)
        say_outcome(out,
                    !x.n_chunk   ? SP_RAG_NOTHING
                    : have.there ? SP_RAG_CHANGED
                                 : SP_RAG_ADDED,
                    x.n_chunk, x.report.n_bad,
                    sp_buf_str(x.n_chunk ? &x.report.notes : &x.report.why));
    sp_rag_document_fini(&x);
    return err;
}

sp_err sp_rag_doc_fail(sp_rag_store *s, const sp_rag_put *p, const char *error, sp_diag *d)
{
    sp_sha256 sha;
    known have;
    writer w = {.s = s, .d = d};
    SP_TRY(sp_rag_coll_seq(s, p->tenant, p->coll, &w.coll, d));
    SP_TRY(hash_put(p, &sha, w.doc_key, d));
    SP_TRY(find_known(s, w.coll, p->path, &sha, &have, d));
    SP_TRY(sp_db_begin(s->db, d));
    sp_err err = register_doc(&w, p, &sha, &have, d);
    if (err == SP_OK)
        err = sp_db_run(s->db, d, "UPDATE document SET error=? WHERE seq=?", "si", error, w.doc);
    if (err == SP_OK)
        err = sp_db_run(s->db, d, "DELETE FROM outcome WHERE doc=?", "i", w.doc);
    if (err == SP_OK)
        err = sp_rag_touch(s, w.coll, d);
    return sp_db_finish(s->db, err, d);
}

/* --- documents that wait to be read
 * ------------------------------------------------------------- */
/* Of a waiting document, outcome.notes is who has claimed it and n_bad when. A SQLite file has one
 * server: its predecessor's claims are void. */

sp_err sp_rag_doc_register(sp_rag_store *s, const sp_rag_put *p, sp_rag_outcome *out, sp_diag *d)
{
    sp_sha256 sha;
    known have;
    writer w = {.s = s, .d = d};
    SP_TRY(begin_put(&w, p, &sha, &have, out, d));
    if (have.same)
        return SP_OK;
    SP_TRY(sp_db_begin(s->db, d));
    sp_err err = register_doc(&w, p, &sha, &have, d);
    if (err == SP_OK)
        err = set_outcome(s, w.doc, "waiting", 0, "", d);
    if (err == SP_OK)
        err = sp_rag_touch(s, w.coll, d);
    say_outcome(out, have.there ? SP_RAG_CHANGED : SP_RAG_ADDED, 0, 0, "");
    return sp_db_finish(s->db, err, d);
}

/* Makes or renews the claim. SP_NOTFOUND: the document is gone, was read, or is another
 * server's. */
static sp_err claim(sp_rag_store *s, int64_t doc, sp_diag *d)
{
    int64_t now = sp_clock_wall();
    SP_TRY(sp_db_run(s->db, d,
                     "UPDATE outcome SET notes=?1, n_bad=?2 WHERE doc=?3 AND state='waiting' AND "
                     "(notes=?1 OR n_bad<?4)",
                     "siii", s->self, now, doc,
                     sp_db_is_pg(s->db) ? now - SP_RAG_CLAIM_S : now + 1));
    return sp_db_changes(s->db) ? SP_OK : SP_NOTFOUND;
}

sp_err sp_rag_waiting_next(sp_rag_store *s, sp_arena *a, const char *not_of, sp_rag_waiting *out,
                           sp_diag *d)
{
    sp_rows *q = sp_db_query(
        s->db,
        "SELECT document.seq, collection.seq, collection.tenant, collection.id, document.path, "
        "file.content"
        " FROM outcome JOIN document ON document.seq=outcome.doc JOIN collection ON "
        "collection.seq=document.coll"
        " JOIN file ON file.id=document.id AND file.tenant=collection.tenant"
        " WHERE outcome.state='waiting' AND (outcome.notes=?1 OR outcome.n_bad<?2)"
        " ORDER BY CASE WHEN collection.tenant=?3 THEN 1 ELSE 0 END, document.seq LIMIT 1",
        "sis", s->self, sp_clock_wall() - (sp_db_is_pg(s->db) ? SP_RAG_CLAIM_S : -1), not_of);
    sp_err err = sp_rows_first(s->db, q, d);
    if (err == SP_OK) {
        size_t n;
        const void *p = sp_rows_blob(q, 5, &n);
        *out = (sp_rag_waiting){.doc = sp_rows_int(q, 0),
                                .coll_seq = sp_rows_int(q, 1),
                                .tenant = sp_rows_keep(a, q, 2),
                                .coll = sp_rows_keep(a, q, 3),
                                .path = sp_rows_keep(a, q, 4),
                                .bytes = sp_arena_strndup(a, p ? p : "", n),
                                .n_bytes = n};
        err = out->tenant && out->coll && out->path && out->bytes
                  ? SP_OK
                  : SP_FAIL(d, SP_NOMEM, "document");
    }
    err = sp_rows_end(q, err, d);
    return err == SP_OK ? claim(s, out->doc, d) : err;
}

static sp_err store_some(writer *w, const sp_rag_document *x, size_t from, size_t n, sp_diag *d)
{
    SP_TRY(claim(w->s, w->doc, d));
    if (from == 0)
        SP_TRY(drop_chunks(w, d));
    for (size_t i = from; i < from + n; i++)
        SP_TRY(write_chunk(w, &x->chunk[i]));
    return from + n == x->n_chunk ? conclude(w, x, d) : SP_OK;
}

static sp_err begin_waiting(writer *out, sp_rag_store *s, const sp_rag_waiting *from, sp_diag *d)
{
    sp_sha256 key;
    const sp_sha256_part where[] = {{from->coll, strlen(from->coll) + 1},
                                    {from->path, strlen(from->path)}};
    *out = (writer){.s = s, .coll = from->coll_seq, .doc = from->doc, .d = d};
    if (sp_sha256_of(&key, where, 2) != SP_OK)
        return SP_FAIL(d, SP_NOMEM, "document");
    sp_sha256_hex(out->doc_key, &key);
    return sp_db_begin(s->db, d);
}

sp_err sp_rag_waiting_store(sp_rag_store *s, const sp_rag_waiting *from, const sp_rag_document *x,
                            size_t first, size_t n, sp_diag *d)
{
    writer w;
    SP_TRY(begin_waiting(&w, s, from, d));
    w.pos = (int64_t)first;
    sp_err err = store_some(&w, x, first, n, d);
    if (err == SP_OK)
        err = sp_rag_touch(s, w.coll, d);
    return sp_db_finish(s->db, err, d);
}

sp_err sp_rag_waiting_fail(sp_rag_store *s, const sp_rag_waiting *from, const char *error,
                           sp_diag *d)
{
    writer w;
    SP_TRY(begin_waiting(&w, s, from, d));
    sp_err err = claim(s, w.doc, d);
    if (err == SP_OK)
        err = sp_db_run(s->db, d, "UPDATE document SET error=? WHERE seq=?", "si", error, w.doc);
    if (err == SP_OK)
        err = sp_db_run(s->db, d, "DELETE FROM outcome WHERE doc=?", "i", w.doc);
    if (err == SP_OK)
        err = sp_rag_touch(s, w.coll, d);
    return sp_db_finish(s->db, err, d);
}
