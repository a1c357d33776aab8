/* The file of prices: YAML by the schema below, what a schema cannot say, and sums. */
#include "pipe/prices.h"

#include "pipe/yaml.h"

#include <stdio.h>
#include <string.h>

enum { NAME = 128, FOLDER = 512, CURRENCY = 16 };

#define MAYBE SP_YAML_MAYBE
#define MUST CYAML_FLAG_POINTER
#define MOST 1e9 /* any price: more is a slip of the pen */
#define LIST(name, owner, member, item, most)                                                \
    {                                                                                        \
        .key = name,                                                                         \
        .value = {.type = CYAML_SEQUENCE,                                                    \
                  .flags = MAYBE,                                                            \
                  .data_size = sizeof(*((owner *)NULL)->member),                             \
                  .sequence = {.entry = &(item), .min = 0, .max = most}},                    \
        .data_offset = offsetof(owner, member), .count_offset = offsetof(owner, n_##member), \
        .count_size = sizeof(unsigned)                                                       \
    }

static const cyaml_strval_t roles[] = {{"generation", SP_PRICE_GENERATION},
                                       {"upstream", SP_PRICE_UPSTREAM},
                                       {"embedding", SP_PRICE_EMBEDDING},
                                       {"rerank", SP_PRICE_RERANK}};

static const cyaml_schema_field_t row_fields[] = {
    CYAML_FIELD_ENUM("role", CYAML_FLAG_STRICT, sp_price_row, role, roles, 4),
    CYAML_FIELD_STRING_PTR("model", MUST, sp_price_row, model, 1, NAME),
    CYAML_FIELD_FLOAT_PTR("in", MAYBE, sp_price_row, in),
    CYAML_FIELD_FLOAT_PTR("cached", MAYBE, sp_price_row, cached),
    CYAML_FIELD_FLOAT_PTR("out", MAYBE, sp_price_row, out),
    CYAML_FIELD_END};
static const cyaml_schema_value_t row_value = {
    CYAML_VALUE_MAPPING(CYAML_FLAG_DEFAULT, sp_price_row, row_fields)};

static const cyaml_schema_field_t machine_fields[] = {
    CYAML_FIELD_FLOAT_PTR("hour", MAYBE, sp_machine_price, hour),
    CYAML_FIELD_FLOAT_PTR("kwh", MAYBE, sp_machine_price, kwh),
    CYAML_FIELD_FLOAT_PTR("watts", MAYBE, sp_machine_price, watts),
    CYAML_FIELD_STRING_PTR("rapl", MAYBE, sp_machine_price, rapl, 1, FOLDER), CYAML_FIELD_END};

static const cyaml_schema_field_t budget_fields[] = {
    CYAML_FIELD_STRING_PTR("tenant", MUST, sp_budget, tenant, 1, NAME),
    CYAML_FIELD_FLOAT_PTR("day", MAYBE, sp_budget, day),
    CYAML_FIELD_FLOAT_PTR("month", MAYBE, sp_budget, month), CYAML_FIELD_END};
static const cyaml_schema_value_t budget_value = {
    CYAML_VALUE_MAPPING(CYAML_FLAG_DEFAULT, sp_budget, budget_fields)};

static const cyaml_schema_field_t file_fields[] = {
    CYAML_FIELD_STRING_PTR("currency", MAYBE, sp_prices, currency, 1, CURRENCY),
    CYAML_FIELD_STRING_PTR("right", MAYBE, sp_prices, right, 1, NAME),
    LIST("models", sp_prices, models, row_value, SP_PRICE_ROWS),
    CYAML_FIELD_MAPPING_PTR("machine", MAYBE, sp_prices, machine, machine_fields),
    LIST("budgets", sp_prices, budgets, budget_value, SP_BUDGETS),
    CYAML_FIELD_END};
static const cyaml_schema_value_t file_value = {
    CYAML_VALUE_MAPPING(CYAML_FLAG_POINTER, sp_prices, file_fields)};

/* --- what a schema cannot say ----------------------------------------------------------------- */

/* What of a value is wrong. */
typedef struct flaw {
    const char *list; /* "models", "machine", "budgets"; NULL: nothing is wrong */
    unsigned row;     /* of a list */
    const char *key;
    const char *why;
} flaw;

static bool is_amount(const double *v)
{
    return !v || (*v >= 0 && *v < MOST);
}

static flaw wrong_row(const sp_prices *p, unsigned i)
{
    const sp_price_row *r = &p->models[i];
    const char *key = !is_amount(r->in)       ? "in"
                      : !is_amount(r->cached) ? "cached"
                      : !is_amount(r->out)    ? "out"
                                              : NULL;
    if (key)
        return (flaw){"models", i, key, "a price is from 0 to 1e9"};
    if (r->role >= SP_PRICE_EMBEDDING && (r->out || r->cached))
        return (flaw){"models", i, r->out ? "out" : "cached",
                      "embedding and rerank have no price but in"};
    for (unsigned k = 0; k < i; k++)
        if (p->models[k].role == r->role && strcmp(p->models[k].model, r->model) == 0)
            return (flaw){"models", i, "model", "this role and model have a row before"};
    return (flaw){0};
}

static flaw wrong_machine(const sp_machine_price *m)
{
    const char *key = !is_amount(m->hour)    ? "hour"
                      : !is_amount(m->kwh)   ? "kwh"
                      : !is_amount(m->watts) ? "watts"
                                             : NULL;
    if (key)
        return (flaw){"machine", 0, key, "it is from 0 to 1e9"};
    if (m->rapl && m->rapl[0] != '/' && strcmp(m->rapl, "none") != 0)
        return (flaw){"machine", 0, "rapl", "it is a folder from / on, or none"};
    return (flaw){0};
}

static flaw wrong_budget(const sp_prices *p, unsigned i)
{
    const sp_budget *b = &p->budgets[i];
    if (!is_amount(b->day) || !is_amount(b->month))
        return (flaw){"budgets", i, is_amount(b->day) ? "month" : "day",
                      "a budget is from 0 to 1e9"};
    if (!b->day && !b->month)
        return (flaw){"budgets", i, "tenant", "its budget has neither day nor month"};
    uint32_t first = i;
    (void)sp_map_find(&p->budget_of, b->tenant, strlen(b->tenant), &first);
    return first < i ? (flaw){"budgets", i, "tenant", "this tenant has a budget before"}
                     : (flaw){0};
}

static flaw find_flaw(const sp_prices *p)
{
    flaw f = {0};
    for (unsigned i = 0; i < p->n_models && !f.list; i++)
        f = wrong_row(p, i);
    if (p->machine && !f.list)
        f = wrong_machine(p->machine);
    for (unsigned i = 0; i < p->n_budgets && !f.list; i++)
        f = wrong_budget(p, i);
    return f;
}

/* Backwards, so that the first row of a tenant stays. */
sp_err sp_prices_index(sp_prices *p)
{
    SP_TRY(sp_map_init(&p->budget_of, p->n_budgets));
    for (unsigned i = p->n_budgets; i-- > 0;)
        SP_TRY(sp_map_set(&p->budget_of, p->budgets[i].tenant, strlen(p->budgets[i].tenant), i));
    return SP_OK;
}

sp_err sp_prices_load(sp_prices **out, const char *path, sp_diag *d)
{
    void *yaml;
    SP_TRY(sp_yaml_load(&yaml, path, &file_value, d));
    sp_prices *p = yaml;
    p->budget_of = (sp_map){0};
    if (sp_prices_index(p) != SP_OK) {
        sp_prices_free(p);
        return SP_FAIL(d, SP_NOMEM, "%.80s", path);
    }
    flaw f = find_flaw(p);
    if (!f.list) {
        *out = p;
        return SP_OK;
    }
    sp_prices_free(p);
    unsigned line = sp_yaml_line(path, f.list, f.row, f.key);
    return SP_FAIL(d, SP_FORMAT, "%.80s:%u: %s: %s: %s", path, line, f.list, f.key, f.why);
}

void sp_prices_free(sp_prices *p)
{
    if (p)
        sp_map_fini(&p->budget_of);
    sp_yaml_free(&file_value, p);
}

/* --- what something costs --------------------------------------------------------------------- */

static double value(const double *v, double otherwise)
{
    return v ? *v : otherwise;
}

sp_price sp_prices_of(const sp_prices *p, sp_price_role role, const char *model)
{
    const sp_price_row *any = NULL, *own = NULL;
    for (unsigned i = 0; p && i < p->n_models && !own; i++) {
        const sp_price_row *r = &p->models[i];
        if (r->role != role)
            continue;
        any = strcmp(r->model, "*") == 0 ? r : any;
        own = model && strcmp(r->model, model) == 0 ? r : NULL;
    }
    const sp_price_row *r = own ? own : any;
    if (!r)
        return (sp_price){0};
    double in = value(r->in, 0);
    return (sp_price){.in = in, .cached = value(r->cached, in), .out = value(r->out, 0)};
}

const sp_budget *sp_prices_budget(const sp_prices *p, const char *tenant)
{
    uint32_t at;
    bool has = p && p->n_budgets &&
               (sp_map_find(&p->budget_of, tenant, strlen(tenant), &at) ||
                sp_map_find(&p->budget_of, "*", 1, &at));
    return has ? &p->budgets[at] : NULL;
}

double sp_price_tokens(const sp_price *p, double n_in, double n_cached, double n_out)
{
    return ((n_in - n_cached) * p->in + n_cached * p->cached + n_out * p->out) * 1e-6;
}

double sp_prices_machine(const sp_prices *p, double ms, double joules)
{
    const sp_machine_price *m = p ? p->machine : NULL;
    return m ? ms / 3.6e6 * value(m->hour, 0) + joules / 3.6e6 * value(m->kwh, 0) : 0;
}
