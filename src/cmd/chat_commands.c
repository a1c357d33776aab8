/* The commands of `sparing chat`: lines that begin with a slash. */
#include "cmd/chat.h"

#include "base/nearest.h"
#include "cmd/term.h"

#include <stdio.h>
#include <string.h>

typedef struct repl_command {
    const char *name, *arg, *help;
    sp_err (*run)(sp_repl *r, const char *arg, sp_diag *d);
} repl_command;

static sp_err do_new(sp_repl *r, const char *arg, sp_diag *d)
{
    (void)arg;
    (void)d;
    sp_talk_keep(r->t, *sp_talk_system(r->t) ? 1 : 0);
    sp_buf_clear(&r->files);
    sp_buf_clear(&r->receipt);
    fputs("A new conversation.\n", stderr);
    return SP_OK;
}

static sp_err do_system(sp_repl *r, const char *arg, sp_diag *d)
{
    if (*arg)
        return sp_talk_set_system(r->t, strcmp(arg, "-") == 0 ? "" : arg, d);
    const char *now = sp_talk_system(r->t);
    fprintf(stderr, "%s\n", *now ? now : "There is no system message.");
    return SP_OK;
}

static sp_err do_save(sp_repl *r, const char *arg, sp_diag *d)
{
    SP_TRY(sp_repl_save(r->t, arg, d));
    fprintf(stderr, "Saved; /load %s brings it back.\n", arg);
    return SP_OK;
}

static sp_err do_load(sp_repl *r, const char *arg, sp_diag *d)
{
    SP_TRY(sp_repl_load(r->t, arg, d));
    fprintf(stderr, "%zu messages.\n", r->t->n_msg);
    return SP_OK;
}

static sp_err do_model(sp_repl *r, const char *arg, sp_diag *d)
{
    if (*arg)
        SP_TRY(sp_talk_change(r->t, arg, d));
    fprintf(stderr, "%s\n", r->t->l.name);
    return SP_OK;
}

static sp_err do_files(sp_repl *r, const char *arg, sp_diag *d)
{
    if (!*arg)
        return SP_FAIL(d, SP_INVAL, "/files: which file?");
    size_t before = r->files.len;
    SP_TRY(sp_talk_add_file(&r->files, arg, d));
    fprintf(stderr, "%zu bytes go with the next question.\n", r->files.len - before);
    return r->files.failed ? SP_FAIL(d, SP_NOMEM, "files") : SP_OK;
}

static sp_err do_retrieve(sp_repl *r, const char *arg, sp_diag *d)
{
    SP_TRY(sp_talk_look(r->t, *arg ? arg : NULL, d));
    if (*arg)
        fprintf(stderr, "Answers look into %s.\n", arg);
    else
        fputs("Answers look into no documents.\n", stderr);
    return SP_OK;
}

static bool is_last(const sp_talk *t, const char *role)
{
    const sp_str *last = t->n_msg ? &t->msg[t->n_msg - 1].role : NULL;
    return last && last->n == strlen(role) && memcmp(last->p, role, last->n) == 0;
}

static sp_err do_undo(sp_repl *r, const char *arg, sp_diag *d)
{
    (void)arg;
    if (!is_last(r->t, "assistant"))
        return SP_FAIL(d, SP_INVAL, "/undo: there is no answer yet");
    sp_talk_keep(r->t, r->t->n_msg - 2);
    sp_buf_clear(&r->receipt);
    fputs("The last question and its answer are gone.\n", stderr);
    return SP_OK;
}

static sp_err do_again(sp_repl *r, const char *arg, sp_diag *d)
{
    (void)arg;
    if (!is_last(r->t, "assistant"))
        return SP_FAIL(d, SP_INVAL, "/again: there is no answer yet");
    sp_talk_keep(r->t, r->t->n_msg - 1);
    r->again = true;
    return SP_OK;
}

