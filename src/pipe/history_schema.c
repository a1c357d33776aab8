/* The tables of conversations in both databases, what earlier files lack of them, and who owns the
 * answers that are being written. */
#include "pipe/history_db_int.h"

#include "base/log.h"
#include "base/rng.h"

#include <stdio.h>
#include <string.h>

enum {
    VERSION = 2,      /* of the tables; 0: before versions were kept, when items were a list */
    REPLICA_S = 3600, /* after its lease a server's row goes */
    FORGOTTEN_S = 7 * 24 * 3600 /* so long a server may be away and hear of what was deleted */
};

#define FIRST_ENCODER "all-MiniLM-L6-v2" /* the only one there was before names were kept */

static const char sqlite_schema[] =
    "CREATE TABLE IF NOT EXISTS conversation(id TEXT PRIMARY KEY, tenant TEXT NOT NULL,"
    " created INT NOT NULL, updated INT NOT NULL, metadata TEXT NOT NULL,"
    " n_item INT NOT NULL DEFAULT 0, frozen TEXT, ice BLOB);"
    "CREATE INDEX IF NOT EXISTS conversation_tenant ON conversation(tenant);"
    "CREATE INDEX IF NOT EXISTS conversation_updated ON conversation(updated)"
    " WHERE frozen IS NULL;"
    "CREATE TABLE IF NOT EXISTS item(seq INTEGER PRIMARY KEY, conv TEXT NOT NULL,"
    " pos INT NOT NULL, id TEXT NOT NULL, role TEXT NOT NULL, text TEXT NOT NULL,"
    " created INT NOT NULL, n_tok INT NOT NULL, vec BLOB, UNIQUE(conv, pos));"
    "CREATE INDEX IF NOT EXISTS item_bare ON item(seq) WHERE vec IS NULL;"
    "CREATE TABLE IF NOT EXISTS response(id TEXT PRIMARY KEY, conv TEXT NOT NULL,"
    " tenant TEXT NOT NULL, pos_end INT NOT NULL);"
    "CREATE INDEX IF NOT EXISTS response_conv ON response(conv);"
    "CREATE TABLE IF NOT EXISTS made(what TEXT PRIMARY KEY, value TEXT NOT NULL);"
    "CREATE VIRTUAL TABLE IF NOT EXISTS item_fts USING fts5(conv, text, content='item',"
    " content_rowid='seq', tokenize='porter unicode61');"
    "CREATE TRIGGER IF NOT EXISTS item_in AFTER INSERT ON item BEGIN"
    " INSERT INTO item_fts(rowid, conv, text) VALUES(new.seq, new.conv, new.text); END;"
    "CREATE TRIGGER IF NOT EXISTS item_out AFTER DELETE ON item BEGIN"
    " INSERT INTO item_fts(item_fts, rowid, conv, text)"
    " VALUES('delete', old.seq, old.conv, old.text); END;";

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

/* The same tables. stems is for recall, lex for lists; both are of words as ICU splits them, and
 * of the first INDEXED characters of them, since a tsvector holds 1 MiB. replica: servers and until
 * when they are known to live; forgotten: what the others are still to delete. */
