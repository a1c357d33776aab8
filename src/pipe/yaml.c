#include "pipe/yaml.h"

#include "base/file.h"

#include <stdio.h>
#include <string.h>
#include <yaml.h>

enum { FILE_BYTES = 1 << 20 };

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

sp_err sp_yaml_load(void **out, const char *path, const cyaml_schema_value_t *schema, sp_diag *d)
{
    sp_buf file = {0};
    words w = {0};
    void *p = NULL;
    cyaml_config_t with = config;
    sp_err err = sp_file_read(&file, path, FILE_BYTES, d);
    with.log_fn = note;
    with.log_ctx = &w;
    if (err == SP_OK) {
        cyaml_err_t ce =
            cyaml_load_data((const uint8_t *)sp_buf_str(&file), file.len, &with, schema, &p, NULL);
        if (ce != CYAML_OK)
            err = SP_FAIL(d, SP_FORMAT, "%.80s: %s%s", path,
                          w.what[0] ? w.what : cyaml_strerror(ce), w.where);
    }
    sp_buf_fini(&file);
    if (err == SP_OK)
        *out = p;
    return err;
}

void sp_yaml_free(const cyaml_schema_value_t *schema, void *p)
{
    if (p)
        cyaml_free(&config, schema, p, 0);
}

/* --- where something is ----------------------------------------------------------------------- */

/* The value of a key; at itself where it has none. */
static yaml_node_t *step_in(yaml_document_t *doc, yaml_node_t *at, const char *key,
                            yaml_node_t **mark)
{
    if (!at || at->type != YAML_MAPPING_NODE)
        return at;
    for (yaml_node_pair_t *p = at->data.mapping.pairs.start; p < at->data.mapping.pairs.top; p++) {
        yaml_node_t *k = yaml_document_get_node(doc, p->key);
        if (k->type != YAML_SCALAR_NODE || strcmp((const char *)k->data.scalar.value, key) != 0)
            continue;
        *mark = k;
        return yaml_document_get_node(doc, p->value);
    }
    return at;
}

static unsigned find_line(yaml_document_t *doc, const char *list, unsigned row, const char *key)
{
    yaml_node_t *mark = yaml_document_get_root_node(doc);
    yaml_node_t *at = mark ? step_in(doc, mark, list, &mark) : NULL;
    if (at && at->type == YAML_SEQUENCE_NODE) {
        const yaml_node_item_t *first = at->data.sequence.items.start;
        if (row < (size_t)(at->data.sequence.items.top - first))
            mark = at = yaml_document_get_node(doc, first[row]);
    }
    (void)step_in(doc, at, key, &mark);
    return mark ? (unsigned)mark->start_mark.line + 1 : 0;
}

unsigned sp_yaml_line(const char *path, const char *list, unsigned row, const char *key)
{
    sp_buf file = {0};
    yaml_parser_t parser;
    yaml_document_t doc;
    unsigned line = 0;
    if (sp_file_read(&file, path, FILE_BYTES, NULL) == SP_OK && yaml_parser_initialize(&parser)) {
        yaml_parser_set_input_string(&parser, (const unsigned char *)sp_buf_str(&file), file.len);
        if (yaml_parser_load(&parser, &doc)) {
            line = find_line(&doc, list, row, key);
            yaml_document_delete(&doc);
        }
        yaml_parser_delete(&parser);
    }
    sp_buf_fini(&file);
    return line;
}
