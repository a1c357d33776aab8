/* Rows of conversations, of their items and of the responses that end at them. */
#include "pipe/history_db_int.h"

#include "base/clock.h"
#include "base/rng.h"
#include "rag/split.h"

#include <stdio.h>
#include <string.h>

enum { TITLE = 40 /* characters of a title that is made of what was said */ };

sp_str sp_hdb_column(sp_arena *a, sp_rows *r, int i)
{
    char *copy = sp_rows_keep(a, r, i);
    return (sp_str){copy, copy ? sp_rows_bytes(r, i) : 0};
}

sp_err sp_hdb_hold(sp_hdb *h, const char *conv, sp_diag *d)
{
    int64_t one;
    if (!h->is_pg) /* the transaction has the whole file */
        return SP_OK;
    sp_err err =
        sp_db_int(h->db, &one, d, "SELECT 1 FROM conversation WHERE id=? FOR UPDATE", "s", conv);
    return err == SP_NOTFOUND ? sp_hdb_not_found(conv, d) : err;
}

sp_err sp_hdb_scrub(sp_hdb *h, sp_diag *d)
{
    if (h->is_pg)
        return SP_OK;
    SP_TRY(sp_db_run(h->db, d, "INSERT INTO item_fts(item_fts) VALUES('optimize')", ""));
    return sp_db_run(h->db, d, "INSERT INTO words_fts(words_fts) VALUES('optimize')", "");
}

void sp_hdb_id(char out[SP_ID_BYTES], const char *prefix)
{
    snprintf(out, SP_ID_BYTES, "%.10s_%016llx%016llx", prefix, (unsigned long long)sp_rng_entropy(),
             (unsigned long long)sp_rng_entropy());
}

/* --- conversations ---------------------------------------------------------------------------- */

sp_err sp_hdb_create(sp_hdb *h, const char *tenant, const char *id, const char *metadata,
                     bool by_response, sp_diag *d)
{
    int64_t now = sp_clock_wall(), taken = 0;
    SP_TRY(sp_db_int(h->db, &taken, d, "SELECT count(*) FROM conversation WHERE id=?", "s", id));
    if (!taken) {
        SP_TRY(sp_db_run(h->db, d,
                         "INSERT INTO conversation(id, tenant, created, updated, metadata, "
                         "by_response) VALUES(?,?,?,?,?,?) ON CONFLICT DO NOTHING",
                         "ssiisi", id, tenant, now, now, metadata, (int64_t)by_response));
        taken = sp_db_changes(h->db) == 0;
    }
    return taken ? SP_FAIL(d, SP_INVAL, "the id %.48s is taken; make another one", id) : SP_OK;
}

sp_err sp_hdb_not_found(const char *id, sp_diag *d)
{
    return SP_FAIL(d, SP_NOTFOUND, "there is no conversation %.60s", id);
}

#define CONV                                                                                \
    "SELECT id, created, updated, n_item - n_gone, n_item, metadata, title, pinned, leaf, " \
    "settings, "                                                                            \
    "EXISTS(SELECT 1 FROM item WHERE conv=conversation.id AND status='running') FROM "      \
    "conversation "

const char sp_hdb_conv_columns[] = CONV;

sp_err sp_hdb_read_conv(sp_arena *a, sp_rows *r, sp_hdb_conv *out, sp_diag *d)
{
    *out = (sp_hdb_conv){.created = sp_rows_int(r, 1),
                         .updated = sp_rows_int(r, 2),
                         .n_item = sp_rows_int(r, 3),
                         .end = sp_rows_int(r, 4),
                         .metadata = sp_hdb_column(a, r, 5),
                         .title = sp_hdb_column(a, r, 6),
                         .pinned = sp_rows_int(r, 7) != 0,
                         .settings = sp_hdb_column(a, r, 9),
                         .live = sp_rows_int(r, 10) != 0};
    snprintf(out->id, sizeof out->id, "%s", sp_rows_str(r, 0));
    snprintf(out->leaf, sizeof out->leaf, "%s", sp_rows_str(r, 8));
    return out->metadata.p && out->title.p && out->settings.p
               ? SP_OK
               : SP_FAIL(d, SP_NOMEM, "conversation");
}

sp_err sp_hdb_get(sp_hdb *h, sp_arena *a, const char *tenant, const char *id, sp_hdb_conv *out,
                  sp_diag *d)
{
    sp_rows *r =
        sp_db_query(h->db, CONV "WHERE id=? AND tenant=? AND gone IS NULL", "ss", id, tenant);
    sp_err err = sp_rows_first(h->db, r, d);
    if (err == SP_NOTFOUND)
        err = sp_hdb_not_found(id, d);
    if (err == SP_OK)
        err = sp_hdb_read_conv(a, r, out, d);
    return sp_rows_end(r, err, d);
}

