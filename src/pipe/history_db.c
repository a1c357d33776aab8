#include "pipe/history_db.h"

#include "base/clock.h"
#include "base/rng.h"
#include "base/sql.h"
#include "kv/record.h"

#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <zstd.h>

enum { CANDIDATES = 50, MAX_WORDS = 32, RRF = 60, ZSTD_LEVEL = 9, MAX_FROZEN = 1 << 30 };

#define FIRST_ENCODER "all-MiniLM-L6-v2" /* the only one there was before names were kept */

struct sp_hdb {
    sqlite3 *db;
    const sp_kv_cold *cold; /* NULL: frozen items stay in the file */
};

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

static sp_str column(sp_arena *a, sqlite3_stmt *s, int i)
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

sp_err sp_hdb_open(sp_hdb **out, const char *path, const sp_kv_cold *cold, sp_diag *d)
{
    sp_hdb *h = sp_mem_alloc(sizeof *h);
    if (!h)
        return SP_FAIL(d, SP_NOMEM, "conversations");
    h->cold = cold;
    sp_err err = sp_sql_open(&h->db, path, schema, d);
    if (err == SP_OK)
        err = add_column(h->db, "item", "more", "TEXT", d);
    if (err == SP_OK)
        err = add_column(h->db, "conversation", "by_response", "INT NOT NULL DEFAULT 0", d);
    if (err == SP_OK)
        err = add_column(h->db, "response", "object", "TEXT", d);
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
    int64_t now = sp_clock_wall();
    return sp_sql_run(h->db, d, "INSERT INTO conversation(id, tenant, created, updated, metadata, by_response) VALUES(?,?,?,?,?,?)", "ssiisi", id,
                      tenant, now, now, metadata, (int64_t)by_response);
}

static sp_err not_found(const char *id, sp_diag *d)
{
    return SP_FAIL(d, SP_NOTFOUND, "there is no conversation %.60s", id);
}

sp_err sp_hdb_get(sp_hdb *h, sp_arena *a, const char *tenant, const char *id, sp_hdb_conv *out, sp_diag *d)
{
    sqlite3_stmt *s =
        sp_sql_query(h->db, "SELECT created, updated, n_item, metadata FROM conversation WHERE id=? AND tenant=?", "ss", id, tenant);
    int rc = s ? sqlite3_step(s) : SQLITE_ERROR;
    sp_err err = rc == SQLITE_ROW ? SP_OK : rc == SQLITE_DONE ? not_found(id, d) : sp_sql_error(h->db, d);
    if (err == SP_OK) {
        *out = (sp_hdb_conv){.created = sqlite3_column_int64(s, 0),
                             .updated = sqlite3_column_int64(s, 1),
                             .n_item = sqlite3_column_int64(s, 2),
                             .metadata = column(a, s, 3)};
        snprintf(out->id, sizeof out->id, "%s", id);
        err = out->metadata.p ? SP_OK : SP_FAIL(d, SP_NOMEM, "conversation");
    }
    sqlite3_finalize(s);
    return err;
}

static sp_err exists(sp_hdb *h, const char *tenant, const char *id, sp_diag *d)
{
    sqlite3_stmt *s = sp_sql_query(h->db, "SELECT 1 FROM conversation WHERE id=? AND tenant=?", "ss", id, tenant);
    int rc = s ? sqlite3_step(s) : SQLITE_ERROR;
    sqlite3_finalize(s);
    return rc == SQLITE_ROW ? SP_OK : rc == SQLITE_DONE ? not_found(id, d) : sp_sql_error(h->db, d);
}

sp_err sp_hdb_set_metadata(sp_hdb *h, const char *tenant, const char *id, const char *metadata, sp_diag *d)
{
    SP_TRY(exists(h, tenant, id, d));
    return sp_sql_run(h->db, d, "UPDATE conversation SET metadata=? WHERE id=? AND tenant=?", "sss", metadata, id, tenant);
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
    if (id)
        SP_TRY(exists(h, tenant, id, d));
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
    SP_TRY(sp_sql_finish(h->db, err, d));
    return sp_sql_run(h->db, d, "PRAGMA wal_checkpoint(TRUNCATE)", "");
}

