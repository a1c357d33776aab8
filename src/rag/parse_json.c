/* JSON: lines of objects, a document of objects, and notebooks (nbformat 4). */
#include "rag/parse_int.h"

#include <jansson.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_LINE = 16 << 20, MAX_DEPTH = 512, LONG_NUMBER = 16 };

/* A record: its title as a heading, then its text and "name: value" lines of the rest. */
static sp_err give_record(sp_rag_reading *r, json_t *j)
{
    const char *key;
    json_t *v;
    sp_buf b = {0};
    const json_t *title = json_object_get(j, "title"), *text = json_object_get(j, "text");
    sp_err err = SP_OK;
    if (json_is_string(title))
        err = sp_rag_give(r, SP_RAG_HEADING, 1, json_string_value(title), json_string_length(title),
                          false);
    if (json_is_string(text))
        sp_buf_put(&b, json_string_value(text), json_string_length(text));
    json_object_foreach (j, key, v) {
        if ((json_is_string(v) && (v == title || v == text)) || json_is_null(v))
            continue;
        char *other = json_is_string(v) ? NULL : json_dumps(v, JSON_COMPACT | JSON_ENCODE_ANY);
        sp_buf_printf(&b, "%s%s: ", b.len ? "\n" : "", key);
        sp_buf_put(&b, other ? other : json_string_value(v),
                   other ? strlen(other) : json_string_length(v));
        free(other);
    }
    if (err == SP_OK)
        err = b.failed ? SP_FAIL(r->d, SP_NOMEM, "document")
                       : sp_rag_give(r, SP_RAG_TEXT, 0, sp_buf_str(&b), b.len, true);
    sp_buf_fini(&b);
    return err;
}

/* --- parsing ---------------------------------------------------------------------------------- */

/* Brackets in strings count too: a bound, not a parser. */
static bool is_deep(const char *p, size_t n)
{
    size_t depth = 0;
    for (size_t i = 0; i < n; i++)
        if ((p[i] == '[' || p[i] == '{') && ++depth > MAX_DEPTH)
            return true;
        else if ((p[i] == ']' || p[i] == '}') && depth)
            depth--;
    return false;
}

static bool is_digit(char c)
{
    return c >= '0' && c <= '9';
}

/* Numbers that no machine type holds become strings of their digits. */
static void quote_numbers(sp_buf *out, const char *p, size_t n)
{
    bool in_string = false;
    for (size_t i = 0; i < n;) {
        size_t k = 0;
        if (in_string && p[i] == '\\') {
            k = i + 1 < n ? 2 : 1;
        } else if (p[i] == '"') {
            in_string = !in_string;
            k = 1;
        } else if (!in_string && (is_digit(p[i]) || p[i] == '-')) {
            while (i + k < n && (is_digit(p[i + k]) || strchr("+-.eE", p[i + k])) && p[i + k])
                k++;
            bool is_long = k >= LONG_NUMBER || memchr(p + i, 'e', k) || memchr(p + i, 'E', k);
            sp_buf_puts(out, is_long ? "\"" : "");
            sp_buf_put(out, p + i, k);
            sp_buf_puts(out, is_long ? "\"" : "");
            i += k;
            continue;
        } else {
            k = 1;
        }
        sp_buf_put(out, p + i, k);
        i += k;
    }
}

/* NULL: why says what jansson says. */
static json_t *load(const char *p, size_t n, json_error_t *why)
{
    if (is_deep(p, n)) {
        *why = (json_error_t){.line = 1};
        snprintf(why->text, sizeof why->text, "more than %d brackets are open", MAX_DEPTH);
        return NULL;
    }
    json_t *j = json_loadb(p, n, JSON_ALLOW_NUL | JSON_DECODE_ANY, why);
    if (j || json_error_code(why) != json_error_numeric_overflow)
        return j;
    sp_buf quoted = {0};
    quote_numbers(&quoted, p, n);
    j = quoted.failed ? NULL
                      : json_loadb(quoted.p, quoted.len, JSON_ALLOW_NUL | JSON_DECODE_ANY, why);
    sp_buf_fini(&quoted);
    return j;
}

