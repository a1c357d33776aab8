/* The file of places and rules: YAML by the schema below, and what a schema cannot say. Everything
 * that is not known, not whole or ambiguous is refused, so that no rule means more than it says. */
#include "pipe/placement_int.h"

#include "pipe/yaml.h"

#include <ctype.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

enum { NAME = 64, ADDRESS = 512, LATENCY_MS = 3600000 };

#define MAYBE SP_YAML_MAYBE
#define MUST CYAML_FLAG_POINTER
#define COUNT(list) (sizeof(list) / sizeof *(list))
#define LIST(name, how, owner, member, item, least, most)                                    \
    {                                                                                        \
        .key = name,                                                                         \
        .value = {.type = CYAML_SEQUENCE,                                                    \
                  .flags = how,                                                              \
                  .data_size = sizeof(*((owner *)NULL)->member),                             \
                  .sequence = {.entry = &(item), .min = least, .max = most}},                \
        .data_offset = offsetof(owner, member), .count_offset = offsetof(owner, n_##member), \
        .count_size = sizeof(unsigned)                                                       \
    }

static const cyaml_strval_t wheres[] = {{"private", SP_WHERE_PRIVATE}, {"public", SP_WHERE_PUBLIC}};
static const cyaml_strval_t roles[] = {
    {"generation", SP_ROLE_AT_GENERATION}, {"reasoning", SP_ROLE_AT_REASONING},
    {"retrieval", SP_ROLE_AT_RETRIEVAL},   {"storage", SP_ROLE_AT_STORAGE},
    {"traces", SP_ROLE_AT_TRACES},         {"front", SP_ROLE_AT_FRONT}};
static const cyaml_strval_t parts[] = {{"system", SP_DATA_SYSTEM},   {"messages", SP_DATA_MESSAGES},
                                       {"tools", SP_DATA_TOOLS},     {"passages", SP_DATA_PASSAGES},
                                       {"history", SP_DATA_HISTORY}, {"kept", SP_DATA_KEPT}};

static const cyaml_schema_value_t name_value = {CYAML_VALUE_STRING(MUST, char, 1, NAME)};

static const cyaml_schema_field_t place_fields[] = {
    CYAML_FIELD_STRING_PTR("name", MUST, sp_place, name, 1, NAME),
    CYAML_FIELD_ENUM("where", CYAML_FLAG_STRICT, sp_place, where, wheres, COUNT(wheres)),
    CYAML_FIELD_FLAGS("roles", CYAML_FLAG_STRICT, sp_place, roles, roles, COUNT(roles)),
    CYAML_FIELD_STRING_PTR("address", MUST, sp_place, address, 1, ADDRESS),
    CYAML_FIELD_STRING_PTR("model", MAYBE, sp_place, model, 1, ADDRESS),
    CYAML_FIELD_STRING_PTR("key_env", MAYBE, sp_place, key_env, 1, NAME),
    CYAML_FIELD_FLOAT_PTR("price_in", MAYBE, sp_place, price_in),
    CYAML_FIELD_FLOAT_PTR("price_out", MAYBE, sp_place, price_out),
    CYAML_FIELD_UINT_PTR("latency_ms", MAYBE, sp_place, latency_ms),
    CYAML_FIELD_END};
static const cyaml_schema_value_t place_value = {
    CYAML_VALUE_MAPPING(CYAML_FLAG_DEFAULT, sp_place, place_fields)};

static const cyaml_schema_field_t rule_fields[] = {
    CYAML_FIELD_STRING_PTR("name", MUST, sp_place_rule, name, 1, NAME),
    LIST("to", MUST, sp_place_rule, to, name_value, 0, SP_PLACES),
    LIST("tenants", MUST, sp_place_rule, tenants, name_value, 0, SP_PLACE_NAMES),
    LIST("classes", MUST, sp_place_rule, classes, name_value, 0, SP_PLACE_NAMES),
    CYAML_FIELD_FLAGS("parts", CYAML_FLAG_STRICT, sp_place_rule, parts, parts, COUNT(parts)),
    LIST("collections", MAYBE, sp_place_rule, collections, name_value, 0, SP_PLACE_NAMES),
    CYAML_FIELD_END};
static const cyaml_schema_value_t rule_value = {
    CYAML_VALUE_MAPPING(CYAML_FLAG_DEFAULT, sp_place_rule, rule_fields)};

static const cyaml_schema_field_t example_fields[] = {
    CYAML_FIELD_STRING_PTR("name", MUST, sp_place_example, name, 1, NAME),
    CYAML_FIELD_STRING_PTR("tenant", MUST, sp_place_example, tenant, 1, NAME),
    CYAML_FIELD_STRING_PTR("class", MAYBE, sp_place_example, cls, 1, NAME),
    CYAML_FIELD_BOOL("private", CYAML_FLAG_OPTIONAL, sp_place_example, is_private),
    CYAML_FIELD_FLAGS("parts", CYAML_FLAG_STRICT, sp_place_example, parts, parts, COUNT(parts)),
    LIST("collections", MAYBE, sp_place_example, collections, name_value, 1, SP_PLACE_COLLS),
    CYAML_FIELD_STRING_PTR("goes", MUST, sp_place_example, goes, 1, NAME),
    CYAML_FIELD_STRING_PTR("rule", MAYBE, sp_place_example, rule, 1, NAME),
    CYAML_FIELD_END};
static const cyaml_schema_value_t example_value = {
    CYAML_VALUE_MAPPING(CYAML_FLAG_DEFAULT, sp_place_example, example_fields)};

static const cyaml_schema_field_t file_fields[] = {
    LIST("places", MUST, sp_place_file, places, place_value, 0, SP_PLACES),
    LIST("rules", MUST, sp_place_file, rules, rule_value, 0, SP_PLACE_RULES),
    LIST("examples", MAYBE, sp_place_file, examples, example_value, 0, SP_PLACE_EXAMPLES),
    CYAML_FIELD_END};
static const cyaml_schema_value_t file_value = {
    CYAML_VALUE_MAPPING(CYAML_FLAG_POINTER, sp_place_file, file_fields)};

/* --- what a schema cannot say ----------------------------------------------------------------- */

const sp_place *sp_place_find(const sp_place_file *f, const char *name)
{
    for (unsigned i = 0; i < f->n_places; i++)
        if (strcmp(f->places[i].name, name) == 0)
            return &f->places[i];
    return NULL;
}

static bool is_name(const char *s)
{
    for (const char *p = s; *p; p++)
        if (!isalnum((unsigned char)*p) && !strchr("-_.:@", *p))
            return false;
    return *s && strcmp(s, "null") != 0;
}

static bool is_text(const char *s)
{
    for (; *s; s++)
        if ((unsigned char)*s < 0x20 || *s == 0x7f)
            return false;
    return true;
}

static bool is_price(const double *v)
{
    return !v || (isfinite(*v) && *v >= 0 && *v < 1e9);
}

static sp_err check_place(const sp_place_file *f, unsigned i, sp_diag *d)
{
    const sp_place *p = &f->places[i];
    bool generates = p->roles & SP_ROLE_AT_GENERATION;
    bool is_http =
        strncmp(p->address, "http://", 7) == 0 || strncmp(p->address, "https://", 8) == 0;
    if (!is_name(p->name) || strcmp(p->name, "here") == 0)
        return SP_FAIL(d, SP_FORMAT,
                       "place '%.60s': a name is of letters, digits, - _ . : @, and 'here' is this "
                       "server",
                       p->name);
    if (sp_place_find(f, p->name) != p)
        return SP_FAIL(d, SP_FORMAT, "two places are named %s", p->name);
    if (!p->roles)
        return SP_FAIL(d, SP_FORMAT, "place %s: roles is empty", p->name);
    if (!is_text(p->address) || (generates && !is_http))
        return SP_FAIL(d, SP_FORMAT, "place %s: the address of a generation is http:// or https://",
                       p->name);
    if (generates && !p->model)
        return SP_FAIL(d, SP_FORMAT, "place %s: a place of generation needs its model", p->name);
    if (!is_price(p->price_in) || !is_price(p->price_out))
        return SP_FAIL(d, SP_FORMAT, "place %s: prices are numbers from 0", p->name);
    if (p->latency_ms && *p->latency_ms > LATENCY_MS)
        return SP_FAIL(d, SP_FORMAT, "place %s: latency_ms is at most %d", p->name, LATENCY_MS);
    return SP_OK;
}

static const char *wrong_name(char *const *list, unsigned n, bool any)
{
    for (unsigned i = 0; i < n; i++)
        if (!is_name(list[i]) && !(any && strcmp(list[i], "*") == 0))
            return list[i];
    return NULL;
}

static bool has_all(char *const *list, unsigned n)
{
    for (unsigned i = 0; i < n; i++)
        if (strcmp(list[i], "*") == 0)
            return true;
    return false;
}

static sp_err check_names(const sp_place_rule *r, sp_diag *d)
{
    const char *bad = wrong_name(r->tenants, r->n_tenants, true);
    const char *key = "tenants";
    if (!bad) {
        bad = wrong_name(r->classes, r->n_classes, false);
        key = "classes";
    }
    if (!bad) {
        bad = wrong_name(r->collections, r->n_collections, true);
        key = "collections";
    }
    return bad ? SP_FAIL(d, SP_FORMAT, "rule %s: %s: '%.60s' is not a name", r->name, key, bad)
               : SP_OK;
}

static sp_err check_rule(const sp_place_file *f, unsigned i, sp_diag *d)
{
    const sp_place_rule *r = &f->rules[i];
    bool passages = r->parts & SP_DATA_PASSAGES;
    if (!is_text(r->name))
        return SP_FAIL(d, SP_FORMAT, "rule %u: its name has control characters", i + 1);
    for (unsigned k = 0; k < i; k++)
        if (strcmp(f->rules[k].name, r->name) == 0)
            return SP_FAIL(d, SP_FORMAT, "two rules are named %s", r->name);
    SP_TRY(check_names(r, d));
    const char *empty = !r->n_to        ? "to"
                        : !r->n_tenants ? "tenants"
                        : !r->n_classes ? "classes"
                                        : NULL;
    if (empty)
        return SP_FAIL(d, SP_FORMAT, "rule %s: %s is empty", r->name, empty);
    if (!r->parts)
        return SP_FAIL(d, SP_FORMAT, "rule %s: parts is empty", r->name);
    if (passages != (r->n_collections > 0))
        return SP_FAIL(d, SP_FORMAT, "rule %s: passages and collections belong together", r->name);
    if (r->parts & SP_DATA_KEPT && !has_all(r->tenants, r->n_tenants))
        return SP_FAIL(d, SP_FORMAT,
                       "rule %s: what is kept is of all tenants; such a rule has tenants ['*']",
                       r->name);
    for (unsigned k = 0; k < r->n_to; k++) {
        const sp_place *to = sp_place_find(f, r->to[k]);
        if (!to)
            return SP_FAIL(d, SP_FORMAT, "rule %s: there is no place '%.60s'", r->name, r->to[k]);
        if (to->where == SP_WHERE_PUBLIC && has_all(r->collections, r->n_collections))
            return SP_FAIL(d, SP_FORMAT,
                           "rule %s: %s is public; collections that go there are named one by one",
                           r->name, to->name);
    }
    return SP_OK;
}

static sp_err check_example(const sp_place_file *f, unsigned i, sp_diag *d)
{
    const sp_place_example *e = &f->examples[i];
    if (strcmp(e->goes, "here") != 0 && !sp_place_find(f, e->goes))
        return SP_FAIL(d, SP_FORMAT, "example %s: goes: there is no place '%.60s'", e->name,
                       e->goes);
    bool is_known = !e->rule;
    for (unsigned k = 0; k < f->n_rules; k++)
        is_known = is_known || strcmp(f->rules[k].name, e->rule) == 0;
    return is_known
               ? SP_OK
               : SP_FAIL(d, SP_FORMAT, "example %s: there is no rule '%.60s'", e->name, e->rule);
}

static sp_err check(const sp_place_file *f, sp_diag *d)
{
    for (unsigned i = 0; i < f->n_places; i++)
        SP_TRY(check_place(f, i, d));
    for (unsigned i = 0; i < f->n_rules; i++)
        SP_TRY(check_rule(f, i, d));
    for (unsigned i = 0; i < f->n_examples; i++)
        SP_TRY(check_example(f, i, d));
    return SP_OK;
}

sp_err sp_place_file_read(sp_place_file **out, const char *path, sp_diag *d)
{
    void *p;
    sp_diag inner = {0};
    SP_TRY(sp_yaml_load(&p, path, &file_value, d));
    if (check(p, &inner) != SP_OK) {
        sp_yaml_free(&file_value, p);
        return SP_FAIL(d, inner.code, "%.60s: %.130s", path, inner.msg);
    }
    *out = p;
    return SP_OK;
}

void sp_place_file_free(sp_place_file *f)
{
    sp_yaml_free(&file_value, f);
}
