/* sparing chat: a conversation in the terminal. Ctrl-C stops an answer or gives a line up, Ctrl-D
 * leaves. A line that begins with a slash is a command (chat_commands.c). */
#include "cmd/chat.h"

#include "base/mem.h"
#include "cmd/term.h"

#include <stdio.h>
#include <string.h>

#define FENCE "\"\"\""

static void remember_receipt(sp_repl *r, const sp_talk_answer *a)
{
    sp_buf_clear(&r->receipt);
    sp_receipt_write(&a->receipt, &r->receipt);
}

static void put_figures(const sp_talk *t, const sp_talk_answer *a)
{
    const sp_receipt *r = &a->receipt;
    bool color = sp_term_has_color(stderr);
    if (t->quiet)
        return;
    sp_talk_put_places(a);
    fprintf(stderr, "%s[%zu tokens, %.0f ms, %.0f tokens/s; prompt %zu computed, %zu reused]%s\n",
            color ? "\33[2m" : "", r->tok_out, r->ms_prefill + r->ms_decode,
            r->ms_decode > 0 ? (double)r->tok_out / r->ms_decode * 1000 : 0, r->tok_computed,
            r->tok_ram, color ? "\33[0m" : "");
}

/* The answer to the last message, which it goes behind. */
static sp_err answer(sp_repl *r, sp_diag *d)
{
    sp_talk_answer a = {0};
    sp_err err = sp_talk_answer_last(r->t, &a, true, d);
    puts("");
    fflush(stdout);
    if (err == SP_OK && sp_line_is_terminal(r->line))
        put_figures(r->t, &a);
    if (err == SP_OK)
        remember_receipt(r, &a);
    if (err == SP_OK)
        err = sp_talk_say(r->t, "assistant", sp_buf_str(&a.text), a.text.len, d);
    sp_talk_done(&a);
    return err;
}

/* A question that fails is taken out again, so that the next one does not stand behind it. */
static void ask(sp_repl *r, const char *text, size_t n)
{
    sp_diag d = {0};
    sp_buf whole = {0};
    size_t before = r->t->n_msg;
    sp_buf_put(&whole, text, n);
    if (r->files.len)
        sp_buf_printf(&whole, "\n\n%s", sp_buf_str(&r->files));
    sp_err err = whole.failed ? SP_FAIL(&d, SP_NOMEM, "question")
                              : sp_talk_say(r->t, "user", sp_buf_str(&whole), whole.len, &d);
    if (err == SP_OK)
        err = answer(r, &d);
    if (err == SP_OK) {
        sp_buf_clear(&r->files);
    } else {
        sp_talk_keep(r->t, before);
        r->code = sp_cmd_fail(EXIT_RUN, &d);
        r->is_over = !sp_line_is_terminal(r->line); /* nobody is there who could ask otherwise */
    }
    sp_buf_fini(&whole);
}

static bool ends_open(const sp_buf *b)
{
    return b->len && b->p[b->len - 1] == '\\';
}

/* The rest of a question whose first line is in *text: up to a fence, or while lines end in a
 * backslash. false: it was given up. */
static bool read_rest(sp_repl *r, sp_buf *text)
{
    sp_buf line = {0};
    bool fenced = text->len >= 3 && strncmp(text->p, FENCE, 3) == 0, ok = true;
    if (fenced)
        sp_buf_drop(text, 3);
    while (ok && (fenced || ends_open(text))) {
        if (!fenced)
            text->p[--text->len] = 0;
        sp_line_got got = sp_line_read(r->line, ". ", &line);
        ok = got != SP_LINE_INTERRUPT;
        if (got != SP_LINE_TEXT)
            break;
        sp_line_remember(r->line, sp_buf_str(&line));
        bool is_end = fenced && line.len >= 3 && strcmp(line.p + line.len - 3, FENCE) == 0;
        size_t n = line.len - (is_end ? 3 : 0);
        if (!is_end || n) {
            sp_buf_putc(text, '\n');
            sp_buf_put(text, sp_buf_str(&line), n);
        }
        if (is_end)
            break;
    }
    sp_buf_fini(&line);
    return ok;
}

static void obey(sp_repl *r, const char *line)
{
    sp_diag d = {0};
    if (sp_repl_command(r, line, &d) != SP_OK)
        (void)sp_cmd_fail(EXIT_RUN, &d);
    if (!r->again)
        return;
    r->again = false;
    if (answer(r, &d) != SP_OK)
        (void)sp_cmd_fail(EXIT_RUN, &d);
}

static void loop(sp_repl *r)
{
    sp_buf text = {0};
    while (!r->is_over) {
        sp_line_got got = sp_line_read(r->line, "> ", &text);
        if (got == SP_LINE_END)
            break;
        if (got == SP_LINE_INTERRUPT || text.len == 0)
            continue;
        sp_line_remember(r->line, sp_buf_str(&text));
        if (text.p[0] == '/')
            obey(r, text.p);
        else if (read_rest(r, &text) && text.len)
            ask(r, text.p, text.len);
    }
    sp_buf_fini(&text);
}

static sp_err open_line(sp_repl *r, const sp_opts *o, sp_diag *d)
{
    sp_line_cfg cfg = {0};
    cfg.n_word = sp_repl_words(&cfg.words);
    if (!sp_opt_flag(o, "no-history") && sp_term_is(stderr) &&
        sp_repl_state_path(r->history, sizeof r->history, "history", NULL) == SP_OK)
        cfg.history = r->history;
    return sp_line_open(&r->line, &cfg, d);
}

int sp_cmd_chat(const sp_opts *o)
{
    sp_diag d = {0};
    sp_repl r = {.t = sp_mem_alloc(sizeof *r.t)};
    const char *system = sp_opt_str(o, "system"), *where = sp_opt_str(o, "retrieve");
    int code = EXIT_DONE;
    if (!r.t || sp_talk_open(r.t, o, NULL, &d) != SP_OK) {
        code = sp_cmd_fail(EXIT_MODEL, &d);
    } else if ((where && sp_talk_look(r.t, where, &d) != SP_OK) ||
               sp_talk_set_system(r.t, system ? system : "", &d) != SP_OK ||
               open_line(&r, o, &d) != SP_OK) {
        code = sp_cmd_fail(EXIT_RUN, &d);
    } else {
        sp_talk_catch_interrupt();
        if (sp_line_is_terminal(r.line) && !r.t->quiet)
            fprintf(stderr, "%s on this computer. /help for commands, Ctrl-D leaves.\n",
                    r.t->l.name);
        loop(&r);
        code = sp_line_is_terminal(r.line) ? EXIT_DONE : r.code;
    }
    sp_line_close(r.line);
    if (r.t)
        sp_talk_close(r.t);
    sp_buf_fini(&r.files);
    sp_buf_fini(&r.receipt);
    return code;
}
