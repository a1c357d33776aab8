#include "cmd/judge.h"

#include "cmd/check.h"

#include <jansson.h>
#include <semaphore.h>
#include <stdlib.h>
#include <string.h>

enum {
    HERE_TOK = 4,    /* of the form's longest word, in any vocabulary's pieces */
    AWAY_TOK = 16,   /* the form does not bind another server */
    CONNECT_MS = 3000,
    SILENCE_MS = 60000,
    TOTAL_MS = 120000,
    RETRY_MS = 2000,
    CALLS = 8 /* one is asked at a time; those before it may still be ending */
};

static const char HERE[] = "here";

/* --- who judges ------------------------------------------------------------------------------- */

static sp_err open_place(sp_cmd_judge *j, const sp_opts *o, sp_diag *d)
{
    const char *path = sp_opt_str(o, "placement");
    if (!path)
        return SP_FAIL(d, SP_INVAL,
                       "judge: '%.60s' is not `here`, so --placement says which place it is",
                       j->who);
    SP_TRY(sp_placement_load(&j->placement, path, d));
    j->place = sp_placement_named(j->placement, j->who);
    bool generates = j->place && j->place->roles & SP_ROLE_AT_GENERATION;
    return generates ? SP_OK
                     : SP_FAIL(d, SP_INVAL, "judge: %.100s has no place '%.60s' that generates",
                               path, j->who);
}

sp_err sp_cmd_judge_open(sp_cmd_judge *j, const char *who, const sp_opts *o, sp_diag *d)
{
    *j = (sp_cmd_judge){.who = who,
                        .passages = sp_opt_str(o, "retrieve"),
                        .cap_tok = (size_t)sp_opt_int(o, "judge-tokens")};
    return !who || strcmp(who, HERE) == 0 ? SP_OK : open_place(j, o, d);
}

sp_err sp_cmd_judge_start(sp_cmd_judge *j, const sp_trial *t, sp_diag *d)
{
    const sp_upstream_cfg base = {.connect_ms = CONNECT_MS,
                                  .silence_ms = SILENCE_MS,
                                  .retry_ms = RETRY_MS,
                                  .total_ms = TOTAL_MS,
                                  .cap_call = CALLS,
                                  .metrics = t->metrics};
    j->trial = t;
    return j->place ? sp_placement_connect(j->placement, &base, d)
           : j->who ? sp_grammars_new(&j->grammars, t->l.tok, d)
                    : SP_OK;
}

void sp_cmd_judge_close(sp_cmd_judge *j)
{
    sp_grammars_free(j->grammars);
    sp_placement_free(j->placement);
    *j = (sp_cmd_judge){0};
}

bool sp_cmd_judge_takes(const sp_cmd_judge *j, const json_t *line, bool record)
{
    const json_t *check = json_object_get(line, "check");
    bool exact = check && !(json_object_size(check) == 1 && json_object_get(check, "like"));
    return j->who && !exact && !(record && j->place);
}

static bool has_system(const json_t *line)
{
    size_t i;
    json_t *m;
    json_array_foreach (json_object_get(line, "messages"), i, m) {
        const char *role = json_string_value(json_object_get(m, "role"));
        if (role && strcmp(role, "user") != 0 && strcmp(role, "assistant") != 0)
            return true;
    }
    return false;
}

static sp_place_facts facts_of(const sp_cmd_judge *j, const json_t *line)
{
    const char *tenant = json_string_value(json_object_get(line, "tenant"));
    sp_place_facts f = {.tenant = tenant ? tenant : "local",
                        .cls = json_string_value(json_object_get(line, "class")),
                        .is_private = json_is_true(json_object_get(line, "private")),
                        .parts = SP_DATA_MESSAGES};
    if (has_system(line))
        f.parts |= SP_DATA_SYSTEM;
    if (j->passages) {
        f.parts |= SP_DATA_PASSAGES;
        f.coll[f.n_coll++] = j->passages;
    }
    return f;
}

sp_err sp_cmd_judge_may(const sp_cmd_judge *j, const json_t *line, sp_diag *d)
{
    const sp_place_rule *rule;
    const char *why;
    const sp_place_facts f = facts_of(j, line);
    return !j->place || sp_placement_lets(j->placement, &f, j->place, &rule, &why)
               ? SP_OK
               : SP_FAIL(d, SP_INVAL,
                         "it has no exact check, and may not go to the judge %.40s: %s", j->who,
                         why);
}

