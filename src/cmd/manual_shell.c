/* Completions of commands, options and values for bash, zsh and fish. Names of models are asked
 * for when Tab is pressed, by `sparing --complete models`. */
#include "cmd/manual.h"

#include <string.h>

static bool is_model(const sp_opt *t)
{
    return strcmp(t->name, "model") == 0;
}

/* s within single quotes; `also` are characters that need a backslash there. */
static void put_single(sp_buf *out, const char *s, const char *also)
{
    for (; *s; s++) {
        if (*s == '\'')
            sp_buf_puts(out, strchr(also, '\'') ? "\\'" : "'\\''");
        else if (strchr(also, *s))
            sp_buf_printf(out, "\\%c", *s);
        else
            sp_buf_putc(out, *s);
    }
}

/* --- bash ------------------------------------------------------------------------------------- */

static void put_bash_value(sp_buf *out, const sp_opt *t)
{
    if (!t->arg || (!t->values && !t->is_path))
        return;
    sp_buf_puts(out, "    ");
    if (t->letter && t->is_path)
        sp_buf_printf(out, "-%c | ", t->letter);
    sp_buf_printf(out, "--%s) ", t->name);
    if (t->values)
        sp_buf_printf(out, "COMPREPLY=($(compgen -W '%s' -- \"$cur\"))", t->values);
    else if (is_model(t))
        sp_buf_puts(out, "COMPREPLY=($(compgen -W \"$(sparing --complete models 2>/dev/null)\" "
                         "-- \"$cur\") $(compgen -f -- \"$cur\"))");
    else
        sp_buf_puts(out, "COMPREPLY=($(compgen -f -- \"$cur\"))");
    sp_buf_puts(out, "; return ;;\n");
}

void sp_manual_bash(sp_buf *out)
{
    sp_buf_puts(out, "# bash completion of sparing, made from its table of options\n"
                     "_sparing() {\n    local cur=${COMP_WORDS[COMP_CWORD]} "
                     "prev=${COMP_WORDS[COMP_CWORD-1]} opts=\n    COMPREPLY=()\n"
                     "    if [ \"$COMP_CWORD\" = 1 ]; then\n        COMPREPLY=($(compgen -W '");
    for (size_t i = 0; i < sp_cmd_command_count; i++)
        sp_buf_printf(out, "%s ", sp_cmd_commands[i].name);
    sp_buf_puts(out,
                "--help --version' -- \"$cur\"))\n        return\n    fi\n    case $prev in\n");
    for (size_t i = 0; i < sp_cmd_option_count; i++)
        put_bash_value(out, &sp_cmd_options[i]);
    sp_buf_puts(out, "    esac\n    case ${COMP_WORDS[1]} in\n");
    for (size_t k = 0; k < sp_cmd_command_count; k++) {
        sp_buf_printf(out, "    %s) opts='--help", sp_cmd_commands[k].name);
        for (size_t i = 0; i < sp_cmd_option_count; i++)
            if (sp_cmd_options[i].commands & sp_cmd_commands[k].bit)
                sp_buf_printf(out, " --%s", sp_cmd_options[i].name);
        sp_buf_puts(out, "' ;;\n");
    }
    sp_buf_puts(out, "    esac\n    case $cur in\n"
                     "    -*) COMPREPLY=($(compgen -W \"$opts\" -- \"$cur\")) ;;\n"
                     "    *) COMPREPLY=($(compgen -f -- \"$cur\")) ;;\n    esac\n}\n"
                     "complete -o filenames -F _sparing sparing\n");
}

/* --- zsh -------------------------------------------------------------------------------------- */

static void put_zsh_option(sp_buf *out, const sp_opt *t)
{
    sp_buf_printf(out, " \\\n            '--%s%s[", t->name, t->arg ? "=" : "");
    put_single(out, t->help, "[]:\\");
    sp_buf_puts(out, "]");
    if (t->arg) {
        sp_buf_puts(out, ":");
        put_single(out, t->arg, ":\\");
        sp_buf_puts(out, ":");
        if (t->values)
            sp_buf_printf(out, "(%s)", t->values);
        else if (is_model(t))
            sp_buf_puts(out, "_sparing_models");
        else if (t->is_path)
            sp_buf_puts(out, "_files");
    }
    sp_buf_puts(out, "'");
}

void sp_manual_zsh(sp_buf *out)
{
    sp_buf_puts(out,
                "#compdef sparing\n# zsh completion of sparing, made from its table of options\n"
                "_sparing_models() {\n    local -a models\n"
                "    models=(${(f)\"$(sparing --complete models 2>/dev/null)\"})\n"
                "    compadd -a models\n    _files\n}\n"
                "_sparing() {\n    local -a commands\n    commands=(\n");
    for (size_t i = 0; i < sp_cmd_command_count; i++) {
        sp_buf_printf(out, "        '%s:", sp_cmd_commands[i].name);
        put_single(out, sp_cmd_commands[i].help, ":\\");
        sp_buf_puts(out, "'\n");
    }
    sp_buf_puts(out, "    )\n    if ((CURRENT == 2)); then\n        _describe command commands\n"
                     "        return\n    fi\n    local verb=$words[2]\n    shift words\n"
                     "    ((CURRENT--))\n    case $verb in\n");
    for (size_t k = 0; k < sp_cmd_command_count; k++) {
        sp_buf_printf(out, "    %s)\n        _arguments -s '--help[show the options]'",
                      sp_cmd_commands[k].name);
        for (size_t i = 0; i < sp_cmd_option_count; i++)
            if (sp_cmd_options[i].commands & sp_cmd_commands[k].bit)
                put_zsh_option(out, &sp_cmd_options[i]);
        sp_buf_puts(out, " '*:file:_files' ;;\n");
    }
    sp_buf_puts(out, "    esac\n}\n_sparing \"$@\"\n");
}

/* --- fish ------------------------------------------------------------------------------------- */

static void put_fish_option(sp_buf *out, const sp_opt *t)
{
    sp_buf_puts(out, "complete -c sparing -n '__fish_seen_subcommand_from");
    for (size_t k = 0; k < sp_cmd_command_count; k++)
        if (t->commands & sp_cmd_commands[k].bit)
            sp_buf_printf(out, " %s", sp_cmd_commands[k].name);
    sp_buf_printf(out, "' -l %s", t->name);
    if (t->letter)
        sp_buf_printf(out, " -s %c", t->letter);
    if (t->values)
        sp_buf_printf(out, " -x -a '%s'", t->values);
    else if (is_model(t))
        sp_buf_puts(out, " -r -F -a '(sparing --complete models 2>/dev/null)'");
    else if (t->arg)
        sp_buf_puts(out, t->is_path ? " -r -F" : " -x");
    sp_buf_puts(out, " -d '");
    put_single(out, t->help, "'\\");
    sp_buf_puts(out, "'\n");
}

void sp_manual_fish(sp_buf *out)
{
    sp_buf_puts(out, "# fish completion of sparing, made from its table of options\n");
    for (size_t i = 0; i < sp_cmd_command_count; i++) {
        sp_buf_printf(out, "complete -c sparing -f -n __fish_use_subcommand -a %s -d '",
                      sp_cmd_commands[i].name);
        put_single(out, sp_cmd_commands[i].help, "'\\");
        sp_buf_puts(out, "'\n");
    }
    for (size_t i = 0; i < sp_cmd_option_count; i++)
        put_fish_option(out, &sp_cmd_options[i]);
}