/* --- frozen conversations --------------------------------------------------------------------- */

/* Items as a JSON array of [id, role, text, created, n_tok, vector in hex or null, more or null]. */
static char *to_json(sp_hdb *h, const char *id, sp_diag *d)
{
    sqlite3_stmt *s = sp_sql_query(h->db, "SELECT id, role, text, created, n_tok, hex(vec), more FROM item WHERE conv=? ORDER BY pos", "s", id);
    json_t *list = json_array();
    bool ok = s && list;
    int rc = SQLITE_DONE;
    while (ok && (rc = sqlite3_step(s)) == SQLITE_ROW) {
        const char *vec = (const char *)sqlite3_column_text(s, 5);
        json_t *text = json_stringn((const char *)sqlite3_column_text(s, 2), (size_t)sqlite3_column_bytes(s, 2));
        ok =
            text && json_array_append_new(list, json_pack("[s,s,o,I,I,s?,s?]", sqlite3_column_text(s, 0), sqlite3_column_text(s, 1),
                                                          text, (json_int_t)sqlite3_column_int64(s, 3),
                                                          (json_int_t)sqlite3_column_int64(s, 4), vec && *vec ? vec : NULL,
                                                          (const char *)sqlite3_column_text(s, 6))) == 0;
    }
    char *out = ok && rc == SQLITE_DONE ? json_dumps(list, JSON_COMPACT) : NULL;
    if (!out)
        (void)SP_FAIL(d, SP_NOMEM, "freezing a conversation");
    sqlite3_finalize(s);
    json_decref(list);
    return out;
}

sp_err sp_hdb_freeze(sp_hdb *h, int64_t before, sp_diag *d)
{
    char id[SP_ID_BYTES], tenant[256], key[128] = "";
    sqlite3_stmt *s =
        sp_sql_query(h->db, "SELECT id, tenant FROM conversation WHERE frozen IS NULL AND updated < ? AND n_item > 0 LIMIT 1", "i", before);
    bool found = s && sqlite3_step(s) == SQLITE_ROW;
    snprintf(id, sizeof id, "%s", found ? (const char *)sqlite3_column_text(s, 0) : "");
    snprintf(tenant, sizeof tenant, "%s", found ? (const char *)sqlite3_column_text(s, 1) : "");
    sqlite3_finalize(s);
    if (!found)
        return SP_NOTFOUND;
    char *text = to_json(h, id, d);
    size_t n = text ? strlen(text) : 0, cap = ZSTD_compressBound(n);
    uint8_t *ice = text ? sp_mem_raw(cap) : NULL;
    size_t n_ice = ice ? ZSTD_compress(ice, cap, text, n, ZSTD_LEVEL) : 0;
    sp_err err = ice && !ZSTD_isError(n_ice) ? SP_OK : SP_FAIL(d, SP_NOMEM, "freezing a conversation");
    free(text);
    if (err == SP_OK && h->cold) {
        uint8_t tag[SP_KV_TAG];
        char hex[SP_KV_TAG_HEX] = "";
        err = sp_kv_tag(tag, tenant);
        if (err == SP_OK)
            sp_kv_tag_hex(hex, tag);
        snprintf(key, sizeof key, "history/%s/%.60s", hex, id);
        if (err == SP_OK)
            err = h->cold->put(h->cold->arg, key, ice, n_ice, d);
    }
    if (err == SP_OK)
        err = sp_sql_begin(h->db, d);
    if (err == SP_OK) { /* frozen is the object's key, or '' when the ice lies in the row */
        err = h->cold ? sp_sql_run(h->db, d, "UPDATE conversation SET frozen=? WHERE id=?", "ss", key, id)
                      : sp_sql_run(h->db, d, "UPDATE conversation SET frozen='', ice=? WHERE id=?", "bs", ice, n_ice, id);
        if (err == SP_OK)
            err = sp_sql_run(h->db, d, "DELETE FROM item WHERE conv=?", "s", id);
        err = sp_sql_finish(h->db, err, d);
    }
    sp_mem_free(ice);
    return err;
}

