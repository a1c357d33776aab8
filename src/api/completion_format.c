/* What an answer may be: response_format, sparing.regex, choices and grammar, and the same as other
 * servers spell it (vLLM's structured_outputs and guided_…, llama.cpp's grammar and json_schema).
 * All become one pattern. */
#include "api/completion_int.h"

#include "gen/gbnf.h"
#include "gen/schema.h"

#include <string.h>

sp_err sp_completion_compile(request *r, sp_diag *d)
{
    if (r->pattern.failed)
        return SP_FAIL(d, SP_NOMEM, "request");
    if (!r->pattern.len || r->ask->grammar)
        return SP_OK;
    return sp_grammar_get(&r->ask->grammar, r->on->env.grammars, sp_buf_str(&r->pattern), d);
}

/* A schema, or its text. */
static sp_err put_schema(request *r, const json_t *v, bool strict, sp_diag *d)
{
    sp_buf *loose = strict ? NULL : &r->loose;
    if (!json_is_string(v))
        return sp_grammar_schema(&r->pattern, loose, v, d);
    json_t *own = NULL;
    sp_diag bad = {0};
    if (sp_params_parse(&own, json_string_value(v), json_string_length(v), &bad) != SP_OK)
        return SP_FAIL(d, bad.code, "the schema is a string, and no JSON: %.120s", bad.msg);
    sp_err err = sp_grammar_schema(&r->pattern, loose, own, d);
    json_decref(own);
    return err;
}

static sp_err put_regex(request *r, const char *regex, sp_diag *d)
{
    if (!*regex)
        return SP_FAIL(d, SP_INVAL, "the pattern is empty: it allows no answer");
    sp_buf_puts(&r->pattern, regex);
    return SP_OK;
}

static sp_err read_response_format(request *r, const json_t *v, sp_diag *d)
{
    const char *type = json_string_value(json_object_get(v, "type"));
    const json_t *js = json_object_get(v, "json_schema"), *schema = json_object_get(js, "schema");
    const json_t *strict = json_object_get(js, "strict");
    if (type && strcmp(type, "text") == 0)
        return SP_OK;
    if (type && strcmp(type, "json_object") == 0)
        return sp_grammar_object(&r->pattern, d);
    if (!type || strcmp(type, "json_schema") != 0)
        return SP_FAIL(d, SP_UNSUP,
                       "response_format: its type must be text, json_object or json_schema");
    if (!schema)
        return SP_FAIL(d, SP_INVAL, "response_format: json_schema.schema is missing");
    if (strict && !json_is_boolean(strict) && !json_is_null(strict))
        return SP_FAIL(d, SP_INVAL, "response_format: json_schema.strict must be true or false");
    return put_schema(r, schema, json_is_true(strict), d);
}

/* vLLM's: one of json, regex, choice, grammar, json_object. */
static sp_err read_structured(request *r, const json_t *v, sp_diag *d)
{
    const json_t *schema = NULL, *choices = NULL;
    const char *regex = NULL, *grammar = NULL, *bad;
    bool object = false;
    const sp_param table[] = {{"json", SP_P_JSON, &schema, 0, 0},
                              {"choice", SP_P_JSON, &choices, 0, 0},
                              {"regex", SP_P_STR, &regex, 0, 0},
                              {"grammar", SP_P_STR, &grammar, 0, 0},
                              {"json_object", SP_P_BOOL, &object, 0, 0}};
    if (!json_is_object(v))
        return SP_FAIL(d, SP_INVAL, "structured_outputs must be an object");
    SP_TRY(sp_params_read(v, table, 5, &bad, d));
    int n = (schema != NULL) + (choices != NULL) + (regex != NULL) + (grammar != NULL) + object;
    if (n != 1)
        return SP_FAIL(d, SP_INVAL,
                       "structured_outputs needs one of json, regex, choice, grammar, json_object");
    return schema    ? put_schema(r, schema, false, d)
           : choices ? sp_structured_choices(&r->pattern, choices, "structured_outputs.choice", d)
           : regex   ? put_regex(r, regex, d)
           : grammar ? sp_grammar_gbnf(&r->pattern, grammar, d)
                     : sp_grammar_object(&r->pattern, d);
}

sp_err sp_completion_format(request *r, const body *b, const char **bad, sp_diag *d)
{
    const format *f = &b->format;
    const char *type = json_string_value(json_object_get(f->response, "type"));
    const json_t *response = type && strcmp(type, "text") == 0 ? NULL : f->response;
    const json_t *schema = f->guided_json ? f->guided_json : f->json_schema;
    const char *regex = f->regex ? f->regex : f->guided_regex;
    const char *grammar = f->grammar ? f->grammar : f->guided_grammar ? f->guided_grammar : f->gbnf;
    const json_t *choices = f->choices ? f->choices : f->guided_choice;
    const void *const all[] = {response,   f->structured, f->guided_json,   f->json_schema,
                               f->regex,   f->choices,    f->guided_regex,  f->guided_choice,
                               f->grammar, f->gbnf,       f->guided_grammar};
    int n = 0;
    *bad = "response_format";
    for (size_t i = 0; i < sizeof all / sizeof all[0]; i++)
        n += all[i] != NULL;
    if (n > 1)
        return SP_FAIL(d, SP_INVAL,
                       "response_format, sparing.regex, sparing.choices, sparing.grammar and the "
                       "like exclude each other");
    if (response)
        SP_TRY(read_response_format(r, response, d));
    *bad = response            ? *bad
           : f->structured     ? "structured_outputs"
           : f->guided_json    ? "guided_json"
           : f->json_schema    ? "json_schema"
           : f->guided_regex   ? "guided_regex"
           : f->gbnf           ? "grammar"
           : f->guided_choice  ? "guided_choice"
           : f->guided_grammar ? "guided_grammar"
                               : "sparing";
    if (f->structured)
        SP_TRY(read_structured(r, f->structured, d));
    if (schema)
        SP_TRY(put_schema(r, schema, false, d));
    if (regex)
        SP_TRY(put_regex(r, regex, d));
    if (choices)
        SP_TRY(sp_structured_choices(&r->pattern, choices,
                                     f->choices ? "sparing.choices" : "guided_choice", d));
    if (grammar)
        SP_TRY(sp_grammar_gbnf(&r->pattern, grammar, d));
    return sp_completion_compile(r, d);
}
