#include "pipe/history_db_int.h"

#include "base/clock.h"
#include "base/rng.h"
#include "rag/split.h"

#include <stdio.h>
#include <string.h>

enum {
    VERSION = 2, /* of the file; 0: before versions were kept, when items were a list */
    TITLE = 40   /* characters of a title that is made of what was said */
};

#define FIRST_ENCODER "all-MiniLM-L6-v2" /* the only one there was before names were kept */

static const char schema[] =
    "CREATE TABLE IF NOT EXISTS conversation(id TEXT PRIMARY KEY, tenant TEXT NOT NULL, created INT NOT NULL, updated INT NOT "
    "NULL,"
    " metadata TEXT NOT NULL, n_item INT NOT NULL DEFAULT 0, frozen TEXT, ice BLOB);"
    "CREATE INDEX IF NOT EXISTS conversation_tenant ON conversation(tenant);"
    "CREATE INDEX IF NOT EXISTS conversation_updated ON conversation(updated) WHERE frozen IS NULL;"
    "CREATE TABLE IF NOT EXISTS item(seq INTEGER PRIMARY KEY, conv TEXT NOT NULL, pos INT NOT NULL, id TEXT NOT NULL, role TEXT "
    "NOT NULL,"
    " text TEXT NOT NULL, created INT NOT NULL, n_tok INT NOT NULL, vec BLOB, UNIQUE(conv, pos));"
    "CREATE INDEX IF NOT EXISTS item_bare ON item(seq) WHERE vec IS NULL;"
    "CREATE TABLE IF NOT EXISTS response(id TEXT PRIMARY KEY, conv TEXT NOT NULL, tenant TEXT NOT NULL, pos_end INT NOT NULL);"
    "CREATE INDEX IF NOT EXISTS response_conv ON response(conv);"
    "CREATE TABLE IF NOT EXISTS made(what TEXT PRIMARY KEY, value TEXT NOT NULL);"
    "CREATE VIRTUAL TABLE IF NOT EXISTS item_fts USING fts5(conv, text, content='item', content_rowid='seq', tokenize='porter "
    "unicode61');"
    "CREATE TRIGGER IF NOT EXISTS item_in AFTER INSERT ON item BEGIN"
    " INSERT INTO item_fts(rowid, conv, text) VALUES(new.seq, new.conv, new.text); END;"
    "CREATE TRIGGER IF NOT EXISTS item_out AFTER DELETE ON item BEGIN"
    " INSERT INTO item_fts(item_fts, rowid, conv, text) VALUES('delete', old.seq, old.conv, old.text); END;";

/* What version 2 added. An item's text is in item_fts by its stems, for recall, and in words_fts as
 * ICU splits it, for lists; the text of an answer in the making is its draft, which no index
 * has. */
static const char tree_schema[] =
    "CREATE UNIQUE INDEX IF NOT EXISTS item_id ON item(conv, id);"
    "CREATE INDEX IF NOT EXISTS item_parent ON item(conv, parent);"
    "CREATE INDEX IF NOT EXISTS item_running ON item(conv) WHERE status='running';"
    "CREATE INDEX IF NOT EXISTS item_gone ON item(gone) WHERE gone IS NOT NULL;"
    "CREATE INDEX IF NOT EXISTS item_unsplit ON item(seq) WHERE words IS NULL;"
    "CREATE INDEX IF NOT EXISTS conversation_gone ON conversation(gone) WHERE gone IS NOT NULL;"
    "CREATE INDEX IF NOT EXISTS conversation_list ON conversation(tenant, pinned, updated, id);"
    "CREATE VIRTUAL TABLE IF NOT EXISTS words_fts USING fts5(conv, words, content='item', "
    "content_rowid='seq', tokenize='unicode61 "
    "remove_diacritics 0');"
    "CREATE TRIGGER IF NOT EXISTS item_text AFTER UPDATE OF text ON item BEGIN"
    " INSERT INTO item_fts(item_fts, rowid, conv, text) VALUES('delete', old.seq, old.conv, "
    "old.text);"
    " INSERT INTO item_fts(rowid, conv, text) VALUES(new.seq, new.conv, new.text); END;"
    "CREATE TRIGGER IF NOT EXISTS words_in AFTER INSERT ON item BEGIN"
    " INSERT INTO words_fts(rowid, conv, words) VALUES(new.seq, new.conv, new.words); END;"
    "CREATE TRIGGER IF NOT EXISTS words_out AFTER DELETE ON item BEGIN"
    " INSERT INTO words_fts(words_fts, rowid, conv, words) VALUES('delete', old.seq, old.conv, "
    "old.words); END;"
    "CREATE TRIGGER IF NOT EXISTS words_change AFTER UPDATE OF words ON item BEGIN"
    " INSERT INTO words_fts(words_fts, rowid, conv, words) VALUES('delete', old.seq, old.conv, "
    "old.words);"
    " INSERT INTO words_fts(rowid, conv, words) VALUES(new.seq, new.conv, new.words); END;";