#define INDEXED "150000"
static const char postgres_schema[] =
    "CREATE SCHEMA IF NOT EXISTS sparing;"
    "CREATE TABLE IF NOT EXISTS conversation(id TEXT PRIMARY KEY, tenant TEXT NOT NULL,"
    " created BIGINT NOT NULL, updated BIGINT NOT NULL, metadata TEXT NOT NULL,"
    " n_item BIGINT NOT NULL DEFAULT 0, frozen TEXT, ice BYTEA,"
    " by_response BIGINT NOT NULL DEFAULT 0, title TEXT NOT NULL DEFAULT '',"
    " title_words TEXT NOT NULL DEFAULT '', pinned BIGINT NOT NULL DEFAULT 0,"
    " leaf TEXT NOT NULL DEFAULT '', settings TEXT NOT NULL DEFAULT '{}',"
    " n_gone BIGINT NOT NULL DEFAULT 0, gone BIGINT, thawed BIGINT NOT NULL DEFAULT 0);"
    "CREATE INDEX IF NOT EXISTS conversation_updated ON conversation(updated)"
    " WHERE frozen IS NULL;"
    "CREATE INDEX IF NOT EXISTS conversation_gone ON conversation(gone) WHERE gone IS NOT NULL;"
    "CREATE INDEX IF NOT EXISTS conversation_list ON conversation(tenant, pinned, updated, id);"
    "CREATE TABLE IF NOT EXISTS item(seq BIGSERIAL PRIMARY KEY,"
    " conv TEXT NOT NULL REFERENCES conversation(id) ON DELETE CASCADE, pos BIGINT NOT NULL,"
    " id TEXT NOT NULL, role TEXT NOT NULL, text TEXT NOT NULL, created BIGINT NOT NULL,"
    " n_tok BIGINT NOT NULL, vec BYTEA, more TEXT, parent TEXT NOT NULL DEFAULT '',"
    " status TEXT NOT NULL DEFAULT 'complete', draft TEXT, receipt TEXT, sources TEXT,"
    " gone BIGINT, words TEXT, owner TEXT,"
    " stems tsvector GENERATED ALWAYS AS (to_tsvector('english', left(words, " INDEXED ")))"
    " STORED,"
    " lex tsvector GENERATED ALWAYS AS (to_tsvector('simple', left(words, " INDEXED "))) STORED,"
    " UNIQUE(conv, pos), UNIQUE(conv, id));"
    "CREATE INDEX IF NOT EXISTS item_bare ON item(seq) WHERE vec IS NULL;"
    "CREATE INDEX IF NOT EXISTS item_parent ON item(conv, parent);"
    "CREATE INDEX IF NOT EXISTS item_running ON item(conv) WHERE status='running';"
    "CREATE INDEX IF NOT EXISTS item_gone ON item(gone) WHERE gone IS NOT NULL;"
    "CREATE INDEX IF NOT EXISTS item_unsplit ON item(seq) WHERE words IS NULL;"
    "CREATE INDEX IF NOT EXISTS item_lex ON item USING gin(lex);"
    "CREATE TABLE IF NOT EXISTS response(id TEXT PRIMARY KEY,"
    " conv TEXT NOT NULL REFERENCES conversation(id) ON DELETE CASCADE, tenant TEXT NOT NULL,"
    " pos_end BIGINT NOT NULL, object TEXT);"
    "CREATE INDEX IF NOT EXISTS response_conv ON response(conv);"
    "CREATE TABLE IF NOT EXISTS made(what TEXT PRIMARY KEY, value TEXT NOT NULL);"
    "CREATE TABLE IF NOT EXISTS replica(id TEXT PRIMARY KEY, until BIGINT NOT NULL);"
    "CREATE TABLE IF NOT EXISTS forgotten(seq BIGSERIAL PRIMARY KEY, tenant TEXT NOT NULL,"
    " conv TEXT NOT NULL, origin TEXT NOT NULL, at BIGINT NOT NULL);";

/* --- versions --------------------------------------------------------------------------------- */

/* A column that files of earlier versions do not have. All three are static text. */
static sp_err add_column(sp_db *db, const char *table, const char *name, const char *type,
                         sp_diag *d)
{
    int64_t n;
    char sql[128];
    SP_TRY(sp_db_int(db, &n, d, "SELECT count(*) FROM pragma_table_info(?) WHERE name=?", "ss",
                     table, name));
    snprintf(sql, sizeof sql, "ALTER TABLE %s ADD COLUMN %s %s", table, name, type);
    return n ? SP_OK : sp_db_run(db, d, sql, "");
}

static sp_err add_columns(sp_db *db, sp_diag *d)
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
        {"item", "words", "TEXT"},
        {"item", "owner", "TEXT"}};
    for (size_t i = 0; i < sizeof column / sizeof column[0]; i++)
        SP_TRY(add_column(db, column[i][0], column[i][1], column[i][2], d));
    return sp_db_script(db, tree_schema, d);
}

/* A list becomes a tree without branches. Words and titles that are missing are made later, a few
 * at a time. */
static sp_err make_tree(sp_db *db, sp_diag *d)
{
    SP_TRY(sp_db_run(db, d,
                     "UPDATE item SET parent=coalesce((SELECT p.id FROM item p WHERE "
                     "p.conv=item.conv AND p.pos=item.pos-1), '')",
                     ""));
    SP_TRY(sp_db_run(db, d,
                     "UPDATE conversation SET leaf=coalesce((SELECT id FROM item WHERE "
                     "conv=conversation.id ORDER BY pos DESC LIMIT 1), '')",
                     ""));
    SP_TRY(sp_db_run(db, d, "INSERT INTO words_fts(words_fts) VALUES('rebuild')", ""));
    return sp_db_run(db, d, "PRAGMA user_version=2", "");
}