/* --- what it is asked ------------------------------------------------------------------------- */

/* The prompt, or all messages with their roles. */
static void put_question(sp_buf *out, const json_t *line)
{
    size_t i;
    json_t *m;
    const json_t *list = json_object_get(line, "messages");
    if (!json_array_size(list)) {
        const char *text = json_string_value(json_object_get(line, "prompt"));
        sp_buf_puts(out, text ? text : "");
    }
    json_array_foreach (list, i, m) {
        const char *role = json_string_value(json_object_get(m, "role")),
                   *text = json_string_value(json_object_get(m, "content"));
        sp_buf_printf(out, "%s%s: %s", i ? "\n" : "", role ? role : "", text ? text : "");
    }
}

static sp_err make_ask(sp_ask **out, const sp_cmd_judge *j, const char *text, size_t n, sp_diag *d)
{
    sp_ask *q = sp_ask_new("local");
    if (!q)
        return SP_FAIL(d, SP_NOMEM, "judge");
    q->chat = j->trial->l.chat != NULL;
    q->msg = sp_arena_alloc(&q->a, 2 * sizeof *q->msg);
    q->prompt = sp_arena_alloc(&q->a, sizeof *q->prompt);
    sp_err err = q->msg && q->prompt ? sp_grammar_get(&q->grammar, j->grammars, SP_JUDGE_FORM, d)
                                     : SP_FAIL(d, SP_NOMEM, "judge");
    if (err != SP_OK) {
        sp_ask_free(q);
        return err;
    }
    q->n_prompt = 1;
    q->prompt->text = (sp_str){text, n};
    q->n_msg = q->chat;
    q->msg[0] = sp_chat_say("user", text, n);
    q->plan.want = SP_WANT_FULL;
    q->plan.is_private = true; /* it asks no other server, and leaves no page behind */
    q->plan.cap_tok = HERE_TOK;
    q->plan.think_tok = 0;
    q->think = SP_THINK_OFF;
    q->ruled = true;
    q->seed = 1;
    *out = q;
    return SP_OK;
}

/* An error of the request, such as a prompt that is too long, is no verdict. */
static sp_err ask_here(sp_cmd_judge *j, sp_judged *out, const sp_buf *text, sp_diag *d)
{
    sp_ask *q;
    sp_turn *t;
    sp_receipt r;
    sp_diag why = {0};
    SP_TRY(make_ask(&q, j, sp_buf_str(text), text->len, d));
    sp_err err = sp_trial_answer(&t, j->trial, q, NULL, NULL, &why);
    if (err != SP_OK) {
        if (err == SP_NOMEM)
            *d = why;
        return err == SP_NOMEM ? err : SP_OK;
    }
    sp_turn_receipt(&r, t);
    sp_turn_usage used = sp_turn_used(t);
    *out = sp_judge_read(sp_buf_str(&sp_turn_answer_of(t, 0)->text));
    j->tok += used.n_prompt + used.n_out;
    j->cost += r.cost;
    j->flops += r.flops_spent;
    sp_turn_free(t);
    return SP_OK;
}

static void wake(void *arg)
{
    sem_post(arg);
}

/* Reads a call to its end. */
static sp_err read_call(sp_event **last, sp_buf *said, sp_call *c, sem_t *more, sp_diag *d)
{
    for (;;) {
        sp_event *ev = sp_call_next(c);
        if (!ev) {
            while (sem_wait(more) != 0)
                continue;
            continue;
        }
        if (ev->kind == SP_EVENT_TEXT)
            sp_buf_put(said, ev->text.p, ev->text.len);
        if (ev->kind == SP_EVENT_FINISH) {
            *last = ev;
            return said->failed ? SP_FAIL(d, SP_NOMEM, "judge") : SP_OK;
        }
        sp_err err = ev->kind == SP_EVENT_ERROR ? ev->diag.code : SP_OK;
        if (err != SP_OK)
            *d = ev->diag;
        sp_event_free(ev);
        SP_TRY(err);
    }
}

static double cost_away(const sp_cmd_judge *j, const sp_event *end)
{
    const sp_place *to = j->place;
    double in = to->price_in ? *to->price_in : 0;
    const sp_price price =
        to->price_in || to->price_out
            ? (sp_price){in, in, to->price_out ? *to->price_out : 0}
            : sp_prices_of(j->trial->env.prices, SP_PRICE_UPSTREAM, to->model);
    return sp_price_tokens(&price, (double)end->n_prompt, (double)end->receipt.tok_away_known,
                           (double)end->receipt.tok_out);
}

