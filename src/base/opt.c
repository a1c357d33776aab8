/* Options: flags, variables, and what their values may be. opt_file.c reads the file. */
#include "base/opt_int.h"

#include "base/mem.h"
#include "base/nearest.h"

#include <ctype.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

void sp_opts_free(sp_opts *o)
{
    if (!o)
        return;
    for (size_t i = 0; o->value && i < o->n; i++)
        sp_mem_free(o->value[i]);
    sp_mem_free(o->value);
    sp_mem_free(o->origin);
    sp_mem_free(o->line);
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

/* Is v one of the values? Else *near is the nearest of them or NULL. */
static bool is_among(const char *values, const char *v, size_t n_v, char *near, size_t cap)
{
    char all[256], word[64];
    const char *name[64];
    size_t n = 0;
    bool hit = false;
    snprintf(all, sizeof all, "%s", values);
    for (char *save = NULL, *p = strtok_r(all, " ", &save); p && n < 64;
         p = strtok_r(NULL, " ", &save)) {
        name[n++] = p;
        hit |= strlen(p) == n_v && memcmp(p, v, n_v) == 0;
    }
    snprintf(word, sizeof word, "%.*s", (int)n_v, v);
    for (char *p = word; *p; p++)
        *p = (char)tolower((unsigned char)*p);
    const char *meant = hit ? NULL : sp_nearest(word, name, n);
    snprintf(near, cap, "%s", meant ? meant : "");
    return hit;
}

static sp_err check_values(const sp_opt *t, const char *v, const char *where, sp_diag *d)
{
    char near[64], all[256];
    for (const char *p = v;; p++) {
        size_t n = t->kind == SP_OPT_LIST ? strcspn(p, ",") : strlen(p);
        if (!is_among(t->values, p, n, near, sizeof near)) {
            size_t k = 0;
            for (const char *s = t->values; *s && k + 2 < sizeof all; s++) {
                if (*s == ' ')
                    all[k++] = ',';
                all[k++] = *s;
            }
            all[k] = 0;
            return SP_FAIL(d, SP_INVAL, "%s: must be one of %s%s%s%s", where, all,
                           *near ? ". Did you mean " : "", near, *near ? "?" : "");
        }
        p += n;
        if (!*p)
            return SP_OK;
    }
}

/* Who takes a path has room for it and for the name of a file in that folder. */
static sp_err check_path(const sp_opt *t, const char *v, const char *where, sp_diag *d)
{
    for (size_t n; *v; v += n + (v[n] == ',')) {
        n = t->kind == SP_OPT_LIST ? strcspn(v, ",") : strlen(v);
        if (n > SP_OPT_PATH)
            return SP_FAIL(d, SP_INVAL, "%s: a path of %zu bytes; at most %d are taken", where, n,
                           SP_OPT_PATH);
    }
    return SP_OK;
}

static sp_err check(const sp_opt *t, const char *v, const char *where, sp_diag *d)
{
    char *end;
    double x = 0;
    bool ok = true;
    if (t->is_path)
        return check_path(t, v, where, d);
    if (t->values)
        return check_values(t, v, where, d);
    if (t->kind == SP_OPT_INT) {
        x = (double)strtoll(v, &end, 10);
        ok = *v && !*end;
    } else if (t->kind == SP_OPT_NUM) {
        x = strtod(v, &end);
        ok = *v && !*end && isfinite(x);
    } else if (t->kind == SP_OPT_BYTES) {
        ok = parse_bytes(v, &x);
    } else if (t->kind == SP_OPT_FLAG) {
        ok = strcmp(v, "true") == 0 || strcmp(v, "false") == 0 || strcmp(v, "1") == 0 ||
             strcmp(v, "0") == 0;
    }
    if (ok && t->kind != SP_OPT_STR && t->kind != SP_OPT_LIST && t->kind != SP_OPT_FLAG)
        ok = x >= t->min && x <= t->max;
    if (ok)
        return SP_OK;
    if (t->kind == SP_OPT_FLAG)
        return SP_FAIL(d, SP_INVAL, "%s: must be true or false", where);
    return SP_FAIL(d, SP_INVAL, "%s: must be %s from %.15g to %.15g", where,
                   t->kind == SP_OPT_INT     ? "an integer"
                   : t->kind == SP_OPT_BYTES ? "a size such as 512M"
                                             : "a number",
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

sp_err sp_opts_set(sp_opts *o, size_t i, const char *v, sp_opt_origin origin, const char *where,
                   sp_diag *d)
{
    if (o->origin[i] > origin)
        return SP_OK;
    sp_err err = check(&o->table[i], v, where, d);
    if (err != SP_OK && origin != SP_ORIGIN_FLAG) { /* the configuration is wrong, not the call */
        err = SP_FORMAT;
        if (d)
            d->code = err;
    }
    SP_TRY(err);
    bool more =
        o->table[i].kind == SP_OPT_LIST && origin == SP_ORIGIN_FLAG && o->origin[i] == origin;
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

void sp_opt_key(char *out, size_t cap, const char *name)
{
    under(out, cap, "", name, false);
}

void sp_opt_variable(char *out, size_t cap, const char *name)
{
    under(out, cap, "SPARING_", name, true);
}

const char *sp_opt_group(const sp_opt *table, size_t i)
{
    while (i > 0 && !table[i].group)
        i--;
    return table[i].group;
}

static sp_err read_env(sp_opts *o, sp_diag *d)
{
    char name[SP_OPT_NAME], where[200];
    for (size_t i = 0; i < o->n; i++) {
        sp_opt_variable(name, sizeof name, o->table[i].name);
        const char *v = getenv(name);
        if (v) {
            snprintf(where, sizeof where, "%s=%.60s", name, v);
            SP_TRY(sp_opts_set(o, i, v, SP_ORIGIN_ENV, where, d));
        }
    }
    return SP_OK;
}

void sp_opts_meant(char *out, size_t cap, const sp_opts *o, const char *word, bool is_key)
{
    char(*key)[SP_OPT_NAME] = sp_mem_array(o->n, sizeof *key);
    const char **name = sp_mem_array(o->n, sizeof *name);
    size_t n = 0;
    out[0] = 0;
    for (size_t i = 0; key && name && i < o->n; i++) {
        if (is_key)
            sp_opt_key(key[n], sizeof key[n], o->table[i].name);
        else
            snprintf(key[n], sizeof key[n], "%s", o->table[i].name);
        if (is_key || (o->table[i].commands & o->command)) {
            name[n] = key[n];
            n++;
        }
    }
    const char *meant = key && name ? sp_nearest(word, name, n) : NULL;
    if (meant)
        snprintf(out, cap, ". Did you mean %s%s?", is_key ? "" : "--", meant);
    sp_mem_free(key);
    sp_mem_free(name);
}

/* flag: "--kv-type" or one letter, of len bytes. */
static sp_err find_flag(size_t *out, const sp_opts *o, const char *flag, size_t len, sp_diag *d)
{
    bool is_long = flag[0] == '-', is_elsewhere = false;
    char word[SP_OPT_NAME], meant[SP_OPT_NAME + 32] = "";
    snprintf(word, sizeof word, "%.*s", is_long ? (int)len - 2 : 0, is_long ? flag + 2 : "");
    for (size_t i = 0; i < o->n; i++) {
        const sp_opt *t = &o->table[i];
        bool hit = is_long ? len > 2 && strlen(t->name) == len - 2 &&
                                 memcmp(t->name, flag + 2, len - 2) == 0
                           : t->letter == flag[0];
        if (hit && (t->commands & o->command)) {
            *out = i;
            return SP_OK;
        }
        is_elsewhere |= hit;
    }
    if (!is_elsewhere)
        sp_opts_meant(meant, sizeof meant, o, word, false);
    return SP_FAIL(d, SP_INVAL, "%s has no option %s%.*s%s", o->verb, is_long ? "" : "-", (int)len,
                   flag,
                   *meant         ? meant
                   : is_elsewhere ? ", other commands have it"
                                  : "; see --help");
}

static sp_err read_flags(sp_opts *o, int argc, char *const *argv, size_t max_rest, sp_diag *d)
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
        SP_TRY(find_flag(&i, o, a[1] == '-' ? a : a + 1,
                         a[1] != '-' ? 1
                         : eq        ? (size_t)(eq - a)
                                     : strlen(a),
                         d));
        if (o->table[i].kind == SP_OPT_FLAG)
            v = v ? v : "true";
        else if (!v && k + 1 < argc)
            v = argv[++k];
        if (!v)
            return SP_FAIL(d, SP_INVAL, "option --%s needs a value", o->table[i].name);
        char where[200];
        snprintf(where, sizeof where, "--%s %.60s", o->table[i].name, v);
        SP_TRY(sp_opts_set(o, i, v, SP_ORIGIN_FLAG, where, d));
    }
    return SP_OK;
}

/* An option that has no effect without another one is refused where somebody wrote it for this
 * command. Variables may stand in a profile for other commands. */
static sp_err check_needs(const sp_opts *o, sp_diag *d)
{
    for (size_t i = 0; i < o->n; i++) {
        const sp_opt *t = &o->table[i];
        bool is_flag = o->origin[i] == SP_ORIGIN_FLAG;
        if (!t->needs || !(t->commands & o->command) ||
            (!is_flag && o->origin[i] != SP_ORIGIN_FILE) || sp_opt_str(o, t->needs))
            continue;
        if (is_flag)
            return SP_FAIL(d, SP_INVAL, "--%s has no effect without --%s", t->name, t->needs);
        char key[SP_OPT_NAME], other[SP_OPT_NAME];
        sp_opt_key(key, sizeof key, t->name);
        sp_opt_key(other, sizeof other, t->needs);
        return SP_FAIL(d, SP_FORMAT, "%.80s:%u: %s has no effect without %s", o->file, o->line[i],
                       key, other);
    }
    return SP_OK;
}

/* What the rows say for the profile that was asked for. */
static sp_err read_profile(sp_opts *o, sp_diag *d)
{
    const char *name = NULL;
    for (size_t i = 0; i < o->n; i++)
        if (strcmp(o->table[i].name, "profile") == 0 && (o->table[i].commands & o->command))
            name = o->value[i];
    for (size_t i = 0; i < o->n && name; i++) {
        const char *p = o->table[i].profile;
        size_t n = strlen(name);
        if (p && strncmp(p, name, n) == 0 && p[n] == '=')
            SP_TRY(sp_opts_set(o, i, p + n + 1, SP_ORIGIN_PROFILE, p, d));
    }
    return SP_OK;
}

static sp_err parse(sp_opts *o, int argc, char *const *argv, size_t max_rest,
                    const char *default_file, sp_diag *d)
{
    for (size_t i = 0; i < o->n; i++) {
        const char *v = o->table[i].fallback;
        if (v)
            SP_TRY(sp_opts_set(o, i, v, SP_ORIGIN_DEFAULT, o->table[i].name, d));
    }
    SP_TRY(read_flags(o, argc, argv, max_rest, d));
    SP_TRY(read_env(o, d));
    const char *file = sp_opt_str(o, "config");
    if (!file && default_file && access(default_file, R_OK) == 0)
        file = default_file;
    if (file)
        SP_TRY(sp_opts_read_file(o, file, d));
    SP_TRY(read_profile(o, d));
    return check_needs(o, d);
}

sp_err sp_opts_parse(sp_opts **out, const sp_opt *table, size_t n, uint32_t command, int argc,
                     char *const *argv, size_t max_rest, const char *default_file, sp_diag *d)
{
    sp_opts *o = sp_mem_alloc(sizeof *o);
    if (!o)
        return SP_FAIL(d, SP_NOMEM, "options");
    o->table = table;
    o->n = n;
    o->command = command;
    o->verb = argc > 0 ? argv[0] : "sparing";
    o->value = sp_mem_array(n, sizeof *o->value);
    o->origin = sp_mem_array(n, sizeof *o->origin);
    o->line = sp_mem_array(n, sizeof *o->line);
    o->rest = sp_mem_array(max_rest + 1, sizeof *o->rest);
    sp_err err =
        o->value && o->origin && o->line && o->rest ? SP_OK : SP_FAIL(d, SP_NOMEM, "options");
    if (err == SP_OK)
        err = parse(o, argc, argv, max_rest, default_file, d);
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