sp_err sp_hdb_exists(sp_hdb *h, const char *tenant, const char *id, sp_diag *d)
{
    int64_t one;
    sp_err err = sp_db_int(h->db, &one, d,
                           "SELECT 1 FROM conversation WHERE id=? AND tenant=? AND gone IS NULL",
                           "ss", id, tenant);
    return err == SP_NOTFOUND ? sp_hdb_not_found(id, d) : err;
}

sp_err sp_hdb_words(sp_buf *out, sp_str text, sp_diag *d)
{
    sp_buf parts = {0};
    sp_err err = sp_rag_split_index(out, &parts, text.p, text.n);
    sp_buf_put(out, parts.p, parts.len);
    err = err == SP_OK && (out->failed || parts.failed) ? SP_NOMEM : err;
    sp_buf_fini(&parts);
    return err == SP_OK ? SP_OK : SP_FAIL(d, err, "words of a text");
}

static sp_err set_title(sp_hdb *h, const char *id, sp_str title, sp_diag *d)
{
    sp_buf words = {0};
    sp_err err = sp_hdb_words(&words, title, d);
    if (err == SP_OK)
        err = sp_db_run(h->db, d, "UPDATE conversation SET title=?, title_words=? WHERE id=?",
                        "SSs", title.p, title.n, sp_buf_str(&words), words.len, id);
    sp_buf_fini(&words);
    return err;
}

sp_err sp_hdb_entitle(sp_hdb *h, const char *id, sp_str said, sp_diag *d)
{
    char title[4 * TITLE + 4];
    size_t n = 0, n_char = 0;
    for (size_t i = 0; i < said.n && n + 1 < sizeof title; i++) {
        unsigned char c = (unsigned char)said.p[i];
        bool blank = c <= ' ', begins = (c & 0xc0) != 0x80;
        if (blank && (n == 0 || title[n - 1] == ' '))
            continue;
        if (begins && n_char++ == TITLE)
            break;
        title[n++] = blank ? ' ' : (char)c;
    }
    n -= n && title[n - 1] == ' ';
    return n ? set_title(h, id, (sp_str){title, n}, d) : SP_OK;
}

sp_err sp_hdb_entitle_bare(sp_hdb *h, const char *id, sp_str said, sp_diag *d)
{
    int64_t bare = 0;
    SP_TRY(sp_db_int(h->db, &bare, d, "SELECT title='' FROM conversation WHERE id=?", "s", id));
    return bare ? sp_hdb_entitle(h, id, said, d) : SP_OK;
}

sp_err sp_hdb_change(sp_hdb *h, const char *tenant, const char *id, const sp_hdb_patch *p,
                     bool *lost, sp_diag *d)
{
    sp_arena a;
    sp_hdb_item leaf;
    SP_TRY(sp_hdb_exists(h, tenant, id, d));
    sp_arena_init(&a, 0);
    sp_err err = p->leaf ? sp_hdb_newest(h, &a, tenant, id, p->leaf, &leaf, d) : SP_OK;
    *lost = err == SP_NOTFOUND;
    if (err == SP_OK)
        err = sp_db_begin(h->db, d);
    if (err == SP_OK) {
        if (p->leaf)
            err =
                sp_db_run(h->db, d, "UPDATE conversation SET leaf=? WHERE id=?", "ss", leaf.id, id);
        if (err == SP_OK && p->title)
            err = set_title(h, id, (sp_str){p->title, strlen(p->title)}, d);
        if (err == SP_OK && p->settings)
            err = sp_db_run(h->db, d, "UPDATE conversation SET settings=? WHERE id=?", "ss",
                            p->settings, id);
        if (err == SP_OK && p->metadata)
            err = sp_db_run(h->db, d, "UPDATE conversation SET metadata=? WHERE id=?", "ss",
                            p->metadata, id);
        if (err == SP_OK && p->pinned)
            err = sp_db_run(h->db, d, "UPDATE conversation SET pinned=? WHERE id=?", "is",
                            (int64_t)*p->pinned, id);
        err = sp_db_finish(h->db, err, d);
    }
    sp_arena_fini(&a);
    return err;
}

