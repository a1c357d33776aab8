/* Lines that a person types. libedit is seen here alone. */
#include "cmd/line.h"

#include "base/mem.h"
#include "cmd/talk.h"
#include "cmd/term.h"

#include <errno.h>
#include <fcntl.h>
#include <histedit.h>
#include <locale.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { KEPT = 1000 /* lines of history */ };

struct sp_line {
    sp_line_cfg cfg;
    EditLine *edit; /* NULL: plain */
    History *history;
    const char *prompt;
    bool was_interrupted;
    bool is_terminal;
    char *plain;
    size_t cap;
};

static sp_line *self_of(EditLine *e)
{
    void *self = NULL;
    el_get(e, EL_CLIENTDATA, &self);
    return self;
}

static char *prompt_of(EditLine *e)
{
    return (char *)self_of(e)->prompt;
}

/* Ctrl-C is a key while a line is edited: the line is given up. */
static unsigned char on_interrupt(EditLine *e, int ch)
{
    (void)ch;
    self_of(e)->was_interrupted = true;
    return CC_NEWLINE;
}

/* The word at the beginning of the line, where one name alone begins so. */
static unsigned char on_tab(EditLine *e, int ch)
{
    const sp_line *l = self_of(e);
    const LineInfo *at = el_line(e);
    size_t n = (size_t)(at->cursor - at->buffer);
    const char *found = NULL;
    (void)ch;
    for (size_t i = 0; n && i < l->cfg.n_word; i++) {
        if (strncmp(l->cfg.words[i], at->buffer, n) != 0)
            continue;
        if (found)
            return CC_REFRESH_BEEP;
        found = l->cfg.words[i];
    }
    if (!found || at->cursor != at->lastchar)
        return CC_REFRESH_BEEP;
    return el_insertstr(e, found + n) == 0 ? CC_REFRESH : CC_ERROR;
}

static sp_err open_edit(sp_line *l, sp_diag *d)
{
    HistEvent ev;
    if (!setlocale(LC_CTYPE, "") || strcmp(setlocale(LC_CTYPE, NULL), "C") == 0)
        (void)setlocale(LC_CTYPE, "C.UTF-8"); /* questions are UTF-8 whatever the locale says */
    l->edit = el_init("sparing", stdin, stderr, stderr);
    l->history = history_init();
    if (!l->edit || !l->history)
        return SP_FAIL(d, SP_NOMEM, "the line editor");
    history(l->history, &ev, H_SETSIZE, KEPT);
    history(l->history, &ev, H_SETUNIQUE, 1);
    if (l->cfg.history && access(l->cfg.history, R_OK) == 0)
        history(l->history, &ev, H_LOAD, l->cfg.history);
    el_set(l->edit, EL_CLIENTDATA, l);
    el_set(l->edit, EL_PROMPT, prompt_of);
    el_set(l->edit, EL_EDITOR, "emacs");
    el_set(l->edit, EL_HIST, history, l->history);
    el_set(l->edit, EL_ADDFN, "sp-interrupt", "give the line up", on_interrupt);
    el_set(l->edit, EL_ADDFN, "sp-complete", "complete a command", on_tab);
    el_set(l->edit, EL_BIND, "^C", "sp-interrupt", NULL);
    el_set(l->edit, EL_BIND, "\t", "sp-complete", NULL);
    el_set(l->edit, EL_BIND, "^R", "em-inc-search-prev", NULL);
    el_set(l->edit, EL_SETTY, "-d", "-isig", NULL);
    /* Between two lines Ctrl-D stays a key: the terminal would take it, and give the editor a
     * NUL. */
    el_set(l->edit, EL_SETTY, "-x", "eof=", NULL);
    return SP_OK;
}

sp_err sp_line_open(sp_line **out, const sp_line_cfg *cfg, sp_diag *d)
{
    sp_line *l = sp_mem_alloc(sizeof *l);
    if (!l)
        return SP_FAIL(d, SP_NOMEM, "the line editor");
    l->cfg = *cfg;
    l->is_terminal = isatty(STDIN_FILENO);
    sp_err err = l->is_terminal && sp_term_is(stderr) ? open_edit(l, d) : SP_OK;
    if (err == SP_OK)
        *out = l;
    else
        sp_line_close(l);
    return err;
}

/* The file is made with its mode before libedit writes it. */
static void save_history(const sp_line *l)
{
    HistEvent ev;
    int fd = open(l->cfg.history, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
    if (fd < 0)
        return;
    bool ok = fchmod(fd, 0600) == 0;
    close(fd);
    if (ok)
        history(l->history, &ev, H_SAVE, l->cfg.history);
}

void sp_line_close(sp_line *l)
{
    if (!l)
        return;
    if (l->edit && l->cfg.history)
        save_history(l);
    if (l->history)
        history_end(l->history);
    if (l->edit)
        el_end(l->edit);
    free(l->plain);
    sp_mem_free(l);
}

bool sp_line_is_terminal(const sp_line *l)
{
    return l->is_terminal;
}

static sp_line_got read_plain(sp_line *l, const char *prompt, sp_buf *out)
{
    if (l->is_terminal)
        fputs(prompt, stderr);
    ssize_t n = getline(&l->plain, &l->cap, stdin);
    if (n < 0 && sp_talk_was_interrupted()) {
        clearerr(stdin);
        fputc('\n', stderr);
        return SP_LINE_INTERRUPT;
    }
    if (n < 0)
        return SP_LINE_END;
    sp_buf_put(out, l->plain, (size_t)n);
    return SP_LINE_TEXT;
}

static sp_line_got read_edited(sp_line *l, const char *prompt, sp_buf *out)
{
    int n = 0;
    l->prompt = prompt;
    l->was_interrupted = false;
    const char *line = el_gets(l->edit, &n);
    if (l->was_interrupted || (!line && n < 0 && sp_talk_was_interrupted())) /* a key, a signal */
        return SP_LINE_INTERRUPT;
    if (!line || n <= 0) {
        fputc('\n', stderr);
        return SP_LINE_END;
    }
    sp_buf_put(out, line, (size_t)n);
    return SP_LINE_TEXT;
}

sp_line_got sp_line_read(sp_line *l, const char *prompt, sp_buf *out)
{
    sp_buf_clear(out);
    sp_talk_forget_interrupt();
    sp_line_got got = (l->edit ? read_edited : read_plain)(l, prompt, out);
    while (out->len && (out->p[out->len - 1] == '\n' || out->p[out->len - 1] == '\r'))
        out->p[--out->len] = 0;
    return got;
}

void sp_line_remember(sp_line *l, const char *text)
{
    HistEvent ev;
    if (l->history && *text)
        history(l->history, &ev, H_ENTER, text);
}
