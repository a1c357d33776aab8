/* Options. The file is YAML read through libcyaml, whose schema is built from the table. */
#include "base/opt.h"

#include "base/mem.h"

#include <ctype.h>
#include <cyaml/cyaml.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

struct sp_opts {
    const sp_opt *table;
    size_t n;
    char **value;
    sp_opt_origin *origin;
    const char **rest;
    size_t n_rest;
};

void sp_opts_free(sp_opts *o)
{
    if (!o)
        return;
    for (size_t i = 0; o->value && i < o->n; i++)
        sp_mem_free(o->value[i]);
    sp_mem_free(o->value);
    sp_mem_free(o->origin);
    sp_mem_free(o->rest);
    sp_mem_free(o);
}

static bool parse_bytes(const char *s, double *out)
{
    char *end;
    double v = strtod(s, &end);
    const char *units = "KMGT", *u = *end ? strchr(units, toupper((unsigned char)*end)) : NULL;
    if (end == s || (*end && (!u || end[1])))
        return false;
    for (const char *p = units; u && p <= u; p++)
        v *= 1024;
    *out = v;
    return true;
}

static sp_err check(const sp_opt *t, const char *v, const char *from, sp_diag *d)
{
    char *end;
    double x = 0;
    bool ok = true;
    if (t->kind == SP_OPT_INT) {
        x = (double)strtoll(v, &end, 10);
        ok = *v && !*end;
    } else if (t->kind == SP_OPT_NUM) {
        x = strtod(v, &end);
        ok = *v && !*end && isfinite(x);
    } else if (t->kind == SP_OPT_BYTES) {
        ok = parse_bytes(v, &x);
    } else if (t->kind == SP_OPT_FLAG) {
        ok = strcmp(v, "true") == 0 || strcmp(v, "false") == 0 || strcmp(v, "1") == 0 || strcmp(v, "0") == 0;
    }
    if (ok && t->kind != SP_OPT_STR && t->kind != SP_OPT_LIST && t->kind != SP_OPT_FLAG)
        ok = x >= t->min && x <= t->max;
    if (ok)
        return SP_OK;
    if (t->kind == SP_OPT_FLAG)
        return SP_FAIL(d, SP_INVAL, "%s: %s is '%.40s'; it must be true or false", from, t->name, v);
    return SP_FAIL(d, SP_INVAL, "%s: %s is '%.40s'; it must be %s from %.10g to %.10g", from, t->name, v,
                   t->kind == SP_OPT_INT ? "an integer" : t->kind == SP_OPT_BYTES ? "a size such as 512M" : "a number",
                   t->min, t->max);
}

/* "a,b"; NULL: no memory. */
static char *join(const char *a, const char *b)
{
    size_t n = strlen(a) + strlen(b) + 2;
    char *all = sp_mem_alloc(n);
    if (all)
        snprintf(all, n, "%s,%s", a, b);
    return all;
}

static sp_err set(sp_opts *o, size_t i, const char *v, sp_opt_origin origin, sp_diag *d)
{
    static const char *const from[] = {"", "default", "configuration file", "environment", "command line"};
    if (o->origin[i] > origin)
        return SP_OK;
    sp_err err = check(&o->table[i], v, from[origin], d);
    if (err != SP_OK && origin != SP_ORIGIN_FLAG) { /* the configuration is wrong, not the call */
        err = SP_FORMAT;
        if (d)
            d->code = err;
    }
    SP_TRY(err);
    bool more = o->table[i].kind == SP_OPT_LIST && origin == SP_ORIGIN_FLAG && o->origin[i] == origin;
    char *copy = more ? join(o->value[i], v) : sp_mem_strdup(v);
    if (!copy)
        return SP_FAIL(d, SP_NOMEM, "options");
    sp_mem_free(o->value[i]);
    o->value[i] = copy;
    o->origin[i] = origin;
    return SP_OK;
}

static void under(char *out, size_t cap, const char *prefix, const char *name, bool upper)
{
    size_t n = (size_t)snprintf(out, cap, "%s%s", prefix, name);
    for (size_t i = strlen(prefix); i < n && i < cap; i++)
        out[i] = (char)(out[i] == '-' ? '_' : upper ? toupper((unsigned char)out[i]) : out[i]);
}