static sp_err upgrade_file(sp_db *db, int64_t was, sp_diag *d)
{
    SP_TRY(sp_db_begin(db, d));
    sp_err err = add_columns(db, d);
    if (err == SP_OK && was < VERSION)
        err = make_tree(db, d);
    return sp_db_finish(db, err, d);
}

/* PostgreSQL's tables begin with version 2. */
static sp_err upgrade(sp_hdb *h, sp_diag *d)
{
    int64_t was = 0;
    sp_err err = sp_db_int(h->db, &was, d,
                           h->is_pg ? "SELECT value FROM made WHERE what='history version'"
                                    : "PRAGMA user_version",
                           "");
    if (err != SP_NOTFOUND)
        SP_TRY(err);
    if (was > VERSION)
        return SP_FAIL(d, SP_UNSUP,
                       "--history: the %s is of version %lld, and this server knows versions up "
                       "to %d; use the newer server, or another %s",
                       h->is_pg ? "database" : "file", (long long)was, VERSION,
                       h->is_pg ? "database" : "file");
    return !h->is_pg ? upgrade_file(h->db, was, d)
           : was     ? SP_OK
                     : sp_db_run(h->db, d,
                                 "INSERT INTO made(what, value) VALUES('history version', '2') ON "
                                     "CONFLICT DO NOTHING",
                                 "");
}

sp_err sp_hdb_open(sp_hdb **out, const char *path, const sp_kv_cold *cold, sp_diag *d)
{
    sp_hdb *h = sp_mem_alloc(sizeof *h);
    if (!h)
        return SP_FAIL(d, SP_NOMEM, "conversations");
    h->cold = cold;
    snprintf(h->self, sizeof h->self, "%016llx", (unsigned long long)sp_rng_entropy());
    sp_err err = sp_db_open(&h->db, path, sqlite_schema, postgres_schema, d);
    if (err == SP_OK) {
        h->is_pg = sp_db_is_pg(h->db);
        err = upgrade(h, d);
    }
    if (err != SP_OK) {
        sp_hdb_close(h);
        return err;
    }
    *out = h;
    return SP_OK;
}

void sp_hdb_close(sp_hdb *h)
{
    sp_diag none = {0};
    if (!h)
        return;
    if (h->lease_s &&
        sp_db_run(h->db, &none, "DELETE FROM replica WHERE id=?", "s", h->self) != SP_OK)
        sp_log(SP_LOG_WARN, "this server's lease runs out by itself: %s", none.msg);
    sp_db_close(h->db);
    sp_mem_free(h);
}

/* --- answers that are being written ----------------------------------------------------------- */

/* Whose server has ended, they have failed. All: of a file, which one server has. */
#define SETTLE                                                                                 \
    "UPDATE item SET status='failed', text=coalesce(draft, ''), draft=NULL, words=NULL WHERE " \
    "status='running'"

/* The database's clock is the one that all servers read. */
static sp_err read_clock(sp_hdb *h, int64_t *now, sp_diag *d)
{
    return sp_db_int(h->db, now, d, "SELECT CAST(extract(epoch FROM now()) AS BIGINT)", "");
}

sp_err sp_hdb_renew(sp_hdb *h, sp_diag *d)
{
    int64_t now = 0;
    if (!h->lease_s)
        return SP_OK;
    SP_TRY(read_clock(h, &now, d));
    SP_TRY(sp_db_run(h->db, d,
                     "INSERT INTO replica(id, until) VALUES(?, ?) ON CONFLICT(id) DO UPDATE SET "
                     "until=excluded.until",
                     "si", h->self, now + h->lease_s));
    SP_TRY(sp_db_run(h->db, d,
                     SETTLE " AND NOT EXISTS(SELECT 1 FROM replica WHERE id=item.owner AND "
                            "until >= ?)",
                     "i", now));
    if (sp_db_changes(h->db))
        sp_log(SP_LOG_INFO, "%lld answers of servers that ended have failed",
               (long long)sp_db_changes(h->db));
    return sp_db_run(h->db, d, "DELETE FROM replica WHERE until < ?", "i", now - REPLICA_S);
}

