/* Experiments whose shares follow the evidence: their epochs and draws as rows, the look that ends
 * an epoch, and what is told of them. */
#include "pipe/feedback_int.h"

#include "base/clock.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
    LEAST = 8,    /* conversations for each variant in an epoch */
    PART = 8,     /* and this part of all those before it */
    AGAIN = 1000, /* rows that are read again: another server may have put one in late */
    PAGE = 10000,
    NUMBERS = SP_TRACK_ARMS * 26
};

#define EVEN 0.25 /* of all conversations is shared out equally, whatever the evidence is */

/* An epoch, and what was known when it began. */
typedef struct row {
    sp_epoch is;
    double mean[SP_TRACK_ARMS]; /* NAN: not known */
    double log_evidence;        /* that `best` is the best */
    int64_t number, best, created;
    bool done; /* best is proven */
} row;

static unsigned place_of(const sp_experiment *e, const char *variant)
{
    unsigned i = 0;
    while (i < e->n_variant && strcmp(e->variant[i].name, variant) != 0)
        i++;
    return i;
}

/* --- rows ------------------------------------------------------------------------------------- */

static void put_numbers(char out[NUMBERS], const double *v, size_t n)
{
    size_t at = 0;
    out[0] = 0;
    for (size_t i = 0; i < n; i++)
        at += (size_t)snprintf(out + at, NUMBERS - at, "%s%.17g", i ? " " : "", v[i]);
}

/* How many there are. */
static size_t read_numbers(double *out, const char *text, size_t cap)
{
    size_t n = 0;
    for (char *end; *text; text = end, n++) {
        double v = strtod(text, &end);
        if (end == text || n == cap)
            return SIZE_MAX;
        out[n] = v;
    }
    return n;
}

static sp_err put_epoch(sp_db *db, const sp_experiment *e, const row *r, sp_diag *d)
{
    char share[NUMBERS], mean[NUMBERS], centre[32], evidence[32];
    put_numbers(share, r->is.share, e->n_variant);
    put_numbers(mean, r->mean, e->n_variant);
    snprintf(centre, sizeof centre, "%.17g", r->is.centre);
    snprintf(evidence, sizeof evidence, "%.9g", r->log_evidence);
    return sp_db_run(db, d,
                     "INSERT INTO epoch(experiment, number, share, mean, centre, evidence, best, "
                     "done, created) VALUES(?,?,?,?,?,?,?,?,?) ON CONFLICT(experiment, number) DO "
                     "NOTHING",
                     "sissssiii", e->name, r->number, share, mean, centre, evidence, r->best,
                     (int64_t)r->done, sp_clock_wall());
}

static sp_err read_epoch(row *out, sp_rows *r, const sp_experiment *e, sp_diag *d)
{
    *out = (row){.number = sp_rows_int(r, 0),
                 .best = sp_rows_int(r, 5),
                 .done = sp_rows_int(r, 6) != 0,
                 .created = sp_rows_int(r, 7)};
    out->is.centre = strtod(sp_rows_str(r, 3), NULL);
    out->log_evidence = strtod(sp_rows_str(r, 4), NULL);
    if (read_numbers(out->is.share, sp_rows_str(r, 1), SP_TRACK_ARMS) == e->n_variant &&
        read_numbers(out->mean, sp_rows_str(r, 2), SP_TRACK_ARMS) == e->n_variant &&
        out->best < e->n_variant)
        return SP_OK;
    return SP_FAIL(d, SP_FORMAT,
                   "experiment %.60s has other variants than the records of it; another set of "
                   "variants needs another name",
                   e->name);
}

/* All epochs, oldest first: out [SP_EPOCHS]; the first one is made if there is none. */
static sp_err read_epochs(row *out, size_t *n, sp_db *db, const sp_experiment *e, sp_diag *d)
{
    sp_err err = SP_OK;
    sp_rows *r = sp_db_query(db,
                             "SELECT number, share, mean, centre, evidence, best, done, created "
                             "FROM epoch WHERE experiment=? ORDER BY number LIMIT ?",
                             "si", e->name, (int64_t)SP_EPOCHS);
    *n = 0;
    while (r && err == SP_OK && sp_rows_next(r)) {
        err = read_epoch(&out[*n], r, e, d);
        if (err == SP_OK && out[*n].number != (int64_t)*n)
            err = SP_FAIL(d, SP_CORRUPT, "experiment %.60s: an epoch is missing", e->name);
        *n += err == SP_OK;
    }
    SP_TRY(r ? sp_rows_end(r, err, d) : sp_db_error(db, d));
    if (*n)
        return SP_OK;
    row first = {.best = -1, .is.centre = 0.5};
    for (size_t i = 0; i < e->n_variant; i++) {
        first.is.share[i] = 1 / (double)e->n_variant;
        first.mean[i] = NAN;
    }
    SP_TRY(put_epoch(db, e, &first, d));
    out[(*n)++] = first;
    return SP_OK;
}

