/* What tenants have spent today and this month (UTC), and whether they may spend more.
 *
 * Sums are in memory, so that asking costs no time; within a second they go to a table of the
 * state database, and with them comes what other servers of the same database have written. A
 * crash loses what was spent within that second. What is being answered when a budget ends is
 * answered, and counts.
 *
 * Owner:   owns its connection and its thread; the prices are borrowed.
 * Threads: any. */
#ifndef SP_PIPE_BUDGET_H
#define SP_PIPE_BUDGET_H

#include "base/buf.h"
#include "obs/metric.h"
#include "pipe/prices.h"

#include <stdint.h>

typedef struct sp_budgets sp_budgets;

typedef struct sp_budgets_cfg {
    const sp_prices *prices;
    const char *path; /* of the database: a file, or postgresql://… */
    sp_metrics *metrics;
    int64_t (*now)(void); /* seconds since 1970; NULL: the clock */
} sp_budgets_cfg;

SP_MUST sp_err sp_budgets_open(sp_budgets **out, const sp_budgets_cfg *cfg, sp_diag *d);
/* Writes what is not yet written. NULL is fine. */
void sp_budgets_close(sp_budgets *b);

/* May the tenant spend? SP_LIMIT, with the reason: not for *wait_s seconds. b may be NULL. */
SP_MUST sp_err sp_budgets_check(sp_budgets *b, const char *tenant, int64_t *wait_s, sp_diag *d);
/* Amounts of less than a billionth are lost. b may be NULL. */
void sp_budgets_spend(sp_budgets *b, const char *tenant, double cost);
/* Objects, joined by commas, of a tenant, or of all for NULL: tenant, day and month with `spent`
 * and `budget`, which is null where there is none. */
void sp_budgets_write(sp_budgets *b, const char *tenant, sp_buf *out);

#endif