/* Objects first: an object whose row is gone could never be found again. */
static sp_err delete_objects(sp_hdb *h, const char *tenant, const char *id, sp_diag *d)
{
    sp_rows *r = sp_db_query(h->db,
                             h->is_pg ? "SELECT frozen FROM conversation WHERE tenant=?1 AND "
                                        "(?2='' OR id=?2) ORDER BY id FOR UPDATE"
                                      : "SELECT frozen FROM conversation WHERE tenant=?1 AND "
                                        "(?2='' OR id=?2)",
                             "ss", tenant, id);
    sp_err err = r ? SP_OK : sp_db_error(h->db, d);
    while (err == SP_OK && sp_rows_next(r)) {
        const char *key = sp_rows_str(r, 0);
        if (*key)
            err = h->cold ? h->cold->del(h->cold->arg, key, d)
                          : SP_FAIL(d, SP_UNSUP,
                                    "a conversation is in the object store, and this server was "
                                    "started without --s3");
    }
    return sp_rows_end(r, err, d);
}

static sp_err delete_rows(sp_hdb *h, const char *tenant, const char *id, size_t *n, sp_diag *d)
{
    static const char *const sql[] = {
        "DELETE FROM item WHERE conv IN (SELECT id FROM conversation WHERE tenant=?1 AND (?2='' OR "
        "id=?2))",
        "DELETE FROM response WHERE tenant=?1 AND (?2='' OR conv=?2)",
        "DELETE FROM conversation WHERE tenant=?1 AND (?2='' OR id=?2)"};
    SP_TRY(delete_objects(h, tenant, id, d));
    for (size_t i = 0; i < sizeof sql / sizeof sql[0]; i++)
        SP_TRY(sp_db_run(h->db, d, sql[i], "ss", tenant, id));
    *n = (size_t)sp_db_changes(h->db);
    SP_TRY(sp_hdb_tell_others(h, tenant, id, d));
    return sp_hdb_scrub(h, d);
}

sp_err sp_hdb_delete(sp_hdb *h, const char *tenant, const char *id, size_t *n, sp_diag *d)
{
    int64_t there = 1;
    *n = 0;
    if (id)
        SP_TRY(sp_db_int(h->db, &there, d,
                         "SELECT count(*) FROM conversation WHERE id=? AND tenant=?", "ss", id,
                         tenant));
    if (!there)
        return sp_hdb_not_found(id, d);
    SP_TRY(sp_db_begin(h->db, d));
    SP_TRY(sp_db_finish(h->db, delete_rows(h, tenant, id ? id : "", n, d), d));
    return sp_db_settle(h->db, d);
}

/* --- items ------------------------------------------------------------------------------------ */

const char sp_hdb_columns[] =
    "SELECT item.id, item.seq, item.pos, item.created, item.n_tok, item.role, coalesce(item.draft, "
    "item.text), item.more, item.parent, item.status, "
    "item.receipt, item.sources FROM item ";

static const char *const status_names[] = {[SP_HDB_COMPLETE] = "complete",
                                           [SP_HDB_RUNNING] = "running",
                                           [SP_HDB_CUT] = "cut",
                                           [SP_HDB_STOPPED] = "stopped",
                                           [SP_HDB_FAILED] = "failed"};

const char *sp_hdb_status_name(sp_hdb_status s)
{
    return status_names[s];
}

static sp_str optional(sp_arena *a, sp_rows *r, int i)
{
    return sp_rows_is_null(r, i) ? (sp_str){"", 0} : sp_hdb_column(a, r, i);
}

sp_err sp_hdb_read(sp_arena *a, sp_rows *r, sp_hdb_item *out, sp_diag *d)
{
    *out = (sp_hdb_item){.seq = sp_rows_int(r, 1),
                         .pos = sp_rows_int(r, 2),
                         .created = sp_rows_int(r, 3),
                         .n_tok = (size_t)sp_rows_int(r, 4),
                         .role = sp_hdb_column(a, r, 5),
                         .text = sp_hdb_column(a, r, 6),
                         .more = optional(a, r, 7),
                         .receipt = optional(a, r, 10),
                         .sources = optional(a, r, 11)};
    snprintf(out->id, sizeof out->id, "%s", sp_rows_str(r, 0));
    snprintf(out->parent, sizeof out->parent, "%s", sp_rows_str(r, 8));
    for (size_t i = 0; i < sizeof status_names / sizeof status_names[0]; i++)
        out->status =
            strcmp(sp_rows_str(r, 9), status_names[i]) == 0 ? (sp_hdb_status)i : out->status;
    return out->role.p && out->text.p && out->more.p && out->receipt.p && out->sources.p
               ? SP_OK
               : SP_FAIL(d, SP_NOMEM, "items");
}

