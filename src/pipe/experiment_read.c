/* The file of experiments: YAML by the schema below, and what a schema cannot say. */
#include "pipe/experiment.h"

#include "base/file.h"

#include <cyaml/cyaml.h>
#include <ctype.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

enum { NAME = 64, SYSTEM = 8192, VARIANTS = 8, FILE_BYTES = 1 << 20 };

#define MAYBE (CYAML_FLAG_POINTER | CYAML_FLAG_OPTIONAL)
#define NUMBER(key) CYAML_FIELD_FLOAT_PTR(#key, MAYBE, sp_settings, key)
#define COUNT(key) CYAML_FIELD_UINT_PTR(#key, MAYBE, sp_settings, key)

static const cyaml_schema_field_t settings_fields[] = {
    CYAML_FIELD_STRING_PTR("path", MAYBE, sp_settings, path, 1, NAME),
    NUMBER(epsilon),
    NUMBER(keep),
    NUMBER(full_from),
    NUMBER(need_from),
    NUMBER(escalate_below),
    COUNT(passages),
    COUNT(draft),
    CYAML_FIELD_STRING_PTR("system", MAYBE, sp_settings, system, 1, SYSTEM),
    CYAML_FIELD_END};

static const cyaml_schema_field_t variant_fields[] = {
    CYAML_FIELD_STRING_PTR("name", CYAML_FLAG_POINTER, sp_variant, name, 1, NAME),
    CYAML_FIELD_FLOAT_PTR("weight", MAYBE, sp_variant, weight),
    CYAML_FIELD_MAPPING_PTR("set", MAYBE, sp_variant, set, settings_fields), CYAML_FIELD_END};
static const cyaml_schema_value_t variant_value = {
    CYAML_VALUE_MAPPING(CYAML_FLAG_DEFAULT, sp_variant, variant_fields)};

static const cyaml_schema_field_t experiment_fields[] = {
    CYAML_FIELD_STRING_PTR("name", CYAML_FLAG_POINTER, sp_experiment, name, 1, NAME),
    CYAML_FIELD_STRING_PTR("salt", MAYBE, sp_experiment, salt, 1, NAME),
    CYAML_FIELD_STRING_PTR("group", MAYBE, sp_experiment, group, 1, NAME),
    CYAML_FIELD_FLOAT_PTR("share", MAYBE, sp_experiment, share),
    CYAML_FIELD_STRING_PTR("metric", MAYBE, sp_experiment, metric, 1, NAME),
    {.key = "variants",
     .value = {.type = CYAML_SEQUENCE,
               .flags = CYAML_FLAG_POINTER,
               .data_size = sizeof(sp_variant),
               .sequence = {.entry = &variant_value, .min = 2, .max = VARIANTS}},
     .data_offset = offsetof(sp_experiment, variant),
     .count_offset = offsetof(sp_experiment, n_variant),
     .count_size = sizeof(unsigned)},
    CYAML_FIELD_END};
static const cyaml_schema_value_t experiment_value = {
    CYAML_VALUE_MAPPING(CYAML_FLAG_DEFAULT, sp_experiment, experiment_fields)};

static const cyaml_schema_field_t file_fields[] = {
    {.key = "experiments",
     .value = {.type = CYAML_SEQUENCE,
               .flags = CYAML_FLAG_POINTER,
               .data_size = sizeof(sp_experiment),
               .sequence = {.entry = &experiment_value, .min = 0, .max = SP_EXPERIMENTS}},
     .data_offset = offsetof(sp_experiments, experiment),
     .count_offset = offsetof(sp_experiments, n),
     .count_size = sizeof(unsigned)},
    CYAML_FIELD_END};
static const cyaml_schema_value_t file_value = {
    CYAML_VALUE_MAPPING(CYAML_FLAG_POINTER, sp_experiments, file_fields)};

/* What the reader says is wrong, and the innermost place that it names. */
typedef struct words {
    char what[120], where[80];
} words;

static void note(cyaml_log_t level, void *ctx, const char *format, va_list args)
{
    words *w = ctx;
    char line[160];
    (void)level;
    vsnprintf(line, sizeof line, format, args);
    line[strcspn(line, "\n")] = 0;
    const char *p = strncmp(line, "Load: ", 6) == 0 ? line + 6 : line;
    p += strspn(p, " ");
    if (!w->what[0])
        snprintf(w->what, sizeof w->what, "%.119s", p);
    else if (!w->where[0] && strstr(p, "line:"))
        snprintf(w->where, sizeof w->where, " %.78s", p);
}

static const cyaml_config_t config = {
    .log_fn = NULL, .mem_fn = cyaml_mem, .log_level = CYAML_LOG_ERROR};

/* --- what a schema cannot say
 * ------------------------------------------------------------------- */

static bool is_name(const char *s)
{
    size_t n = 0;
    for (; s[n]; n++)
        if (!isalnum((unsigned char)s[n]) && !strchr("-_.", s[n]))
            return false;
    return n > 0;
}

static bool is_in(const double *v, double low, double high)
{
    return !v || (*v >= low && *v <= high);
}

