/* Messages as a tree: paths, answers in the making, and removals that can be taken back. */
#include "pipe/history_db_int.h"

#include "base/clock.h"

#include <stdio.h>
#include <string.h>

enum { INDEX_EACH = 16 /* items whose words are made between two operations */ };

/* From an item up to the first one; what is hidden is passed over. */
#define UP                                                                                       \
    "WITH RECURSIVE up(id, parent, depth) AS (SELECT id, parent, 0 FROM item WHERE conv=?1 AND " \
    "id=?2 UNION ALL SELECT item.id, item.parent, up.depth + 1 FROM item JOIN up ON "            \
    "item.conv=?1 AND item.id=up.parent) "
#define DOWN                                                                                       \
    "WITH RECURSIVE down(id, pos) AS (SELECT id, pos FROM item WHERE conv=?1 AND id=?2 UNION ALL " \
    "SELECT item.id, item.pos FROM item JOIN down ON item.conv=?1 AND item.parent=down.id) "

/* --- items ------------------------------------------------------------------------------------ */

static sp_err no_item(const char *conv, const char *id, sp_diag *d)
{
    return SP_FAIL(d, SP_NOTFOUND, "conversation %.48s has no message %.48s", conv, id);
}

sp_err sp_hdb_item_get(sp_hdb *h, sp_arena *a, const char *tenant, const char *conv, const char *id,
                       sp_hdb_item *out, sp_diag *d)
{
    char sql[512];
    SP_TRY(sp_hdb_thaw(h, tenant, conv, d));
    snprintf(sql, sizeof sql, "%sWHERE conv=? AND id=? AND gone IS NULL", sp_hdb_columns);
    sp_rows *r = sp_db_query(h->db, sql, "ss", conv, id);
    sp_err err = sp_rows_first(h->db, r, d);
    if (err == SP_OK)
        err = sp_hdb_read(a, r, out, d);
    else if (err == SP_NOTFOUND)
        err = no_item(conv, id, d);
    return sp_rows_end(r, err, d);
}

/* The one id that a statement over a conversation gives; "": none. */
static sp_err read_id(sp_hdb *h, char out[SP_ID_BYTES], sp_rows *r, sp_diag *d)
{
    sp_err err = sp_rows_first(h->db, r, d);
    snprintf(out, SP_ID_BYTES, "%s", err == SP_OK ? sp_rows_str(r, 0) : "");
    return sp_rows_end(r, err == SP_NOTFOUND ? SP_OK : err, d);
}

sp_err sp_hdb_newest(sp_hdb *h, sp_arena *a, const char *tenant, const char *conv, const char *id,
                     sp_hdb_item *out, sp_diag *d)
{
    char newest[SP_ID_BYTES];
    SP_TRY(sp_hdb_item_get(h, a, tenant, conv, id, out, d));
    SP_TRY(read_id(h, newest,
                   sp_db_query(h->db,
                               DOWN "SELECT item.id FROM down JOIN item ON item.conv=?1 AND "
                                    "item.id=down.id WHERE item.gone IS NULL ORDER BY "
                                    "item.pos DESC LIMIT 1",
                               "ss", conv, id),
                   d));
    return sp_hdb_item_get(h, a, tenant, conv, newest, out, d);
}

/* The path's end: the leaf, an item, the newest one below it, or the parent of the one that is
 * before. "": there is nothing. */
static sp_err find_end(sp_hdb *h, sp_arena *a, const char *tenant, const char *conv,
                       const sp_hdb_path_args *p, char end[SP_ID_BYTES], sp_diag *d)
{
    sp_hdb_conv c;
    sp_hdb_item it;
    if (p->before || p->to) {
        const char *id = p->before ? p->before : p->to;
        SP_TRY(p->below && !p->before ? sp_hdb_newest(h, a, tenant, conv, id, &it, d)
                                      : sp_hdb_item_get(h, a, tenant, conv, id, &it, d));
        snprintf(end, SP_ID_BYTES, "%s", p->before ? it.parent : it.id);
        return SP_OK;
    }
    SP_TRY(sp_hdb_get(h, a, tenant, conv, &c, d));
    snprintf(end, SP_ID_BYTES, "%s", c.leaf);
    return SP_OK;
}

static void turn_round(sp_hdb_item *item, size_t n)
{
    for (size_t i = 0; i < n / 2; i++) {
        sp_hdb_item t = item[i];
        item[i] = item[n - 1 - i];
        item[n - 1 - i] = t;
    }
}

