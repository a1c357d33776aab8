/* sparing run and sparing chat: one answer, or a conversation, in the terminal.
 * Ctrl-C stops the answer; in a chat the program goes on, Ctrl-D leaves. */
#include "cmd/cmd.h"

#include "base/clock.h"
#include "base/file.h"
#include "base/mem.h"
#include "pipe/turn.h"

#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { MAX_INPUT_BYTES = 16 << 20, MAX_TURNS = 1024, LOOK_NS = 100000000 /* how often Ctrl-C is looked for */ };

static volatile sig_atomic_t interrupted;

static void on_interrupt(int sig)
{
    (void)sig;
    interrupted = 1;
}

typedef struct talk {
    sp_loaded l;
    sp_metrics *metrics;
    sp_cmd_drafter drafters;
    sp_engine *engine;
    sp_turn_env env;
    sp_chat_msg msg[MAX_TURNS];
    char *owned[MAX_TURNS];
    size_t n_msg;
} talk;

static sp_err open_talk(talk *t, const sp_opts *o, sp_diag *d)
{
    SP_TRY(sp_cmd_load(&t->l, o, NULL, d));
    if (sp_metrics_new(&t->metrics) != SP_OK)
        return SP_FAIL(d, SP_NOMEM, "metrics");
    sp_engine_cfg cfg = {.model = t->l.model,
                         .tok = t->l.tok,
                         .pool = t->l.pool,
                         .metrics = t->metrics,
                         .n_ctx = t->l.n_ctx,
                         .max_run = 1,
                         .max_queue = 1,
                         .chunk_tok = 256};
    SP_TRY(sp_cmd_open_head(&t->drafters, &t->l, 1, o, d));
    cfg.n_draft = sp_cmd_drafters(cfg.draft, &t->drafters);
    SP_TRY(sp_engine_new(&t->engine, &cfg, d));
    t->env = (sp_turn_env){.name = t->l.name, .engine = t->engine, .tok = t->l.tok, .chat = t->l.chat};
    return SP_OK;
}

static void close_talk(talk *t)
{
    sp_engine_free(t->engine);
    sp_cmd_close_drafters(&t->drafters);
    sp_metrics_free(t->metrics);
    sp_cmd_unload(&t->l);
    for (size_t i = 0; i < t->n_msg; i++)
        sp_mem_free(t->owned[i]);
    sp_mem_free(t);
}

static sp_err say(talk *t, const char *role, const char *text, size_t n, sp_diag *d)
{
    if (t->n_msg == MAX_TURNS)
        return SP_FAIL(d, SP_LIMIT, "more than %d turns", MAX_TURNS);
    char *p = sp_mem_alloc(n + 1);
    if (!p)
        return SP_FAIL(d, SP_NOMEM, "message");
    memcpy(p, text, n);
    t->owned[t->n_msg] = p;
    t->msg[t->n_msg++] = sp_chat_say(role, p, n);
    return SP_OK;
}

static sp_err fill_ask(sp_ask *q, const talk *t, const sp_opts *o)
{
    sp_sample_cfg *s = &q->session->sample;
    const sp_chat_msg *last = &t->msg[t->n_msg - 1];
    s->temperature = (float)sp_opt_num(o, "temperature");
    s->top_k = (size_t)sp_opt_int(o, "top-k");
    s->top_p = (float)sp_opt_num(o, "top-p");
    s->min_p = (float)sp_opt_num(o, "min-p");
    s->repetition_penalty = (float)sp_opt_num(o, "repetition-penalty");
    q->seed = sp_opt_str(o, "seed") ? sp_opt_int(o, "seed") : -1;
    q->stream = true;
    q->plan.want = SP_WANT_FULL;
    q->plan.max_tok = (size_t)sp_opt_int(o, "max-tokens");
    q->plan.draft = sp_opt_int(o, "draft");
    q->plan.drafters = 1u << SP_DRAFT_LOOKUP | 1u << SP_DRAFT_HEAD;
    q->chat = t->l.chat != NULL;
    q->n_msg = t->n_msg;
    q->n_prompt = 1;
    q->prompt = sp_arena_alloc(&q->a, sizeof *q->prompt);
    if (!q->prompt || sp_ask_copy(&q->msg, &q->a, t->msg, t->n_msg) != SP_OK)
        return SP_NOMEM;
    q->prompt->text = last->content; /* lives as long as the talk */
    return SP_OK;
}

static sp_err begin(sp_turn **out, talk *t, const sp_opts *o, sp_turn_error *e)
{
    sp_ask *q = sp_ask_new("local");
    if (!q || fill_ask(q, t, o) != SP_OK) {
        sp_ask_free(q);
        return SP_FAIL(&e->diag, SP_NOMEM, "request");
    }
    SP_TRY(sp_turn_open(out, &t->env, q, e));
    return sp_turn_start(*out, &(sp_turn_run){0}, e);
}