static sp_err read_env(sp_opts *o, sp_diag *d)
{
    char name[64];
    for (size_t i = 0; i < o->n; i++) {
        under(name, sizeof name, "SPARING_", o->table[i].name, true);
        const char *v = getenv(name);
        if (v)
            SP_TRY(set(o, i, v, SP_ORIGIN_ENV, d));
    }
    return SP_OK;
}

/* The loaded document: one optional string for each option, at offset i * sizeof(char *). */
static sp_err read_file(sp_opts *o, const char *path, sp_diag *d)
{
    cyaml_schema_field_t *fields = sp_mem_array(o->n + 1, sizeof *fields);
    char(*names)[64] = sp_mem_array(o->n, sizeof *names);
    char **doc = NULL;
    sp_err err = fields && names ? SP_OK : SP_FAIL(d, SP_NOMEM, "options");
    for (size_t i = 0; i < o->n && err == SP_OK; i++) {
        under(names[i], sizeof names[i], "", o->table[i].name, false);
        fields[i] = (cyaml_schema_field_t){
            .key = names[i], .data_offset = (uint32_t)(i * sizeof(char *)),
            .value = {.type = CYAML_STRING, .flags = CYAML_FLAG_POINTER | CYAML_FLAG_OPTIONAL,
                      .data_size = sizeof(char), .string = {.min = 0, .max = CYAML_UNLIMITED}}};
    }
    const cyaml_schema_value_t top = {.type = CYAML_MAPPING, .flags = CYAML_FLAG_POINTER,
                                      .data_size = (uint32_t)(o->n * sizeof(char *)), .mapping = {.fields = fields}};
    const cyaml_config_t config = {.log_fn = NULL, .mem_fn = cyaml_mem, .log_level = CYAML_LOG_WARNING};
    if (err == SP_OK) {
        cyaml_err_t ce = cyaml_load_file(path, &config, &top, (cyaml_data_t **)(void *)&doc, NULL);
        if (ce != CYAML_OK)
            err = SP_FAIL(d, SP_FORMAT, "%.100s: %s (keys are the long options, `-` written `_`)", path, cyaml_strerror(ce));
    }
    for (size_t i = 0; i < o->n && err == SP_OK && doc; i++)
        if (doc[i])
            err = set(o, i, doc[i], SP_ORIGIN_FILE, d);
    if (doc)
        cyaml_free(&config, &top, doc, 0);
    sp_mem_free(fields);
    sp_mem_free(names);
    return err;
}

static sp_err find_flag(size_t *out, const sp_opts *o, uint32_t command, const char *name, size_t len, sp_diag *d)
{
    for (size_t i = 0; i < o->n; i++) {
        const sp_opt *t = &o->table[i];
        bool hit = name[0] == '-' ? len > 2 && strlen(t->name) == len - 2 && memcmp(t->name, name + 2, len - 2) == 0
                                  : t->letter == name[0];
        if (hit && (t->commands & command)) {
            *out = i;
            return SP_OK;
        }
    }
    return SP_FAIL(d, SP_INVAL, "there is no option %s%.*s here; see --help", name[0] == '-' ? "" : "-", (int)len, name);
}

static sp_err read_flags(sp_opts *o, uint32_t command, int argc, char *const *argv, size_t max_rest, sp_diag *d)
{
    bool only_rest = false;
    for (int k = 1; k < argc; k++) {
        const char *a = argv[k];
        if (only_rest || a[0] != '-' || a[1] == 0) {
            if (o->n_rest == max_rest)
                return SP_FAIL(d, SP_INVAL, "unexpected argument '%.80s'", a);
            o->rest[o->n_rest++] = a;
            continue;
        }
        if (strcmp(a, "--") == 0) {
            only_rest = true;
            continue;
        }
        size_t i;
        const char *eq = a[1] == '-' ? strchr(a, '=') : NULL, *v = eq ? eq + 1 : NULL;
        if (a[1] != '-' && a[2])
            v = a + 2;
        SP_TRY(find_flag(&i, o, command, a[1] == '-' ? a : a + 1, a[1] != '-' ? 1 : eq ? (size_t)(eq - a) : strlen(a), d));
        if (o->table[i].kind == SP_OPT_FLAG)
            v = v ? v : "true";
        else if (!v && k + 1 < argc)
            v = argv[++k];
        if (!v)
            return SP_FAIL(d, SP_INVAL, "option --%s needs a value", o->table[i].name);
        SP_TRY(set(o, i, v, SP_ORIGIN_FLAG, d));
    }
    return SP_OK;
}