sp_err sp_adapt_draw(sp_db *db, const sp_exposure *x, const char *unit, sp_diag *d)
{
    char share[32];
    snprintf(share, sizeof share, "%.17g", x->draw.share);
    return sp_db_run(db, d,
                     "INSERT INTO drawn(experiment, unit, epoch, variant, share) VALUES(?,?,?,?,?) "
                     "ON CONFLICT(experiment, unit) DO NOTHING",
                     "ssiss", x->experiment->name, unit, (int64_t)x->draw.epoch, x->variant->name,
                     share);
}

/* What all servers drew since *seen. */
static sp_err read_draws(sp_draws *to, int64_t *seen, sp_db *db, const sp_experiment *e,
                         sp_diag *d)
{
    for (size_t n = PAGE; n == PAGE;) {
        sp_rows *r = sp_db_query(db,
                                 "SELECT seq, unit, epoch, variant FROM drawn WHERE experiment=? "
                                 "AND seq>? ORDER BY seq LIMIT ?",
                                 "sii", e->name, *seen, (int64_t)PAGE);
        for (n = 0; r && sp_rows_next(r); n++) {
            sp_draws_put(to, sp_experiments_key(sp_rows_str(r, 1)), (unsigned)sp_rows_int(r, 2),
                         place_of(e, sp_rows_str(r, 3)));
            *seen = sp_rows_int(r, 0);
        }
        SP_TRY(r ? sp_rows_end(r, SP_OK, d) : sp_db_error(db, d));
    }
    *seen = *seen > AGAIN ? *seen - AGAIN : 0;
    return SP_OK;
}

/* --- the look --------------------------------------------------------------------------------- */

/* Conversations that were drawn, by epoch and variant: [number * SP_TRACK_ARMS + variant]. */
static sp_err count_draws(size_t *out, sp_db *db, const sp_experiment *e, sp_diag *d)
{
    sp_rows *r = sp_db_query(db,
                             "SELECT epoch, variant, count(*) FROM drawn WHERE experiment=? GROUP "
                             "BY epoch, variant",
                             "s", e->name);
    while (r && sp_rows_next(r)) {
        unsigned variant = place_of(e, sp_rows_str(r, 1));
        int64_t epoch = sp_rows_int(r, 0);
        if (variant < e->n_variant && epoch >= 0 && epoch < SP_EPOCHS)
            out[(size_t)epoch * SP_TRACK_ARMS + variant] = (size_t)sp_rows_int(r, 2);
    }
    return r ? sp_rows_end(r, SP_OK, d) : sp_db_error(db, d);
}

static sp_err add_samples(sp_track *t, const row *epoch, size_t n, sp_db *db,
                          const sp_experiment *e, sp_diag *d)
{
    sp_rows *r = sp_fdb_drawn_values(db, e->name, e->metric);
    bool low = strcmp(e->metric, "failed") == 0; /* the lower, the better */
    while (r && sp_rows_next(r)) {
        int64_t at = sp_rows_int(r, 0);
        unsigned variant = place_of(e, sp_rows_str(r, 1));
        double x = strtod(sp_rows_str(r, 2), NULL);
        if (at >= 0 && at < (int64_t)n && !epoch[at].done && variant < e->n_variant)
            sp_track_add(t, &epoch[at].is, variant, low ? 1 - x : x);
    }
    return r ? sp_rows_end(r, SP_OK, d) : sp_db_error(db, d);
}

static void end_epoch(row *next, const sp_track *t, const sp_experiment *e, int64_t number)
{
    size_t best = sp_track_best(t);
    *next = (row){.number = number,
                  .best = t->n ? (int64_t)best : -1,
                  .log_evidence = t->n ? sp_track_log(t, best) : 0};
    next->done = next->log_evidence >= log((double)e->n_variant / SP_ADAPT_ALPHA);
    sp_track_next(&next->is, t, EVEN);
    for (size_t i = 0; i < e->n_variant; i++) {
        next->mean[i] = sp_track_mean(t, i);
        if (next->done)
            next->is.share[i] = i == best;
    }
}

/* Is the last epoch over? */
static bool is_due(const size_t *count, size_t n, const sp_experiment *e)
{
    size_t all = 0, now = 0;
    for (size_t i = 0; i < n * SP_TRACK_ARMS; i++) {
        all += count[i];
        now += i / SP_TRACK_ARMS == n - 1 ? count[i] : 0;
    }
    return now >= LEAST * e->n_variant && now >= all / PART && n < SP_EPOCHS;
}