static sp_err grow_list(sp_arena *a, sp_hdb_item **list, size_t n, size_t *room, sp_diag *d)
{
    if (n < *room)
        return SP_OK;
    size_t bytes, more = *room ? 2 * *room : 64;
    sp_hdb_item *to = sp_mul_ok(&bytes, more, sizeof *to) ? sp_arena_alloc(a, bytes) : NULL;
    if (!to)
        return SP_FAIL(d, SP_NOMEM, "items");
    if (n)
        memcpy(to, *list, n * sizeof *to);
    *list = to;
    *room = more;
    return SP_OK;
}

sp_err sp_hdb_path(sp_hdb *h, sp_arena *a, const char *tenant, const char *id,
                   const sp_hdb_path_args *p, sp_hdb_item **out, size_t *n, bool *more, sp_diag *d)
{
    char end[SP_ID_BYTES], sql[1400];
    size_t room = 0, got = 0;
    sp_hdb_item *list = NULL;
    SP_TRY(sp_hdb_thaw(h, tenant, id, d));
    SP_TRY(find_end(h, a, tenant, id, p, end, d));
    /* The columns, and how many siblings there are: they stand behind the last one that is read. */
    snprintf(sql, sizeof sql,
             UP "%.*s, (SELECT count(*) FROM item x WHERE x.conv=?1 AND x.parent=item.parent AND "
                "x.gone IS NULL) FROM up JOIN item ON item.conv=?1 AND "
                "item.id=up.id WHERE item.gone IS NULL ORDER BY up.depth",
             (int)(strlen(sp_hdb_columns) - strlen(" FROM item ")), sp_hdb_columns);
    sp_rows *r = sp_db_query(h->db, sql, "ss", id, end);
    sp_err err = r ? SP_OK : sp_db_error(h->db, d);
    *more = false;
    while (err == SP_OK && !*more && sp_rows_next(r)) {
        *more = got == p->cap;
        if (*more)
            break;
        err = grow_list(a, &list, got, &room, d);
        if (err == SP_OK)
            err = sp_hdb_read(a, r, &list[got], d);
        if (err == SP_OK)
            list[got++].n_sibling = (size_t)sp_rows_int(r, 12);
    }
    err = sp_rows_end(r, err, d);
    turn_round(list, got);
    *out = list;
    *n = got;
    return err;
}

sp_err sp_hdb_all(sp_hdb *h, sp_arena *a, const char *tenant, const char *id, sp_hdb_item **out,
                  size_t *n, sp_diag *d)
{
    char sql[512];
    size_t room = 0, got = 0;
    sp_hdb_item *list = NULL;
    SP_TRY(sp_hdb_thaw(h, tenant, id, d));
    snprintf(sql, sizeof sql, "%sWHERE conv=? AND gone IS NULL ORDER BY pos", sp_hdb_columns);
    sp_rows *r = sp_db_query(h->db, sql, "s", id);
    sp_err err = r ? SP_OK : sp_db_error(h->db, d);
    while (err == SP_OK && sp_rows_next(r)) {
        err = grow_list(a, &list, got, &room, d);
        if (err == SP_OK)
            err = sp_hdb_read(a, r, &list[got++], d);
    }
    *out = list;
    *n = got;
    return sp_rows_end(r, err, d);
}

sp_err sp_hdb_items(sp_hdb *h, sp_arena *a, const char *tenant, const char *id, int64_t end,
                    sp_hdb_item **out, size_t *n, sp_diag *d)
{
    char to[SP_ID_BYTES];
    bool more;
    sp_hdb_path_args p = {.cap = SIZE_MAX};
    SP_TRY(sp_hdb_thaw(h, tenant, id, d));
    if (end != INT64_MAX) {
        SP_TRY(read_id(
            h, to,
            sp_db_query(h->db,
                        "SELECT id FROM item WHERE conv=? AND pos < ? ORDER BY pos DESC LIMIT 1",
                        "si", id, end),
            d));
        *out = NULL;
        *n = 0;
        if (!to[0])
            return SP_OK;
        p.to = to;
    }
    return sp_hdb_path(h, a, tenant, id, &p, out, n, &more, d);
}

sp_err sp_hdb_children(sp_hdb *h, const char *conv, const char *parent, sp_buf *out, sp_diag *d)
{
    sp_rows *r = sp_db_query(
        h->db, "SELECT id FROM item WHERE conv=? AND parent=? AND gone IS NULL ORDER BY pos", "ss",
        conv, parent);
    sp_err err = r ? SP_OK : sp_db_error(h->db, d);
    for (bool first = true; err == SP_OK && sp_rows_next(r); first = false) {
        const char *id = sp_rows_str(r, 0);
        sp_buf_puts(out, first ? "" : ",");
        sp_buf_json_str(out, id, strlen(id));
    }
    err = sp_rows_end(r, err, d);
    return err == SP_OK && out->failed ? SP_FAIL(d, SP_NOMEM, "items") : err;
}