static bool take_ice(void *arg, const void *p, size_t n)
{
    sp_buf_put(arg, p, n);
    return !((sp_buf *)arg)->failed;
}

/* it: what is read of it is all but seq. */
static sp_err insert_item(sp_hdb *h, const char *conv, const sp_hdb_item *it, const void *vec, size_t n_vec, int64_t *seq, sp_diag *d)
{
    sqlite3_stmt *s = NULL;
    if (sqlite3_prepare_v2(h->db, "INSERT INTO item(conv, pos, id, role, text, created, n_tok, vec, more) VALUES(?,?,?,?,?,?,?,?,?)", -1,
                           &s, NULL) != SQLITE_OK)
        return sp_sql_error(h->db, d);
    sqlite3_bind_text(s, 1, conv, -1, SQLITE_STATIC);
    sqlite3_bind_int64(s, 2, it->pos);
    sqlite3_bind_text(s, 3, it->id, -1, SQLITE_STATIC);
    sqlite3_bind_text(s, 4, it->role.p, (int)it->role.n, SQLITE_STATIC);
    sqlite3_bind_text64(s, 5, it->text.p, it->text.n, SQLITE_STATIC, SQLITE_UTF8);
    sqlite3_bind_int64(s, 6, it->created);
    sqlite3_bind_int64(s, 7, (int64_t)it->n_tok);
    if (n_vec)
        sqlite3_bind_blob64(s, 8, vec, n_vec, SQLITE_STATIC);
    if (it->more.n)
        sqlite3_bind_text64(s, 9, it->more.p, it->more.n, SQLITE_STATIC, SQLITE_UTF8);
    sp_err err = sqlite3_step(s) == SQLITE_DONE ? SP_OK : sp_sql_error(h->db, d);
    *seq = sqlite3_last_insert_rowid(h->db);
    sqlite3_finalize(s);
    return err;
}

static size_t from_hex(uint8_t *out, size_t cap, const char *hex)
{
    size_t n = 0;
    for (unsigned v; hex && n < cap && sscanf(hex + 2 * n, "%2x", &v) == 1 && hex[2 * n]; n++)
        out[n] = (uint8_t)v;
    return n;
}

static sp_str str_of(const json_t *v)
{
    return (sp_str){json_string_value(v), json_string_length(v)};
}

/* One item of to_json; those that were frozen by earlier versions end before `more`. */
static bool read_frozen(sp_hdb_item *out, const char **hex, const json_t *v, int64_t pos)
{
    const char *id, *role;
    json_t *text, *vec;
    json_int_t created, n_tok;
    if (json_unpack((json_t *)(uintptr_t)v, "[s,s,o,I,I,o]", &id, &role, &text, &created, &n_tok, &vec) != 0 || !json_is_string(text))
        return false;
    *out = (sp_hdb_item){.pos = pos, .created = created, .n_tok = (size_t)n_tok, .role = {role, strlen(role)}, .text = str_of(text),
                         .more = str_of(json_array_get(v, 6))};
    snprintf(out->id, sizeof out->id, "%s", id);
    *hex = json_string_value(vec);
    return true;
}

static sp_err restore_items(sp_hdb *h, const char *id, const sp_buf *ice, sp_diag *d)
{
    unsigned long long n = ZSTD_getFrameContentSize(ice->p, ice->len);
    char *text = n < MAX_FROZEN ? sp_mem_raw((size_t)n + 1) : NULL;
    size_t got = text ? ZSTD_decompress(text, (size_t)n, ice->p, ice->len) : 0;
    json_t *list = text && !ZSTD_isError(got) ? json_loadb(text, got, JSON_ALLOW_NUL, NULL) : NULL;
    sp_mem_free(text);
    if (!list)
        return SP_FAIL(d, SP_CORRUPT, "the frozen text of conversation %.60s does not unpack", id);
    sp_err err = SP_OK;
    for (size_t i = 0; i < json_array_size(list) && err == SP_OK; i++) {
        sp_hdb_item it;
        const char *hex;
        uint8_t v[SP_HDB_DIM];
        int64_t seq;
        if (!read_frozen(&it, &hex, json_array_get(list, i), (int64_t)i))
            err = SP_FAIL(d, SP_CORRUPT, "item %zu of the frozen conversation %.60s is not whole", i, id);
        else
            err = insert_item(h, id, &it, v, from_hex(v, sizeof v, hex) == sizeof v ? sizeof v : 0, &seq, d);
    }
    json_decref(list);
    return err;
}