/* What the place refuses (SP_INVAL) is no verdict; at the door it was looked at before. */
static sp_err ask_place(sp_cmd_judge *j, sp_judged *out, const json_t *line, const sp_buf *text,
                        sp_diag *d)
{
    sem_t more;
    sp_call *c = NULL;
    sp_event *end = NULL;
    sp_buf said = {0};
    sp_diag why = {0};
    const sp_place_facts facts = facts_of(j, line);
    json_t *list = json_pack("[{s:s, s:s%}]", "role", "user", "content", sp_buf_str(text),
                             text->len);
    char *messages = list ? json_dumps(list, JSON_COMPACT) : NULL;
    json_decref(list);
    if (!messages || sem_init(&more, 0, 0) != 0) {
        free(messages);
        return SP_FAIL(d, SP_NOMEM, "judge");
    }
    const sp_call_cfg cfg = {.messages = messages,
                             .facts = &facts,
                             .max_tok = AWAY_TOK,
                             .temperature = 0,
                             .top_p = 1,
                             .seed = 1,
                             .notify = wake,
                             .arg = &more};
    sp_err err = sp_call_start(&c, sp_placement_upstream(j->placement, j->place), &cfg, &why);
    if (err == SP_OK)
        err = read_call(&end, &said, c, &more, &why);
    if (err == SP_OK) {
        *out = sp_judge_read(sp_buf_str(&said));
        j->tok += end->n_prompt + end->receipt.tok_out;
        j->cost += cost_away(j, end);
    } else if (err != SP_INVAL) {
        (void)SP_FAIL(d, err, "judge %.40s: %.140s", j->who, why.msg);
    }
    sp_event_free(end);
    sp_call_put(c);
    sem_destroy(&more);
    sp_buf_fini(&said);
    free(messages);
    return err == SP_INVAL ? SP_OK : err;
}

static sp_err ask_once(sp_cmd_judge *j, sp_judged *out, const json_t *line, sp_str a, sp_str b,
                       sp_diag *d)
{
    sp_buf question = {0}, text = {0};
    const json_t *good = json_object_get(json_object_get(line, "check"), "like");
    *out = SP_JUDGED_NOTHING;
    if (j->tok >= j->cap_tok)
        return SP_OK;
    put_question(&question, line);
    sp_judge_ask(&text, (sp_str){sp_buf_str(&question), question.len},
                 (sp_str){json_string_value(good), json_string_length(good)}, a, b);
    sp_err err = question.failed || text.failed ? SP_FAIL(d, SP_NOMEM, "judge")
                 : j->place                     ? ask_place(j, out, line, &text, d)
                                                : ask_here(j, out, &text, d);
    sp_buf_fini(&question);
    sp_buf_fini(&text);
    return err;
}

sp_err sp_cmd_judge_pair(sp_cmd_judge *j, int *out, const json_t *line, sp_str x, sp_str y,
                         sp_diag *d)
{
    sp_judged first, swapped;
    *out = 0;
    j->n++;
    if (x.n == y.n && (!x.n || memcmp(x.p, y.p, x.n) == 0)) {
        j->n_same++;
        return SP_OK;
    }
    SP_TRY(ask_once(j, &first, line, x, y, d));
    SP_TRY(ask_once(j, &swapped, line, y, x, d));
    bool unclear = first == SP_JUDGED_NOTHING || swapped == SP_JUDGED_NOTHING;
    bool alike = (first == SP_JUDGED_TIE) == (swapped == SP_JUDGED_TIE);
    *out = sp_judge_both(first, swapped);
    j->n_unclear += unclear;
    j->n_split += !unclear && !*out && !(alike && first == SP_JUDGED_TIE);
    return SP_OK;
}

void sp_cmd_judge_json(const sp_cmd_judge *j, sp_buf *out)
{
    sp_buf_puts(out, "{\"name\":");
    sp_buf_json_str(out, j->who, strlen(j->who));
    sp_buf_printf(out,
                  ",\"pairs\":%zu,\"same\":%zu,\"disagreed\":%zu,\"unclear\":%zu,\"tokens\":%zu,"
                  "\"cost\":%.9g}",
                  j->n, j->n_same, j->n_split, j->n_unclear, j->tok, j->cost);
}