/* What stands for NULL where there is nothing. */
static const char *or_null(sp_str s)
{
    return s.n ? s.p : NULL;
}

sp_err sp_hdb_insert(sp_hdb *h, const char *conv, sp_hdb_item *it, const void *vec, size_t n_vec,
                     sp_diag *d)
{
    sp_buf words = {0};
    bool runs = it->status == SP_HDB_RUNNING;
    sp_str text = runs || !it->text.n ? (sp_str){"", 0} : it->text;
    sp_err err = sp_hdb_words(&words, text, d);
    if (err == SP_OK)
        err = sp_db_int(
            h->db, &it->seq, d,
            "INSERT INTO item(conv, pos, id, role, text, created, n_tok, vec, more, parent, "
            "status, receipt, sources, draft, words, owner) "
            "VALUES(?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?) RETURNING seq",
            "sisSSiibSssSSSSs", conv, it->pos, it->id, it->role.p, it->role.n, text.p, text.n,
            it->created, (int64_t)it->n_tok, n_vec ? vec : NULL, n_vec, or_null(it->more),
            it->more.n, it->parent, status_names[it->status], or_null(it->receipt), it->receipt.n,
            or_null(it->sources), it->sources.n, runs ? (it->text.n ? it->text.p : "") : NULL,
            it->text.n, sp_buf_str(&words), words.len, runs ? h->self : NULL);
    sp_buf_fini(&words);
    return err;
}

/* Inside a transaction: items get pos, parent and what they lack, and the conversation a leaf and a
 * title. */
static sp_err add_items(sp_hdb *h, const char *id, sp_hdb_item *item, size_t n, sp_diag *d)
{
    int64_t now = sp_clock_wall(), pos = 0;
    char leaf[SP_ID_BYTES] = "";
    bool bare = false;
    SP_TRY(sp_hdb_hold(h, id, d));
    sp_rows *r =
        sp_db_query(h->db, "SELECT n_item, leaf, title='' FROM conversation WHERE id=?", "s", id);
    sp_err err = sp_rows_first(h->db, r, d);
    if (err == SP_OK) {
        pos = sp_rows_int(r, 0);
        snprintf(leaf, sizeof leaf, "%s", sp_rows_str(r, 1));
        bare = sp_rows_int(r, 2) != 0;
    }
    err = sp_rows_end(r, err == SP_NOTFOUND ? sp_hdb_not_found(id, d) : err, d);
    for (size_t i = 0; i < n && err == SP_OK; i++) {
        bool asked = item[i].role.n == 4 && memcmp(item[i].role.p, "user", 4) == 0;
        if (!item[i].id[0]) {
            sp_hdb_id(item[i].id, "msg");
            snprintf(item[i].parent, SP_ID_BYTES, "%s", leaf);
        }
        item[i].pos = pos + (int64_t)i;
        item[i].created = item[i].created ? item[i].created : now;
        err = sp_hdb_insert(h, id, &item[i], NULL, 0, d);
        snprintf(leaf, sizeof leaf, "%s", item[i].id);
        if (err == SP_OK && bare && asked)
            err = sp_hdb_entitle(h, id, item[i].text, d);
        bare = bare && !asked;
    }
    return err == SP_OK
               ? sp_db_run(h->db, d,
                           "UPDATE conversation SET n_item=?, updated=?, leaf=? WHERE id=?", "iiss",
                           pos + (int64_t)n, now, leaf, id)
               : err;
}

sp_err sp_hdb_append(sp_hdb *h, const char *tenant, const char *id, sp_hdb_item *item, size_t n,
                     const char *response, sp_diag *d)
{
    SP_TRY(sp_hdb_thaw(h, tenant, id, d));
    SP_TRY(sp_db_begin(h->db, d));
    sp_err err = add_items(h, id, item, n, d);
    if (err == SP_OK && response)
        err = sp_db_run(h->db, d,
                        "INSERT INTO response(id, conv, tenant, pos_end) SELECT ?, id, ?, n_item "
                        "FROM conversation WHERE id=?",
                        "sss", response, tenant, id);
    return sp_db_finish(h->db, err, d);
}

static sp_err grow(sp_hdb *h, const char *conv, sp_hdb_item *item, size_t n, sp_diag *d)
{
    int64_t there = 0;
    SP_TRY(sp_hdb_hold(h, conv, d));
    for (size_t i = 0; i < n; i++) {
        SP_TRY(sp_db_int(h->db, &there, d, "SELECT count(*) FROM item WHERE conv=? AND id=?", "ss",
                         conv, item[i].id));
        if (there)
            return SP_FAIL(d, SP_INVAL, "the conversation has a message %.60s already", item[i].id);
    }
    return add_items(h, conv, item, n, d);
}

