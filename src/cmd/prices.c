#include "cmd/prices.h"

#include "base/log.h"
#include "pipe/yaml.h"

#include <stdlib.h>
#include <string.h>

#define RAPL "/sys/class/powercap"

/* IN,OUT of an option. */
static sp_err read_price(sp_price *out, const sp_opts *o, const char *name, sp_diag *d)
{
    char *end, *last = NULL;
    const char *v = sp_opt_str(o, name);
    double in = strtod(v, &end), to = *end == ',' ? strtod(end + 1, &last) : -1;
    if (end == v || *end != ',' || last == end + 1 || *last || !(in >= 0 && in < 1e9) ||
        !(to >= 0 && to < 1e9))
        return SP_FAIL(d, SP_INVAL,
                       "%s: '%.40s' is not two numbers of at least 0, joined by a comma", name, v);
    *out = (sp_price){in, in, to};
    return SP_OK;
}

static sp_err refuse_both(const sp_opts *o, const char *name, sp_diag *d)
{
    return sp_opt_origin_of(o, name) <= SP_ORIGIN_DEFAULT
               ? SP_OK
               : SP_FAIL(d, SP_INVAL, "%s: with --prices that file says what tokens cost", name);
}

static sp_err open_power(sp_cmd_prices *p, const char *path, sp_diag *d)
{
    const sp_machine_price *m = p->prices->machine;
    sp_diag why = {0};
    if (!m || !m->kwh)
        return SP_OK;
    const char *folder = !m->rapl ? RAPL : strcmp(m->rapl, "none") == 0 ? NULL : m->rapl;
    sp_err err = sp_power_open(&p->power, folder, m->watts ? *m->watts : -1, &why);
    if (err != SP_OK)
        return SP_FAIL(d, SP_INVAL,
                       "%.60s:%u: machine: kwh: electricity cannot be measured (%.90s); say watts",
                       path, sp_yaml_line(path, "machine", 0, "kwh"), why.msg);
    if (!sp_power_is_measured(p->power) && folder)
        sp_log(SP_LOG_INFO, "electricity goes by the set figure of %g W: %s", *m->watts, why.msg);
    return SP_OK;
}

static sp_err open_file(sp_cmd_prices *p, sp_turn_env *env, const sp_opts *o, const char *name,
                        bool upstream, sp_diag *d)
{
    const char *path = sp_opt_str(o, "prices");
    SP_TRY(refuse_both(o, "price", d));
    if (upstream)
        SP_TRY(refuse_both(o, "upstream-price", d));
    SP_TRY(sp_prices_load(&p->prices, path, d));
    SP_TRY(open_power(p, path, d));
    env->prices = p->prices;
    env->power = p->power;
    env->price[0] = sp_prices_of(p->prices, SP_PRICE_GENERATION, name);
    if (upstream)
        env->price[1] = sp_prices_of(p->prices, SP_PRICE_UPSTREAM, sp_opt_str(o, "upstream-model"));
    return SP_OK;
}

sp_err sp_cmd_prices_open(sp_cmd_prices *out, sp_turn_env *env, const sp_opts *o, const char *name,
                          bool upstream, sp_diag *d)
{
    *out = (sp_cmd_prices){0};
    if (sp_opt_str(o, "prices"))
        return open_file(out, env, o, name, upstream, d);
    SP_TRY(read_price(&env->price[0], o, "price", d));
    return upstream ? read_price(&env->price[1], o, "upstream-price", d) : SP_OK;
}

sp_err sp_cmd_budgets_open(sp_budgets **out, const sp_prices *prices, const char *path,
                           sp_metrics *metrics, sp_diag *d)
{
    const sp_budgets_cfg cfg = {.prices = prices, .path = path, .metrics = metrics};
    if (!prices || !prices->n_budgets)
        return SP_OK;
    return path[0] ? sp_budgets_open(out, &cfg, d)
                   : SP_FAIL(d, SP_INVAL,
                             "prices: budgets need --feedback or --state, where what was spent is "
                             "kept");
}

void sp_cmd_prices_close(sp_cmd_prices *p)
{
    sp_power_free(p->power);
    sp_prices_free(p->prices);
    *p = (sp_cmd_prices){0};
}
