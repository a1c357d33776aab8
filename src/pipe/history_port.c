/* Conversations out of the database and into it: a JSON object with all branches, or Markdown of
 * what is read. */
#include "pipe/history_port.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { MOST_BYTES = 64 << 20, MAX_TEXT = 16 << 20, PAGE = 200 };

/* --- out -------------------------------------------------------------------------------------- */

static void put_date(sp_buf *out, int64_t seconds)
{
    char date[32];
    time_t t = (time_t)seconds;
    struct tm tm;
    gmtime_r(&t, &tm);
    strftime(date, sizeof date, "%Y-%m-%d %H:%M", &tm);
    sp_buf_puts(out, date);
}

static void put_text(sp_buf *out, const char *name, sp_str s)
{
    sp_buf_printf(out, ",\"%s\":", name);
    sp_buf_json_str(out, s.p, s.n);
}

static void put_item(sp_buf *out, const sp_hdb_item *it, bool first)
{
    sp_buf_printf(out, "%s{\"id\":\"%s\",\"parent\":", first ? "" : ",", it->id);
    sp_buf_printf(out, it->parent[0] ? "\"%s\"" : "null", it->parent);
    sp_buf_printf(out, ",\"created_at\":%lld,\"state\":\"%s\"", (long long)it->created,
                  sp_hdb_status_name(it->status));
    put_text(out, "role", it->role);
    put_text(out, "text", it->text);
    sp_buf_printf(out, ",\"more\":%s,\"receipt\":%s,\"sources\":%s}",
                  it->more.n ? it->more.p : "null", it->receipt.n ? it->receipt.p : "null",
                  it->sources.n ? it->sources.p : "null");
}

static sp_err put_json(sp_hdb *db, sp_arena *a, const char *tenant, const sp_hdb_conv *c,
                       sp_buf *out, bool first, sp_diag *d)
{
    sp_hdb_item *item;
    size_t n;
    SP_TRY(sp_hdb_all(db, a, tenant, c->id, &item, &n, d));
    sp_buf_printf(out,
                  "%s{\"id\":\"%s\",\"created_at\":%lld,\"updated_at\":%lld,\"pinned\":%s,\"leaf\":"
                  "\"%s\",\"settings\":%s,\"metadata\":%s",
                  first ? "" : ",\n", c->id, (long long)c->created, (long long)c->updated,
                  c->pinned ? "true" : "false", c->leaf, c->settings.p, c->metadata.p);
    put_text(out, "title", c->title);
    sp_buf_puts(out, ",\"items\":[");
    for (size_t i = 0; i < n; i++)
        put_item(out, &item[i], i == 0);
    sp_buf_puts(out, "]}");
    return SP_OK;
}

static sp_err put_markdown(sp_hdb *db, sp_arena *a, const char *tenant, const sp_hdb_conv *c,
                           sp_buf *out, bool first, sp_diag *d)
{
    sp_hdb_item *item;
    size_t n;
    SP_TRY(sp_hdb_items(db, a, tenant, c->id, INT64_MAX, &item, &n, d));
    sp_buf_printf(out, "%s# %.*s\n", first ? "" : "\n---\n\n", (int)c->title.n, c->title.p);
    for (size_t i = 0; i < n; i++) {
        sp_buf_printf(out, "\n## %.*s, ", (int)item[i].role.n, item[i].role.p);
        put_date(out, item[i].created);
        sp_buf_puts(out, item[i].status == SP_HDB_COMPLETE ? "\n\n" : " (not complete)\n\n");
        sp_buf_put(out, item[i].text.p, item[i].text.n);
        sp_buf_putc(out, '\n');
    }
    return SP_OK;
}

static sp_err put_one(sp_hdb *db, const char *tenant, const sp_hdb_conv *c, bool markdown,
                      sp_buf *out, bool first, sp_diag *d)
{
    sp_arena a;
    sp_arena_init(&a, 0);
    sp_err err = (markdown ? put_markdown : put_json)(db, &a, tenant, c, out, first, d);
    sp_arena_fini(&a);
    if (err == SP_OK && out->len > MOST_BYTES)
        err = SP_FAIL(d, SP_LIMIT,
                      "all conversations are more than %d MiB: ask for one after the other, by id",
                      MOST_BYTES >> 20);
    return err == SP_OK && out->failed ? SP_FAIL(d, SP_NOMEM, "export") : err;
}

