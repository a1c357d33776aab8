/* Conversations that nobody has touched for long: their items become one zstd object, in the object
 * store if there is one. */
#include "pipe/history_db_int.h"

#include "base/clock.h"
#include "base/log.h"
#include "base/rng.h"
#include "kv/record.h"

#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <zstd.h>

enum { ZSTD_LEVEL = 9, MAX_FROZEN = 1 << 30 };

/* An item as [id, role, text, created, n_tok, vector in hex or null, more or null, [pos, parent,
 * status, receipt or null, sources or null]]. NULL: no memory. */
static json_t *freeze_item(sp_rows *r)
{
    char hex[2 * SP_HDB_DIM + 1] = "";
    size_t n_vec;
    const uint8_t *vec = sp_rows_blob(r, 5, &n_vec);
    for (size_t i = 0; i < n_vec && i < SP_HDB_DIM; i++)
        snprintf(hex + 2 * i, 3, "%02X", vec[i]);
    const char *more = sp_rows_str(r, 6), *receipt = sp_rows_str(r, 10),
               *sources = sp_rows_str(r, 11);
    json_t *text = json_stringn(sp_rows_str(r, 2), sp_rows_bytes(r, 2));
    return text ? json_pack("[s,s,o,I,I,s?,s?,[I,s,s,s?,s?]]", sp_rows_str(r, 0), sp_rows_str(r, 1),
                            text, (json_int_t)sp_rows_int(r, 3), (json_int_t)sp_rows_int(r, 4),
                            *hex ? hex : NULL, *more ? more : NULL, (json_int_t)sp_rows_int(r, 7),
                            sp_rows_str(r, 8), sp_rows_str(r, 9), *receipt ? receipt : NULL,
                            *sources ? sources : NULL)
                : NULL;
}

/* The items of a conversation as JSON; free. */
static sp_err to_json(char **out, sp_hdb *h, const char *id, sp_diag *d)
{
    sp_rows *r = sp_db_query(h->db,
                             "SELECT id, role, text, created, n_tok, vec, more, pos, parent, "
                             "status, receipt, sources FROM item WHERE conv=? AND gone IS NULL "
                             "ORDER BY pos",
                             "s", id);
    json_t *list = json_array();
    sp_err err = r ? SP_OK : sp_db_error(h->db, d);
    while (err == SP_OK && list && sp_rows_next(r))
        if (json_array_append_new(list, freeze_item(r)) != 0)
            err = SP_FAIL(d, SP_NOMEM, "freezing a conversation");
    err = sp_rows_end(r, err, d);
    *out = err == SP_OK && list ? json_dumps(list, JSON_COMPACT) : NULL;
    json_decref(list);
    return err == SP_OK && !*out ? SP_FAIL(d, SP_NOMEM, "freezing a conversation") : err;
}

/* One that may be frozen: id, or (id "") any. */
#define QUIET                                                                                     \
    "SELECT id, tenant FROM conversation WHERE frozen IS NULL AND gone IS NULL AND updated < ?1 " \
    "AND thawed < ?1 AND n_item > 0 AND NOT EXISTS(SELECT 1 FROM item WHERE "                     \
    "conv=conversation.id AND (status='running' OR gone IS NOT NULL OR words IS NULL)) AND "      \
    "(?2='' OR id=?2) LIMIT 1"

static sp_err find_quiet(sp_hdb *h, int64_t before, char id[SP_ID_BYTES], char tenant[64],
                         sp_diag *d)
{
    sp_rows *r = sp_db_query(h->db, h->is_pg && *id ? QUIET " FOR UPDATE SKIP LOCKED" : QUIET, "is",
                             before, id);
    sp_err err = sp_rows_first(h->db, r, d);
    if (err == SP_OK) {
        snprintf(id, SP_ID_BYTES, "%s", sp_rows_str(r, 0));
        snprintf(tenant, 64, "%s", sp_rows_str(r, 1));
    }
    return sp_rows_end(r, err, d);
}

/* Each object has a key of its own: a server that still deletes an old one does not meet it. */
static sp_err put_object(sp_hdb *h, char key[128], const char *id, const char *tenant,
                         const void *ice, size_t n, sp_diag *d)
{
    uint8_t tag[SP_KV_TAG];
    char hex[SP_KV_TAG_HEX];
    SP_TRY(sp_kv_tag(tag, tenant));
    sp_kv_tag_hex(hex, tag);
    snprintf(key, 128, "history/%s/%.48s.%08x", hex, id, (unsigned)sp_rng_entropy());
    return h->cold->put(h->cold->arg, key, ice, n, d);
}

