/* Options from a YAML file, read event by event with libyaml, so that each error has its line. */
#include "base/opt_int.h"

#include "base/buf.h"
#include "base/file.h"

#include <stdio.h>
#include <string.h>
#include <yaml.h>

enum { MAX_FILE_BYTES = 1 << 20 };

typedef struct reader {
    sp_opts *o;
    const char *path;
    yaml_parser_t yaml;
    yaml_event_t ev; /* the last one; each next() frees the one before */
    sp_diag *d;
} reader;

static unsigned line_of(const reader *r)
{
    return (unsigned)r->ev.start_mark.line + 1;
}

static sp_err next(reader *r)
{
    yaml_event_delete(&r->ev);
    if (yaml_parser_parse(&r->yaml, &r->ev))
        return SP_OK;
    const char *what = r->yaml.problem ? r->yaml.problem : "no YAML";
    unsigned line = (unsigned)r->yaml.problem_mark.line + 1;
    return SP_FAIL(r->d, SP_FORMAT, "%.80s:%u: %s", r->path, line, what);
}

static const char *text_of(const reader *r)
{
    return (const char *)r->ev.data.scalar.value;
}

/* A scalar without NUL bytes inside. */
static bool is_text(const reader *r)
{
    return r->ev.type == YAML_SCALAR_EVENT && strlen(text_of(r)) == r->ev.data.scalar.length;
}

static sp_err find_key(size_t *out, const reader *r)
{
    char key[SP_OPT_NAME], meant[SP_OPT_NAME + 32];
    for (size_t i = 0; i < r->o->n; i++) {
        sp_opt_key(key, sizeof key, r->o->table[i].name);
        if (strcmp(key, text_of(r)) == 0) {
            *out = i;
            return SP_OK;
        }
    }
    sp_opts_meant(meant, sizeof meant, r->o, text_of(r), true);
    return SP_FAIL(r->d, SP_FORMAT, "%.80s:%u: there is no key %.40s%s", r->path, line_of(r),
                   text_of(r), *meant ? meant : "; keys are the long options, `-` written `_`");
}

/* The entries of a list, joined by commas. */
static sp_err read_list(sp_buf *out, reader *r, const char *key)
{
    for (;;) {
        SP_TRY(next(r));
        if (r->ev.type == YAML_SEQUENCE_END_EVENT)
            return out->failed ? SP_FAIL(r->d, SP_NOMEM, "options") : SP_OK;
        if (!is_text(r) || r->ev.data.scalar.length == 0)
            return SP_FAIL(r->d, SP_FORMAT, "%.80s:%u: %s: an entry of a list must be a text",
                           r->path, line_of(r), key);
        if (strchr(text_of(r), ','))
            return SP_FAIL(r->d, SP_FORMAT, "%.80s:%u: %s: an entry has a comma", r->path,
                           line_of(r), key);
        sp_buf_puts(out, out->len ? "," : "");
        sp_buf_puts(out, text_of(r));
    }
}

static sp_err read_value(reader *r, size_t i, const char *key)
{
    char where[200];
    sp_buf all = {0};
    unsigned line = line_of(r);
    SP_TRY(next(r));
    bool is_list = r->o->table[i].kind == SP_OPT_LIST && r->ev.type == YAML_SEQUENCE_START_EVENT;
    if (!is_list && !is_text(r))
        return SP_FAIL(r->d, SP_FORMAT, "%.80s:%u: %s: must be one text or number%s", r->path, line,
                       key, r->o->table[i].kind == SP_OPT_LIST ? ", or a list of texts" : "");
    if (!is_list && r->ev.data.scalar.style == YAML_PLAIN_SCALAR_STYLE &&
        r->ev.data.scalar.length == 0)
        return SP_FAIL(r->d, SP_FORMAT, "%.80s:%u: %s has no value", r->path, line, key);
    sp_err err = SP_OK;
    if (is_list)
        err = read_list(&all, r, key);
    else
        sp_buf_puts(&all, text_of(r));
    snprintf(where, sizeof where, "%.80s:%u: %s: %.40s", r->path, line, key, sp_buf_str(&all));
    if (err == SP_OK)
        err = sp_opts_set(r->o, i, sp_buf_str(&all), SP_ORIGIN_FILE, where, r->d);
    r->o->line[i] = line;
    sp_buf_fini(&all);
    return err;
}

static sp_err read_mapping(reader *r)
{
    char key[SP_OPT_NAME];
    for (;;) {
        size_t i = 0;
        SP_TRY(next(r));
        if (r->ev.type == YAML_MAPPING_END_EVENT)
            return SP_OK;
        if (!is_text(r))
            return SP_FAIL(r->d, SP_FORMAT, "%.80s:%u: a key must be a text", r->path, line_of(r));
        SP_TRY(find_key(&i, r));
        sp_opt_key(key, sizeof key, r->o->table[i].name);
        if (r->o->line[i])
            return SP_FAIL(r->d, SP_FORMAT, "%.80s:%u: %s stands in line %u already", r->path,
                           line_of(r), key, r->o->line[i]);
        SP_TRY(read_value(r, i, key));
    }
}

/* A file of comments alone is an empty document. */
static sp_err read_document(reader *r)
{
    SP_TRY(next(r)); /* the stream begins */
    SP_TRY(next(r));
    if (r->ev.type == YAML_STREAM_END_EVENT)
        return SP_OK;
    SP_TRY(next(r));
    if (r->ev.type != YAML_MAPPING_START_EVENT)
        return SP_FAIL(r->d, SP_FORMAT, "%.80s:%u: must be lines of `key: value`", r->path,
                       line_of(r));
    SP_TRY(read_mapping(r));
    SP_TRY(next(r)); /* the document ends */
    SP_TRY(next(r));
    if (r->ev.type != YAML_STREAM_END_EVENT)
        return SP_FAIL(r->d, SP_FORMAT, "%.80s:%u: a second document begins", r->path, line_of(r));
    return SP_OK;
}

sp_err sp_opts_read_file(sp_opts *o, const char *path, sp_diag *d)
{
    size_t n = strlen(path);
    snprintf(o->file, sizeof o->file, "%s%s", n > 80 ? "..." : "", n > 80 ? path + n - 77 : path);
    reader r = {.o = o, .path = o->file, .d = d};
    sp_buf text = {0};
    sp_diag why = {0};
    sp_err err = sp_file_read(&text, path, MAX_FILE_BYTES, &why);
    if (err == SP_LIMIT)
        return SP_FAIL(d, SP_FORMAT, "%s: longer than 1 MiB", o->file);
    if (err != SP_OK)
        return SP_FAIL(d, SP_FORMAT, "%s", why.msg);
    if (!yaml_parser_initialize(&r.yaml)) {
        sp_buf_fini(&text);
        return SP_FAIL(d, SP_NOMEM, "options");
    }
    yaml_parser_set_input_string(&r.yaml, (const unsigned char *)sp_buf_str(&text), text.len);
    err = read_document(&r);
    yaml_event_delete(&r.ev);
    yaml_parser_delete(&r.yaml);
    sp_buf_fini(&text);
    return err;
}
