/* A conversation with a model in this process. */
#include "cmd/talk.h"

#include "base/clock.h"
#include "base/file.h"
#include "base/mem.h"
#include "cmd/shelf.h"
#include "cmd/term.h"

#include <signal.h>
#include <stdio.h>
#include <string.h>

enum {
    LOOK_NS = 100000000 /* how often Ctrl-C is looked for, and progress is written */,
    SILENT_MS = 300 /* a wait that is shorter is not shown */,
    CHUNK_TOK = 200 /* of documents; only reading them uses it */
};

static volatile sig_atomic_t interrupted;

static void on_interrupt(int sig)
{
    (void)sig;
    interrupted = 1;
}

void sp_talk_catch_interrupt(void)
{
    struct sigaction sa = {.sa_handler = on_interrupt}; /* no SA_RESTART: reads return */
    sigaction(SIGINT, &sa, NULL);
}

bool sp_talk_was_interrupted(void)
{
    return interrupted;
}

void sp_talk_forget_interrupt(void)
{
    interrupted = 0;
}

/* A line on stderr that is written over; "": it is wiped. Only on a terminal. */
static void show(const sp_talk *t, const char *text)
{
    if (!t->quiet && sp_term_is(stderr))
        fprintf(stderr, "\r\33[K%s", text);
}

/* --- the model -------------------------------------------------------------------------------- */

static sp_err start(sp_talk *t, const sp_opts *o, const char *model, sp_diag *d)
{
    char path[1024];
    sp_load_how how = {.path = path};
    if (model)
        SP_TRY(sp_cmd_find_model(path, sizeof path, model, o, d));
    SP_TRY(sp_cmd_load(&t->l, o, model ? &how : NULL, d));
    if (!model)
        SP_TRY(sp_cmd_check_format(&t->l, o, sp_kv_pool_shape(t->l.pool)->format, d));
    SP_TRY(sp_cmd_keep_weights(t->l.model, t->l.name, o, d));
    return sp_cmd_engine(&t->engine, &t->metrics, &t->drafters, &t->l,
                         sp_opt_str(o, "draft-head"), NULL, d);
}

static void stop(sp_talk *t)
{
    sp_engine_free(t->engine);
    sp_cmd_close_drafters(&t->drafters);
    sp_metrics_free(t->metrics);
    sp_cmd_unload(&t->l);
    t->engine = NULL;
    t->metrics = NULL;
    t->drafters = (sp_cmd_drafter){0};
}

static void set_env(sp_talk *t)
{
    t->env = (sp_turn_env){.name = t->l.name,
                           .engine = t->engine,
                           .tok = t->l.tok,
                           .chat = t->l.chat,
                           .know = t->docs.know,
                           .retrieve = t->docs.know ? t->retrieve : NULL};
}

sp_err sp_talk_open(sp_talk *t, const sp_opts *o, const char *model, sp_diag *d)
{
    t->o = o;
    t->quiet = sp_opt_flag(o, "quiet");
    show(t, "Loading the model");
    sp_err err = start(t, o, model, d);
    show(t, "");
    set_env(t);
    return err;
}

sp_err sp_talk_change(sp_talk *t, const char *model, sp_diag *d)
{
    sp_talk *next = sp_mem_alloc(sizeof *next);
    if (!next)
        return SP_FAIL(d, SP_NOMEM, "model");
    sp_err err = sp_talk_open(next, t->o, model, d);
    if (err == SP_OK) {
        stop(t);
        t->l = next->l;
        t->metrics = next->metrics;
        t->drafters = next->drafters;
        t->engine = next->engine;
        set_env(t);
    } else {
        stop(next);
    }
    sp_mem_free(next);
    return err;
}

static void close_documents(sp_talk *t)
{
    sp_documents_close(&t->docs);
    sp_metrics_free(t->text_metrics);
    sp_dev_close(t->text_dev);
    t->text_metrics = NULL;
    t->text_dev = NULL;
}

void sp_talk_close(sp_talk *t)
{
    close_documents(t);
    stop(t);
    sp_talk_keep(t, 0);
    sp_mem_free(t);
}

/* --- documents -------------------------------------------------------------------------------- */

static sp_err open_documents(sp_talk *t, const char *collection, sp_diag *d)
{
    char id[SP_RAG_ID];
    sp_rag_store *store;
    SP_TRY(sp_shelf_is_there(t->o, d));
    SP_TRY(sp_cmd_device(&t->text_dev, t->o, d));
    const sp_kern *kern = sp_dev_host_kern(t->text_dev);
    SP_TRY(sp_rag_open(&store, sp_shelf_path(t->o), kern, d));
    sp_err err = sp_rag_coll_named(store, TENANT(t->o), collection, false, id, d);
    sp_rag_close(store);
    SP_TRY(err);
    if (sp_metrics_new(&t->text_metrics) != SP_OK)
        return SP_FAIL(d, SP_NOMEM, "metrics");
    return sp_documents_open(&t->docs, sp_shelf_path(t->o), CHUNK_TOK, t->text_dev, t->text_metrics,
                             t->o, d);
}