typedef struct look {
    row epoch[SP_EPOCHS];
    size_t count[SP_EPOCHS * SP_TRACK_ARMS];
    sp_track track;
} look;

static sp_err look_at(look *l, sp_db *db, const sp_experiment *e, sp_draws *draws, int64_t *seen,
                      sp_diag *d)
{
    size_t n;
    SP_TRY(read_epochs(l->epoch, &n, db, e, d));
    for (size_t i = 0; i < n; i++)
        sp_draws_set(draws, (unsigned)i, &l->epoch[i].is);
    SP_TRY(read_draws(draws, seen, db, e, d));
    SP_TRY(count_draws(l->count, db, e, d));
    if (l->epoch[n - 1].done || sp_draws_is_full(draws) || !is_due(l->count, n, e))
        return SP_OK;
    row next;
    sp_track_init(&l->track, e->n_variant);
    SP_TRY(add_samples(&l->track, l->epoch, n, db, e, d));
    end_epoch(&next, &l->track, e, (int64_t)n);
    SP_TRY(put_epoch(db, e, &next, d));
    SP_TRY(read_epochs(l->epoch, &n, db, e, d)); /* another server may have been first */
    sp_draws_set(draws, (unsigned)n - 1, &l->epoch[n - 1].is);
    return SP_OK;
}

sp_err sp_adapt_look(sp_db *db, const sp_experiments *x, int64_t seen[SP_EXPERIMENTS], sp_diag *d)
{
    sp_err err = SP_OK;
    for (size_t i = 0; i < x->n && err == SP_OK; i++) {
        const sp_experiment *e = &x->experiment[i];
        if (!e->adapt || sp_experiments_is_stopped(x, e))
            continue;
        look *l = sp_mem_alloc(sizeof *l);
        err = l ? look_at(l, db, e, x->draws[i], &seen[i], d) : SP_FAIL(d, SP_NOMEM, "experiments");
        sp_mem_free(l);
    }
    return err;
}

/* --- what is told ----------------------------------------------------------------------------- */

static void put_array(sp_buf *out, const char *name, const double *v, size_t n)
{
    sp_buf_printf(out, ",\"%s\":[", name);
    for (size_t i = 0; i < n; i++) {
        sp_buf_puts(out, i ? "," : "");
        if (isfinite(v[i]))
            sp_buf_json_num(out, v[i]);
        else
            sp_buf_puts(out, "null");
    }
    sp_buf_putc(out, ']');
}

static void put_row(sp_buf *out, const row *r, const sp_experiment *e)
{
    sp_buf_printf(out, "{\"epoch\":%lld,\"created\":%lld", (long long)r->number,
                  (long long)r->created);
    put_array(out, "shares", r->is.share, e->n_variant);
    put_array(out, "means", r->mean, e->n_variant);
    sp_buf_printf(out, ",\"best\":");
    if (r->best >= 0)
        sp_buf_printf(out, "\"%s\"", e->variant[r->best].name);
    else
        sp_buf_puts(out, "null");
    sp_buf_puts(out, ",\"log_evidence\":");
    sp_buf_json_num(out, r->log_evidence);
    sp_buf_putc(out, '}');
}

static sp_err report(look *l, sp_buf *out, double *mismatch, sp_db *db, const sp_experiment *e,
                     sp_diag *d)
{
    size_t n;
    *mismatch = 0;
    SP_TRY(read_epochs(l->epoch, &n, db, e, d));
    SP_TRY(count_draws(l->count, db, e, d));
    for (size_t i = 0; i < n; i++)
        *mismatch +=
            sp_mismatch_log(&l->count[i * SP_TRACK_ARMS], l->epoch[i].is.share, e->n_variant);
    sp_buf_printf(out, ",\"adapt\":{\"decided\":%s,\"needed\":%.6g,\"epochs\":[",
                  l->epoch[n - 1].done ? "true" : "false",
                  log((double)e->n_variant / SP_ADAPT_ALPHA));
    for (size_t i = 0; i < n; i++) {
        sp_buf_puts(out, i ? "," : "");
        put_row(out, &l->epoch[i], e);
    }
    sp_buf_puts(out, "]}");
    return SP_OK;
}

sp_err sp_adapt_report(sp_buf *out, double *mismatch, sp_db *db, const sp_experiment *e,
                       sp_diag *d)
{
    look *l = sp_mem_alloc(sizeof *l);
    sp_err err =
        l ? report(l, out, mismatch, db, e, d) : SP_FAIL(d, SP_NOMEM, "experiments");
    sp_mem_free(l);
    return err;
}