static sp_err parse(sp_opts *o, uint32_t command, int argc, char *const *argv, size_t max_rest, const char *default_file,
                    sp_diag *d)
{
    for (size_t i = 0; i < o->n; i++)
        if (o->table[i].fallback)
            SP_TRY(set(o, i, o->table[i].fallback, SP_ORIGIN_DEFAULT, d));
    SP_TRY(read_flags(o, command, argc, argv, max_rest, d));
    SP_TRY(read_env(o, d));
    const char *file = sp_opt_str(o, "config");
    if (file)
        return read_file(o, file, d);
    return default_file && access(default_file, R_OK) == 0 ? read_file(o, default_file, d) : SP_OK;
}

sp_err sp_opts_parse(sp_opts **out, const sp_opt *table, size_t n, uint32_t command, int argc, char *const *argv,
                     size_t max_rest, const char *default_file, sp_diag *d)
{
    sp_opts *o = sp_mem_alloc(sizeof *o);
    if (!o)
        return SP_FAIL(d, SP_NOMEM, "options");
    o->table = table;
    o->n = n;
    o->value = sp_mem_array(n, sizeof *o->value);
    o->origin = sp_mem_array(n, sizeof *o->origin);
    o->rest = sp_mem_array(max_rest + 1, sizeof *o->rest);
    sp_err err = o->value && o->origin && o->rest ? SP_OK : SP_FAIL(d, SP_NOMEM, "options");
    if (err == SP_OK)
        err = parse(o, command, argc, argv, max_rest, default_file, d);
    if (err == SP_OK)
        *out = o;
    else
        sp_opts_free(o);
    return err;
}

static size_t index_of(const sp_opts *o, const char *name)
{
    size_t i = 0;
    while (i < o->n && strcmp(o->table[i].name, name) != 0)
        i++;
    SP_ASSERT(i < o->n);
    return i;
}

const char *sp_opt_str(const sp_opts *o, const char *name)
{
    return o->value[index_of(o, name)];
}

int64_t sp_opt_int(const sp_opts *o, const char *name)
{
    const char *v = sp_opt_str(o, name);
    return v ? strtoll(v, NULL, 10) : 0;
}

double sp_opt_num(const sp_opts *o, const char *name)
{
    const char *v = sp_opt_str(o, name);
    return v ? strtod(v, NULL) : 0;
}

bool sp_opt_flag(const sp_opts *o, const char *name)
{
    const char *v = sp_opt_str(o, name);
    return v && (v[0] == 't' || v[0] == '1');
}

size_t sp_opt_bytes(const sp_opts *o, const char *name)
{
    double x = 0;
    const char *v = sp_opt_str(o, name);
    return v && parse_bytes(v, &x) ? (size_t)x : 0;
}

sp_opt_origin sp_opt_origin_of(const sp_opts *o, const char *name)
{
    return o->origin[index_of(o, name)];
}

size_t sp_opts_rest(const sp_opts *o, const char *const **out)
{
    *out = o->rest;
    return o->n_rest;
}

void sp_opts_help(const sp_opt *table, size_t n, uint32_t command)
{
    for (size_t i = 0; i < n; i++) {
        const sp_opt *t = &table[i];
        char flag[64];
        if (!(t->commands & command))
            continue;
        snprintf(flag, sizeof flag, "--%s%s%s", t->name, t->arg ? " " : "", t->arg ? t->arg : "");
        printf("  %c%c%c %-26s %s%s%s%s\n", t->letter ? '-' : ' ', t->letter ? t->letter : ' ', t->letter ? ',' : ' ', flag,
               t->help, t->fallback ? " [" : "", t->fallback ? t->fallback : "", t->fallback ? "]" : "");
    }
}
