#include "pipe/budget.h"

#include "base/clock.h"
#include "base/db.h"
#include "base/lock.h"
#include "base/log.h"
#include "base/map.h"
#include "pipe/desk.h"

#include <math.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

enum { TENANT = 64, DAY_S = 86400, TENANTS = 65536, REFRESH_TICKS = 10 };
#define NANO 1e9

/* A day, and the first one of its month, counted from 1970. */
typedef struct date {
    int64_t day, month;
} date;

typedef struct account {
    char tenant[TENANT];
    int64_t day, month; /* billionths, as of the table at budgets.at */
    int64_t fresh;      /* not yet in the table */
    int64_t fresh_day;  /* when the first of it was spent */
    int64_t taken;      /* of fresh: is being written */
    int64_t later_day;  /* when the first behind those was spent */
} account;

struct sp_budgets {
    sp_budgets_cfg cfg;
    sp_db *db; /* owner: the desk's thread */
    sp_desk *desk;
    sp_lock lock;     /* rank API */
    account **account; /* [n] guard: lock */
    sp_map by_name;    /* places in account; its keys are theirs. guard: lock */
    size_t n, cap, n_tick;
    date at;      /* of the sums; guard: lock */
    bool is_down; /* the last writing failed; owner: the desk's thread */
    sp_metric *refused[2];
};

static const char tables[] = "CREATE TABLE IF NOT EXISTS spent(tenant TEXT NOT NULL, day BIGINT "
                             "NOT NULL, nano BIGINT NOT NULL, PRIMARY KEY(tenant, day));";

/* --- time ------------------------------------------------------------------------------------- */

static int64_t now_of(const sp_budgets *b)
{
    return b->cfg.now ? b->cfg.now() : sp_clock_wall();
}

static date date_of(int64_t s)
{
    time_t t = (time_t)s;
    struct tm tm;
    gmtime_r(&t, &tm);
    return (date){s / DAY_S, s / DAY_S - (tm.tm_mday - 1)};
}

/* Seconds until the month after that of s begins. */
static int64_t to_next_month(int64_t s)
{
    int64_t day = date_of(s).month + 28;
    while (date_of(day * DAY_S).month == date_of(s).month)
        day++;
    return day * DAY_S - s;
}

/* --- sums ------------------------------------------------------------------------------------- */

/* The caller holds the lock. NULL: no memory, or too many. */
static account *find(sp_budgets *b, const char *tenant, bool make)
{
    uint32_t at;
    size_t n = strnlen(tenant, TENANT - 1);
    if (sp_map_find(&b->by_name, tenant, n, &at))
        return b->account[at];
    if (!make || b->n == TENANTS ||
        !sp_mem_has_room(&b->account, &b->cap, b->n, sizeof *b->account))
        return NULL;
    account *a = sp_mem_alloc(sizeof *a);
    if (!a)
        return NULL;
    memcpy(a->tenant, tenant, n);
    if (sp_map_set(&b->by_name, a->tenant, n, (uint32_t)b->n) != SP_OK) {
        sp_mem_free(a);
        return NULL;
    }
    return b->account[b->n++] = a;
}

/* What was spent on the day and in the month of `to`. */
static date sums_of(const sp_budgets *b, const account *a, date to)
{
    return (date){(b->at.day == to.day ? a->day : 0) + a->fresh,
                  (b->at.month == to.month ? a->month : 0) + a->fresh};
}

void sp_budgets_spend(sp_budgets *b, const char *tenant, double cost)
{
    if (!b || !(cost > 0))
        return;
    int64_t nano = llround(cost * NANO), day = now_of(b) / DAY_S;
    sp_lock_get(&b->lock);
    account *a = find(b, tenant, true);
    if (a) {
        a->fresh_day = a->fresh ? a->fresh_day : day;
        a->later_day = a->fresh > a->taken ? a->later_day : day;
        a->fresh += nano;
    }
    sp_lock_put(&b->lock);
    if (a)
        sp_desk_wake(b->desk);
    else
        sp_log(SP_LOG_WARN, "what tenant %.60s spends is not counted: no memory", tenant);
}