/* frozen is the object's key, or '' where the ice lies in the row. */
static sp_err freeze(sp_hdb *h, const char *id, const char *tenant, sp_diag *d)
{
    char key[128] = "", *text;
    SP_TRY(to_json(&text, h, id, d));
    size_t n = strlen(text), cap = ZSTD_compressBound(n);
    uint8_t *ice = sp_mem_raw(cap);
    size_t n_ice = ice ? ZSTD_compress(ice, cap, text, n, ZSTD_LEVEL) : 0;
    free(text);
    sp_err err =
        ice && !ZSTD_isError(n_ice) ? SP_OK : SP_FAIL(d, SP_NOMEM, "freezing a conversation");
    if (err == SP_OK && h->cold)
        err = put_object(h, key, id, tenant, ice, n_ice, d);
    if (err == SP_OK)
        err = sp_db_run(h->db, d, "UPDATE conversation SET frozen=?, ice=? WHERE id=?", "sbs", key,
                        h->cold ? NULL : ice, n_ice, id);
    if (err == SP_OK)
        err = sp_db_run(h->db, d, "DELETE FROM item WHERE conv=?", "s", id);
    sp_mem_free(ice);
    return err;
}

sp_err sp_hdb_freeze(sp_hdb *h, int64_t before, sp_diag *d)
{
    char id[SP_ID_BYTES] = "", tenant[64];
    SP_TRY(find_quiet(h, before, id, tenant, d));
    SP_TRY(sp_db_begin(h->db, d));
    sp_err err = find_quiet(h, before, id, tenant, d); /* nobody else's, and still quiet */
    return sp_db_finish(h->db, err == SP_OK ? freeze(h, id, tenant, d) : err, d);
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

/* What a frozen conversation's row holds. SP_NOTFOUND: nothing is frozen. */
static sp_err read_frozen_row(sp_hdb *h, const char *id, char key[128], sp_buf *ice, sp_diag *d)
{
    size_t n;
    sp_rows *r = sp_db_query(
        h->db, "SELECT frozen, ice FROM conversation WHERE id=? AND frozen IS NOT NULL", "s", id);
    sp_err err = sp_rows_first(h->db, r, d);
    if (err == SP_OK) {
        snprintf(key, 128, "%s", sp_rows_str(r, 0));
        const void *p = sp_rows_blob(r, 1, &n);
        sp_buf_put(ice, p, n);
    }
    SP_TRY(sp_rows_end(r, err, d));
    if (!*key)
        return ice->failed ? SP_FAIL(d, SP_NOMEM, "conversation") : SP_OK;
    return h->cold ? h->cold->get(h->cold->arg, key, 0, 0, take_ice, ice, d)
                   : SP_FAIL(d, SP_UNSUP,
                             "conversation %.60s is in the object store, and this server was "
                             "started without --s3",
                             id);
}

/* In a transaction. SP_NOTFOUND: another server was faster. */
static sp_err thaw(sp_hdb *h, const char *id, char key[128], sp_diag *d)
{
    sp_buf ice = {0};
    SP_TRY(sp_hdb_hold(h, id, d));
    sp_err err = read_frozen_row(h, id, key, &ice, d);
    if (err == SP_OK)
        err = restore_items(h, id, &ice, d);
    if (err == SP_OK)
        err = sp_db_run(h->db, d,
                        "UPDATE conversation SET frozen=NULL, ice=NULL, thawed=?1, leaf=CASE WHEN "
                        "leaf='' THEN coalesce((SELECT id FROM item WHERE conv=?2 "
                        "ORDER BY pos DESC LIMIT 1), '') ELSE leaf END WHERE id=?2",
                        "is", sp_clock_wall(), id);
    sp_buf_fini(&ice);
    return err;
}

sp_err sp_hdb_thaw(sp_hdb *h, const char *tenant, const char *id, sp_diag *d)
{
    int64_t frozen = 0;
    char key[128] = "";
    sp_err err =
        sp_db_int(h->db, &frozen, d,
                  "SELECT frozen IS NOT NULL FROM conversation WHERE id=? AND tenant=? AND gone IS "
                  "NULL",
                  "ss", id, tenant);
    if (err != SP_OK || !frozen)
        return err == SP_NOTFOUND ? sp_hdb_not_found(id, d) : err;
    SP_TRY(sp_db_begin(h->db, d));
    err = thaw(h, id, key, d);
    if (err == SP_NOTFOUND && !*key)
        err = SP_OK;
    SP_TRY(sp_db_finish(h->db, err, d));
    if (*key && h->cold->del(h->cold->arg, key, NULL) != SP_OK)
        sp_log(SP_LOG_WARN, "the object %s of a conversation that lives again stays", key);
    return SP_OK;
}
