/* The file of experiments: YAML by the schema below, and what a schema cannot say. */
#include "pipe/experiment.h"

#include "pipe/failures.h"
#include "pipe/settings.h"

#include <ctype.h>
#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

enum { NAME = 64, MODEL = 127, SYSTEM = 8192, VARIANTS = SP_TRACK_ARMS };

#define MAYBE SP_YAML_MAYBE
#define NUMBER(key) CYAML_FIELD_FLOAT_PTR(#key, MAYBE, sp_settings, key)
#define COUNT(key) CYAML_FIELD_UINT_PTR(#key, MAYBE, sp_settings, key)

#define OF_CLASS(name, cls)                                                                        \
    {.key = name,                                                                                  \
     .value = {.type = CYAML_FLOAT, .flags = MAYBE, .data_size = sizeof(double)},                  \
     .data_offset = offsetof(sp_class_numbers, of) + (cls) * sizeof(double *)}

static const cyaml_schema_field_t class_fields[] = {
    OF_CLASS("fact", SP_CLASS_FACT),       OF_CLASS("chat", SP_CLASS_CHAT),
    OF_CLASS("extraction", SP_CLASS_EXTRACT), OF_CLASS("summary", SP_CLASS_SUMMARY),
    OF_CLASS("code", SP_CLASS_CODE),       OF_CLASS("maths", SP_CLASS_MATHS),
    OF_CLASS("planning", SP_CLASS_PLAN),   CYAML_FIELD_END};

const cyaml_schema_field_t sp_settings_fields[] = {
    CYAML_FIELD_STRING_PTR("path", MAYBE, sp_settings, path, 1, NAME),
    NUMBER(epsilon),
    NUMBER(keep),
    NUMBER(full_from),
    NUMBER(need_from),
    NUMBER(escalate_below),
    COUNT(passages),
    COUNT(draft),
    COUNT(light_tokens),
    COUNT(intent),
    COUNT(policy),
    COUNT(head),
    CYAML_FIELD_STRING_PTR("control", MAYBE, sp_settings, control, 1, NAME),
    CYAML_FIELD_MAPPING_PTR("epsilon_of", MAYBE, sp_settings, epsilon_of, class_fields),
    CYAML_FIELD_STRING_PTR("search", MAYBE, sp_settings, search, 1, NAME),
    CYAML_FIELD_STRING_PTR("system", MAYBE, sp_settings, system, 1, SYSTEM),
    CYAML_FIELD_STRING_PTR("template", MAYBE, sp_settings, template, 1, SYSTEM),
    CYAML_FIELD_STRING_PTR("drafters", MAYBE, sp_settings, drafters, 1, NAME),
    COUNT(think_tokens),
    CYAML_FIELD_INT_PTR("priority", MAYBE, sp_settings, priority),
    CYAML_FIELD_STRING_PTR("place", MAYBE, sp_settings, place, 1, NAME),
    CYAML_FIELD_STRING_PTR("model", MAYBE, sp_settings, model, 1, MODEL),
    CYAML_FIELD_END};

static const cyaml_schema_field_t variant_fields[] = {
    CYAML_FIELD_STRING_PTR("name", CYAML_FLAG_POINTER, sp_variant, name, 1, NAME),
    CYAML_FIELD_FLOAT_PTR("weight", MAYBE, sp_variant, weight),
    CYAML_FIELD_MAPPING_PTR("set", MAYBE, sp_variant, set, sp_settings_fields), CYAML_FIELD_END};
static const cyaml_schema_value_t variant_value = {
    CYAML_VALUE_MAPPING(CYAML_FLAG_DEFAULT, sp_variant, variant_fields)};

