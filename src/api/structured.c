#include "api/structured.h"

#include "api/params.h"
#include "gen/grammar.h"
#include "gen/schema.h"

#include <string.h>

void sp_structured_fini(sp_structured *s)
{
    sp_buf_fini(&s->message);
    sp_buf_fini(&s->pattern);
    sp_buf_fini(&s->loose);
    json_decref(s->output);
    *s = (sp_structured){0};
}

sp_err sp_structured_choices(sp_buf *out, const json_t *list, const char *name, sp_diag *d)
{
    if (!json_is_array(list) || json_array_size(list) == 0)
        return SP_FAIL(d, SP_INVAL, "%s must be a list of strings that is not empty", name);
    for (size_t i = 0; i < json_array_size(list); i++) {
        const json_t *v = json_array_get(list, i);
        if (!json_is_string(v) || json_string_length(v) == 0)
            return SP_FAIL(d, SP_INVAL, "%s[%zu] must be a string that is not empty", name, i);
        sp_buf_puts(out, i ? "|" : "");
        sp_grammar_quote(out, json_string_value(v), json_string_length(v));
    }
    return SP_OK;
}

/* How an output reads to the model: its text, or what follows from the kind. */
static void put_output(sp_buf *out, sp_str text, const json_t *schema, const json_t *choices)
{
    const char *key;
    json_t *v;
    size_t i = 0;
    if (text.n) {
        sp_buf_put(out, text.p, text.n);
    } else if (choices) {
        sp_buf_puts(out, "Answer with one of: ");
        for (; i < json_array_size(choices); i++)
            sp_buf_printf(out, "%s%s", i ? ", " : "",
                          json_string_value(json_array_get(choices, i)));
        sp_buf_puts(out, ".");
    } else if (schema) {
        sp_buf_puts(out, "Answer in JSON");
        json_object_foreach((json_t *)json_object_get(schema, "properties"), key, v)
            sp_buf_printf(out, "%s%s", i++ ? ", " : " with the fields ", key);
        sp_buf_puts(out, ".");
    }
}

/* The output part: text, or an object that says what the answer may be. */
static sp_err read_output(sp_structured *out, const json_t *j, sp_str text, sp_buf *reads,
                          sp_diag *d)
{
    const json_t *schema = json_object_get(j, "schema"), *choices = json_object_get(j, "choices"),
                 *regex = json_object_get(j, "regex");
    if ((schema != NULL) + (choices != NULL) + (regex != NULL) > 1)
        return SP_FAIL(d, SP_INVAL, "output: schema, choices and regex exclude each other");
    if (schema)
        SP_TRY(sp_grammar_schema(&out->pattern, &out->loose, schema, d));
    if (choices)
        SP_TRY(sp_structured_choices(&out->pattern, choices, "output.choices", d));
    if (regex && (!json_is_string(regex) || json_string_length(regex) == 0))
        return SP_FAIL(d, SP_INVAL, "output.regex must be a string that is not empty");
    /* read as C text, it would end there */
    if (regex && strlen(json_string_value(regex)) != json_string_length(regex))
        return SP_FAIL(d, SP_INVAL, "output.regex must not hold the character U+0000");
    if (regex)
        sp_buf_put(&out->pattern, json_string_value(regex), json_string_length(regex));
    put_output(reads, text, schema, choices);
    return reads->failed || out->pattern.failed ? SP_FAIL(d, SP_NOMEM, "request") : SP_OK;
}

static sp_err finish(sp_structured *out, const json_t *output, sp_diag *d)
{
    sp_buf reads = {0};
    sp_str text = json_is_object(output) && !json_object_get(output, "text")
                      ? (sp_str){0}
                      : out->parts.part[SP_PART_OUTPUT].text;
    sp_err err = read_output(out, output, text, &reads, d);
    if (err == SP_OK)
        sp_parts_put(&out->message, &out->parts, (sp_str){reads.p, reads.len});
    if (err == SP_OK && out->message.failed)
        err = SP_FAIL(d, SP_NOMEM, "request");
    sp_buf_fini(&reads);
    return err;
}