/* A frozen conversation lives again before anything reads its items. */
static sp_err thaw(sp_hdb *h, const char *tenant, const char *id, sp_diag *d)
{
    sp_buf ice = {0};
    char key[128] = "";
    sqlite3_stmt *s = sp_sql_query(h->db, "SELECT frozen, ice FROM conversation WHERE id=? AND tenant=?", "ss", id, tenant);
    int rc = s ? sqlite3_step(s) : SQLITE_ERROR;
    sp_err err = rc == SQLITE_ROW ? SP_OK : rc == SQLITE_DONE ? not_found(id, d) : sp_sql_error(h->db, d);
    bool frozen = err == SP_OK && sqlite3_column_type(s, 0) != SQLITE_NULL;
    if (frozen) {
        snprintf(key, sizeof key, "%s", (const char *)sqlite3_column_text(s, 0));
        sp_buf_put(&ice, sqlite3_column_blob(s, 1), (size_t)sqlite3_column_bytes(s, 1));
    }
    sqlite3_finalize(s);
    if (err == SP_OK && frozen && *key) {
        err = h->cold ? SP_OK
                      : SP_FAIL(d, SP_UNSUP,
                                "conversation %.60s is in the object store, and this server was started without --s3", id);
        if (err == SP_OK)
            err = h->cold->get(h->cold->arg, key, 0, 0, take_ice, &ice, d);
    }
    if (err == SP_OK && frozen) {
        err = sp_sql_begin(h->db, d);
        if (err == SP_OK) {
            err = restore_items(h, id, &ice, d);
            if (err == SP_OK)
                err = sp_sql_run(h->db, d, "UPDATE conversation SET frozen=NULL, ice=NULL, updated=? WHERE id=?", "is", sp_clock_wall(), id);
            err = sp_sql_finish(h->db, err, d);
        }
        if (err == SP_OK && *key)
            (void)h->cold->del(h->cold->arg, key, NULL);
    }
    sp_buf_fini(&ice);
    return err;
}

/* --- items ------------------------------------------------------------------------------------ */

sp_err sp_hdb_append(sp_hdb *h, const char *tenant, const char *id, sp_hdb_item *item, size_t n, const char *response, sp_diag *d)
{
    int64_t now = sp_clock_wall();
    SP_TRY(thaw(h, tenant, id, d));
    SP_TRY(sp_sql_begin(h->db, d));
    sqlite3_stmt *s = sp_sql_query(h->db, "SELECT n_item FROM conversation WHERE id=?", "s", id);
    int64_t pos = s && sqlite3_step(s) == SQLITE_ROW ? sqlite3_column_int64(s, 0) : -1;
    sqlite3_finalize(s);
    sp_err err = pos >= 0 ? SP_OK : not_found(id, d);
    for (size_t i = 0; i < n && err == SP_OK; i++) {
        sp_hdb_id(item[i].id, "msg");
        item[i].pos = pos + (int64_t)i;
        item[i].created = item[i].created ? item[i].created : now;
        err = insert_item(h, id, &item[i], NULL, 0, &item[i].seq, d);
    }
    if (err == SP_OK)
        err = sp_sql_run(h->db, d, "UPDATE conversation SET n_item=?, updated=? WHERE id=?", "iis", pos + (int64_t)n, now, id);
    if (err == SP_OK && response)
        err = sp_sql_run(h->db, d, "INSERT INTO response(id, conv, tenant, pos_end) VALUES(?,?,?,?)", "sssi", response, id, tenant,
                  pos + (int64_t)n);
    return sp_sql_finish(h->db, err, d);
}

