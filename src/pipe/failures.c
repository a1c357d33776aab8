#include "pipe/failures.h"

#include <jansson.h>
#include <stdio.h>
#include <string.h>

enum { MAX_ANSWERS = 100000, MAX_RATINGS = 20000 };

/* Names of signals, as a list of SQL. */
#define SIGNAL_LIST "'regenerated','edited','copied','asked_again','stopped','opened'"

static const char *const SIGNAL[SP_SIGNALS] = {"regenerated", "edited", "copied", "asked_again",
                                               "stopped",     "opened"};

bool sp_signal_is(const char *metric)
{
    for (size_t i = 0; i < SP_SIGNALS; i++)
        if (strcmp(metric, SIGNAL[i]) == 0)
            return true;
    return false;
}

/* --- counts ----------------------------------------------------------------------------------- */

static void count_class(sp_failures *f, const char *name)
{
    for (size_t i = 0; i < SP_CLASSES && name; i++)
        f->by_class[i] += strcmp(sp_class_name((sp_class)i), name) == 0;
}

static void count_receipt(sp_failures *f, const char *text)
{
    json_t *r = json_loads(text, 0, NULL);
    const json_t *found = json_object_get(r, "retrieved"),
                 *unsure = json_object_get(json_object_get(r, "decode"), "uncertain");
    bool looked = json_number_value(json_object_get(found, "ms")) > 0;
    f->escalated += json_is_true(json_object_get(r, "escalated"));
    f->truncated += json_is_true(json_object_get(r, "truncated"));
    f->not_found += looked && json_integer_value(json_object_get(found, "chunks")) == 0;
    f->unsure += json_object_size(unsure) > 0;
    count_class(f, json_string_value(json_object_get(r, "class")));
    json_decref(r);
}

sp_err sp_failures_count(sp_failures *out, sp_db *db, int64_t since, sp_diag *d)
{
    int64_t bad = 0;
    *out = (sp_failures){0};
    sp_rows *r = sp_db_query(
        db, "SELECT failed, receipt FROM answer WHERE created>=? ORDER BY created DESC LIMIT ?",
        "ii", since, (int64_t)MAX_ANSWERS);
    while (r && sp_rows_next(r)) {
        out->n++;
        out->failed += sp_rows_int(r, 0) != 0;
        count_receipt(out, sp_rows_str(r, 1));
    }
    SP_TRY(r ? sp_rows_end(r, SP_OK, d) : sp_db_error(db, d));
    SP_TRY(sp_db_int(
        db, &bad, d,
        "SELECT count(DISTINCT a.id) FROM feedback f JOIN answer a ON "
        "f.tenant=a.tenant AND f.answer=a.id WHERE a.created>=? AND ((f.kind='boolean' "
        "AND f.value='0' AND f.metric NOT IN (" SIGNAL_LIST ")) OR f.kind='demonstration')",
        "i", since));
    out->bad = (size_t)bad;
    return SP_OK;
}

sp_err sp_signals_count(sp_signal out[SP_SIGNALS], sp_db *db, int64_t since, sp_diag *d)
{
    for (size_t i = 0; i < SP_SIGNALS; i++) {
        int64_t n = 0;
        SP_TRY(sp_db_int(db, &n, d,
                         "SELECT count(DISTINCT a.id) FROM feedback f JOIN answer a ON "
                         "f.tenant=a.tenant AND f.answer=a.id WHERE a.created>=? AND f.metric=? "
                         "AND f.kind IN ('boolean','float') AND f.value<>'0'",
                         "is", since, SIGNAL[i]));
        out[i] = (sp_signal){SIGNAL[i], (size_t)n};
    }
    return SP_OK;
}

/* --- questions -------------------------------------------------------------------------------- */

typedef struct rating {
    const char *tenant, *answer, *good; /* good NULL: the answer itself was liked */
    int64_t at;
} rating;