sp_err sp_hdb_grow(sp_hdb *h, const char *tenant, const char *conv, sp_hdb_item *item, size_t n,
                   sp_diag *d)
{
    SP_TRY(sp_hdb_thaw(h, tenant, conv, d));
    SP_TRY(sp_db_begin(h->db, d));
    return sp_db_finish(h->db, grow(h, conv, item, n, d), d);
}

sp_err sp_hdb_response(sp_hdb *h, const char *tenant, const char *response, char id[SP_ID_BYTES],
                       int64_t *end, sp_diag *d)
{
    sp_rows *r = sp_db_query(h->db, "SELECT conv, pos_end FROM response WHERE id=? AND tenant=?",
                             "ss", response, tenant);
    sp_err err = sp_rows_first(h->db, r, d);
    if (err == SP_NOTFOUND)
        err = SP_FAIL(d, SP_NOTFOUND, "there is no stored response %.60s", response);
    if (err == SP_OK) {
        snprintf(id, SP_ID_BYTES, "%s", sp_rows_str(r, 0));
        *end = sp_rows_int(r, 1);
    }
    return sp_rows_end(r, err, d);
}

sp_err sp_hdb_set_object(sp_hdb *h, const char *tenant, const char *response, const char *object,
                         sp_diag *d)
{
    return sp_db_run(h->db, d, "UPDATE response SET object=? WHERE id=? AND tenant=?", "sss",
                     object, response, tenant);
}

sp_err sp_hdb_object(sp_hdb *h, sp_arena *a, const char *tenant, const char *response, sp_str *out,
                     sp_diag *d)
{
    sp_rows *r = sp_db_query(
        h->db, "SELECT object FROM response WHERE id=? AND tenant=? AND object IS NOT NULL", "ss",
        response, tenant);
    sp_err err = sp_rows_first(h->db, r, d);
    *out = err == SP_OK ? sp_hdb_column(a, r, 0) : (sp_str){NULL, 0};
    if (err == SP_OK && !out->p)
        err = SP_FAIL(d, SP_NOMEM, "response");
    return sp_rows_end(r, err == SP_NOTFOUND ? SP_OK : err, d);
}

sp_err sp_hdb_drop(sp_hdb *h, const char *tenant, const char *response, char id[SP_ID_BYTES],
                   bool *last, sp_diag *d)
{
    int64_t end, gone = 0;
    SP_TRY(sp_hdb_response(h, tenant, response, id, &end, d));
    SP_TRY(sp_db_run(h->db, d, "DELETE FROM response WHERE id=? AND tenant=?", "ss", response,
                     tenant));
    SP_TRY(sp_db_int(h->db, &gone, d,
                     "SELECT by_response<>0 AND NOT EXISTS(SELECT 1 FROM response WHERE conv=?1) "
                     "FROM conversation WHERE id=?1 AND tenant=?2",
                     "ss", id, tenant));
    *last = gone != 0;
    return SP_OK;
}

sp_err sp_hdb_fork(sp_hdb *h, const char *tenant, const char *from, int64_t end, const char *id,
                   sp_diag *d)
{
    int64_t now = sp_clock_wall();
    SP_TRY(sp_hdb_thaw(h, tenant, from, d));
    SP_TRY(sp_db_begin(h->db, d));
    sp_err err =
        sp_db_run(h->db, d,
                  "INSERT INTO conversation(id, tenant, created, updated, metadata, n_item, "
                  "by_response, title, title_words, settings, leaf) "
                  "SELECT ?, tenant, ?, ?, metadata, ?, 1, title, title_words, settings, "
                  "coalesce((SELECT id FROM item WHERE conv=?5 AND pos < "
                  "?4 ORDER BY pos DESC LIMIT 1), '') FROM conversation WHERE id=?5 AND tenant=?6",
                  "siiiss", id, now, now, end, from, tenant);
    if (err == SP_OK)
        err = sp_db_run(h->db, d,
                        "INSERT INTO item(conv, pos, id, role, text, created, n_tok, vec, more, "
                        "parent, status, receipt, sources, words) SELECT ?, pos, id, "
                        "role, text, created, n_tok, vec, more, parent, status, receipt, sources, "
                        "words FROM item WHERE conv=? AND pos < ? AND "
                        "status<>'running' AND gone IS NULL",
                        "ssi", id, from, end);
    return sp_db_finish(h->db, err, d);
}
