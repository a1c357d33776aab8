/* What requests cost, and what a tenant may spend: the file of prices (docs/COSTS.md).
 *
 * A request costs its tokens at the prices of the model that answered, the machine for as long as
 * it worked for the request, and the electricity of that time. Each may be nothing.
 *
 * Owner:   sp_prices owns all that it points to.
 * Threads: immutable after loading.
 * Errors:  SP_NOTFOUND; SP_FORMAT with file, line and key; SP_NOMEM. */
#ifndef SP_PIPE_PRICES_H
#define SP_PIPE_PRICES_H

#include "base/map.h"

#include <stdbool.h>

enum { SP_PRICE_ROWS = 256, SP_BUDGETS = 4096 };

/* What a model is used for. */
typedef enum sp_price_role {
    SP_PRICE_GENERATION, /* computed here */
    SP_PRICE_UPSTREAM,   /* by another server */
    SP_PRICE_EMBEDDING,
    SP_PRICE_RERANK
} sp_price_role;

/* Of a million tokens, in the file's currency. */
typedef struct sp_price {
    double in, cached, out; /* prompt, computed and known before; answer */
} sp_price;

typedef struct sp_price_row {
    sp_price_role role;
    char *model;               /* as requests name it; "*": those that have no row */
    double *in, *cached, *out; /* NULL: in and out 0, cached as in */
} sp_price_row;

typedef struct sp_machine_price {
    double *hour;  /* what the machine costs in an hour, amortised; NULL: 0 */
    double *kwh;   /* of electricity; NULL: 0 */
    double *watts; /* while it works, where nothing is measured; NULL: it must be measured */
    char *rapl;    /* folder of the kernel's counters; NULL: /sys/class/powercap; "none": nothing
                      is measured */
} sp_machine_price;

typedef struct sp_budget {
    char *tenant;        /* "*": each tenant that has no row */
    double *day, *month; /* in the currency; NULL: without a limit */
} sp_budget;

typedef struct sp_prices {
    char *currency; /* NULL: none is named */
    char *right;    /* metric of feedback that says, as a boolean, that an answer is right; NULL:
                       none */
    sp_price_row *models; /* [n_models] */
    unsigned n_models;
    sp_machine_price *machine; /* NULL: it costs nothing */
    sp_budget *budgets;        /* [n_budgets] */
    unsigned n_budgets;
    sp_map budget_of; /* places in budgets by tenant; see sp_prices_index */
} sp_prices;

SP_MUST sp_err sp_prices_load(sp_prices **out, const char *path, sp_diag *d);
/* NULL is fine. */
void sp_prices_free(sp_prices *p);
/* Makes budget_of, which sp_prices_budget looks into; loading does. SP_NOMEM. The map is the
 * caller's to free, after an error too. */
SP_MUST sp_err sp_prices_index(sp_prices *p);

/* Nothing where no row is about the model, and for p NULL. */
sp_price sp_prices_of(const sp_prices *p, sp_price_role role, const char *model);
/* NULL: the tenant may spend without a limit. p may be NULL. */
const sp_budget *sp_prices_budget(const sp_prices *p, const char *tenant);
/* Of the tokens of one request; n_cached of the n_in are at the price of those. */
double sp_price_tokens(const sp_price *p, double n_in, double n_cached, double n_out);
/* Of the machine for ms, and of the electricity. p may be NULL. */
double sp_prices_machine(const sp_prices *p, double ms, double joules);

#endif