sp_str sp_hdb_column(sp_arena *a, sqlite3_stmt *s, int i)
{
    size_t n;
    char *copy = sp_sql_text(a, s, i, &n);
    return (sp_str){copy, copy ? n : 0};
}

/* A column that files of earlier versions do not have. All three are static text. */
static sp_err add_column(sqlite3 *db, const char *table, const char *name, const char *type, sp_diag *d)
{
    int64_t n;
    char sql[128];
    SP_TRY(sp_sql_int(db, &n, d, "SELECT count(*) FROM pragma_table_info(?) WHERE name=?", "ss", table, name));
    snprintf(sql, sizeof sql, "ALTER TABLE %s ADD COLUMN %s %s", table, name, type);
    return n ? SP_OK : sp_sql_run(db, d, sql, "");
}

static sp_err add_columns(sqlite3 *db, sp_diag *d)
{
    static const char *const column[][3] = {
        {"item", "more", "TEXT"},
        {"conversation", "by_response", "INT NOT NULL DEFAULT 0"},
        {"response", "object", "TEXT"},
        {"conversation", "title", "TEXT NOT NULL DEFAULT ''"},
        {"conversation", "title_words", "TEXT NOT NULL DEFAULT ''"},
        {"conversation", "pinned", "INT NOT NULL DEFAULT 0"},
        {"conversation", "leaf", "TEXT NOT NULL DEFAULT ''"},
        {"conversation", "settings", "TEXT NOT NULL DEFAULT '{}'"},
        {"conversation", "n_gone", "INT NOT NULL DEFAULT 0"},
        {"conversation", "gone", "INT"},
        {"conversation", "thawed", "INT NOT NULL DEFAULT 0"},
        {"item", "parent", "TEXT NOT NULL DEFAULT ''"},
        {"item", "status", "TEXT NOT NULL DEFAULT 'complete'"},
        {"item", "draft", "TEXT"},
        {"item", "receipt", "TEXT"},
        {"item", "sources", "TEXT"},
        {"item", "gone", "INT"},
        {"item", "words", "TEXT"}};
    for (size_t i = 0; i < sizeof column / sizeof column[0]; i++)
        SP_TRY(add_column(db, column[i][0], column[i][1], column[i][2], d));
    return sqlite3_exec(db, tree_schema, NULL, NULL, NULL) == SQLITE_OK ? SP_OK
                                                                        : sp_sql_error(db, d);
}

/* A list becomes a tree without branches. Words and titles that are missing are made later, a few
 * at a time. */
static sp_err make_tree(sqlite3 *db, sp_diag *d)
{
    SP_TRY(sp_sql_run(db, d,
                      "UPDATE item SET parent=coalesce((SELECT p.id FROM item p WHERE "
                      "p.conv=item.conv AND p.pos=item.pos-1), '')",
                      ""));
    SP_TRY(sp_sql_run(db, d,
                      "UPDATE conversation SET leaf=coalesce((SELECT id FROM item WHERE "
                      "conv=conversation.id ORDER BY pos DESC LIMIT 1), '')",
                      ""));
    SP_TRY(sp_sql_run(db, d, "INSERT INTO words_fts(words_fts) VALUES('rebuild')", ""));
    return sp_sql_run(db, d, "PRAGMA user_version=2", "");
}

/* What was being written when the last server ended has failed. */
static sp_err settle_running(sqlite3 *db, sp_diag *d)
{
    return sp_sql_run(db, d,
                      "UPDATE item SET status='failed', text=coalesce(draft, ''), draft=NULL, "
                      "words=NULL WHERE status='running'",
                      "");
}