/* Streams the answer to stdout (unless quiet) and into text. */
static sp_err answer(talk *t, const sp_opts *o, bool quiet, sp_buf *text, sp_receipt *receipt, sp_diag *d)
{
    sp_turn *turn = NULL;
    sp_turn_error e = {0};
    sp_turn_event ev = {0};
    sp_err err = begin(&turn, t, o, &e);
    while (err == SP_OK && ev.kind != SP_TURN_END && ev.kind != SP_TURN_ERROR) {
        if (interrupted)
            sp_turn_stop(turn);
        if (sp_turn_next(turn, &ev) == SP_AGAIN) {
            sp_turn_wait(turn, LOOK_NS);
            ev = (sp_turn_event){0};
        } else if (ev.kind == SP_TURN_TEXT) {
            sp_buf_put(text, ev.text.p, ev.text.n);
            if (!quiet) {
                fwrite(ev.text.p, 1, ev.text.n, stdout);
                fflush(stdout);
            }
        }
    }
    if (ev.kind == SP_TURN_ERROR)
        e = *ev.error;
    if (turn)
        sp_turn_receipt(receipt, turn);
    sp_turn_free(turn);
    *d = e.diag;
    return d->code;
}

static void catch_interrupt(void)
{
    struct sigaction sa = {.sa_handler = on_interrupt}; /* no SA_RESTART: a read at the prompt returns */
    sigaction(SIGINT, &sa, NULL);
}

int sp_cmd_run(const sp_opts *o)
{
    sp_diag d = {0};
    sp_buf question = {0}, text = {0};
    sp_receipt receipt = {0};
    const char *const *rest;
    bool json = sp_opt_flag(o, "json");
    if (sp_opts_rest(o, &rest))
        sp_buf_puts(&question, rest[0]);
    else if (sp_file_read(&question, "-", MAX_INPUT_BYTES, &d) != SP_OK)
        return sp_cmd_fail(EXIT_RUN, &d);
    if (question.len == 0) {
        (void)SP_FAIL(&d, SP_INVAL, "there is no question: give it as an argument or on stdin");
        return sp_cmd_fail(EXIT_USAGE, &d);
    }
    talk *t = sp_mem_alloc(sizeof *t);
    int code = EXIT_DONE;
    if (!t || open_talk(t, o, &d) != SP_OK) {
        code = sp_cmd_fail(EXIT_MODEL, &d);
    } else {
        catch_interrupt();
        const char *system = sp_opt_str(o, "system");
        sp_err err = system ? say(t, "system", system, strlen(system), &d) : SP_OK;
        if (err == SP_OK)
            err = say(t, "user", question.p, question.len, &d);
        if (err == SP_OK)
            err = answer(t, o, json, &text, &receipt, &d);
        if (err != SP_OK)
            code = sp_cmd_fail(EXIT_RUN, &d);
    }
    if (code == EXIT_DONE && json) {
        sp_buf out = {0};
        sp_buf_puts(&out, "{\"text\":");
        sp_buf_json_str(&out, sp_buf_str(&text), text.len);
        sp_buf_puts(&out, ",\"receipt\":");
        sp_receipt_write(&receipt, &out);
        printf("%s}\n", sp_buf_str(&out));
        sp_buf_fini(&out);
    } else if (code == EXIT_DONE) {
        puts("");
    }
    if (t)
        close_talk(t);
    sp_buf_fini(&question);
    sp_buf_fini(&text);
    return code;
}

int sp_cmd_chat(const sp_opts *o)
{
    sp_diag d = {0};
    talk *t = sp_mem_alloc(sizeof *t);
    if (!t || open_talk(t, o, &d) != SP_OK) {
        if (t)
            close_talk(t);
        return sp_cmd_fail(EXIT_MODEL, &d);
    }
    catch_interrupt();
    const char *system = sp_opt_str(o, "system");
    sp_err err = system ? say(t, "system", system, strlen(system), &d) : SP_OK;
    char *line = NULL;
    size_t cap = 0;
    bool tty = isatty(STDIN_FILENO);
    if (tty)
        fprintf(stderr, "%s. Ctrl-C stops an answer, Ctrl-D leaves.\n", t->l.name);
    while (err == SP_OK) {
        if (tty)
            fputs("> ", stderr);
        interrupted = 0;
        ssize_t n = getline(&line, &cap, stdin);
        if (n < 0 && interrupted) {
            clearerr(stdin);
            fputc('\n', stderr);
            continue;
        }
        if (n < 0)
            break;
        while (n > 0 && (line[n - 1] == '\n' || line[n - 1] == '\r'))
            n--;
        if (n == 0)
            continue;
        sp_buf text = {0};
        sp_receipt receipt = {0};
        err = say(t, "user", line, (size_t)n, &d);
        if (err == SP_OK)
            err = answer(t, o, false, &text, &receipt, &d);
        puts("");
        if (err == SP_OK && tty)
            fprintf(stderr, "[%zu tokens, %.0f ms; prompt %zu computed, %zu reused]\n", receipt.tok_out,
                    receipt.ms_prefill + receipt.ms_decode, receipt.tok_computed, receipt.tok_ram);
        if (err == SP_OK)
            err = say(t, "assistant", sp_buf_str(&text), text.len, &d);
        sp_buf_fini(&text);
    }
    free(line);
    close_talk(t);
    return err == SP_OK ? EXIT_DONE : sp_cmd_fail(EXIT_RUN, &d);
}