/* One an answer: a better answer stands above that it was liked. In order of time. */
static sp_err read_ratings(rating **out, size_t *n, sp_arena *a, sp_db *db, int64_t since,
                           sp_diag *d)
{
    rating *all = sp_arena_alloc(a, MAX_RATINGS * sizeof *all);
    sp_err err = all ? SP_OK : SP_FAIL(d, SP_NOMEM, "ratings");
    sp_rows *r =
        err ? NULL
            : sp_db_query(db,
                          "SELECT a.tenant, a.id, f.kind, f.value, a.created FROM feedback f JOIN "
                          "answer a ON f.tenant=a.tenant AND f.answer=a.id WHERE a.created>=? AND "
                          "(f.kind='demonstration' OR (f.kind='boolean' AND f.value='1' AND "
                          "f.metric NOT IN (" SIGNAL_LIST
                          "))) ORDER BY a.created, a.id, f.kind DESC, f.seq DESC LIMIT ?",
                          "ii", since, (int64_t)MAX_RATINGS);
    *n = 0;
    while (r && err == SP_OK && sp_rows_next(r)) {
        const char *id = sp_rows_str(r, 1);
        if (*n && strcmp(all[*n - 1].answer, id) == 0)
            continue;
        bool better = strcmp(sp_rows_str(r, 2), "demonstration") == 0;
        rating *to = &all[(*n)++];
        *to = (rating){sp_rows_keep(a, r, 0), sp_rows_keep(a, r, 1),
                       better ? sp_rows_keep(a, r, 3) : NULL, sp_rows_int(r, 4)};
        if (!to->tenant || !to->answer || (better && !to->good))
            err = SP_FAIL(d, SP_NOMEM, "ratings");
    }
    *out = all;
    return r ? sp_rows_end(r, err, d) : err != SP_OK ? err : sp_db_error(db, d);
}

/* Nothing beside its text but which model said it, and what that thought. */
static bool is_text(const sp_hdb_item *i)
{
    json_t *more = i->more.n ? json_loadb(i->more.p, i->more.n, 0, NULL) : NULL;
    size_t known = (json_object_get(more, "model") ? 1u : 0u) +
                   (json_object_get(more, "reasoning") ? 1u : 0u);
    bool plain = i->text.n > 0 && json_object_size(more) == known;
    json_decref(more);
    return plain;
}

/* *told: it could be asked again. */
static sp_err tell_one(bool *told, const rating *r, sp_hdb *h, sp_record_fn fn, void *arg,
                       sp_diag *d)
{
    sp_arena a;
    sp_hdb_item *item = NULL;
    char conv[SP_ID_BYTES];
    int64_t end;
    size_t n = 0;
    sp_diag why = {0};
    *told = false;
    sp_arena_init(&a, 0);
    sp_err err = sp_hdb_response(h, r->tenant, r->answer, conv, &end, &why);
    if (err == SP_OK)
        err = sp_hdb_items(h, &a, r->tenant, conv, end, &item, &n, &why);
    bool fits = err == SP_OK && n >= 2;
    for (size_t i = 0; i < n && fits; i++)
        fits = is_text(&item[i]);
    fits = fits && item[n - 2].role.n == 4 && memcmp(item[n - 2].role.p, "user", 4) == 0;
    const char *good = r->good;
    if (fits && !good && !(good = sp_arena_strndup(&a, item[n - 1].text.p, item[n - 1].text.n)))
        err = SP_FAIL(&why, SP_NOMEM, "ratings");
    *told = fits;
    if (fits && err == SP_OK)
        err = fn(arg, r->at, item, n - 1, good, &why);
    sp_arena_fini(&a);
    if (err != SP_OK && err != SP_NOTFOUND && d)
        *d = why;
    return err == SP_NOTFOUND ? SP_OK : err;
}

sp_err sp_records_walk(sp_db *db, sp_hdb *h, int64_t since, sp_record_fn fn, void *arg,
                       size_t *left_out, sp_diag *d)
{
    sp_arena a;
    rating *all = NULL;
    size_t n = 0;
    *left_out = 0;
    sp_arena_init(&a, 0);
    sp_err err = read_ratings(&all, &n, &a, db, since, d);
    for (size_t i = 0; i < n && err == SP_OK; i++) {
        bool told;
        err = tell_one(&told, &all[i], h, fn, arg, d);
        *left_out += !told;
    }
    sp_arena_fini(&a);
    return err;
}
