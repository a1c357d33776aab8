#include "pipe/knob.h"

#include <math.h>

typedef struct row {
    const char *name;
    double low, high;
    bool whole; /* no fractions */
} row;

static const row ROW[SP_KNOB_EPSILON_OF] = {
    [SP_KNOB_FULL_FROM] = {"full_from", 0.05, 0.95, false},
    [SP_KNOB_NEED_FROM] = {"need_from", 0.05, 0.95, false},
    [SP_KNOB_ESCALATE] = {"escalate_below", -5, -0.1, false},
    [SP_KNOB_PASSAGES] = {"passages", 1, 20, true},
    [SP_KNOB_DRAFT] = {"draft", 0, SP_DRAFT_MAX, true},
    [SP_KNOB_LIGHT_TOKENS] = {"light_tokens", 32, 8192, true},
    [SP_KNOB_CONTROL] = {"control", 0, 1, true},
    [SP_KNOB_KEEP] = {"keep", 0.1, 1, false},
    [SP_KNOB_INTENT] = {"intent", 0, 1e6, true},
    [SP_KNOB_POLICY] = {"policy", 0, 1e6, true},
    [SP_KNOB_HEAD] = {"head", 0, 1e6, true},
    [SP_KNOB_EPSILON] = {"epsilon", 0, 0.1, false}};

static const row EACH = {NULL, 0, 0.1, false}; /* epsilon of a class */

static const row *row_of(sp_knob k)
{
    return k < SP_KNOB_EPSILON_OF ? &ROW[k] : &EACH;
}

const char *sp_knob_name(sp_knob k)
{
    static const char *const of[SP_CLASSES] = {
        "epsilon_of.fact", "epsilon_of.chat",  "epsilon_of.extraction", "epsilon_of.summary",
        "epsilon_of.code", "epsilon_of.maths", "epsilon_of.planning"};
    return k < SP_KNOB_EPSILON_OF ? ROW[k].name : of[k - SP_KNOB_EPSILON_OF];
}

double sp_knob_near(sp_knob k, double v)
{
    const row *r = row_of(k);
    v = r->whole ? round(v) : round(v * 1000) / 1000;
    return v < r->low ? r->low : v > r->high ? r->high : v;
}

void sp_knobs_settings(sp_knob_settings *out, const sp_knobs *k)
{
    static char off[] = "off", safe[] = "safe";
    *out = (sp_knob_settings){0};
    for (size_t i = 0; i < SP_KNOBS; i++) {
        out->number[i] = k->v[i];
        out->count[i] = (unsigned)(k->v[i] > 0 ? k->v[i] : 0);
    }
    sp_settings *s = &out->set;
    double **const number[] = {[SP_KNOB_FULL_FROM] = &s->full_from,
                               [SP_KNOB_NEED_FROM] = &s->need_from,
                               [SP_KNOB_ESCALATE] = &s->escalate_below,
                               [SP_KNOB_KEEP] = &s->keep,
                               [SP_KNOB_EPSILON] = &s->epsilon};
    unsigned **const count[] = {[SP_KNOB_PASSAGES] = &s->passages,
                                [SP_KNOB_DRAFT] = &s->draft,
                                [SP_KNOB_LIGHT_TOKENS] = &s->light_tokens,
                                [SP_KNOB_INTENT] = &s->intent,
                                [SP_KNOB_POLICY] = &s->policy,
                                [SP_KNOB_HEAD] = &s->head};
    for (size_t i = 0; i < sizeof number / sizeof *number; i++)
        if (number[i] && k->set[i])
            *number[i] = &out->number[i];
    for (size_t i = 0; i < sizeof count / sizeof *count; i++)
        if (count[i] && k->set[i])
            *count[i] = &out->count[i];
    if (k->set[SP_KNOB_CONTROL])
        s->control = k->v[SP_KNOB_CONTROL] > 0 ? safe : off;
    for (size_t i = SP_KNOB_EPSILON_OF; i < SP_KNOBS; i++)
        if (k->set[i]) {
            out->by.of[i - SP_KNOB_EPSILON_OF] = &out->number[i];
            s->epsilon_of = &out->by;
        }
}

static void take_number(sp_knobs *k, sp_knob i, const double *v)
{
    if (v) {
        k->v[i] = *v;
        k->set[i] = true;
    }
}

static void take_count(sp_knobs *k, sp_knob i, const unsigned *v)
{
    double x = v ? (double)*v : 0;
    take_number(k, i, v ? &x : NULL);
}

void sp_knobs_take(sp_knobs *k, const sp_settings *s)
{
    double ruled = s->control && s->control[0] == 's';
    take_number(k, SP_KNOB_FULL_FROM, s->full_from);
    take_number(k, SP_KNOB_NEED_FROM, s->need_from);
    take_number(k, SP_KNOB_ESCALATE, s->escalate_below);
    take_number(k, SP_KNOB_KEEP, s->keep);
    take_number(k, SP_KNOB_EPSILON, s->epsilon);
    take_count(k, SP_KNOB_PASSAGES, s->passages);
    take_count(k, SP_KNOB_DRAFT, s->draft);
    take_count(k, SP_KNOB_LIGHT_TOKENS, s->light_tokens);
    take_count(k, SP_KNOB_INTENT, s->intent);
    take_count(k, SP_KNOB_POLICY, s->policy);
    take_count(k, SP_KNOB_HEAD, s->head);
    take_number(k, SP_KNOB_CONTROL, s->control ? &ruled : NULL);
    for (size_t i = 0; i < SP_CLASSES && s->epsilon_of; i++)
        take_number(k, (sp_knob)(SP_KNOB_EPSILON_OF + i), s->epsilon_of->of[i]);
}

void sp_knobs_write(const sp_knobs *k, sp_buf *out)
{
    bool has = false, has_class = false;
    sp_buf_putc(out, '{');
    for (size_t i = 0; i < SP_KNOB_EPSILON_OF; i++) {
        if (!k->set[i])
            continue;
        sp_buf_printf(out, "%s%s: ", has ? ", " : "", ROW[i].name);
        if (i == SP_KNOB_CONTROL)
            sp_buf_puts(out, k->v[i] > 0 ? "\"safe\"" : "\"off\"");
        else
            sp_buf_printf(out, "%.10g", k->v[i]);
        has = true;
    }
    for (size_t i = 0; i < SP_CLASSES; i++) {
        size_t at = SP_KNOB_EPSILON_OF + i;
        if (!k->set[at])
            continue;
        sp_buf_puts(out, has_class ? ", " : has ? ", epsilon_of: {" : "epsilon_of: {");
        sp_buf_printf(out, "%s: %.10g", sp_class_name((sp_class)i), k->v[at]);
        has = has_class = true;
    }
    sp_buf_puts(out, has_class ? "}}" : "}");
}