static sp_err put_all(sp_hdb *db, const char *tenant, bool markdown, sp_buf *out, sp_diag *d)
{
    char after[SP_ID_BYTES] = "";
    bool first = true;
    for (size_t n = PAGE; n == PAGE;) {
        sp_arena a;
        sp_hdb_conv *c = NULL;
        sp_arena_init(&a, 0);
        sp_err err = sp_hdb_list(db, &a, tenant, after[0] ? after : NULL, NULL, PAGE, &c, &n, d);
        for (size_t i = 0; i < n && err == SP_OK; i++) {
            err = put_one(db, tenant, &c[i], markdown, out, first, d);
            first = false;
            snprintf(after, sizeof after, "%s", c[i].id);
        }
        sp_arena_fini(&a);
        SP_TRY(err);
    }
    return SP_OK;
}

sp_err sp_history_export(sp_hdb *db, sp_arena *a, const char *tenant, const char *id, bool markdown,
                         sp_buf *out, sp_diag *d)
{
    sp_hdb_conv c;
    if (!markdown)
        sp_buf_puts(out, "{\"object\":\"sparing.conversations\",\"version\":1,\"conversations\":[");
    if (id)
        SP_TRY(sp_hdb_get(db, a, tenant, id, &c, d));
    SP_TRY(id ? put_one(db, tenant, &c, markdown, out, true, d)
              : put_all(db, tenant, markdown, out, d));
    if (!markdown)
        sp_buf_puts(out, "]}\n");
    return SP_OK;
}

/* --- in --------------------------------------------------------------------------------------- */

static sp_str text_of(const json_t *v, const char *name)
{
    const json_t *s = json_object_get(v, name);
    return (sp_str){json_string_value(s), json_string_length(s)};
}

