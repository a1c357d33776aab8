/* sparing run and sparing chat: one answer, or a conversation, in the terminal.
 * Ctrl-C stops the answer; in a chat the program goes on, Ctrl-D leaves. */
#include "cmd/cmd.h"

#include "base/clock.h"
#include "base/file.h"
#include "base/mem.h"
#include "pipe/prompt.h"
#include "sched/engine.h"

#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { MAX_INPUT_BYTES = 16 << 20, MAX_TURNS = 1024 };

static volatile sig_atomic_t interrupted;

static void on_interrupt(int sig)
{
    (void)sig;
    interrupted = 1;
}

typedef struct talk {
    sp_loaded l;
    sp_metrics *metrics;
    sp_engine *engine;
    sp_chat_msg msg[MAX_TURNS];
    char *owned[MAX_TURNS];
    size_t n_msg;
} talk;

static sp_err open_talk(talk *t, const sp_opts *o, sp_diag *d)
{
    SP_TRY(sp_cmd_load(&t->l, o, NULL, d));
    if (sp_metrics_new(&t->metrics) != SP_OK)
        return SP_FAIL(d, SP_NOMEM, "metrics");
    const sp_engine_cfg cfg = {.model = t->l.model, .tok = t->l.tok, .pool = t->l.pool, .metrics = t->metrics,
                               .n_ctx = t->l.n_ctx, .max_run = 1, .max_queue = 1, .chunk_tok = 256};
    return sp_engine_new(&t->engine, &cfg, d);
}

static void close_talk(talk *t)
{
    sp_engine_free(t->engine);
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

/* Streams the answer to stdout (unless quiet) and into text. */
static sp_err answer(talk *t, const sp_opts *o, bool quiet, sp_buf *text, sp_receipt *receipt, sp_diag *d)
{
    sp_context ctx;
    sp_session_cfg *session = sp_mem_alloc(sizeof *session);
    if (!session)
        return SP_FAIL(d, SP_NOMEM, "request");
    sp_err err = t->l.chat ? sp_prompt_chat(&ctx, t->l.tok, t->l.chat, t->msg, t->n_msg, 0, d)
                           : sp_prompt_text(&ctx, t->l.tok, t->msg[t->n_msg - 1].content.p, t->msg[t->n_msg - 1].content.n, 0, d);
    sp_job *job = NULL;
    if (err == SP_OK) {
        sp_sample_cfg_init(&session->sample);
        session->sample.temperature = (float)sp_opt_num(o, "temperature");
        session->sample.top_k = (size_t)sp_opt_int(o, "top-k");
        session->sample.top_p = (float)sp_opt_num(o, "top-p");
        session->sample.min_p = (float)sp_opt_num(o, "min-p");
        session->sample.repetition_penalty = (float)sp_opt_num(o, "repetition-penalty");
        session->sample.seed = sp_opt_str(o, "seed") ? (uint64_t)sp_opt_int(o, "seed") : sp_rng_entropy();
        session->n_logprobs = -1;
        sp_job_cfg cfg = {.session = *session, .tok = ctx.prompt.id, .n_tok = ctx.prompt.n, .tenant = "local", .ms_retrieval = ctx.ms};
        cfg.plan = (sp_plan){.path = SP_PATH_FULL, .max_tok = (size_t)sp_opt_int(o, "max-tokens"), .draft = (size_t)sp_opt_int(o, "draft")};
        cfg.session.max_tok = cfg.plan.max_tok;
        err = sp_job_submit(&job, t->engine, &cfg, d);
        sp_context_fini(&ctx);
    }
    sp_mem_free(session);
    for (bool done = false; err == SP_OK && !done;) {
        sp_event *ev = sp_job_next(job);
        if (!ev) {
            sp_job_wait(job, 100000000);
            if (interrupted)
                sp_job_cancel(job);
            continue;
        }
        if (ev->kind == SP_EVENT_TEXT) {
            sp_buf_put(text, ev->text.p, ev->text.len);
            if (!quiet) {
                fwrite(ev->text.p, 1, ev->text.len, stdout);
                fflush(stdout);
            }
        }
        done = ev->kind != SP_EVENT_TEXT;
        if (ev->kind == SP_EVENT_ERROR)
            err = SP_FAIL(d, ev->diag.code, "%s", ev->diag.msg);
        *receipt = ev->receipt;
        sp_event_free(ev);
        if (interrupted)
            sp_job_cancel(job);
    }
    sp_job_put(job);
    return err;
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