sp_err sp_talk_look(sp_talk *t, const char *collection, sp_diag *d)
{
    close_documents(t);
    sp_err err = collection ? open_documents(t, collection, d) : SP_OK;
    if (err != SP_OK)
        close_documents(t);
    else
        snprintf(t->retrieve, sizeof t->retrieve, "%s", collection ? collection : "");
    set_env(t);
    return err;
}

/* --- messages --------------------------------------------------------------------------------- */

sp_err sp_talk_say(sp_talk *t, const char *role, const char *text, size_t n, sp_diag *d)
{
    if (t->n_msg == SP_TALK_TURNS)
        return SP_FAIL(d, SP_LIMIT, "more than %d turns", SP_TALK_TURNS);
    char *p = sp_mem_alloc(n + 1);
    if (!p)
        return SP_FAIL(d, SP_NOMEM, "message");
    memcpy(p, text, n);
    p[n] = 0;
    t->owned[t->n_msg] = p;
    t->msg[t->n_msg++] = sp_chat_say(role, p, n);
    return SP_OK;
}

void sp_talk_keep(sp_talk *t, size_t n)
{
    while (t->n_msg > n)
        sp_mem_free(t->owned[--t->n_msg]);
}

static bool has_system(const sp_talk *t)
{
    return t->n_msg && t->msg[0].role.n == 6 && memcmp(t->msg[0].role.p, "system", 6) == 0;
}

const char *sp_talk_system(const sp_talk *t)
{
    return has_system(t) ? t->owned[0] : "";
}

sp_err sp_talk_set_system(sp_talk *t, const char *text, sp_diag *d)
{
    if (has_system(t)) {
        sp_mem_free(t->owned[0]);
        t->n_msg--;
        memmove(&t->msg[0], &t->msg[1], t->n_msg * sizeof t->msg[0]);
        memmove(&t->owned[0], &t->owned[1], t->n_msg * sizeof t->owned[0]);
    }
    if (!*text)
        return SP_OK;
    SP_TRY(sp_talk_say(t, "system", text, strlen(text), d));
    sp_chat_msg msg = t->msg[t->n_msg - 1];
    char *owned = t->owned[t->n_msg - 1];
    memmove(&t->msg[1], &t->msg[0], (t->n_msg - 1) * sizeof t->msg[0]);
    memmove(&t->owned[1], &t->owned[0], (t->n_msg - 1) * sizeof t->owned[0]);
    t->msg[0] = msg;
    t->owned[0] = owned;
    return SP_OK;
}

sp_err sp_talk_add_file(sp_buf *question, const char *path, sp_diag *d)
{
    sp_buf text = {0};
    size_t room = question->len < SP_TALK_INPUT ? SP_TALK_INPUT - question->len : 0;
    sp_err err = sp_file_read(&text, path, room, d);
    if (err == SP_OK && text.len && memchr(text.p, 0, text.len))
        err = SP_FAIL(d, SP_FORMAT, "%.120s: is no text; `sparing ingest` reads documents", path);
    if (err == SP_OK) {
        const char *slash = strrchr(path, '/');
        sp_buf_printf(question, "%s%s:\n", question->len ? "\n\n" : "", slash ? slash + 1 : path);
        sp_buf_put(question, sp_buf_str(&text), text.len);
    }
    sp_buf_fini(&text);
    return err;
}

/* --- answers ---------------------------------------------------------------------------------- */