static sp_err do_copy(sp_repl *r, const char *arg, sp_diag *d)
{
    (void)arg;
    if (!is_last(r->t, "assistant"))
        return SP_FAIL(d, SP_INVAL, "/copy: there is no answer yet");
    const sp_str *text = &r->t->msg[r->t->n_msg - 1].content;
    SP_TRY(sp_term_copy(stderr, text->p, text->n, d));
    fprintf(stderr, "%zu bytes went to the terminal for its clipboard; some terminals and tmux "
                    "take them only where that is allowed.\n",
            text->n);
    return SP_OK;
}

static sp_err do_receipt(sp_repl *r, const char *arg, sp_diag *d)
{
    if (r->receipt.len == 0)
        return SP_FAIL(d, SP_INVAL, "/receipt: there is no answer yet");
    if (*arg && strcmp(arg, "json") != 0)
        return SP_FAIL(d, SP_INVAL, "/receipt: say json for all of its figures, or nothing");
    if (!*arg)
        return sp_cmd_explain_receipt(stderr, "receipt", sp_buf_str(&r->receipt), r->receipt.len,
                                      d);
    fprintf(stderr, "%s\n", sp_buf_str(&r->receipt));
    return SP_OK;
}

static sp_err do_quit(sp_repl *r, const char *arg, sp_diag *d)
{
    (void)arg;
    (void)d;
    r->is_over = true;
    return SP_OK;
}

static sp_err do_help(sp_repl *r, const char *arg, sp_diag *d);

static const repl_command commands[] = {
    {"/help", "", "this list", do_help},
    {"/new", "", "begin a new conversation; the system message stays", do_new},
    {"/system", "[TEXT|-]", "show, set or remove (-) the system message", do_system},
    {"/save", "NAME", "keep the conversation", do_save},
    {"/load", "NAME", "go on with one that was kept", do_load},
    {"/model", "[NAME]", "show the model, or go on with another one", do_model},
    {"/files", "PATH", "a text that goes with the next question", do_files},
    {"/retrieve", "[NAME]", "look into a collection of documents; without a name: no more",
     do_retrieve},
    {"/undo", "", "take the last question and its answer back", do_undo},
    {"/again", "", "answer the last question once more", do_again},
    {"/copy", "", "ask the terminal to copy the last answer", do_copy},
    {"/receipt", "[json]", "what the last answer cost", do_receipt},
    {"/quit", "", "leave, as Ctrl-D does", do_quit},
};
enum { N_COMMANDS = sizeof commands / sizeof commands[0] };

static const char *const words[N_COMMANDS] = {
    "/help",     "/new",  "/system", "/save",    "/load", "/model", "/files",
    "/retrieve", "/undo", "/again",  "/copy",    "/receipt", "/quit"};

static sp_err do_help(sp_repl *r, const char *arg, sp_diag *d)
{
    (void)r;
    (void)arg;
    (void)d;
    for (size_t i = 0; i < N_COMMANDS; i++)
        fprintf(stderr, "  %-10s%-10s %s\n", commands[i].name, commands[i].arg, commands[i].help);
    fputs(
        "  A question of several lines stands between \"\"\" and \"\"\", or its lines end in \\.\n",
        stderr);
    return SP_OK;
}

size_t sp_repl_words(const char *const **out)
{
    *out = words;
    return N_COMMANDS;
}

sp_err sp_repl_command(sp_repl *r, const char *line, sp_diag *d)
{
    size_t n = strcspn(line, " \t");
    const char *arg = line + n + strspn(line + n, " \t");
    char name[64];
    for (size_t i = 0; i < N_COMMANDS; i++) {
        const repl_command *c = &commands[i];
        if (strlen(c->name) != n || memcmp(c->name, line, n) != 0)
            continue;
        if (*arg && !*c->arg)
            return SP_FAIL(d, SP_INVAL, "%s takes nothing behind it", c->name);
        return c->run(r, arg, d);
    }
    snprintf(name, sizeof name, "%.*s", (int)n, line);
    const char *meant = sp_nearest(name, words, N_COMMANDS);
    return SP_FAIL(d, SP_INVAL, "there is no command %s%s%s%s", name,
                   meant ? ". Did you mean " : "; see /help", meant ? meant : "", meant ? "?" : "");
}
