/* The last requests with their receipts, and the metrics that are summed over receipts: path mix,
 * cost, escalations. No text of a prompt or an answer is kept. Each tenant sees its own. Sums are
 * kept for SP_LEDGER_TENANTS tenants; those that come later have none.
 * Owner: owns its entries.      Threads: any. */
#ifndef SP_API_LEDGER_H
#define SP_API_LEDGER_H

#include "api/auth.h"
#include "obs/metric.h"
#include "obs/receipt.h"
#include "pipe/budget.h"

enum { SP_LEDGER_CAP = 512, SP_LEDGER_TENANTS = 4096 };

typedef struct sp_entry {
    char id[40], tenant[SP_TENANT_BYTES];
    int64_t created;      /* seconds since 1970 */
    double ms;            /* from arrival to the end */
    double ms_first;      /* to the first text; 0: there was none */
    size_t n_prompt;
    int status;           /* HTTP's, of the outcome */
    char error[120];      /* "": it ended well */
    sp_receipt receipt;
} sp_entry;

typedef struct sp_ledger sp_ledger;

/* What requests cost is spent from the budgets, which are borrowed; NULL: there are none. */
SP_MUST sp_err sp_ledger_new(sp_ledger **out, sp_metrics *m, sp_budgets *budgets);
void sp_ledger_free(sp_ledger *l);
void sp_ledger_add(sp_ledger *l, const sp_entry *e);
/* Of texts that were embedded or ranked, which have no receipt. */
void sp_ledger_add_texts(sp_ledger *l, const char *tenant, double cost);
/* Metrics of one tenant's own requests, as Prometheus' text. */
void sp_ledger_metrics(sp_ledger *l, sp_buf *out, const char *tenant);
/* JSON list of the tenant's last `limit`, latest first; tenant NULL: of all, each with its
 * tenant. */
void sp_ledger_write(sp_ledger *l, sp_buf *out, const char *tenant, size_t limit);

#endif
