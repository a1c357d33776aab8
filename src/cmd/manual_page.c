/* Man pages in mdoc(7), the commented sparing.yaml, and the reference page in Markdown. */
#include "cmd/manual.h"

#include "cmd/term.h"

#include <stdio.h>
#include <string.h>

enum { MAX_GROUPS = 64, TEXT_COLUMNS = 70, YAML_COLUMNS = 96 };

#define PAGE_DATE "November 30, 2026" /* of the last change to these pages' text */

/* A line of text: no byte of it is a request or an escape. */
static void put_line(sp_buf *out, const char *s, size_t n)
{
    if (*s == '.' || *s == '\'')
        sp_buf_puts(out, "\\&");
    for (const char *end = s + n; s < end; s++) {
        if (*s == '\\')
            sp_buf_puts(out, "\\e");
        else if (*s == '-')
            sp_buf_puts(out, "\\-");
        else if (strncmp(s, "…", 3) == 0)
            sp_buf_puts(out, "..."), s += 2;
        else
            sp_buf_putc(out, *s);
    }
    sp_buf_putc(out, '\n');
}

/* Text broken into lines, each after mark; put writes one of them. */
static void put_lines(sp_buf *out, const char *s, size_t width, const char *mark,
                      void (*put)(sp_buf *out, const char *s, size_t n))
{
    sp_buf wrapped = {0};
    sp_term_wrap(&wrapped, s, 0, 0, width);
    for (const char *p = sp_buf_str(&wrapped); *p;) {
        size_t n = strcspn(p, "\n");
        sp_buf_puts(out, mark);
        put(out, p, n);
        p += n + (p[n] == '\n');
    }
    out->failed |= wrapped.failed;
    sp_buf_fini(&wrapped);
}

static void put_text(sp_buf *out, const char *s)
{
    put_lines(out, s, TEXT_COLUMNS, "", put_line);
}

/* Arguments of a macro, in quotes: a quote inside is doubled. */
static void put_quoted(sp_buf *out, const char *s)
{
    sp_buf_putc(out, '"');
    for (; *s; s++) {
        if (strncmp(s, "…", 3) == 0)
            sp_buf_puts(out, "..."), s += 2;
        else
            sp_buf_puts(out, *s == '"' ? "\"" : ""), sp_buf_putc(out, *s);
    }
    sp_buf_puts(out, "\"");
}

static void put_head(sp_buf *out, const char *title, const char *section, const char *name,
                     const char *about)
{
    sp_buf_printf(out, ".Dd %s\n.Dt %s %s\n.Os\n.Sh NAME\n.Nm %s\n.Nd ", PAGE_DATE, title, section,
                  name);
    put_line(out, about, strlen(about));
}

static void put_option(void *arg, const sp_opt *t)
{
    sp_buf *out = arg, about = {0};
    sp_buf_puts(out, ".It Fl ");
    if (t->letter)
        sp_buf_printf(out, "%c , Fl ", t->letter);
    sp_buf_printf(out, "\\-%s", t->name);
    if (t->arg) {
        sp_buf_puts(out, " Ar ");
        put_quoted(out, t->arg);
    }
    sp_buf_putc(out, '\n');
    sp_manual_about(&about, t);
    put_text(out, sp_buf_str(&about));
    sp_buf_fini(&about);
}

static void put_exit_codes(sp_buf *out)
{
    sp_buf_puts(out, ".Sh EXIT STATUS\n");
    put_text(out, "0: done; 1: it failed at run time; 2: usage; 3: configuration; 4: model; 5: the "
                  "address cannot be bound; 6: storage; 7: part of the work failed; 130: Ctrl-C.");
}