/* --- answers in the making -------------------------------------------------------------------- */

sp_err sp_hdb_draft(sp_hdb *h, const char *tenant, const char *conv, const char *id, sp_str text,
                    sp_diag *d)
{
    return sp_db_run(h->db, d,
                      "UPDATE item SET draft=? WHERE conv=? AND id=? AND status='running' AND "
                      "EXISTS(SELECT 1 FROM conversation WHERE id=item.conv AND "
                      "tenant=?)",
                      "Ssss", text.p, text.n, conv, id, tenant);
}

sp_err sp_hdb_finish(sp_hdb *h, const char *tenant, const char *conv, const sp_hdb_item *it,
                     sp_diag *d)
{
    sp_buf words = {0};
    sp_err err = sp_hdb_words(&words, it->text, d);
    if (err == SP_OK)
        err = sp_db_begin(h->db, d);
    if (err == SP_OK) {
        err = sp_db_run(h->db, d,
                         "UPDATE item SET draft=NULL, text=?, words=?, more=?, n_tok=?, status=?, "
                         "receipt=?, sources=?, owner=NULL WHERE conv=? AND id=? AND "
                         "(status='running' OR owner=?) AND EXISTS(SELECT 1 FROM conversation "
                         "WHERE id=item.conv AND tenant=?)",
                         "SSSisSSssss", it->text.p, it->text.n, sp_buf_str(&words), words.len,
                         it->more.n ? it->more.p : NULL, it->more.n, (int64_t)it->n_tok,
                         sp_hdb_status_name(it->status), it->receipt.n ? it->receipt.p : NULL,
                         it->receipt.n, it->sources.n ? it->sources.p : NULL, it->sources.n, conv,
                         it->id, h->self, tenant);
        if (err == SP_OK)
            err = sp_db_run(h->db, d, "UPDATE conversation SET updated=? WHERE id=? AND tenant=?",
                             "iss", sp_clock_wall(), conv, tenant);
        err = sp_db_finish(h->db, err, d);
    }
    sp_buf_fini(&words);
    return err;
}

/* --- removal ---------------------------------------------------------------------------------- */

/* gone of a row from one state to the other; SP_NOTFOUND where it is not in the first. due 0:
 * back. */
static sp_err set_gone(sp_hdb *h, const char *tenant, const char *conv, const char *item,
                       int64_t due, sp_diag *d)
{
    const char *sql =
        item  ? due ? "UPDATE item SET gone=?1 WHERE conv=?2 AND id=?4 AND gone IS NULL AND "
                       "status<>'running' AND EXISTS(SELECT 1 FROM "
                      "conversation WHERE id=?2 AND tenant=?3 AND gone IS NULL)"
                    : "UPDATE item SET gone=NULL WHERE ?1=0 AND conv=?2 AND id=?4 AND gone IS NOT "
                       "NULL AND EXISTS(SELECT 1 FROM conversation "
                      "WHERE id=?2 AND tenant=?3 AND gone IS NULL)"
        : due ? "UPDATE conversation SET gone=?1 WHERE id=?2 AND tenant=?3 AND gone IS NULL"
              : "UPDATE conversation SET gone=NULL WHERE ?1=0 AND id=?2 AND tenant=?3 AND gone IS "
                "NOT NULL";
    SP_TRY(sp_db_run(h->db, d, sql, item ? "isss" : "iss", due, conv, tenant, item));
    if (sp_db_changes(h->db))
        return SP_OK;
    return item ? no_item(conv, item, d) : sp_hdb_not_found(conv, d);
}

sp_err sp_hdb_hide(sp_hdb *h, const char *tenant, const char *conv, const char *item, int64_t due,
                   sp_diag *d)
{
    if (item)
        SP_TRY(sp_hdb_thaw(h, tenant, conv, d));
    return set_gone(h, tenant, conv, item, due, d);
}

sp_err sp_hdb_restore(sp_hdb *h, const char *tenant, const char *conv, const char *item, sp_diag *d)
{
    return set_gone(h, tenant, conv, item, 0, d);
}

sp_err sp_hdb_next_due(sp_hdb *h, int64_t now, sp_hdb_due *out, sp_diag *d)
{
    sp_rows *r = sp_db_query(
        h->db,
        "SELECT tenant, id, '' FROM conversation WHERE gone IS NOT NULL AND gone <= ?1 UNION ALL "
        "SELECT c.tenant, i.conv, i.id FROM item i "
        "JOIN conversation c ON c.id=i.conv WHERE i.gone IS NOT NULL AND i.gone <= ?1 LIMIT 1",
        "i", now);
    sp_err err = sp_rows_first(h->db, r, d);
    if (err == SP_OK) {
        snprintf(out->tenant, sizeof out->tenant, "%s", sp_rows_str(r, 0));
        snprintf(out->conv, sizeof out->conv, "%s", sp_rows_str(r, 1));
        snprintf(out->item, sizeof out->item, "%s", sp_rows_str(r, 2));
    }
    return sp_rows_end(r, err, d);
}