sp_err sp_hdb_serve(sp_hdb *h, int64_t lease_s, sp_diag *d)
{
    if (!h->is_pg)
        return sp_db_run(h->db, d, SETTLE, "");
    h->lease_s = lease_s;
    return sp_hdb_renew(h, d);
}

/* --- what other servers are to forget --------------------------------------------------------- */

/* One after the other, so that they are seen in the order of their numbers. */
sp_err sp_hdb_tell_others(sp_hdb *h, const char *tenant, const char *conv, sp_diag *d)
{
    int64_t now = 0;
    if (!h->lease_s)
        return SP_OK;
    SP_TRY(read_clock(h, &now, d));
    SP_TRY(sp_db_run(h->db, d, "LOCK TABLE forgotten IN EXCLUSIVE MODE", ""));
    SP_TRY(sp_db_run(h->db, d, "DELETE FROM forgotten WHERE at < ?", "i", now - FORGOTTEN_S));
    return sp_db_run(h->db, d, "INSERT INTO forgotten(tenant, conv, origin, at) VALUES(?,?,?,?)",
                     "sssi", tenant, conv ? conv : "", h->self, now);
}

sp_err sp_hdb_next_forgotten(sp_hdb *h, sp_hdb_due *out, int64_t *seq, sp_diag *d)
{
    if (!h->lease_s)
        return SP_NOTFOUND;
    sp_rows *r = sp_db_query(h->db,
                             "SELECT seq, tenant, conv FROM forgotten WHERE seq > ? AND origin<>? "
                             "ORDER BY seq LIMIT 1",
                             "is", h->n_forgotten, h->self);
    sp_err err = sp_rows_first(h->db, r, d);
    if (err == SP_OK) {
        *seq = sp_rows_int(r, 0);
        *out = (sp_hdb_due){0};
        snprintf(out->tenant, sizeof out->tenant, "%s", sp_rows_str(r, 1));
        snprintf(out->conv, sizeof out->conv, "%s", sp_rows_str(r, 2));
    }
    return sp_rows_end(r, err, d);
}

void sp_hdb_forgot(sp_hdb *h, int64_t seq)
{
    h->n_forgotten = seq;
}

/* --- vectors ---------------------------------------------------------------------------------- */

static const char *maker_key(const sp_hdb *h)
{
    return h->is_pg ? "history vectors" : "vectors"; /* documents lie beside them there */
}

/* Whose vectors these are; "" where nobody's name is kept. */
static sp_err read_maker(sp_hdb *h, char *out, size_t cap, sp_diag *d)
{
    sp_rows *r = sp_db_query(h->db, "SELECT value FROM made WHERE what=?", "s", maker_key(h));
    sp_err err = sp_rows_first(h->db, r, d);
    snprintf(out, cap, "%s", err == SP_OK ? sp_rows_str(r, 0) : "");
    return sp_rows_end(r, err == SP_NOTFOUND ? SP_OK : err, d);
}

sp_err sp_hdb_made_by(sp_hdb *h, const char *encoder, sp_diag *d)
{
    char was[128];
    int64_t n;
    SP_TRY(read_maker(h, was, sizeof was, d));
    if (!was[0]) {
        SP_TRY(sp_db_int(h->db, &n, d,
                         "SELECT count(*) FROM (SELECT 1 FROM item WHERE vec IS NOT NULL UNION ALL "
                         "SELECT 1 FROM conversation WHERE frozen IS NOT NULL LIMIT 1) AS any_row",
                         ""));
        SP_TRY(sp_db_run(h->db, d,
                         "INSERT INTO made(what, value) VALUES(?, ?) ON CONFLICT DO NOTHING", "ss",
                         maker_key(h), n ? FIRST_ENCODER : encoder));
        SP_TRY(read_maker(h, was, sizeof was, d));
    }
    if (strcmp(was, encoder) == 0)
        return SP_OK;
    return SP_FAIL(d, SP_INVAL,
                   "the vectors of these conversations were made by the encoder %.60s, and "
                   "--encoder is %.60s: name the first one, or another --history",
                   was, encoder);
}