void sp_manual_man_command(sp_buf *out, const sp_command *c)
{
    char title[64], name[64];
    const char *group[MAX_GROUPS];
    snprintf(name, sizeof name, "sparing-%s", c->name);
    size_t k = 0;
    for (; name[k]; k++)
        title[k] = (char)(name[k] >= 'a' && name[k] <= 'z' ? name[k] - 32 : name[k]);
    title[k] = 0;
    put_head(out, title, "1", name, c->help);
    sp_buf_printf(out, ".Sh SYNOPSIS\n.Nm sparing %s\n.Op Ar OPTIONS\n", c->name);
    if (*c->rest) {
        sp_buf_puts(out, ".Ar ");
        put_quoted(out, c->rest);
        sp_buf_putc(out, '\n');
    }
    sp_buf_puts(out, ".Sh DESCRIPTION\nThe options are also variables\n.Ev SPARING_NAME\n"
                     "and keys of\n.Xr sparing.yaml 5 .\n");
    size_t n = sp_manual_groups(group, MAX_GROUPS, c->bit);
    for (size_t i = 0; i < n; i++) {
        sp_buf_printf(out, ".Ss %s\n.Bl -tag -width Ds\n", group[i]);
        sp_manual_each(group[i], c->bit, put_option, out);
        sp_buf_puts(out, ".El\n");
    }
    put_exit_codes(out);
    sp_buf_puts(out, ".Sh EXAMPLES\n");
    for (size_t i = 0; i < 3 && c->example[i]; i++) {
        sp_manual_example e;
        sp_manual_split(&e, c->example[i]);
        sp_buf_puts(out, i ? ".Pp\n.Dl " : ".Dl ");
        put_line(out, e.line, strlen(e.line));
        if (*e.says)
            put_text(out, e.says);
    }
    sp_buf_puts(out, ".Sh SEE ALSO\n.Xr sparing 1 ,\n.Xr sparing.yaml 5\n");
}

void sp_manual_man(sp_buf *out)
{
    put_head(out, "SPARING", "1", "sparing", "an LLM server that spends what an answer needs");
    sp_buf_puts(out, ".Sh SYNOPSIS\n.Nm\n.Ar COMMAND\n.Op Ar OPTIONS\n.Sh DESCRIPTION\n"
                     ".Bl -tag -width Ds\n");
    for (size_t i = 0; i < sp_cmd_command_count; i++) {
        sp_buf_printf(out, ".It Xr sparing-%s 1\n", sp_cmd_commands[i].name);
        put_text(out, sp_cmd_commands[i].help);
    }
    sp_buf_puts(out, ".El\n.Sh FILES\n.Bl -tag -width Ds\n.It Pa sparing.yaml\n"
                     "in the folder of work, or the file of\n.Fl \\-config .\n.El\n");
    put_exit_codes(out);
    sp_buf_puts(out, ".Sh SEE ALSO\n.Xr sparing.yaml 5\n");
}

static void put_key(void *arg, const sp_opt *t)
{
    char key[64];
    sp_buf *out = arg, about = {0};
    sp_opt_key(key, sizeof key, t->name);
    sp_buf_printf(out, ".It Cm %s\n", key);
    sp_manual_about(&about, t);
    put_text(out, sp_buf_str(&about));
    sp_buf_fini(&about);
}

void sp_manual_man_yaml(sp_buf *out)
{
    const char *group[MAX_GROUPS];
    put_head(out, "SPARING.YAML", "5", "sparing.yaml", "configuration of sparing");
    sp_buf_puts(out, ".Sh DESCRIPTION\nLines of `key: value`. A key that no command knows is an "
                     "error; each\ncommand takes those that it knows of.\nA flag of the command "
                     "line and a variable\n.Ev SPARING_NAME\nare stronger than the file.\n");
    size_t n = sp_manual_groups(group, MAX_GROUPS, 0xffffffffu);
    for (size_t i = 0; i < n; i++) {
        sp_buf_printf(out, ".Ss %s\n.Bl -tag -width Ds\n", group[i]);
        sp_manual_each(group[i], 0xffffffffu, put_key, out);
        sp_buf_puts(out, ".El\n");
    }
    sp_buf_puts(out, ".Sh EXAMPLES\n.Dl port: 8420\n.Dl model: [small.gguf, large.gguf]\n"
                     ".Sh SEE ALSO\n.Xr sparing 1\n");
}

static const char *example_of(const sp_opt *t)
{
    return t->example                    ? t->example
           : t->fallback && *t->fallback ? t->fallback
           : t->values                   ? t->values
           : t->kind == SP_OPT_FLAG      ? "false"
                                         : "";
}

static void put_plain(sp_buf *out, const char *s, size_t n)
{
    sp_buf_put(out, s, n);
    sp_buf_putc(out, '\n');
}

