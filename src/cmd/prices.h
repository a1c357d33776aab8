/* Prices as the options say them. */
#ifndef SP_CMD_PRICES_H
#define SP_CMD_PRICES_H

#include "cmd/cmd.h"

#include "pipe/budget.h"
#include "pipe/turn.h"

typedef struct sp_cmd_prices {
    sp_prices *prices; /* NULL: no --prices */
    sp_power *power;   /* NULL: electricity has no price */
} sp_cmd_prices;

/* --prices, or --price and, where a command has it (upstream), --upstream-price. Fills what env has
 * of prices: of the model `name` here, which may be NULL. SP_INVAL, SP_NOTFOUND, SP_FORMAT.
 * sp_cmd_prices_close, after an error too. */
SP_MUST sp_err sp_cmd_prices_open(sp_cmd_prices *out, sp_turn_env *env, const sp_opts *o,
                                  const char *name, bool upstream, sp_diag *d);
/* Where the prices have budgets. path: of the state database, "": there is none. */
SP_MUST sp_err sp_cmd_budgets_open(sp_budgets **out, const sp_prices *prices, const char *path,
                                   sp_metrics *metrics, sp_diag *d);
void sp_cmd_prices_close(sp_cmd_prices *p);

#endif