static sp_err upgrade(sqlite3 *db, sp_diag *d)
{
    int64_t was = 0;
    SP_TRY(sp_sql_int(db, &was, d, "PRAGMA user_version", ""));
    if (was > VERSION)
        return SP_FAIL(d, SP_UNSUP,
                       "--history: the file is of version %lld, and this server knows versions up "
                       "to %d; use the newer server, or another file",
                       (long long)was, VERSION);
    SP_TRY(sp_sql_begin(db, d));
    sp_err err = add_columns(db, d);
    if (err == SP_OK && was < VERSION)
        err = make_tree(db, d);
    if (err == SP_OK)
        err = settle_running(db, d);
    return sp_sql_finish(db, err, d);
}

sp_err sp_hdb_open(sp_hdb **out, const char *path, const sp_kv_cold *cold, sp_diag *d)
{
    sp_hdb *h = sp_mem_alloc(sizeof *h);
    if (!h)
        return SP_FAIL(d, SP_NOMEM, "conversations");
    h->cold = cold;
    sp_err err = sp_sql_open(&h->db, path, schema, d);
    if (err == SP_OK)
        err = upgrade(h->db, d);
    if (err != SP_OK) {
        sp_hdb_close(h);
        return err;
    }
    *out = h;
    return SP_OK;
}

/* Whose vectors these are; "" where nobody's name is kept. */
static sp_err read_maker(sp_hdb *h, char *out, size_t cap, sp_diag *d)
{
    sqlite3_stmt *s = sp_sql_query(h->db, "SELECT value FROM made WHERE what='vectors'", "");
    int rc = s ? sqlite3_step(s) : SQLITE_ERROR;
    const char *was = rc == SQLITE_ROW ? (const char *)sqlite3_column_text(s, 0) : NULL;
    snprintf(out, cap, "%s", was ? was : "");
    sp_err err = rc == SQLITE_ROW || rc == SQLITE_DONE ? SP_OK : sp_sql_error(h->db, d);
    sqlite3_finalize(s);
    return err;
}

sp_err sp_hdb_made_by(sp_hdb *h, const char *encoder, sp_diag *d)
{
    char was[128];
    int64_t n;
    SP_TRY(read_maker(h, was, sizeof was, d));
    if (!was[0]) {
        SP_TRY(sp_sql_int(h->db, &n, d, "SELECT count(*) FROM (SELECT 1 FROM item WHERE vec IS NOT NULL UNION ALL SELECT 1 FROM conversation WHERE "
                                        "frozen IS NOT NULL LIMIT 1)", ""));
        SP_TRY(sp_sql_run(h->db, d, "INSERT INTO made(what, value) VALUES('vectors', ?)", "s", n ? FIRST_ENCODER : encoder));
        SP_TRY(read_maker(h, was, sizeof was, d));
    }
    if (strcmp(was, encoder) == 0)
        return SP_OK;
    return SP_FAIL(d, SP_INVAL, "the vectors of these conversations were made by the encoder %.60s, and --encoder is %.60s: name the first one, or "
                                "another --history", was, encoder);
}

void sp_hdb_close(sp_hdb *h)
{
    if (!h)
        return;
    sqlite3_close(h->db);
    sp_mem_free(h);
}

void sp_hdb_id(char out[SP_ID_BYTES], const char *prefix)
{
    snprintf(out, SP_ID_BYTES, "%.10s_%016llx%016llx", prefix, (unsigned long long)sp_rng_entropy(),
             (unsigned long long)sp_rng_entropy());
}

/* --- conversations ---------------------------------------------------------------------------- */