sp_err sp_budgets_check(sp_budgets *b, const char *tenant, int64_t *wait_s, sp_diag *d)
{
    const sp_budget *may = b ? sp_prices_budget(b->cfg.prices, tenant) : NULL;
    if (!may)
        return SP_OK;
    int64_t now = now_of(b);
    date sum = {0};
    sp_lock_get(&b->lock);
    const account *a = find(b, tenant, false);
    if (a)
        sum = sums_of(b, a, date_of(now));
    sp_lock_put(&b->lock);
    bool month = may->month && (double)sum.month >= *may->month * NANO,
         day = may->day && (double)sum.day >= *may->day * NANO;
    if (!month && !day)
        return SP_OK;
    const char *currency = b->cfg.prices->currency;
    *wait_s = month ? to_next_month(now) : DAY_S - now % DAY_S;
    sp_metric_add(b->refused[month], 1);
    return SP_FAIL(d, SP_LIMIT, "the budget of tenant %.60s for this %s is spent: %.6g of %.6g %s",
                   tenant, month ? "month" : "day", (double)(month ? sum.month : sum.day) / NANO,
                   month ? *may->month : *may->day, currency ? currency : "");
}

static void put_limit(sp_buf *out, const char *name, int64_t spent, const double *budget)
{
    sp_buf_printf(out, ",\"%s\":{\"spent\":%.9g,\"budget\":", name, (double)spent / NANO);
    if (budget)
        sp_buf_json_num(out, *budget);
    else
        sp_buf_puts(out, "null");
    sp_buf_putc(out, '}');
}

void sp_budgets_write(sp_budgets *b, const char *tenant, sp_buf *out)
{
    date to = date_of(now_of(b));
    const char *between = "";
    sp_lock_get(&b->lock);
    const account *one = tenant ? find(b, tenant, false) : NULL;
    for (size_t i = 0; i < (tenant ? one != NULL : b->n); i++) {
        const account *a = one ? one : b->account[i];
        const sp_budget *may = sp_prices_budget(b->cfg.prices, a->tenant);
        date sum = sums_of(b, a, to);
        sp_buf_printf(out, "%s{\"tenant\":\"%s\"", between, a->tenant);
        put_limit(out, "day", sum.day, may ? may->day : NULL);
        put_limit(out, "month", sum.month, may ? may->month : NULL);
        sp_buf_putc(out, '}');
        between = ",";
    }
    sp_lock_put(&b->lock);
}

/* --- the table -------------------------------------------------------------------------------- */

/* What is not yet written, as a copy; the caller's. What is spent meanwhile has a day of its
 * own. */
static sp_err take_fresh(account **out, size_t *n, sp_budgets *b)
{
    *n = 0;
    sp_lock_get(&b->lock);
    *out = sp_mem_array(b->n ? b->n : 1, sizeof **out);
    for (size_t i = 0; i < b->n && *out; i++) {
        b->account[i]->taken = b->account[i]->fresh;
        if (b->account[i]->fresh)
            (*out)[(*n)++] = *b->account[i];
    }
    sp_lock_put(&b->lock);
    return *out ? SP_OK : SP_NOMEM;
}

static sp_err write_fresh(sp_db *db, const account *a, size_t n, sp_diag *d)
{
    for (size_t i = 0; i < n; i++)
        SP_TRY(sp_db_run(db, d,
                         "INSERT INTO spent(tenant, day, nano) VALUES(?,?,?) ON CONFLICT(tenant, "
                         "day) DO UPDATE SET nano = spent.nano + excluded.nano",
                         "sii", a[i].tenant, a[i].fresh_day, a[i].fresh));
    return SP_OK;
}

/* What was written is fresh no more. */
static void settle(sp_budgets *b, const account *wrote, size_t n)
{
    sp_lock_get(&b->lock);
    for (size_t i = 0; i < n; i++) {
        account *a = find(b, wrote[i].tenant, false);
        a->fresh -= wrote[i].fresh;
        a->fresh_day = a->later_day;
        a->taken = 0;
        a->day += wrote[i].fresh_day == b->at.day ? wrote[i].fresh : 0;
        a->month += wrote[i].fresh;
    }
    sp_lock_put(&b->lock);
}

/* The sums of the table for all tenants. out is the caller's, after an error too. */
static sp_err read_sums(account **out, size_t *n, sp_db *db, date at, sp_diag *d)
{
    size_t cap = 0;
    sp_err err = SP_OK;
    sp_rows *r = sp_db_query(db,
                             "SELECT tenant, CAST(sum(CASE WHEN day=? THEN nano ELSE 0 END) AS "
                             "BIGINT), CAST(sum(nano) AS BIGINT) FROM spent WHERE day>=? GROUP BY "
                             "tenant",
                             "ii", at.day, at.month);
    while (r && err == SP_OK && sp_rows_next(r)) {
        if (!sp_mem_has_room(out, &cap, *n, sizeof **out)) {
            err = SP_FAIL(d, SP_NOMEM, "budgets");
            continue;
        }
        account *a = &(*out)[(*n)++];
        *a = (account){.day = sp_rows_int(r, 1), .month = sp_rows_int(r, 2)};
        snprintf(a->tenant, sizeof a->tenant, "%s", sp_rows_str(r, 0));
    }
    return r ? sp_rows_end(r, err, d) : sp_db_error(db, d);
}