static void put_yaml(void *arg, const sp_opt *t)
{
    char key[64];
    sp_buf *out = arg, about = {0};
    const char *v = example_of(t);
    bool is_text = t->kind == SP_OPT_STR || t->kind == SP_OPT_LIST;
    if (!*v)
        return;
    sp_opt_key(key, sizeof key, t->name);
    sp_manual_about(&about, t);
    put_lines(out, sp_buf_str(&about), YAML_COLUMNS, "# ", put_plain);
    sp_buf_printf(out, "#%s: %s%.*s%s\n", key, is_text ? "\"" : "",
                  (int)(v == t->values ? strcspn(v, " ") : strlen(v)), v, is_text ? "\"" : "");
    sp_buf_fini(&about);
}

void sp_manual_yaml(sp_buf *out)
{
    const char *group[MAX_GROUPS];
    sp_buf_puts(out,
                "# Configuration of sparing serve: see sparing.yaml(5). Take a # away to set a "
                "value; each line\n# that is off shows the default, or an example where "
                "nothing is set.\n");
    size_t n = sp_manual_groups(group, MAX_GROUPS, C_SERVE);
    for (size_t i = 0; i < n; i++) {
        if (strcmp(group[i], "Configuration") == 0) /* a file names no file */
            continue;
        sp_buf_printf(out, "\n## %s\n", group[i]);
        sp_manual_each(group[i], C_SERVE, put_yaml, out);
    }
}

static void put_cell(sp_buf *out, const char *s)
{
    for (; *s; s++) {
        if (*s == '|' || *s == '<')
            sp_buf_putc(out, '\\');
        sp_buf_putc(out, *s);
    }
}

static void put_row(void *arg, const sp_opt *t)
{
    sp_buf *out = arg, about = {0};
    size_t n = 0;
    sp_buf_printf(out, "| `--%s`", t->name);
    if (t->letter)
        sp_buf_printf(out, ", `-%c`", t->letter);
    sp_buf_puts(out, " | ");
    put_cell(out, t->arg ? t->arg : "-");
    sp_buf_puts(out, " | ");
    sp_manual_about(&about, t);
    put_cell(out, sp_buf_str(&about));
    sp_buf_puts(out, " | ");
    for (size_t i = 0; i < sp_cmd_command_count; i++)
        if (t->commands != 0xffffffffu && (t->commands & sp_cmd_commands[i].bit))
            sp_buf_printf(out, "%s%s", n++ ? ", " : "", sp_cmd_commands[i].name);
    sp_buf_puts(out, n ? " |\n" : "all |\n");
    sp_buf_fini(&about);
}

void sp_manual_reference(sp_buf *out)
{
    const char *group[MAX_GROUPS];
    sp_buf_puts(out,
                "# Commands and options\n\nThis page is made from the tables in "
                "`src/cmd/commands.c` and `src/cmd/options.c`:\n"
                "`build/release/sparing --print reference > docs/OPTIONS.md`.\n\n"
                "Each option is a flag, a variable (`--kv-type` is `SPARING_KV_TYPE`) and a key "
                "of `sparing.yaml` (`kv_type`).\nFlag > variable > file > profile > default.\n\n"
                "| command | arguments | what it does |\n|---|---|---|\n");
    for (size_t i = 0; i < sp_cmd_command_count; i++) {
        const sp_command *c = &sp_cmd_commands[i];
        sp_buf_printf(out, "| `%s` | ", c->name);
        put_cell(out, *c->rest ? c->rest : "-");
        sp_buf_puts(out, " | ");
        put_cell(out, c->help);
        sp_buf_puts(out, " |\n");
    }
    sp_buf_puts(out,
                "\nExit codes: 0 ok, 1 runtime, 2 usage, 3 configuration, 4 model, 5 bind, "
                "6 storage, 7 part of the work\nfailed, 130 Ctrl-C.\n\n## Examples\n\n```sh\n");
    for (size_t i = 0; i < sp_cmd_command_count; i++)
        for (size_t k = 0; k < 3 && sp_cmd_commands[i].example[k]; k++)
            sp_buf_printf(out, "%s\n", sp_cmd_commands[i].example[k]);
    sp_buf_puts(out, "```\n");
    size_t n = sp_manual_groups(group, MAX_GROUPS, 0xffffffffu);
    for (size_t i = 0; i < n; i++) {
        sp_buf_printf(
            out, "\n## %s\n\n| option | value | what it does | commands |\n|---|---|---|---|\n",
            group[i]);
        sp_manual_each(group[i], 0xffffffffu, put_row, out);
    }
}