/* What of the settings is out of its range; NULL: nothing. */
static const char *wrong_setting(const sp_settings *s)
{
    sp_want want;
    if (s->path && sp_want_read(&want, s->path) != SP_OK)
        return "path is none of auto, light, full, upstream";
    if (!is_in(s->epsilon, 0, 0.5))
        return "epsilon is not from 0 to 0.5";
    if (!is_in(s->keep, 0.01, 1))
        return "keep is not from 0.01 to 1";
    if (!is_in(s->full_from, 0, 1) || !is_in(s->need_from, 0, 1))
        return "full_from and need_from are from 0 to 1";
    if (!is_in(s->escalate_below, -1000, 0))
        return "escalate_below is not from -1000 to 0";
    if (s->passages && (*s->passages < 1 || *s->passages > 50))
        return "passages is not from 1 to 50";
    return s->draft && *s->draft > SP_DRAFT_MAX ? "draft is more than a step takes" : NULL;
}

static sp_err check_variants(const sp_experiment *e, const char *path, sp_diag *d)
{
    for (unsigned i = 0; i < e->n_variant; i++) {
        const sp_variant *v = &e->variant[i];
        const char *bad = v->set ? wrong_setting(v->set) : NULL;
        if (!is_name(v->name))
            return SP_FAIL(d, SP_FORMAT,
                           "%.80s: experiment %s: the variant '%.40s' has a name of other signs "
                           "than letters, digits, - _ .",
                           path, e->name, v->name);
        if (bad)
            return SP_FAIL(d, SP_FORMAT, "%.80s: experiment %s, variant %s: %s", path, e->name,
                           v->name, bad);
        if (!is_in(v->weight, 1e-6, 1e6))
            return SP_FAIL(d, SP_FORMAT, "%.80s: experiment %s, variant %s: weight must be above 0",
                           path, e->name, v->name);
        for (unsigned k = 0; k < i; k++)
            if (strcmp(e->variant[k].name, v->name) == 0)
                return SP_FAIL(d, SP_FORMAT, "%.80s: experiment %s has two variants %s", path,
                               e->name, v->name);
    }
    return SP_OK;
}

/* Bits of what the variants set. */
static unsigned sets(const sp_experiment *e)
{
    unsigned bits = 0;
    for (unsigned i = 0; i < e->n_variant; i++) {
        const sp_settings *s = e->variant[i].set;
        const void *field[] = {
            s ? s->path : NULL,      s ? s->epsilon : NULL,   s ? s->keep : NULL,
            s ? s->full_from : NULL, s ? s->need_from : NULL, s ? s->escalate_below : NULL,
            s ? s->passages : NULL,  s ? s->draft : NULL,     s ? s->system : NULL};
        for (unsigned k = 0; k < sizeof field / sizeof *field; k++)
            bits |= field[k] ? 1u << k : 0;
    }
    return bits;
}

/* Two that may meet in one conversation must not set the same. */
static sp_err check_pair(const sp_experiment *a, const sp_experiment *b, const char *path,
                         sp_diag *d)
{
    bool apart = a->group && b->group && strcmp(a->group, b->group) == 0;
    if (strcmp(a->name, b->name) == 0)
        return SP_FAIL(d, SP_FORMAT, "%.80s: two experiments are named %s", path, a->name);
    if (!apart && (sets(a) & sets(b)))
        return SP_FAIL(
            d, SP_FORMAT,
            "%.80s: %s and %s set the same; put them into one group, or no one knows which it was",
            path, a->name, b->name);
    return SP_OK;
}

static sp_err check_file(const sp_experiments *x, const char *path, sp_diag *d)
{
    for (unsigned i = 0; i < x->n; i++) {
        const sp_experiment *e = &x->experiment[i];
        double sum = 0;
        if (!is_name(e->name) || (e->metric && !is_name(e->metric)))
            return SP_FAIL(d, SP_FORMAT,
                           "%.80s: experiment '%.40s': names are of letters, digits, - _ .", path,
                           e->name);
        if (!is_in(e->share, 0, 1))
            return SP_FAIL(d, SP_FORMAT, "%.80s: experiment %s: share is not from 0 to 1", path,
                           e->name);
        SP_TRY(check_variants(e, path, d));
        for (unsigned k = 0; k < i; k++)
            SP_TRY(check_pair(&x->experiment[k], e, path, d));
        for (unsigned k = 0; k < x->n && e->group; k++)
            if (x->experiment[k].group && strcmp(x->experiment[k].group, e->group) == 0)
                sum += x->experiment[k].share ? *x->experiment[k].share : 1;
        if (sum > 1 + 1e-9)
            return SP_FAIL(
                d, SP_FORMAT,
                "%.80s: the shares of group %.40s are %.2f together, more than all conversations",
                path, e->group, sum);
    }
    return SP_OK;
}

sp_err sp_experiments_load(sp_experiments **out, const char *path, sp_diag *d)
{
    sp_buf file = {0};
    sp_experiments *x = NULL;
    words w = {0};
    cyaml_config_t with = config;
    sp_err err = sp_file_read(&file, path, FILE_BYTES, d);
    with.log_fn = note;
    with.log_ctx = &w;
    if (err == SP_OK) {
        cyaml_err_t ce = cyaml_load_data((const uint8_t *)sp_buf_str(&file), file.len, &with,
                                         &file_value, (cyaml_data_t **)(void *)&x, NULL);
        if (ce != CYAML_OK)
            err = SP_FAIL(d, SP_FORMAT, "%.80s: %s%s", path,
                          w.what[0] ? w.what : cyaml_strerror(ce), w.where);
    }
    if (err == SP_OK)
        err = check_file(x, path, d);
    sp_buf_fini(&file);
    if (err == SP_OK)
        *out = x;
    else
        sp_experiments_free(x);
    return err;
}

void sp_experiments_free(sp_experiments *x)
{
    if (x)
        cyaml_free(&config, &file_value, x, 0);
}
