/* Conversations that nobody has touched for long: their items become one zstd object, in the object
 * store if there is one. */
#include "pipe/history_db_int.h"

#include "base/clock.h"
#include "kv/record.h"

#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <zstd.h>

enum { ZSTD_LEVEL = 9, MAX_FROZEN = 1 << 30 };

/* Items as a JSON array of [id, role, text, created, n_tok, vector in hex or null, more or null,
 * [pos, parent, status, receipt or null, sources or null]]. */
static char *to_json(sp_hdb *h, const char *id, sp_diag *d)
{
    sqlite3_stmt *s =
        sp_sql_query(h->db,
                     "SELECT id, role, text, created, n_tok, hex(vec), more, pos, parent, status, "
                     "receipt, sources FROM item WHERE conv=? AND gone IS NULL ORDER BY pos",
                     "s", id);
    json_t *list = json_array();
    bool ok = s && list;
    int rc = SQLITE_DONE;
    while (ok && (rc = sqlite3_step(s)) == SQLITE_ROW) {
        const char *vec = (const char *)sqlite3_column_text(s, 5);
        json_t *text = json_stringn((const char *)sqlite3_column_text(s, 2),
                                    (size_t)sqlite3_column_bytes(s, 2));
        ok = text &&
             json_array_append_new(
                 list,
                 json_pack("[s,s,o,I,I,s?,s?,[I,s,s,s?,s?]]", sqlite3_column_text(s, 0),
                           sqlite3_column_text(s, 1), text, (json_int_t)sqlite3_column_int64(s, 3),
                           (json_int_t)sqlite3_column_int64(s, 4), vec && *vec ? vec : NULL,
                           (const char *)sqlite3_column_text(s, 6),
                           (json_int_t)sqlite3_column_int64(s, 7), sqlite3_column_text(s, 8),
                           sqlite3_column_text(s, 9), (const char *)sqlite3_column_text(s, 10),
                           (const char *)sqlite3_column_text(s, 11))) == 0;
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
    sqlite3_stmt *s = sp_sql_query(
        h->db,
        "SELECT id, tenant FROM conversation WHERE frozen IS NULL AND gone IS NULL AND updated < "
        "?1 AND thawed < ?1 AND n_item > 0 AND NOT EXISTS(SELECT 1 FROM item WHERE "
        "conv=conversation.id AND (status='running' OR gone IS NOT NULL OR words IS NULL)) LIMIT 1",
        "i", before);
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
    sp_err err =
        ice && !ZSTD_isError(n_ice) ? SP_OK : SP_FAIL(d, SP_NOMEM, "freezing a conversation");
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
        err = h->cold ? sp_sql_run(h->db, d, "UPDATE conversation SET frozen=? WHERE id=?", "ss",
                                   key, id)
                      : sp_sql_run(h->db, d, "UPDATE conversation SET frozen='', ice=? WHERE id=?",
                                   "bs", ice, n_ice, id);
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

/* One item of to_json; those that were frozen by earlier versions end before `more`, or before
 * their place in the tree, and follow the one before them. */
static bool read_frozen(sp_hdb_item *out, const char **hex, const json_t *v,
                        const sp_hdb_item *before)
{
    const char *id, *role, *parent = "", *status = "complete";
    json_t *text, *vec;
    json_int_t created, n_tok, pos = before ? before->pos + 1 : 0;
    const json_t *place = json_array_get(v, 7);
    if (json_unpack((json_t *)(uintptr_t)v, "[s,s,o,I,I,o]", &id, &role, &text, &created, &n_tok,
                    &vec) != 0 ||
        !json_is_string(text) ||
        (place && json_unpack((json_t *)(uintptr_t)place, "[I,s,s]", &pos, &parent, &status) != 0))
        return false;
    *out = (sp_hdb_item){.pos = pos,
                         .created = created,
                         .n_tok = (size_t)n_tok,
                         .role = {role, strlen(role)},
                         .text = str_of(text),
                         .more = str_of(json_array_get(v, 6)),
                         .receipt = str_of(json_array_get(place, 3)),
                         .sources = str_of(json_array_get(place, 4))};
    snprintf(out->id, sizeof out->id, "%s", id);
    snprintf(out->parent, sizeof out->parent, "%s", place ? parent : before ? before->id : "");
    for (int i = SP_HDB_COMPLETE; i <= SP_HDB_FAILED; i++)
        out->status = strcmp(status, sp_hdb_status_name((sp_hdb_status)i)) == 0 ? (sp_hdb_status)i
                                                                                : out->status;
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
    sp_hdb_item it = {0}, last;
    bool entitled = false;
    for (size_t i = 0; i < json_array_size(list) && err == SP_OK; i++) {
        const char *hex;
        uint8_t v[SP_HDB_DIM];
        last = it;
        if (!read_frozen(&it, &hex, json_array_get(list, i), i ? &last : NULL))
            err = SP_FAIL(d, SP_CORRUPT, "item %zu of the frozen conversation %.60s is not whole",
                          i, id);
        else
            err = sp_hdb_insert(h, id, &it, v,
                                from_hex(v, sizeof v, hex) == sizeof v ? sizeof v : 0, d);
        bool asks = err == SP_OK && it.role.n == 4 && memcmp(it.role.p, "user", 4) == 0;
        if (asks && !entitled)
            err = sp_hdb_entitle_bare(h, id, it.text, d);
        entitled = entitled || asks;
    }
    json_decref(list);
    return err;
}

sp_err sp_hdb_thaw(sp_hdb *h, const char *tenant, const char *id, sp_diag *d)
{
    sp_buf ice = {0};
    char key[128] = "";
    sqlite3_stmt *s = sp_sql_query(
        h->db, "SELECT frozen, ice FROM conversation WHERE id=? AND tenant=? AND gone IS NULL",
        "ss", id, tenant);
    int rc = s ? sqlite3_step(s) : SQLITE_ERROR;
    sp_err err = rc == SQLITE_ROW    ? SP_OK
                 : rc == SQLITE_DONE ? sp_hdb_not_found(id, d)
                                     : sp_sql_error(h->db, d);
    bool frozen = err == SP_OK && sqlite3_column_type(s, 0) != SQLITE_NULL;
    if (frozen) {
        snprintf(key, sizeof key, "%s", (const char *)sqlite3_column_text(s, 0));
        sp_buf_put(&ice, sqlite3_column_blob(s, 1), (size_t)sqlite3_column_bytes(s, 1));
    }
    sqlite3_finalize(s);
    if (err == SP_OK && frozen && *key) {
        err = h->cold ? SP_OK
                      : SP_FAIL(d, SP_UNSUP,
                                "conversation %.60s is in the object store, and this server was "
                                "started without --s3",
                                id);
        if (err == SP_OK)
            err = h->cold->get(h->cold->arg, key, 0, 0, take_ice, &ice, d);
    }
    if (err == SP_OK && frozen) {
        err = sp_sql_begin(h->db, d);
        if (err == SP_OK) {
            err = restore_items(h, id, &ice, d);
            if (err == SP_OK)
                err = sp_sql_run(
                    h->db, d,
                    "UPDATE conversation SET frozen=NULL, ice=NULL, thawed=?1, leaf=CASE WHEN "
                    "leaf='' THEN coalesce((SELECT id FROM item WHERE conv=?2 "
                    "ORDER BY pos DESC LIMIT 1), '') ELSE leaf END WHERE id=?2",
                    "is", sp_clock_wall(), id);
            err = sp_sql_finish(h->db, err, d);
        }
        if (err == SP_OK && *key)
            (void)h->cold->del(h->cold->arg, key, NULL);
    }
    sp_buf_fini(&ice);
    return err;
}