static void take_sums(sp_budgets *b, date at, const account *sum, size_t n)
{
    sp_lock_get(&b->lock);
    b->at = at;
    for (size_t i = 0; i < b->n; i++)
        b->account[i]->day = b->account[i]->month = 0;
    for (size_t i = 0; i < n; i++) {
        account *a = find(b, sum[i].tenant, true);
        if (!a)
            continue;
        a->day = sum[i].day;
        a->month = sum[i].month;
    }
    sp_lock_put(&b->lock);
}

/* Writes what is fresh, and reads what all servers have written. */
static sp_err sync(sp_budgets *b, sp_diag *d)
{
    account *list = NULL;
    size_t n = 0;
    date at = date_of(now_of(b));
    sp_err err = take_fresh(&list, &n, b);
    if (err == SP_OK && n) {
        err = sp_db_begin(b->db, d);
        if (err == SP_OK)
            err = sp_db_finish(b->db, write_fresh(b->db, list, n, d), d);
        if (err == SP_OK)
            settle(b, list, n);
    }
    sp_mem_free(list);
    list = NULL;
    n = 0;
    if (err == SP_OK)
        err = read_sums(&list, &n, b->db, at, d);
    if (err == SP_OK)
        take_sums(b, at, list, n);
    sp_mem_free(list);
    return err;
}

/* On the desk's thread, each second and when something was spent. */
static bool idle(void *self)
{
    sp_budgets *b = self;
    sp_diag d = {0};
    bool due = b->n_tick++ % REFRESH_TICKS == 0;
    sp_lock_get(&b->lock);
    for (size_t i = 0; i < b->n && !due; i++)
        due = b->account[i]->fresh != 0;
    sp_lock_put(&b->lock);
    if (!due)
        return false;
    sp_err err = sync(b, &d);
    if (err != SP_OK && !b->is_down)
        sp_log(SP_LOG_WARN, "what tenants spend is not written, and will be later: %s", d.msg);
    b->is_down = err != SP_OK;
    return false;
}

static sp_err run(void *self, sp_op *op)
{
    (void)self;
    (void)op;
    return SP_UNSUP; /* nobody submits anything */
}

sp_err sp_budgets_open(sp_budgets **out, const sp_budgets_cfg *cfg, sp_diag *d)
{
    static const char *const label[] = {"period=\"day\"", "period=\"month\""};
    sp_budgets *b = sp_mem_alloc(sizeof *b);
    if (!b)
        return SP_FAIL(d, SP_NOMEM, "budgets");
    b->cfg = *cfg;
    sp_lock_init(&b->lock, SP_RANK_API);
    for (size_t i = 0; i < 2; i++)
        b->refused[i] =
            sp_metric_counter(cfg->metrics, "sparing_over_budget_total",
                              "Requests refused, for the tenant's budget is spent.", label[i]);
    sp_err err = sp_map_init(&b->by_name, 0) == SP_OK ? SP_OK : SP_FAIL(d, SP_NOMEM, "budgets");
    if (err == SP_OK)
        err = sp_db_open(&b->db, cfg->path, tables, tables, d);
    if (err == SP_OK)
        err = sync(b, d);
    if (err == SP_OK)
        err = sp_desk_start(&b->desk, &(sp_desk_cfg){"budgets", run, idle, b, NULL}, d);
    if (err == SP_OK)
        *out = b;
    else
        sp_budgets_close(b);
    return err;
}

void sp_budgets_close(sp_budgets *b)
{
    sp_diag d = {0};
    if (!b)
        return;
    sp_desk_stop(b->desk);
    if (b->db && sync(b, &d) != SP_OK)
        sp_log(SP_LOG_ERROR, "what tenants spent last is not written: %s", d.msg);
    sp_db_close(b->db);
    sp_lock_fini(&b->lock);
    for (size_t i = 0; i < b->n; i++)
        sp_mem_free(b->account[i]);
    sp_mem_free(b->account);
    sp_map_fini(&b->by_name);
    sp_mem_free(b);
}