/* Its children become its parent's; responses that ended at it are forgotten; words and text are
 * overwritten. */
static sp_err take_out(sp_hdb *h, const char *tenant, const char *conv, const char *item,
                       sp_diag *d)
{
    static const char *const step[] = {
        "UPDATE item SET parent=(SELECT x.parent FROM item x WHERE x.conv=?1 AND x.id=?2) WHERE "
        "conv=?1 AND parent=?2",
        "UPDATE conversation SET leaf=(SELECT x.parent FROM item x WHERE x.conv=?1 AND x.id=?2) "
        "WHERE id=?1 AND leaf=?2",
        "DELETE FROM response WHERE conv=?1 AND pos_end=(SELECT x.pos + 1 FROM item x WHERE "
        "x.conv=?1 AND x.id=?2)",
        "DELETE FROM item WHERE conv=?1 AND id=?2",
        "UPDATE conversation SET n_gone=n_gone+1 WHERE id=?1 AND ?2<>''"};
    SP_TRY(sp_hdb_hold(h, conv, d));
    for (size_t i = 0; i < sizeof step / sizeof step[0]; i++)
        SP_TRY(sp_db_run(h->db, d, step[i], "ss", conv, item));
    SP_TRY(sp_hdb_tell_others(h, tenant, conv, d));
    return sp_hdb_scrub(h, d);
}

sp_err sp_hdb_remove_item(sp_hdb *h, const char *tenant, const char *conv, const char *item,
                          sp_diag *d)
{
    int64_t there = 0;
    SP_TRY(sp_hdb_thaw(h, tenant, conv, d));
    SP_TRY(sp_db_int(h->db, &there, d,
                      "SELECT count(*) FROM item WHERE conv=? AND id=? AND status<>'running'", "ss",
                      conv, item));
    if (!there)
        return no_item(conv, item, d);
    SP_TRY(sp_db_begin(h->db, d));
    SP_TRY(sp_db_finish(h->db, take_out(h, tenant, conv, item, d), d));
    return sp_db_settle(h->db, d);
}

/* --- the index of earlier files --------------------------------------------------------------- */

static sp_err index_one(sp_hdb *h, const sp_hdb_item *it, const char *conv, sp_diag *d)
{
    sp_buf words = {0};
    sp_err err = sp_hdb_words(&words, it->text, d);
    if (err == SP_OK)
        err = sp_db_run(h->db, d, "UPDATE item SET words=? WHERE seq=?", "Si", sp_buf_str(&words),
                         words.len, it->seq);
    sp_buf_fini(&words);
    bool asks = it->role.n == 4 && memcmp(it->role.p, "user", 4) == 0;
    return err == SP_OK && asks ? sp_hdb_entitle_bare(h, conv, it->text, d) : err;
}

sp_err sp_hdb_index_some(sp_hdb *h, bool *left, sp_diag *d)
{
    char sql[512], conv[INDEX_EACH][SP_ID_BYTES];
    sp_hdb_item it[INDEX_EACH];
    sp_arena a;
    size_t n = 0;
    sp_arena_init(&a, 0);
    snprintf(sql, sizeof sql,
             "%.*s, item.conv FROM item WHERE words IS NULL AND status<>'running' ORDER BY seq "
             "LIMIT %d",
             (int)(strlen(sp_hdb_columns) - strlen(" FROM item ")), sp_hdb_columns, INDEX_EACH);
    sp_rows *r = sp_db_query(h->db, sql, "");
    sp_err err = r ? SP_OK : sp_db_error(h->db, d);
    while (err == SP_OK && n < INDEX_EACH && sp_rows_next(r)) {
        snprintf(conv[n], SP_ID_BYTES, "%s", sp_rows_str(r, 12));
        err = sp_hdb_read(&a, r, &it[n++], d);
    }
    err = sp_rows_end(r, err, d);
    *left = n == INDEX_EACH;
    if (err == SP_OK && n)
        err = sp_db_begin(h->db, d);
    for (size_t i = 0; i < n && err == SP_OK; i++)
        err = index_one(h, &it[i], conv[i], d);
    if (n)
        err = sp_db_finish(h->db, err, d);
    sp_arena_fini(&a);
    return err;
}