sp_err sp_rag_parse_jsonl(sp_rag_reading *r, const char *p, size_t n)
{
    const char *end = p + n, *line;
    size_t len, at = 0;
    sp_err err = SP_OK;
    while (err == SP_OK && sp_rag_line(&line, &len, &p, end)) {
        json_error_t je;
        at++;
        if (sp_rag_is_blank(line, len))
            continue;
        if (len > MAX_LINE) {
            sp_rag_bad(r, "line %zu has %zu bytes, at most %d are read", at, len, MAX_LINE);
            continue;
        }
        json_t *j = load(line, len, &je);
        if (!j)
            sp_rag_bad(r, "line %zu is not JSON: %.120s", at, je.text);
        else if (!json_is_object(j))
            sp_rag_bad(r, "line %zu is JSON but not an object", at);
        err = json_is_object(j) ? give_record(r, j) : sp_rag_on_time(r);
        json_decref(j);
    }
    return err;
}

/* --- whole documents -------------------------------------------------------------------------- */

static sp_err give_value(sp_rag_reading *r, json_t *v)
{
    if (json_is_object(v))
        return give_record(r, v);
    char *text = json_is_string(v) ? NULL : json_dumps(v, JSON_COMPACT | JSON_ENCODE_ANY);
    sp_err err = text                ? sp_rag_give(r, SP_RAG_TEXT, 0, text, strlen(text), true)
                 : json_is_string(v) ? sp_rag_give(r, SP_RAG_TEXT, 0, json_string_value(v),
                                                   json_string_length(v), true)
                                     : SP_OK;
    free(text);
    return err;
}

/* Each element of a list, and each member of an object that is itself an object or a list, is a
 * record. */
sp_err sp_rag_parse_json(sp_rag_reading *r, const char *p, size_t n)
{
    json_error_t je;
    json_t *j = load(p, n, &je), *v;
    size_t i;
    if (!j)
        return SP_FAIL(r->d, SP_FORMAT, "line %d is not JSON: %.120s", je.line, je.text);
    sp_err err = SP_OK;
    if (json_is_array(j)) {
        json_array_foreach (j, i, v)
            if (err == SP_OK)
                err = give_value(r, v);
    } else {
        err = give_value(r, j);
    }
    json_decref(j);
    return err;
}

/* --- notebooks -------------------------------------------------------------------------------- */

/* A text of nbformat: one string, or a list of lines. */
static void put_source(sp_buf *out, const json_t *v)
{
    if (json_is_string(v))
        sp_buf_put(out, json_string_value(v), json_string_length(v));
    for (size_t i = 0; i < json_array_size(v); i++)
        if (json_is_string(json_array_get(v, i)))
            sp_buf_put(out, json_string_value(json_array_get(v, i)),
                       json_string_length(json_array_get(v, i)));
}

static sp_err give_source(sp_rag_reading *r, const json_t *v, bool markdown)
{
    sp_buf b = {0};
    put_source(&b, v);
    sp_err err = b.failed   ? SP_FAIL(r->d, SP_NOMEM, "document")
                 : markdown ? sp_rag_parse_markdown(r, sp_buf_str(&b), b.len)
                            : sp_rag_give(r, SP_RAG_TEXT, 0, sp_buf_str(&b), b.len, true);
    sp_buf_fini(&b);
    return err;
}

/* What a cell printed or showed as plain text; pictures are left out. */
static sp_err give_outputs(sp_rag_reading *r, const json_t *outputs)
{
    sp_err err = SP_OK;
    for (size_t i = 0; i < json_array_size(outputs) && err == SP_OK; i++) {
        const json_t *o = json_array_get(outputs, i), *text = json_object_get(o, "text");
        err = give_source(
            r, text ? text : json_object_get(json_object_get(o, "data"), "text/plain"), false);
    }
    return err;
}

sp_err sp_rag_parse_notebook(sp_rag_reading *r, const char *p, size_t n)
{
    json_error_t je;
    json_t *j = load(p, n, &je), *cells = json_object_get(j, "cells");
    sp_err err = SP_OK;
    if (!j)
        err = SP_FAIL(r->d, SP_FORMAT, "line %d is not JSON: %.120s", je.line, je.text);
    else if (!json_is_array(cells))
        err = SP_FAIL(r->d, SP_FORMAT, "a notebook has a list named cells (nbformat 4)");
    for (size_t i = 0; i < json_array_size(cells) && err == SP_OK; i++) {
        const json_t *cell = json_array_get(cells, i);
        const char *type = json_string_value(json_object_get(cell, "cell_type"));
        if (!type)
            sp_rag_bad(r, "cell %zu has no cell_type", i + 1);
        else
            err = give_source(r, json_object_get(cell, "source"), strcmp(type, "markdown") == 0);
        if (err == SP_OK)
            err = give_outputs(r, json_object_get(cell, "outputs"));
    }
    json_decref(j);
    return err;
}