static bool is_id(sp_str s)
{
    return s.n >= 1 && s.n < SP_ID_BYTES &&
           strspn(s.p, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_") == s.n;
}

/* An object as text in a; empty where it is none. */
static sp_err object_of(sp_str *out, sp_arena *a, const json_t *v, const char *name)
{
    const json_t *o = json_object_get(v, name);
    *out = (sp_str){"", 0};
    if (!json_is_object(o))
        return SP_OK;
    char *text = json_dumps(o, JSON_COMPACT);
    *out = (sp_str){text ? sp_arena_strndup(a, text, strlen(text)) : NULL, text ? strlen(text) : 0};
    free(text);
    return out->p ? SP_OK : SP_NOMEM;
}

/* What was being written elsewhere is not written here. */
static sp_hdb_status status_of(sp_str s)
{
    for (int i = SP_HDB_COMPLETE; i <= SP_HDB_FAILED; i++)
        if (s.n && strcmp(s.p, sp_hdb_status_name((sp_hdb_status)i)) == 0)
            return i == SP_HDB_RUNNING ? SP_HDB_FAILED : (sp_hdb_status)i;
    return SP_HDB_COMPLETE;
}

/* seen: the ids before it, and then its own. */
static sp_err read_item(sp_hdb_item *it, size_t i, json_t *seen, sp_arena *a, const json_t *v,
                        sp_diag *d)
{
    static const char *const roles[] = {"system", "user", "assistant", "tool"};
    sp_str id = text_of(v, "id"), parent = text_of(v, "parent"), role = text_of(v, "role"),
           text = text_of(v, "text");
    bool known = false;
    for (size_t k = 0; k < sizeof roles / sizeof roles[0]; k++)
        known = known || (role.n == strlen(roles[k]) && memcmp(role.p, roles[k], role.n) == 0);
    if (!is_id(id) || json_object_get(seen, id.p))
        return SP_FAIL(d, SP_INVAL, "items[%zu].id is not an id, or is there twice", i);
    if (parent.n && (!is_id(parent) || !json_object_get(seen, parent.p)))
        return SP_FAIL(d, SP_INVAL, "items[%zu].parent is not an item before it", i);
    if (!known)
        return SP_FAIL(d, SP_INVAL, "items[%zu].role must be system, user, assistant or tool", i);
    if (!text.p || text.n > MAX_TEXT)
        return SP_FAIL(d, SP_INVAL, "items[%zu].text must be a text of at most %d MiB", i,
                       MAX_TEXT >> 20);
    *it = (sp_hdb_item){.role = role,
                        .text = text,
                        .status = status_of(text_of(v, "state")),
                        .n_tok = text.n / 3};
    json_int_t created = json_integer_value(json_object_get(v, "created_at"));
    it->created = created > 0 ? created : 0;
    snprintf(it->id, sizeof it->id, "%s", id.p);
    snprintf(it->parent, sizeof it->parent, "%s", parent.n ? parent.p : "");
    if (object_of(&it->more, a, v, "more") != SP_OK ||
        object_of(&it->receipt, a, v, "receipt") != SP_OK ||
        object_of(&it->sources, a, v, "sources") != SP_OK)
        return SP_FAIL(d, SP_NOMEM, "import");
    return json_object_set_new(seen, it->id, json_true()) == 0 ? SP_OK
                                                               : SP_FAIL(d, SP_NOMEM, "import");
}

/* A copy with an id of its own where the id is taken. */
static sp_err make(sp_hdb *db, const char *tenant, sp_str asked, const char *metadata,
                   char id[SP_ID_BYTES], sp_diag *d)
{
    sp_diag taken = {0};
    snprintf(id, SP_ID_BYTES, "%s", asked.p);
    sp_err err = sp_hdb_create(db, tenant, id, metadata, false, &taken);
    if (err != SP_INVAL) {
        if (err != SP_OK)
            *d = taken;
        return err;
    }
    sp_hdb_id(id, "conv");
    return sp_hdb_create(db, tenant, id, metadata, false, d);
}

static sp_err read_one(sp_hdb *db, sp_arena *a, const char *tenant, const json_t *v,
                       char id[SP_ID_BYTES], size_t *n_item, sp_diag *d)
{
    const json_t *list = json_object_get(v, "items");
    size_t n = json_array_size(list), cut;
    bool pinned = json_is_true(json_object_get(v, "pinned")), lost = false;
    sp_str asked = text_of(v, "id"), title = text_of(v, "title"), leaf = text_of(v, "leaf"),
           settings, metadata;
    sp_hdb_item *item = sp_mul_ok(&cut, n + 1, sizeof *item) ? sp_arena_alloc(a, cut) : NULL;
    if (!item || object_of(&settings, a, v, "settings") != SP_OK ||
        object_of(&metadata, a, v, "metadata") != SP_OK)
        return SP_FAIL(d, SP_NOMEM, "import");
    if (!is_id(asked) || !json_is_array(list))
        return SP_FAIL(d, SP_INVAL, "it has no id, or no list of items");
    json_t *seen = json_object();
    sp_err err = seen ? SP_OK : SP_FAIL(d, SP_NOMEM, "import");
    for (size_t i = 0; i < n && err == SP_OK; i++)
        err = read_item(&item[i], i, seen, a, json_array_get(list, i), d);
    if (err == SP_OK && leaf.n && !json_object_get(seen, leaf.p))
        err = SP_FAIL(d, SP_INVAL, "leaf is not one of its items");
    json_decref(seen);
    SP_TRY(err);
    SP_TRY(make(db, tenant, asked, metadata.n ? metadata.p : "{}", id, d));
    if (n)
        SP_TRY(sp_hdb_grow(db, tenant, id, item, n, d));
    *n_item += n;
    const sp_hdb_patch p = {.title = title.n ? title.p : NULL,
                            .settings = settings.n ? settings.p : NULL,
                            .leaf = leaf.n ? leaf.p : NULL,
                            .pinned = &pinned};
    return sp_hdb_change(db, tenant, id, &p, &lost, d);
}

sp_err sp_history_import(sp_hdb *db, const char *tenant, const json_t *from, sp_buf *out,
                         sp_diag *d)
{
    const json_t *list = json_object_get(from, "conversations");
    const char *object = json_string_value(json_object_get(from, "object"));
    sp_buf ids = {0};
    sp_err err = SP_OK;
    size_t n_item = 0;
    if (!object || strcmp(object, "sparing.conversations") != 0 ||
        json_integer_value(json_object_get(from, "version")) != 1 || !json_is_array(list))
        return SP_FAIL(
            d, SP_INVAL,
            "this is no export of version 1: object, version and conversations are needed");
    for (size_t i = 0; i < json_array_size(list) && err == SP_OK; i++) {
        char id[SP_ID_BYTES];
        sp_diag why = {0};
        sp_arena a;
        sp_arena_init(&a, 0);
        err = read_one(db, &a, tenant, json_array_get(list, i), id, &n_item, &why);
        sp_arena_fini(&a);
        if (err == SP_OK)
            sp_buf_printf(&ids, "%s\"%s\"", i ? "," : "", id);
        else
            (void)SP_FAIL(d, err, "conversations[%zu]: %.150s; the %zu before it are there", i,
                          why.msg, i);
    }
    if (err == SP_OK)
        sp_buf_printf(out,
                      "{\"object\":\"import\",\"conversations\":%zu,\"items\":%zu,\"ids\":[%s]}",
                      json_array_size(list), n_item, sp_buf_str(&ids));
    sp_buf_fini(&ids);
    return err;
}