static const char columns[] = "SELECT id, seq, pos, created, n_tok, role, text, more FROM item ";

static sp_err read_item(sp_arena *a, sqlite3_stmt *s, sp_hdb_item *out, sp_diag *d)
{
    *out = (sp_hdb_item){.seq = sqlite3_column_int64(s, 1),
                         .pos = sqlite3_column_int64(s, 2),
                         .created = sqlite3_column_int64(s, 3),
                         .n_tok = (size_t)sqlite3_column_int64(s, 4),
                         .role = column(a, s, 5),
                         .text = column(a, s, 6),
                         .more = sqlite3_column_type(s, 7) == SQLITE_NULL ? (sp_str){"", 0} : column(a, s, 7)};
    snprintf(out->id, sizeof out->id, "%s", (const char *)sqlite3_column_text(s, 0));
    return out->role.p && out->text.p && out->more.p ? SP_OK : SP_FAIL(d, SP_NOMEM, "items");
}

sp_err sp_hdb_items(sp_hdb *h, sp_arena *a, const char *tenant, const char *id, int64_t end, sp_hdb_item **out, size_t *n,
                    sp_diag *d)
{
    sp_hdb_conv conv;
    char sql[256];
    SP_TRY(thaw(h, tenant, id, d));
    SP_TRY(sp_hdb_get(h, a, tenant, id, &conv, d));
    size_t cap = (size_t)(conv.n_item < end ? conv.n_item : end), got = 0;
    sp_hdb_item *list = sp_arena_alloc(a, (cap + 1) * sizeof *list);
    if (!list)
        return SP_FAIL(d, SP_NOMEM, "items");
    snprintf(sql, sizeof sql, "%sWHERE conv=? AND pos < ? ORDER BY pos", columns);
    sqlite3_stmt *s = sp_sql_query(h->db, sql, "si", id, end);
    sp_err err = s ? SP_OK : sp_sql_error(h->db, d);
    int rc = SQLITE_DONE;
    while (err == SP_OK && got < cap && (rc = sqlite3_step(s)) == SQLITE_ROW)
        err = read_item(a, s, &list[got++], d);
    if (err == SP_OK && got < cap)
        err = rc == SQLITE_DONE ? SP_FAIL(d, SP_CORRUPT, "conversation %.60s has lost items", id) : sp_sql_error(h->db, d);
    sqlite3_finalize(s);
    *out = list;
    *n = got;
    return err;
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
    *out = rc == SQLITE_ROW ? column(a, s, 0) : (sp_str){NULL, 0};
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
    SP_TRY(thaw(h, tenant, from, d));
    SP_TRY(sp_sql_begin(h->db, d));
    sp_err err = sp_sql_run(h->db, d,
                     "INSERT INTO conversation(id, tenant, created, updated, metadata, n_item, by_response) SELECT ?, tenant, ?, ?, metadata, "
                     "?, 1 FROM conversation WHERE id=? AND tenant=?",
                     "siiiss", id, now, now, end, from, tenant);
    if (err == SP_OK)
        err = sp_sql_run(h->db, d,
                  "INSERT INTO item(conv, pos, id, role, text, created, n_tok, vec, more) SELECT ?, pos, id, role, text, created, "
                  "n_tok, vec, more FROM item WHERE conv=? AND pos < ?",
                  "ssi", id, from, end);
    return sp_sql_finish(h->db, err, d);
}

/* --- searching -------------------------------------------------------------------------------- */