static const cyaml_schema_field_t experiment_fields[] = {
    CYAML_FIELD_STRING_PTR("name", CYAML_FLAG_POINTER, sp_experiment, name, 1, NAME),
    CYAML_FIELD_STRING_PTR("salt", MAYBE, sp_experiment, salt, 1, NAME),
    CYAML_FIELD_STRING_PTR("group", MAYBE, sp_experiment, group, 1, NAME),
    CYAML_FIELD_FLOAT_PTR("share", MAYBE, sp_experiment, share),
    CYAML_FIELD_STRING_PTR("metric", MAYBE, sp_experiment, metric, 1, NAME),
    CYAML_FIELD_STRING_PTR("judge", MAYBE, sp_experiment, judge, 1, NAME),
    CYAML_FIELD_BOOL("interleave", CYAML_FLAG_OPTIONAL, sp_experiment, interleave),
    CYAML_FIELD_BOOL("adapt", CYAML_FLAG_OPTIONAL, sp_experiment, adapt),
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

/* --- what a schema cannot say ----------------------------------------------------------------- */

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

static bool is_object(const char *text)
{
    json_t *j = json_loads(text, 0, NULL);
    bool is = json_is_object(j);
    json_decref(j);
    return is;
}

/* What of the settings is out of its range; NULL: nothing. */
const char *sp_settings_wrong(const sp_settings *s)
{
    sp_want want;
    unsigned how;
    if (s->search && !sp_search_read(&how, s->search))
        return "search is none of plain, words, vectors, sentences, graph";
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
    if (s->light_tokens && (*s->light_tokens < 1 || *s->light_tokens > 1u << 24))
        return "light_tokens is not from 1 to 16777216";
    if (s->control && strcmp(s->control, "off") != 0 && strcmp(s->control, "safe") != 0)
        return "control is neither off nor safe";
    for (size_t i = 0; i < SP_CLASSES && s->epsilon_of; i++)
        if (!is_in(s->epsilon_of->of[i], 0, 0.5))
            return "a number of epsilon_of is not from 0 to 0.5";
    if (s->template && !is_object(s->template))
        return "template is no JSON object";
    if (s->drafters && !sp_settings_drafters(&how, s->drafters))
        return "drafters is not names of lookup, prediction, earlier, model, head, mtp by commas";
    if (s->think_tokens && *s->think_tokens > 1u << 24)
        return "think_tokens is not from 0 to 16777216";
    if (s->priority && (*s->priority < -3 || *s->priority > 3))
        return "priority is not from -3 to 3";
    return s->draft && *s->draft > SP_DRAFT_MAX ? "draft is more than a step takes" : NULL;
}

static sp_err check_variants(const sp_experiment *e, const char *path, sp_diag *d)
{
    for (unsigned i = 0; i < e->n_variant; i++) {
        const sp_variant *v = &e->variant[i];
        const char *bad = v->set ? sp_settings_wrong(v->set) : NULL;
        if (!is_name(v->name))
            return SP_FAIL(d, SP_FORMAT,
                           "%.80s: experiment %s: the variant '%.40s' has a name of other signs "
                           "than letters, digits, - _ .",
                           path, e->name, v->name);
        if (!bad && v->set && (v->set->intent || v->set->policy || v->set->head))
            bad = "intent, policy and head are what versions of `sparing improve` set";
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

#define SETS_SEARCH (1u << 10) /* the place of `search` below */

/* Bits of what the variants set. */
static unsigned sets(const sp_experiment *e)
{
    unsigned bits = 0;
    for (unsigned i = 0; i < e->n_variant; i++) {
        const sp_settings *s = e->variant[i].set;
        const void *field[] = {
            s ? s->path : NULL,      s ? s->keep : NULL,
            s ? s->full_from : NULL, s ? s->need_from : NULL, s ? s->escalate_below : NULL,
            s ? s->passages : NULL,  s ? s->draft : NULL,     s ? s->system : NULL,
            s ? s->light_tokens : NULL, s ? s->control : NULL, s ? s->search : NULL,
            s ? s->template : NULL,  s ? s->drafters : NULL,  s ? s->think_tokens : NULL,
            s ? s->priority : NULL,  s ? s->place : NULL,     s ? s->model : NULL};
        bits |= s && (s->epsilon || s->epsilon_of) ? 1u << 31 : 0;
        bits |= e->interleave ? SETS_SEARCH : 0;
        for (unsigned k = 0; k < sizeof field / sizeof *field; k++)
            bits |= field[k] ? 1u << k : 0;
    }
    return bits;
}

static sp_err check_interleaved(const sp_experiment *e, const char *path, sp_diag *d)
{
    if (!e->interleave)
        return SP_OK;
    if (e->n_variant != 2 || (sets(e) & ~SETS_SEARCH) || e->variant[0].weight ||
        e->variant[1].weight || e->judge)
        return SP_FAIL(d, SP_FORMAT,
                       "%.80s: experiment %s: interleave takes two variants that set search and "
                       "nothing else, and no judge",
                       path, e->name);
    return e->metric ? SP_FAIL(d, SP_FORMAT,
                               "%.80s: experiment %s: interleave is decided by passages that are "
                               "used, not by a metric",
                               path, e->name)
                     : SP_OK;
}

/* Of what an answer has itself, `failed` alone lies between 0 and 1. */
static sp_err check_adapting(const sp_experiment *e, const char *path, sp_diag *d)
{
    static const char *const wide[] = {"ms", "ms_first", "cost", "tokens"};
    const char *bad = !e->metric ? "adapt needs a metric, which decides"
                      : e->interleave ? "adapt and interleave exclude each other" : NULL;
    for (size_t i = 0; i < sizeof wide / sizeof *wide && e->metric; i++)
        if (strcmp(e->metric, wide[i]) == 0)
            bad = "adapt is for a metric from 0 to 1";
    for (unsigned i = 0; i < e->n_variant; i++)
        if (e->variant[i].weight)
            bad = "adapt finds the weights itself; leave them out";
    return e->adapt && bad
               ? SP_FAIL(d, SP_FORMAT, "%.80s: experiment %s: %s", path, e->name, bad)
               : SP_OK;
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
        if (e->metric && sp_signal_is(e->metric))
            return SP_FAIL(d, SP_FORMAT,
                           "%.80s: experiment %s: nobody gives %.20s as a rating; it is counted "
                           "apart, and decides nothing",
                           path, e->name, e->metric);
        if (!is_in(e->share, 0, 1))
            return SP_FAIL(d, SP_FORMAT, "%.80s: experiment %s: share is not from 0 to 1", path,
                           e->name);
        SP_TRY(check_variants(e, path, d));
        SP_TRY(check_interleaved(e, path, d));
        SP_TRY(check_adapting(e, path, d));
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
    void *p = NULL;
    SP_TRY(sp_yaml_load(&p, path, &file_value, d));
    sp_experiments *x = p;
    sp_err err = check_file(x, path, d);
    for (unsigned i = 0; i < x->n && err == SP_OK; i++)
        if (x->experiment[i].adapt &&
            sp_draws_new(&x->draws[i], x->experiment[i].n_variant) != SP_OK)
            err = SP_FAIL(d, SP_NOMEM, "experiments");
    if (err == SP_OK)
        *out = x;
    else
        sp_experiments_free(x);
    return err;
}

void sp_experiments_free(sp_experiments *x)
{
    for (unsigned i = 0; x && i < x->n; i++)
        sp_draws_free(x->draws[i]);
    sp_yaml_free(&file_value, x);
}
