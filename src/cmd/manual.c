/* Help for a terminal, and what the other writers share. */
#include "cmd/manual.h"

#include "cmd/term.h"

#include <stdio.h>
#include <string.h>

enum { FLAG_COLUMN = 30, NAME_COLUMN = 18, MAX_GROUPS = 64 };

void sp_manual_about(sp_buf *out, const sp_opt *t)
{
    sp_buf_puts(out, t->help);
    if (t->values) {
        sp_buf_puts(out, t->kind == SP_OPT_LIST ? "; each one of " : "; one of ");
        for (const char *p = t->values; *p; p++) {
            sp_buf_puts(out, *p == ' ' ? "," : "");
            sp_buf_putc(out, *p);
        }
    }
    if (t->needs)
        sp_buf_printf(out, "; needs --%s", t->needs);
    if (t->profile)
        sp_buf_printf(out, "; --profile %s", t->profile);
    if (t->fallback && *t->fallback)
        sp_buf_printf(out, " [%s]", t->fallback);
}

size_t sp_manual_groups(const char **out, size_t cap, uint32_t commands)
{
    size_t n = 0;
    for (size_t i = 0; i < sp_cmd_option_count; i++) {
        const char *g = sp_opt_group(sp_cmd_options, i);
        size_t k = 0;
        while (k < n && strcmp(out[k], g) != 0)
            k++;
        if (k == n && n < cap && (sp_cmd_options[i].commands & commands))
            out[n++] = g;
    }
    return n;
}

void sp_manual_each(const char *group, uint32_t commands, void (*fn)(void *arg, const sp_opt *t),
                    void *arg)
{
    for (size_t i = 0; i < sp_cmd_option_count; i++)
        if ((sp_cmd_options[i].commands & commands) &&
            strcmp(sp_opt_group(sp_cmd_options, i), group) == 0)
            fn(arg, &sp_cmd_options[i]);
}

void sp_manual_split(sp_manual_example *out, const char *example)
{
    const char *mark = strstr(example, "  # ");
    size_t n = mark ? (size_t)(mark - example) : strlen(example);
    snprintf(out->line, sizeof out->line, "%.*s", (int)n, example);
    snprintf(out->says, sizeof out->says, "%s", mark ? mark + 4 : "");
}

typedef struct help {
    sp_buf *out;
    size_t width;
} help;

static void put_option(void *arg, const sp_opt *t)
{
    const help *h = arg;
    sp_buf about = {0};
    size_t from = h->out->len;
    sp_buf_printf(h->out, "  %c%c%c --%s%s%s", t->letter ? '-' : ' ', t->letter ? t->letter : ' ',
                  t->letter ? ',' : ' ', t->name, t->arg ? " " : "", t->arg ? t->arg : "");
    size_t at = sp_term_columns(h->out->p + from, h->out->len - from);
    if (at + 2 > FLAG_COLUMN) {
        sp_buf_putc(h->out, '\n');
        at = 0;
    }
    sp_buf_printf(h->out, "%*s", (int)(FLAG_COLUMN - at), "");
    sp_manual_about(&about, t);
    sp_term_wrap(h->out, sp_buf_str(&about), FLAG_COLUMN, FLAG_COLUMN, h->width);
    sp_buf_putc(h->out, '\n');
    sp_buf_fini(&about);
}

void sp_manual_help(sp_buf *out, const sp_command *c, size_t width)
{
    const char *group[MAX_GROUPS];
    size_t n = sp_manual_groups(group, MAX_GROUPS, c->bit);
    help h = {out, width};
    sp_buf_printf(out, "usage: sparing %s [OPTIONS]%s%s\n\n", c->name, *c->rest ? " " : "",
                  c->rest);
    sp_term_wrap(out, c->help, 0, 0, width);
    sp_buf_puts(out, "\n\nExamples:\n");
    for (size_t i = 0; i < 3 && c->example[i]; i++)
        sp_buf_printf(out, "  %s\n", c->example[i]);
    for (size_t i = 0; i < n; i++) {
        sp_buf_printf(out, "\n%s:\n", group[i]);
        sp_manual_each(group[i], c->bit, put_option, &h);
    }
}

static void put_commands(sp_buf *out, const char *group, size_t width)
{
    sp_buf_printf(out, "%s:\n", group);
    for (size_t i = 0; i < sp_cmd_command_count; i++) {
        const sp_command *c = &sp_cmd_commands[i];
        if (strcmp(c->group, group) != 0)
            continue;
        sp_buf_printf(out, "  %-*s", NAME_COLUMN - 2, c->name);
        sp_term_wrap(out, c->help, NAME_COLUMN, NAME_COLUMN, width);
        sp_buf_putc(out, '\n');
    }
    sp_buf_putc(out, '\n');
}

void sp_manual_usage(sp_buf *out, size_t width)
{
    static const char *const groups[] = {"Ask",     "Models",  "Serve",       "Documents",
                                         "Improve", "Measure", "This machine"};
    sp_buf_puts(out, "usage: sparing COMMAND [OPTIONS]\n\n");
    for (size_t i = 0; i < sizeof groups / sizeof groups[0]; i++)
        put_commands(out, groups[i], width);
    sp_term_wrap(out,
                 "`sparing COMMAND --help` lists the options. Each is also SPARING_NAME in the "
                 "environment and a key of sparing.yaml; flag > environment > file > profile > "
                 "default.",
                 0, 0, width);
    sp_buf_putc(out, '\n');
    sp_term_wrap(out,
                 "exit codes: 0 ok, 1 runtime, 2 usage, 3 configuration, 4 model, 5 bind, "
                 "6 storage, 7 part of the work failed, 130 Ctrl-C",
                 0, 0, width);
    sp_buf_putc(out, '\n');
}

sp_err sp_manual_print(sp_buf *out, const char *what)
{
    static const struct {
        const char *name;
        void (*put)(sp_buf *out);
    } of[] = {{"man", sp_manual_man},
              {"man-sparing.yaml", sp_manual_man_yaml},
              {"yaml", sp_manual_yaml},
              {"reference", sp_manual_reference},
              {"completion-bash", sp_manual_bash},
              {"completion-zsh", sp_manual_zsh},
              {"completion-fish", sp_manual_fish}};
    for (size_t i = 0; i < sizeof of / sizeof of[0]; i++)
        if (strcmp(of[i].name, what) == 0)
            return of[i].put(out), out->failed ? SP_NOMEM : SP_OK;
    for (size_t i = 0; i < sp_cmd_command_count; i++)
        if (strncmp(what, "man-", 4) == 0 && strcmp(what + 4, sp_cmd_commands[i].name) == 0)
            return sp_manual_man_command(out, &sp_cmd_commands[i]), out->failed ? SP_NOMEM : SP_OK;
    return SP_NOTFOUND;
}