/* "a" or, of steps, ["a", "b"] as a numbered list. */
static sp_err read_text(sp_part *p, const json_t *v, sp_part_kind kind, sp_arena *a, sp_diag *d)
{
    sp_buf list = {0};
    if (json_is_string(v)) {
        p->text = (sp_str){json_string_value(v), json_string_length(v)};
    } else if (kind == SP_PART_STEPS && json_is_array(v)) {
        for (size_t i = 0; i < json_array_size(v); i++) {
            if (!json_is_string(json_array_get(v, i)))
                return sp_buf_fini(&list), SP_FAIL(d, SP_INVAL, "steps[%zu] must be a string", i);
            sp_buf_printf(&list, "%s%zu. %s", i ? "\n" : "", i + 1,
                          json_string_value(json_array_get(v, i)));
        }
        p->text = (sp_str){sp_arena_strndup(a, sp_buf_str(&list), list.len), list.len};
        sp_buf_fini(&list);
    } else {
        return SP_FAIL(d, SP_INVAL, "%s must be a string%s", sp_part_name(kind),
                       kind == SP_PART_STEPS ? " or a list of strings" : " or an object");
    }
    return p->text.p && p->text.n ? SP_OK : SP_FAIL(d, SP_INVAL, "%s is empty", sp_part_name(kind));
}

static sp_err read_field(sp_part *p, const json_t *v, sp_part_kind kind, sp_arena *a, sp_diag *d)
{
    const json_t *text = NULL, *schema, *choices, *regex;
    const char *life = NULL, *bad;
    int64_t budget = 0;
    const sp_param table[] = {{"text", SP_P_JSON, &text, 0, 0},
                              {"budget", SP_P_INT, &budget, 1, 1 << 30},
                              {"life", SP_P_STR | SP_P_FIRM, &life, 0, 0},
                              {"epsilon", SP_P_NUM, &p->epsilon, 0, 0.5},
                              {"schema", SP_P_JSON, &schema, 0, 0},
                              {"choices", SP_P_JSON, &choices, 0, 0},
                              {"regex", SP_P_JSON, &regex, 0, 0}};
    if (!json_is_object(v))
        return read_text(p, v, kind, a, d);
    SP_TRY(sp_params_read(v, table, kind == SP_PART_OUTPUT ? 7 : 4, &bad, d));
    p->budget = (size_t)budget;
    if (life)
        SP_TRY(sp_part_set(p, sp_part_name(kind), (sp_str){"life", 4}, (sp_str){life, strlen(life)},
                           d));
    if (text || kind != SP_PART_OUTPUT)
        return read_text(p, text, kind, a, d);
    return SP_OK;
}

sp_err sp_structured_json(sp_structured *out, sp_arena *a, const json_t *const field[SP_PARTS],
                          sp_diag *d)
{
    for (size_t i = 0; i < SP_PARTS; i++) {
        out->parts.part[i].epsilon = -1;
        if (field[i])
            SP_TRY(read_field(&out->parts.part[i], field[i], (sp_part_kind)i, a, d));
    }
    if (!field[SP_PART_TASK])
        return SP_FAIL(d, SP_INVAL, "a structured prompt needs a task");
    return finish(out, json_is_object(field[SP_PART_OUTPUT]) ? field[SP_PART_OUTPUT] : NULL, d);
}

sp_err sp_structured_text(sp_structured *out, const char *text, size_t n, sp_diag *d)
{
    SP_TRY(sp_parts_read(&out->parts, text, n, d));
    sp_str o = out->parts.part[SP_PART_OUTPUT].text;
    if (o.n && o.p[0] == '{') {
        static const char *const known[] = {"schema", "choices", "regex", "text"};
        const char *key;
        json_t *v;
        size_t n_known = 0;
        sp_diag bad = {0};
        sp_err err = sp_params_parse(&out->output, o.p, o.n, &bad);
        if (err != SP_OK)
            return SP_FAIL(d, err, "<output>: %s", bad.msg);
        json_object_foreach(out->output, key, v)
            for (size_t i = 0; i < 4; i++)
                n_known += strcmp(key, known[i]) == 0;
        v = json_object_get(out->output, "text");
        if (n_known != json_object_size(out->output) || (v && !json_is_string(v)))
            return SP_FAIL(d, SP_INVAL, "<output> takes schema, choices, regex and a text");
        if (v)
            out->parts.part[SP_PART_OUTPUT].text =
                (sp_str){json_string_value(v), json_string_length(v)};
    }
    return finish(out, out->output, d);
}