/* The words of a text, quoted one by one and joined by OR: nothing of it is FTS syntax. */
static void quote_words(sp_buf *out, const char *conv, const char *text)
{
    size_t n = 0;
    sp_buf_printf(out, "conv : \"%s\" AND text : (", conv);
    for (const unsigned char *p = (const unsigned char *)text; *p && n < MAX_WORDS;) {
        size_t k = 0;
        while (p[k] >= 0x80 || (p[k] >= '0' && p[k] <= '9') || (p[k] >= 'A' && p[k] <= 'Z') || (p[k] >= 'a' && p[k] <= 'z'))
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
    return x->score != y->score ? (x->score < y->score ? 1 : -1) : x->seq < y->seq ? -1 : x->seq > y->seq;
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

static sp_err vote_words(sp_hdb *h, const char *id, int64_t end, const char *text, candidate *list, size_t *n, sp_diag *d)
{
    sp_buf match = {0};
    quote_words(&match, id, text);
    /* Rank alone first, over the index: rows are looked up for the best only. */
    sqlite3_stmt *s = sp_sql_query(h->db,
                            "SELECT item.seq FROM (SELECT rowid AS r, bm25(item_fts, 0, 1) AS b FROM item_fts WHERE item_fts "
                            "MATCH ? ORDER BY b LIMIT ?)"
                            " JOIN item ON item.seq = r WHERE item.pos < ? AND item.role <> 'system' ORDER BY b LIMIT ?",
                            "siii", sp_buf_str(&match), (int64_t)(4 * CANDIDATES), end, (int64_t)CANDIDATES);
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

static sp_err vote_vectors(sp_hdb *h, const char *id, int64_t end, const int8_t *vec, candidate *list, size_t *n, sp_diag *d)
{
    candidate best[CANDIDATES];
    size_t n_best = 0;
    sqlite3_stmt *s =
        sp_sql_query(h->db, "SELECT seq, vec FROM item WHERE conv=? AND pos < ? AND vec IS NOT NULL AND role <> 'system'", "si", id, end);
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

sp_err sp_hdb_search(sp_hdb *h, sp_arena *a, const char *tenant, const char *id, int64_t end, const char *text, const int8_t *vec,
                     size_t cap, sp_hdb_item **out, size_t *n, sp_diag *d)
{
    candidate list[2 * CANDIDATES];
    size_t n_list = 0;
    char sql[256];
    SP_TRY(thaw(h, tenant, id, d));
    SP_TRY(vote_words(h, id, end, text, list, &n_list, d));
    if (vec)
        SP_TRY(vote_vectors(h, id, end, vec, list, &n_list, d));
    qsort(list, n_list, sizeof *list, by_score);
    n_list = n_list < cap ? n_list : cap;
    *out = sp_arena_alloc(a, (n_list + 1) * sizeof **out);
    *n = n_list;
    sp_err err = *out ? SP_OK : SP_FAIL(d, SP_NOMEM, "search");
    snprintf(sql, sizeof sql, "%sWHERE seq=?", columns);
    sqlite3_stmt *s = sp_sql_query(h->db, sql, "");
    for (size_t i = 0; i < n_list && err == SP_OK; i++) {
        sqlite3_reset(s);
        sqlite3_bind_int64(s, 1, list[i].seq);
        err = s && sqlite3_step(s) == SQLITE_ROW ? read_item(a, s, &(*out)[i], d) : sp_sql_error(h->db, d);
        (*out)[i].score = list[i].score;
    }
    sqlite3_finalize(s);
    return err;
}

sp_err sp_hdb_unembedded(sp_hdb *h, sp_arena *a, sp_hdb_item *out)
{
    char sql[256];
    snprintf(sql, sizeof sql, "%sWHERE vec IS NULL ORDER BY seq LIMIT 1", columns);
    sqlite3_stmt *s = sp_sql_query(h->db, sql, "");
    sp_err err = s && sqlite3_step(s) == SQLITE_ROW ? read_item(a, s, out, NULL) : SP_NOTFOUND;
    sqlite3_finalize(s);
    return err;
}

sp_err sp_hdb_set_vector(sp_hdb *h, int64_t seq, const int8_t *vec, sp_diag *d)
{
    return sp_sql_run(h->db, d, "UPDATE item SET vec=? WHERE seq=?", "bi", vec, vec ? (size_t)SP_HDB_DIM : 0, seq);
}