static sp_err fill_ask(sp_ask *q, const sp_talk *t)
{
    const sp_opts *o = t->o;
    sp_sample_cfg *s = &q->session->sample;
    const sp_chat_msg *last = &t->msg[t->n_msg - 1];
    s->temperature = (float)sp_opt_num(o, "temperature");
    s->top_k = (size_t)sp_opt_int(o, "top-k");
    s->top_p = (float)sp_opt_num(o, "top-p");
    s->min_p = (float)sp_opt_num(o, "min-p");
    s->repetition_penalty = (float)sp_opt_num(o, "repetition-penalty");
    q->seed = sp_opt_str(o, "seed") ? sp_opt_int(o, "seed") : -1;
    q->stream = true;
    q->look = t->docs.know != NULL;
    q->n_near = SP_PASSAGES_NEAR;
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

static sp_err begin(sp_turn **out, sp_talk *t, sp_turn_error *e)
{
    sp_ask *q = sp_ask_new(TENANT(t->o));
    if (!q || fill_ask(q, t) != SP_OK) {
        sp_ask_free(q);
        return SP_FAIL(&e->diag, SP_NOMEM, "request");
    }
    SP_TRY(sp_turn_open(out, &t->env, q, e));
    return sp_turn_start(*out, &(sp_turn_run){0}, e);
}

/* A line of places, if they have it not yet: passages of one document may stand at one place. */
static void put_place(sp_buf *out, const sp_rag_hit *h)
{
    sp_buf line = {0};
    sp_buf_printf(&line, "  %s%s%s\n", h->place, *h->place ? ", " : "", h->path);
    if (!strstr(sp_buf_str(out), sp_buf_str(&line)))
        sp_buf_puts(out, sp_buf_str(&line));
    sp_buf_fini(&line);
}

/* The passages that went into the prompt, each with what the answer took from it first. */
static void take_sources(sp_talk_answer *a, const sp_turn *turn)
{
    sp_turn_found f = sp_turn_searched(turn);
    const sp_turn_answer *whole = sp_turn_answer_of(turn, 0);
    a->looked = f.op || f.looked;
    for (size_t i = 0; f.op && i < f.n_passage; i++) {
        const sp_rag_hit *h = &f.op->hit[i];
        const sp_citation *cite = NULL;
        for (size_t k = 0; whole && k < whole->n_cite && !cite; k++)
            if (whole->cite[k].hit == i)
                cite = &whole->cite[k];
        sp_buf_puts(&a->sources, i ? ",{\"file\":" : "{\"file\":");
        sp_buf_json_str(&a->sources, h->path, strlen(h->path));
        sp_buf_puts(&a->sources, ",\"place\":");
        sp_buf_json_str(&a->sources, h->place, strlen(h->place));
        if (cite) {
            sp_buf_puts(&a->sources, ",\"quote\":");
            sp_buf_json_str(&a->sources, h->text + cite->quote, cite->n_quote);
        }
        sp_buf_putc(&a->sources, '}');
        put_place(&a->places, h);
    }
}

static void show_wait(const sp_talk *t, double ms)
{
    static const char turn[] = "|/-\\";
    char line[64];
    if (ms < SILENT_MS)
        return;
    snprintf(line, sizeof line, "%c %s, %.0f s", turn[(int)(ms / 100) % 4],
             t->docs.know ? "Searching and reading" : "Reading", ms / 1000);
    show(t, line);
}

sp_err sp_talk_answer_last(sp_talk *t, sp_talk_answer *a, bool shown, sp_diag *d)
{
    sp_turn *turn = NULL;
    sp_turn_error e = {0};
    sp_turn_event ev = {0};
    bool has_begun = false;
    uint64_t since = sp_clock_ns();
    *a = (sp_talk_answer){0};
    sp_err err = begin(&turn, t, &e);
    while (err == SP_OK && ev.kind != SP_TURN_END && ev.kind != SP_TURN_ERROR) {
        if (interrupted)
            sp_turn_stop(turn);
        if (sp_turn_next(turn, &ev) == SP_AGAIN) {
            if (!has_begun)
                show_wait(t, sp_clock_ms(since));
            sp_turn_wait(turn, LOOK_NS);
            ev = (sp_turn_event){0};
        } else if (ev.kind == SP_TURN_TEXT && ev.text.n) {
            if (!has_begun)
                show(t, "");
            has_begun = true;
            sp_buf_put(&a->text, ev.text.p, ev.text.n);
            if (shown) {
                fwrite(ev.text.p, 1, ev.text.n, stdout);
                fflush(stdout);
            }
        } else if (ev.kind == SP_TURN_FINISH) {
            a->finish = ev.finish;
        }
    }
    if (!has_begun)
        show(t, "");
    if (ev.kind == SP_TURN_ERROR)
        e = *ev.error;
    if (turn) {
        sp_turn_receipt(&a->receipt, turn);
        a->usage = sp_turn_used(turn);
        take_sources(a, turn);
    }
    sp_turn_free(turn);
    a->ms = sp_clock_ms(since);
    *d = e.diag;
    return d->code;
}

const char *sp_talk_finish_name(sp_finish f)
{
    return f == SP_FINISH_LENGTH ? "length" : f == SP_FINISH_CANCEL ? "cancelled" : "stop";
}

void sp_talk_put_places(const sp_talk_answer *a)
{
    if (a->looked)
        fprintf(stderr, "%s%s",
                a->places.len ? "Sources:\n" : "Nothing was found in the documents.\n",
                sp_buf_str(&a->places));
}

void sp_talk_done(sp_talk_answer *a)
{
    sp_buf_fini(&a->text);
    sp_buf_fini(&a->sources);
    sp_buf_fini(&a->places);
}