sp_err sp_hdb_create(sp_hdb *h, const char *tenant, const char *id, const char *metadata, bool by_response, sp_diag *d)
{
    int64_t now = sp_clock_wall(), taken = 0;
    SP_TRY(sp_sql_int(h->db, &taken, d, "SELECT count(*) FROM conversation WHERE id=?", "s", id));
    if (taken)
        return SP_FAIL(d, SP_INVAL, "the id %.48s is taken; make another one", id);
    return sp_sql_run(h->db, d, "INSERT INTO conversation(id, tenant, created, updated, metadata, by_response) VALUES(?,?,?,?,?,?)", "ssiisi", id,
                      tenant, now, now, metadata, (int64_t)by_response);
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

sp_err sp_hdb_read_conv(sp_arena *a, sqlite3_stmt *s, sp_hdb_conv *out, sp_diag *d)
{
    *out = (sp_hdb_conv){.created = sqlite3_column_int64(s, 1),
                         .updated = sqlite3_column_int64(s, 2),
                         .n_item = sqlite3_column_int64(s, 3),
                         .end = sqlite3_column_int64(s, 4),
                         .metadata = sp_hdb_column(a, s, 5),
                         .title = sp_hdb_column(a, s, 6),
                         .pinned = sqlite3_column_int64(s, 7) != 0,
                         .settings = sp_hdb_column(a, s, 9),
                         .live = sqlite3_column_int64(s, 10) != 0};
    snprintf(out->id, sizeof out->id, "%s", (const char *)sqlite3_column_text(s, 0));
    snprintf(out->leaf, sizeof out->leaf, "%s", (const char *)sqlite3_column_text(s, 8));
    return out->metadata.p && out->title.p && out->settings.p
               ? SP_OK
               : SP_FAIL(d, SP_NOMEM, "conversation");
}

sp_err sp_hdb_get(sp_hdb *h, sp_arena *a, const char *tenant, const char *id, sp_hdb_conv *out, sp_diag *d)
{
    sqlite3_stmt *s =
        sp_sql_query(h->db, CONV "WHERE id=? AND tenant=? AND gone IS NULL", "ss", id, tenant);
    int rc = s ? sqlite3_step(s) : SQLITE_ERROR;
    sp_err err = rc == SQLITE_ROW    ? SP_OK
                 : rc == SQLITE_DONE ? sp_hdb_not_found(id, d)
                                     : sp_sql_error(h->db, d);
    if (err == SP_OK)
        err = sp_hdb_read_conv(a, s, out, d);
    sqlite3_finalize(s);
    return err;
}

sp_err sp_hdb_exists(sp_hdb *h, const char *tenant, const char *id, sp_diag *d)
{
    sqlite3_stmt *s =
        sp_sql_query(h->db, "SELECT 1 FROM conversation WHERE id=? AND tenant=? AND gone IS NULL",
                     "ss", id, tenant);
    int rc = s ? sqlite3_step(s) : SQLITE_ERROR;
    sqlite3_finalize(s);
    return rc == SQLITE_ROW    ? SP_OK
           : rc == SQLITE_DONE ? sp_hdb_not_found(id, d)
                               : sp_sql_error(h->db, d);
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
        err = sp_sql_run(h->db, d, "UPDATE conversation SET title=?, title_words=? WHERE id=?",
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
    SP_TRY(sp_sql_int(h->db, &bare, d, "SELECT title='' FROM conversation WHERE id=?", "s", id));
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
        err = sp_sql_begin(h->db, d);
    if (err == SP_OK) {
        if (p->leaf)
            err = sp_sql_run(h->db, d, "UPDATE conversation SET leaf=? WHERE id=?", "ss", leaf.id,
                             id);
        if (err == SP_OK && p->title)
            err = set_title(h, id, (sp_str){p->title, strlen(p->title)}, d);
        if (err == SP_OK && p->settings)
            err = sp_sql_run(h->db, d, "UPDATE conversation SET settings=? WHERE id=?", "ss",
                             p->settings, id);
        if (err == SP_OK && p->metadata)
            err = sp_sql_run(h->db, d, "UPDATE conversation SET metadata=? WHERE id=?", "ss",
                             p->metadata, id);
        if (err == SP_OK && p->pinned)
            err = sp_sql_run(h->db, d, "UPDATE conversation SET pinned=? WHERE id=?", "is",
                             (int64_t)*p->pinned, id);
        err = sp_sql_finish(h->db, err, d);
    }
    sp_arena_fini(&a);
    return err;
}

/* Objects first: an object whose row is gone could never be found again. */
static sp_err delete_objects(sp_hdb *h, const char *tenant, const char *id, sp_diag *d)
{
    sqlite3_stmt *s = sp_sql_query(
        h->db, "SELECT frozen FROM conversation WHERE tenant=?1 AND (?2 IS NULL OR id=?2) AND frozen IS NOT NULL AND frozen<>''",
        id ? "ss" : "sn", tenant, id);
    sp_err err = s ? SP_OK : sp_sql_error(h->db, d);
    while (err == SP_OK && sqlite3_step(s) == SQLITE_ROW)
        err = h->cold ? h->cold->del(h->cold->arg, (const char *)sqlite3_column_text(s, 0), d)
                      : SP_FAIL(d, SP_UNSUP, "a conversation is in the object store, and this server was started without --s3");
    sqlite3_finalize(s);
    return err;
}

sp_err sp_hdb_delete(sp_hdb *h, const char *tenant, const char *id, size_t *n, sp_diag *d)
{
    int64_t there = 1;
    if (id)
        SP_TRY(sp_sql_int(h->db, &there, d,
                          "SELECT count(*) FROM conversation WHERE id=? AND tenant=?", "ss", id,
                          tenant));
    if (!there)
        return sp_hdb_not_found(id, d);
    SP_TRY(delete_objects(h, tenant, id, d));
    SP_TRY(sp_sql_begin(h->db, d));
    const char *types = id ? "ss" : "sn";
    sp_err err =
        sp_sql_run(h->db, d, "DELETE FROM item WHERE conv IN (SELECT id FROM conversation WHERE tenant=?1 AND (?2 IS NULL OR id=?2))", types,
            tenant, id);
    if (err == SP_OK)
        err = sp_sql_run(h->db, d, "DELETE FROM response WHERE tenant=?1 AND (?2 IS NULL OR conv=?2)", types, tenant, id);
    if (err == SP_OK)
        err = sp_sql_run(h->db, d, "DELETE FROM conversation WHERE tenant=?1 AND (?2 IS NULL OR id=?2)", types, tenant, id);
    *n = err == SP_OK ? (size_t)sqlite3_changes64(h->db) : 0;
    if (err == SP_OK) /* merged segments hold no deleted words */
        err = sp_sql_run(h->db, d, "INSERT INTO item_fts(item_fts) VALUES('optimize')", "");
    if (err == SP_OK)
        err = sp_sql_run(h->db, d, "INSERT INTO words_fts(words_fts) VALUES('optimize')", "");
    SP_TRY(sp_sql_finish(h->db, err, d));
    return sp_sql_run(h->db, d, "PRAGMA wal_checkpoint(TRUNCATE)", "");
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

static sp_str optional(sp_arena *a, sqlite3_stmt *s, int i)
{
    return sqlite3_column_type(s, i) == SQLITE_NULL ? (sp_str){"", 0} : sp_hdb_column(a, s, i);
}

sp_err sp_hdb_read(sp_arena *a, sqlite3_stmt *s, sp_hdb_item *out, sp_diag *d)
{
    const char *status = (const char *)sqlite3_column_text(s, 9);
    *out = (sp_hdb_item){.seq = sqlite3_column_int64(s, 1),
                         .pos = sqlite3_column_int64(s, 2),
                         .created = sqlite3_column_int64(s, 3),
                         .n_tok = (size_t)sqlite3_column_int64(s, 4),
                         .role = sp_hdb_column(a, s, 5),
                         .text = sp_hdb_column(a, s, 6),
                         .more = optional(a, s, 7),
                         .receipt = optional(a, s, 10),
                         .sources = optional(a, s, 11)};
    snprintf(out->id, sizeof out->id, "%s", (const char *)sqlite3_column_text(s, 0));
    snprintf(out->parent, sizeof out->parent, "%s", (const char *)sqlite3_column_text(s, 8));
    for (size_t i = 0; status && i < sizeof status_names / sizeof status_names[0]; i++)
        out->status = strcmp(status, status_names[i]) == 0 ? (sp_hdb_status)i : out->status;
    return out->role.p && out->text.p && out->more.p && out->receipt.p && out->sources.p
               ? SP_OK
               : SP_FAIL(d, SP_NOMEM, "items");
}

static void bind_str(sqlite3_stmt *s, int i, sp_str v)
{
    if (v.n)
        sqlite3_bind_text64(s, i, v.p, v.n, SQLITE_STATIC, SQLITE_UTF8);
}

sp_err sp_hdb_insert(sp_hdb *h, const char *conv, sp_hdb_item *it, const void *vec, size_t n_vec,
                     sp_diag *d)
{
    sqlite3_stmt *s = NULL;
    sp_buf words = {0};
    bool runs = it->status == SP_HDB_RUNNING;
    SP_TRY(sp_hdb_words(&words, it->text, d));
    if (sqlite3_prepare_v2(h->db,
                           "INSERT INTO item(conv, pos, id, role, text, created, n_tok, vec, more, "
                           "parent, status, receipt, sources, draft, words) "
                           "VALUES(?,?,?,?,?,?,?,?,?,?,?,?,?,?,?)",
                           -1, &s, NULL) != SQLITE_OK) {
        sp_buf_fini(&words);
        return sp_sql_error(h->db, d);
    }
    sqlite3_bind_text(s, 1, conv, -1, SQLITE_STATIC);
    sqlite3_bind_int64(s, 2, it->pos);
    sqlite3_bind_text(s, 3, it->id, -1, SQLITE_STATIC);
    sqlite3_bind_text(s, 4, it->role.p, (int)it->role.n, SQLITE_STATIC);
    sqlite3_bind_text64(s, 5, runs ? "" : it->text.p, runs ? 0 : it->text.n, SQLITE_STATIC,
                        SQLITE_UTF8);
    sqlite3_bind_int64(s, 6, it->created);
    sqlite3_bind_int64(s, 7, (int64_t)it->n_tok);
    if (n_vec)
        sqlite3_bind_blob64(s, 8, vec, n_vec, SQLITE_STATIC);
    bind_str(s, 9, it->more);
    sqlite3_bind_text(s, 10, it->parent, -1, SQLITE_STATIC);
    sqlite3_bind_text(s, 11, status_names[it->status], -1, SQLITE_STATIC);
    bind_str(s, 12, it->receipt);
    bind_str(s, 13, it->sources);
    if (runs)
        sqlite3_bind_text64(s, 14, it->text.p, it->text.n, SQLITE_STATIC, SQLITE_UTF8);
    sqlite3_bind_text64(s, 15, sp_buf_str(&words), runs ? 0 : words.len, SQLITE_STATIC,
                        SQLITE_UTF8);
    sp_err err = sqlite3_step(s) == SQLITE_DONE ? SP_OK : sp_sql_error(h->db, d);
    it->seq = sqlite3_last_insert_rowid(h->db);
    sqlite3_finalize(s);
    sp_buf_fini(&words);
    return err;
}

/* Inside a transaction: items get pos, parent and what they lack, and the conversation a leaf and a
 * title. */
static sp_err add_items(sp_hdb *h, const char *id, sp_hdb_item *item, size_t n, sp_diag *d)
{
    int64_t now = sp_clock_wall();
    sqlite3_stmt *s =
        sp_sql_query(h->db, "SELECT n_item, leaf, title='' FROM conversation WHERE id=?", "s", id);
    int64_t pos = s && sqlite3_step(s) == SQLITE_ROW ? sqlite3_column_int64(s, 0) : -1;
    char leaf[SP_ID_BYTES];
    snprintf(leaf, sizeof leaf, "%s", pos >= 0 ? (const char *)sqlite3_column_text(s, 1) : "");
    bool bare = pos >= 0 && sqlite3_column_int64(s, 2);
    sqlite3_finalize(s);
    sp_err err = pos >= 0 ? SP_OK : sp_hdb_not_found(id, d);
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
               ? sp_sql_run(h->db, d,
                            "UPDATE conversation SET n_item=?, updated=?, leaf=? WHERE id=?",
                            "iiss", pos + (int64_t)n, now, leaf, id)
               : err;
}

sp_err sp_hdb_append(sp_hdb *h, const char *tenant, const char *id, sp_hdb_item *item, size_t n, const char *response, sp_diag *d)
{
    SP_TRY(sp_hdb_thaw(h, tenant, id, d));
    SP_TRY(sp_sql_begin(h->db, d));
    sp_err err = add_items(h, id, item, n, d);
    if (err == SP_OK && response)
        err = sp_sql_run(h->db, d,
                         "INSERT INTO response(id, conv, tenant, pos_end) SELECT ?, id, ?, n_item "
                         "FROM conversation WHERE id=?",
                         "sss", response, tenant, id);
    return sp_sql_finish(h->db, err, d);
}

sp_err sp_hdb_grow(sp_hdb *h, const char *tenant, const char *conv, sp_hdb_item *item, size_t n,
                   sp_diag *d)
{
    int64_t there = 0;
    SP_TRY(sp_hdb_thaw(h, tenant, conv, d));
    for (size_t i = 0; i < n; i++) {
        SP_TRY(sp_sql_int(h->db, &there, d, "SELECT count(*) FROM item WHERE conv=? AND id=?", "ss",
                          conv, item[i].id));
        if (there)
            return SP_FAIL(d, SP_INVAL, "the conversation has a message %.60s already", item[i].id);
    }
    SP_TRY(sp_sql_begin(h->db, d));
    return sp_sql_finish(h->db, add_items(h, conv, item, n, d), d);
}

sp_err sp_hdb_response(sp_hdb *h, const char *tenant, const char *response, char id[SP_ID_BYTES], int64_t *end, sp_diag *d)
{
    sqlite3_stmt *s = sp_sql_query(h->db, "SELECT conv, pos_end FROM response WHERE id=? AND tenant=?", "ss", response, tenant);
    int rc = s ? sqlite3_step(s) : SQLITE_ERROR;
    sp_err err = rc == SQLITE_ROW    ? SP_OK
                 : rc == SQLITE_DONE ? SP_FAIL(d, SP_NOTFOUND, "there is no stored response %.60s", response)
                                     : sp_sql_error(h->db, d);
    if (err == SP_OK) {
        snprintf(id, SP_ID_BYTES, "%s", (const char *)sqlite3_column_text(s, 0));
        *end = sqlite3_column_int64(s, 1);
    }
    sqlite3_finalize(s);
    return err;
}

sp_err sp_hdb_set_object(sp_hdb *h, const char *tenant, const char *response, const char *object, sp_diag *d)
{
    return sp_sql_run(h->db, d, "UPDATE response SET object=? WHERE id=? AND tenant=?", "sss", object, response, tenant);
}

sp_err sp_hdb_object(sp_hdb *h, sp_arena *a, const char *tenant, const char *response, sp_str *out, sp_diag *d)
{
    sqlite3_stmt *s = sp_sql_query(h->db, "SELECT object FROM response WHERE id=? AND tenant=? AND object IS NOT NULL", "ss", response, tenant);
    int rc = s ? sqlite3_step(s) : SQLITE_ERROR;
    sp_err err = rc == SQLITE_ROW || rc == SQLITE_DONE ? SP_OK : sp_sql_error(h->db, d);
    *out = rc == SQLITE_ROW ? sp_hdb_column(a, s, 0) : (sp_str){NULL, 0};
    sqlite3_finalize(s);
    return err == SP_OK && rc == SQLITE_ROW && !out->p ? SP_FAIL(d, SP_NOMEM, "response") : err;
}

sp_err sp_hdb_drop(sp_hdb *h, const char *tenant, const char *response, char id[SP_ID_BYTES], bool *last, sp_diag *d)
{
    int64_t end, gone = 0;
    SP_TRY(sp_hdb_response(h, tenant, response, id, &end, d));
    SP_TRY(sp_sql_run(h->db, d, "DELETE FROM response WHERE id=? AND tenant=?", "ss", response, tenant));
    SP_TRY(sp_sql_int(h->db, &gone, d, "SELECT by_response AND NOT EXISTS(SELECT 1 FROM response WHERE conv=?1) FROM conversation WHERE id=?1 AND tenant=?2",
                      "ss", id, tenant));
    *last = gone != 0;
    return SP_OK;
}

sp_err sp_hdb_fork(sp_hdb *h, const char *tenant, const char *from, int64_t end, const char *id, sp_diag *d)
{
    int64_t now = sp_clock_wall();
    SP_TRY(sp_hdb_thaw(h, tenant, from, d));
    SP_TRY(sp_sql_begin(h->db, d));
    sp_err err =
        sp_sql_run(h->db, d,
                   "INSERT INTO conversation(id, tenant, created, updated, metadata, n_item, "
                   "by_response, title, title_words, settings, leaf) "
                   "SELECT ?, tenant, ?, ?, metadata, ?, 1, title, title_words, settings, "
                   "coalesce((SELECT id FROM item WHERE conv=?5 AND pos < "
                   "?4 ORDER BY pos DESC LIMIT 1), '') FROM conversation WHERE id=?5 AND tenant=?6",
                   "siiiss", id, now, now, end, from, tenant);
    if (err == SP_OK)
        err = sp_sql_run(h->db, d,
                         "INSERT INTO item(conv, pos, id, role, text, created, n_tok, vec, more, "
                         "parent, status, receipt, sources, words) SELECT ?, pos, id, "
                         "role, text, created, n_tok, vec, more, parent, status, receipt, sources, "
                         "words FROM item WHERE conv=? AND pos < ? AND "
                         "status<>'running' AND gone IS NULL",
                         "ssi", id, from, end);
    return sp_sql_finish(h->db, err, d);
}
