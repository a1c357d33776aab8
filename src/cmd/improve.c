/* sparing improve: a round of improvement, by hand or each month; `back` takes the last version
 * out of force, `status` says which one is in force. */
#include "cmd/improve_course.h"
#include "cmd/improve_report.h"
#include "cmd/improve_train.h"

#include "base/clock.h"
#include "cmd/check.h"
#include "cmd/judge.h"
#include "pipe/experiment.h"
#include "pipe/version.h"

#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

enum { DAY_S = 86400, NAP_S = 600, PATH = 1100, LOWEST = 19, HEADS = 2 };

typedef struct improve {
    const sp_opts *o;
    sp_versions *versions;
    int lock; /* of the folder; -1: none */
    sp_trial trial;
    sp_cmd_judge judge;
    sp_db *feedback; /* NULL: no records */
    sp_hdb *history;
    sp_prompts prompts;
    sp_failures failures;
    sp_signal signal[SP_SIGNALS];
    sp_retrained retrained;
    sp_own_policy policy;
    sp_own_head head;
    unsigned head_now; /* number of the draft head that the trial's engine has */
    /* what engines with a draft head of a version learned: the one in force, and the one that was
     * trained for this round */
    struct {
        unsigned number; /* 0: no head yet */
        sp_engine_learned learned;
    } head_of[HEADS];
    sp_knobs options, now;
    size_t round, n_answer;
    double cost, flops;
} improve;

/* --- what the round needs --------------------------------------------------------------------- */

/* The server's options as knobs, and those in force. */
static void read_knobs(improve *m)
{
    const sp_version *v = sp_versions_now(m->versions);
    const char *eps = sp_opt_str(m->o, "epsilon-default");
    double all = strcmp(eps, "auto") == 0 ? 0 : strtod(eps, NULL);
    sp_knobs *k = &m->options;
    *k = (sp_knobs){.v = {[SP_KNOB_FULL_FROM] = sp_opt_num(m->o, "full-from"),
                          [SP_KNOB_NEED_FROM] = sp_opt_num(m->o, "need-from"),
                          [SP_KNOB_ESCALATE] = sp_opt_num(m->o, "escalate-below"),
                          [SP_KNOB_PASSAGES] = SP_ASK_FOUND,
                          [SP_KNOB_DRAFT] = sp_opt_num(m->o, "draft"),
                          [SP_KNOB_LIGHT_TOKENS] = sp_opt_num(m->o, "light-tokens"),
                          [SP_KNOB_KEEP] = 1,
                          [SP_KNOB_EPSILON] = all}};
    for (size_t i = SP_KNOB_EPSILON_OF; i < SP_KNOBS; i++)
        k->v[i] = all;
    m->now = *k;
    if (v)
        sp_knobs_take(&m->now, &v->set);
    for (size_t i = SP_KNOB_EPSILON_OF; i < SP_KNOBS; i++)
        m->now.v[i] = m->now.set[i] ? m->now.v[i] : m->now.v[SP_KNOB_EPSILON];
}

static sp_err open_records(improve *m, sp_diag *d)
{
    const char *feedback = sp_opt_str(m->o, "feedback"), *history = sp_opt_str(m->o, "history");
    int64_t since = sp_clock_wall() - sp_opt_int(m->o, "days") * DAY_S;
    if (!feedback)
        return SP_OK;
    if (!sp_db_is_url(feedback) && access(feedback, R_OK) != 0)
        return SP_FAIL(d, SP_NOTFOUND, "feedback: %.120s: it cannot be read", feedback);
    SP_TRY(sp_fdb_open(&m->feedback, feedback, d));
    SP_TRY(sp_failures_count(&m->failures, m->feedback, since, d));
    SP_TRY(sp_signals_count(m->signal, m->feedback, since, d));
    if (!history)
        return SP_OK;
    if (!sp_db_is_url(history) && access(history, R_OK) != 0)
        return SP_FAIL(d, SP_NOTFOUND, "history: %.120s: it cannot be read", history);
    SP_TRY(sp_hdb_open(&m->history, history, NULL, d));
    return sp_prompts_records(&m->prompts, m->feedback, m->history, since, d);
}

static sp_err gather(improve *m, sp_diag *d)
{
    const char *path = sp_opt_str(m->o, "prompts");
    if (!path && !(sp_opt_str(m->o, "feedback") && sp_opt_str(m->o, "history")))
        return SP_FAIL(d, SP_INVAL,
                       "improve: there is nothing to ask again: give the server's --feedback and "
                       "--history, or --prompts, or all of them");
    SP_TRY(open_records(m, d));
    if (path)
        SP_TRY(sp_prompts_read(&m->prompts, path, &m->judge, d));
    return sp_prompts_split(&m->prompts, sp_opt_num(m->o, "held"), d);
}

static double cost_of(const improve *m, const sp_receipt *r, double ms)
{
    const char *by = sp_opt_str(m->o, "objective");
    return strcmp(by, "flops") == 0 ? r->flops_spent : strcmp(by, "ms") == 0 ? ms : r->cost;
}

/* That of the options, of the version in force, or what was trained for this round. */
static const sp_intent_model *intent_of(const improve *m, const sp_knobs *k)
{
    unsigned number = (unsigned)k->v[SP_KNOB_INTENT];
    const sp_intent_model *now = sp_version_intent(sp_versions_now(m->versions));
    return !number ? &m->trial.intent : number == m->retrained.number ? &m->retrained.model : now;
}

/* NULL: rules that are learned have no policy. */
static const sp_policy *policy_of(const improve *m, const sp_knobs *k)
{
    unsigned number = (unsigned)k->v[SP_KNOB_POLICY];
    return !number                       ? NULL
           : number == m->policy.number ? &m->policy.policy
                                         : sp_version_policy(sp_versions_now(m->versions));
}

/* What engines of the head have learned; 0: that of the options, or none. */
static sp_engine_learned *learned_of(improve *m, unsigned number)
{
    size_t i = 0;
    if (!number)
        return &m->trial.learned;
    while (i + 1 < HEADS && m->head_of[i].number && m->head_of[i].number != number)
        i++;
    if (m->head_of[i].number != number)
        m->head_of[i].learned = (sp_engine_learned){0};
    m->head_of[i].number = number;
    return &m->head_of[i].learned;
}

/* An engine with another draft head, where the settings have another one than those before. One of
 * the same head goes on with the times of steps and the chances of guesses that were learned: else
 * each comparison would begin with an engine that does not know yet when guesses pay. */
static sp_err take_head(improve *m, const sp_knobs *k, sp_diag *d)
{
    char path[PATH + 40];
    unsigned number = (unsigned)k->v[SP_KNOB_HEAD];
    if (number == m->head_now && m->trial.engine)
        return SP_OK;
    snprintf(path, sizeof path, "%.1000s/head-%u.gguf", sp_versions_dir(m->versions), number);
    SP_TRY(sp_trial_resume(&m->trial, number ? path : sp_opt_str(m->o, "draft-head"),
                           learned_of(m, number), d));
    m->head_now = number;
    return SP_OK;
}

static sp_err answer_by(improve *m, sp_outcome *out, size_t at, const sp_knobs *k,
                        const char *path, sp_diag *d)
{
    sp_ask *q;
    sp_turn *t;
    sp_receipt r;
    sp_diag why = {0};
    sp_knob_settings s;
    const json_t *line = m->prompts.p[at].line;
    bool judged = sp_cmd_judge_takes(&m->judge, line, m->prompts.p[at].is_record);
    SP_TRY(take_head(m, k, d));
    SP_TRY(sp_trial_ask(&q, &m->trial, line, (size_t)sp_opt_int(m->o, "max-tokens"), d));
    sp_knobs_settings(&s, k);
    s.set.path = (char *)path;
    m->trial.env.intent = intent_of(m, k);
    m->trial.env.policy = policy_of(m, k);
    if (sp_experiments_set(q, &s.set) != SP_OK) {
        sp_ask_free(q);
        return SP_FAIL(d, SP_NOMEM, "request");
    }
    uint64_t since = sp_clock_ns();
    m->n_answer++;
    *out = (sp_outcome){.failed = true, .judged = judged};
    if (sp_trial_answer(&t, &m->trial, q, NULL, NULL, &why) != SP_OK) {
        if (why.code == SP_NOMEM)
            *d = why;
        return why.code == SP_NOMEM ? SP_NOMEM : SP_OK;
    }
    const sp_turn_answer *a = sp_turn_answer_of(t, 0);
    sp_turn_receipt(&r, t);
    double ms = sp_clock_ms(since);
    *out = (sp_outcome){
        .quality =
            judged ? 0 : sp_check_score(json_object_get(line, "check"), sp_buf_str(&a->text)),
        .cost = cost_of(m, &r, ms),
        .ms = ms,
        .cls = sp_turn_plan(t)->judged ? (unsigned)sp_turn_plan(t)->cls : SP_CLASSES,
        .judged = judged};
    if (judged)
        sp_buf_put(&out->text, a->text.p, a->text.len);
    m->cost += r.cost;
    m->flops += r.flops_spent;
    sp_turn_free(t);
    return out->text.failed ? SP_FAIL(d, SP_NOMEM, "answer") : SP_OK;
}

/* By the engine that answered last; a draft head changes no verdict. */
static sp_err judge(void *arg, int *out, size_t at, const sp_outcome *now, const sp_outcome *try,
                    sp_diag *d)
{
    improve *m = arg;
    const sp_str x = {sp_buf_str(&now->text), now->text.len},
                 y = {sp_buf_str(&try->text), try->text.len};
    return sp_cmd_judge_pair(&m->judge, out, m->prompts.p[at].line, x, y, d);
}

static sp_err answer(void *arg, sp_outcome *out, size_t at, const sp_knobs *k, sp_diag *d)
{
    return answer_by(arg, out, at, k, NULL, d);
}

static sp_err answer_on(void *arg, sp_outcome *out, size_t at, const char *path, sp_diag *d)
{
    improve *m = arg;
    return answer_by(m, out, at, &m->now, path, d);
}

/* --- the folder ------------------------------------------------------------------------------- */

/* How many rounds there were, and when the last one began. */
static void read_round(improve *m, size_t *n, int64_t *at)
{
    char path[PATH];
    long long when = 0;
    unsigned long count = 0;
    snprintf(path, sizeof path, "%.1000s/round", sp_versions_dir(m->versions));
    FILE *f = fopen(path, "r");
    if (f && fscanf(f, "%lu %lld", &count, &when) != 2)
        count = 0, when = 0;
    if (f)
        fclose(f);
    *n = count;
    *at = when;
}

static sp_err open_folder(improve *m, sp_diag *d)
{
    char path[PATH];
    const char *dir = sp_opt_str(m->o, "improved");
    m->lock = -1;
    if (!dir)
        return SP_FAIL(d, SP_INVAL, "improve: --improved says where versions are kept");
    SP_TRY(sp_versions_open(&m->versions, dir, d));
    snprintf(path, sizeof path, "%.1000s/lock", dir);
    m->lock = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0644);
    if (m->lock < 0 || flock(m->lock, LOCK_EX | LOCK_NB) != 0)
        return SP_FAIL(d, SP_IO, "%.120s: %s", path,
                       errno == EWOULDBLOCK ? "another round is at work" : strerror(errno));
    return SP_OK;
}

static void close_all(improve *m)
{
    sp_cmd_judge_close(&m->judge);
    sp_trial_close(&m->trial);
    sp_retrained_fini(&m->retrained);
    sp_own_head_fini(&m->head);
    sp_prompts_fini(&m->prompts);
    sp_hdb_close(m->history);
    sp_db_close(m->feedback);
    sp_versions_close(m->versions);
    if (m->lock >= 0)
        close(m->lock);
}

/* --- the round -------------------------------------------------------------------------------- */

static sp_err read_cfg(sp_improve_cfg *c, const improve *m, sp_diag *d)
{
    const sp_opts *o = m->o;
    const char *by = sp_opt_str(o, "objective");
    const sp_turn_env *env = &m->trial.env;
    *c = (sp_improve_cfg){.decide = {.alpha = 0.05,
                                     .margin = sp_opt_num(o, "margin"),
                                     .gain = sp_opt_num(o, "gain"),
                                     .floor = sp_opt_num(o, "floor"),
                                     .slower = sp_opt_num(o, "slower")},
                          .tries = (size_t)sp_opt_int(o, "tries"),
                          .cap_search = (size_t)sp_opt_int(o, "search-most"),
                          .cap_held = (size_t)sp_opt_int(o, "held-most"),
                          .round = m->round,
                          .has = {.judge = m->trial.env.plan.want == SP_WANT_AUTO,
                                  .passages = m->trial.env.retrieve != NULL,
                                  .escalates = m->trial.env.retrieve != NULL},
                          .answer = answer,
                          .judge = judge};
    if (strcmp(by, "cost") != 0 && strcmp(by, "flops") != 0 && strcmp(by, "ms") != 0)
        return SP_FAIL(d, SP_INVAL, "objective: '%.20s' is none of cost, flops, ms", by);
    if (strcmp(by, "cost") == 0 && env->price[0].in + env->price[0].out <= 0 &&
        !(env->prices && env->prices->machine))
        return SP_FAIL(d, SP_INVAL,
                       "objective: cost needs --price or --prices; without them say flops or ms");
    return SP_OK;
}

static sp_err keep(improve *m, const sp_round *out, sp_diag *d)
{
    char name[80], why[260], round[64];
    if (out->held.wins) {
        const sp_proposal *p = &out->tried[out->best].what;
        if (p->knob == SP_KNOB_INTENT)
            SP_TRY(sp_retrained_keep(&m->retrained, m->versions, m->round + 1, d));
        if (p->knob == SP_KNOB_POLICY)
            SP_TRY(sp_own_policy_keep(&m->policy, m->versions, m->round + 1, d));
        if (p->knob == SP_KNOB_HEAD)
            SP_TRY(sp_own_head_keep(&m->head, m->versions, m->round + 1, d));
        sp_improve_report_name(p, name, sizeof name);
        bool by_judge = out->held.n_judged > 0;
        snprintf(why, sizeof why, "round %zu: %s%s%.60s", m->round + 1, name,
                 by_judge ? ", judged by " : "", by_judge ? m->judge.who : "");
        SP_TRY(sp_versions_add(m->versions, &p->knobs, why, d));
    }
    int n = snprintf(round, sizeof round, "%zu %lld\n", m->round + 1, (long long)sp_clock_wall());
    return sp_versions_write(m->versions, "round", round, (size_t)n, d);
}

static sp_err tell(improve *m, const sp_improve_report *r, sp_diag *d)
{
    char name[64];
    sp_buf text = {0}, json = {0};
    sp_improve_report_write(r, &text);
    sp_improve_report_json(r, &json);
    snprintf(name, sizeof name, "report-%zu.md", r->round);
    sp_err err = text.failed || json.failed ? SP_FAIL(d, SP_NOMEM, "report") : SP_OK;
    if (err == SP_OK && !r->dry)
        err = sp_versions_write(m->versions, name, text.p, text.len, d);
    if (err == SP_OK)
        puts(sp_buf_str(sp_opt_flag(m->o, "json") ? &json : &text));
    fflush(stdout);
    sp_buf_fini(&text);
    sp_buf_fini(&json);
    return err;
}

/* With --retrain-intent: a model of intent that has seen this site's prompts. */
static sp_err retrain(improve *m, sp_improve_cfg *cfg, sp_diag *d)
{
    const char *labelled = sp_opt_str(m->o, "retrain-intent");
    if (!labelled)
        return SP_OK;
    if (!cfg->has.judge)
        return SP_FAIL(d, SP_INVAL, "retrain-intent: with --path %s no request is judged",
                       sp_opt_str(m->o, "path"));
    const sp_retrain_cfg c = {.labelled = labelled,
                              .prompts = &m->prompts,
                              .most = cfg->cap_search,
                              .judge = intent_of(m, &m->now),
                              .number = sp_versions_count(m->versions, "intent-", ".model") + 1,
                              .answer = answer_on,
                              .arg = m};
    SP_TRY(sp_retrain_intent(&m->retrained, &c, d));
    cfg->has.intent = m->retrained.number;
    return SP_OK;
}

/* Can guesses cost less by what is to become less? They change no answer, only its time. */
static sp_err check_head_pays(const improve *m, sp_diag *d)
{
    const char *by = sp_opt_str(m->o, "objective");
    const sp_prices *prices = m->trial.env.prices;
    bool pays = strcmp(by, "ms") == 0 || (strcmp(by, "cost") == 0 && prices && prices->machine);
    return pays ? SP_OK
                : SP_FAIL(d, SP_INVAL,
                          "retrain-head: a draft head saves time, and no %s: it needs --objective "
                          "ms, or cost with the price of the machine in --prices",
                          strcmp(by, "flops") == 0 ? "flops" : "price of tokens");
}

/* With --retrain-control and --retrain-head: both as `sparing train` makes them. */
static sp_err train_own(improve *m, sp_improve_cfg *cfg, sp_diag *d)
{
    bool control = sp_opt_flag(m->o, "retrain-control"), head = sp_opt_flag(m->o, "retrain-head");
    const sp_course_cfg c = {.o = m->o,
                             .l = &m->trial.l,
                             .metrics = m->trial.metrics,
                             .prompts = &m->prompts,
                             .versions = m->versions,
                             .round = m->round};
    if (head)
        SP_TRY(check_head_pays(m, d));
    if (control || head)
        sp_trial_pause(&m->trial); /* take_head opens an engine again */
    if (control)
        SP_TRY(sp_own_policy_train(&m->policy, &c, d));
    if (head)
        SP_TRY(sp_own_head_train(&m->head, &c, d));
    cfg->has.policy = m->policy.number;
    cfg->has.head = m->head.number;
    return SP_OK;
}

static unsigned in_force(const improve *m)
{
    const sp_version *v = sp_versions_now(m->versions);
    return v ? v->number : 0;
}

static sp_err run_round(improve *m, sp_diag *d)
{
    sp_improve_cfg cfg;
    sp_round out;
    int64_t at;
    uint64_t since = sp_clock_ns();
    bool dry = sp_opt_flag(m->o, "dry-run");
    read_round(m, &m->round, &at);
    SP_TRY(sp_cmd_judge_open(&m->judge, sp_opt_str(m->o, "judge"), m->o, d));
    SP_TRY(gather(m, d));
    SP_TRY(sp_trial_open(&m->trial, m->o, true, d));
    SP_TRY(sp_cmd_judge_start(&m->judge, &m->trial, d));
    read_knobs(m);
    SP_TRY(read_cfg(&cfg, m, d));
    cfg.arg = m;
    SP_TRY(retrain(m, &cfg, d));
    SP_TRY(train_own(m, &cfg, d));
    sp_improve_report r = {.round = m->round + 1,
                           .now = sp_clock_wall(),
                           .before = in_force(m),
                           .dry = dry,
                           .objective = sp_opt_str(m->o, "objective"),
                           .cfg = &cfg,
                           .failures = &m->failures,
                           .signal = m->feedback ? m->signal : NULL,
                           .prompts = &m->prompts,
                           .retrained = m->retrained.number ? &m->retrained : NULL,
                           .policy = m->policy.number ? &m->policy : NULL,
                           .head = m->head.number ? &m->head : NULL,
                           .judge = m->judge.who ? &m->judge : NULL,
                           .out = &out};
    SP_TRY(sp_improve(&out, &cfg, &m->now, &m->options, &m->failures, m->prompts.n_early,
                      m->prompts.n, d));
    if (!dry)
        SP_TRY(keep(m, &out, d));
    r.after = in_force(m);
    r.n_answer = m->n_answer;
    r.seconds = sp_clock_ms(since) * 1e-3;
    r.cost = m->cost + m->judge.cost;
    r.flops = m->flops + m->judge.flops;
    return tell(m, &r, d);
}

static int exit_of(sp_err err)
{
    return err == SP_INVAL                          ? EXIT_USAGE
           : err == SP_FORMAT || err == SP_NOTFOUND ? EXIT_CONFIG
           : err == SP_IO || err == SP_AGAIN        ? EXIT_STORE
                                                    : EXIT_RUN;
}

static int once(const sp_opts *o)
{
    sp_diag d = {0};
    improve m = {.o = o, .lock = -1};
    sp_err err = open_folder(&m, &d);
    if (err == SP_OK)
        err = run_round(&m, &d);
    close_all(&m);
    return err == SP_OK ? EXIT_DONE : sp_cmd_fail(exit_of(err), &d);
}

/* --- each month ------------------------------------------------------------------------------- */

/* When the period that `at` lies in ends. */
static int64_t end_of(int64_t at, char period)
{
    time_t t = (time_t)at;
    struct tm tm;
    if (!gmtime_r(&t, &tm))
        return at + DAY_S;
    tm.tm_hour = tm.tm_min = tm.tm_sec = 0;
    if (period == 'm') {
        tm.tm_mday = 1;
        tm.tm_mon++;
    } else {
        tm.tm_mday += period == 'w' ? 7 - (tm.tm_wday + 6) % 7 : 1;
    }
    return (int64_t)timegm(&tm);
}

/* A round at the beginning of each period, and one now if the last one is of an earlier period. A
 * round that fails is told, and the next one is that of the next period. */
static int forever(const sp_opts *o, char period)
{
    int64_t failed = 0;
    for (;;) {
        sp_diag d = {0};
        improve m = {.o = o, .lock = -1};
        size_t n;
        int64_t last = 0;
        sp_err err = open_folder(&m, &d);
        if (err == SP_OK)
            read_round(&m, &n, &last);
        close_all(&m);
        if (err != SP_OK)
            return sp_cmd_fail(exit_of(err), &d);
        last = failed > last ? failed : last;
        if (sp_clock_wall() >= end_of(last, period)) {
            failed = sp_clock_wall();
            int code = once(o);
            if (code == EXIT_USAGE)
                return code;
        }
        sleep(NAP_S);
    }
}

static int back(const sp_opts *o)
{
    sp_diag d = {0};
    improve m = {.o = o, .lock = -1};
    sp_err err = open_folder(&m, &d);
    if (err == SP_OK)
        err = sp_versions_back(m.versions, &d);
    if (err == SP_OK)
        printf("version %u is in force; SIGHUP makes a server read it\n", in_force(&m));
    close_all(&m);
    return err == SP_OK ? EXIT_DONE : sp_cmd_fail(exit_of(err), &d);
}

/* Newest first. */
static int status(const sp_opts *o)
{
    sp_diag d = {0};
    sp_versions *v = NULL;
    const char *dir = sp_opt_str(o, "improved");
    sp_err err = dir && access(dir, R_OK) == 0
                     ? sp_versions_open(&v, dir, &d)
                     : SP_FAIL(&d, SP_INVAL, "improve: --improved is no folder that can be read");
    const sp_version *now = err == SP_OK ? sp_versions_now(v) : NULL;
    if (err == SP_OK)
        printf("version %u is in force%s\n", now ? now->number : 0, now ? "" : ": the options");
    for (unsigned i = err == SP_OK ? sp_versions_last(v) : 0; i > 0 && err == SP_OK; i--) {
        sp_version *one = NULL;
        err = sp_version_load(&one, dir, i, &d);
        if (err == SP_OK)
            printf("v%u, on top of v%u: %s\n", i, one->from, one->why ? one->why : "");
        sp_version_free(one);
    }
    sp_versions_close(v);
    return err == SP_OK ? EXIT_DONE : sp_cmd_fail(exit_of(err), &d);
}

int sp_cmd_improve(const sp_opts *o)
{
    const char *const *rest, *every = sp_opt_str(o, "every");
    size_t n = sp_opts_rest(o, &rest);
    if (n && strcmp(rest[0], "back") == 0)
        return back(o);
    if (n && strcmp(rest[0], "status") == 0)
        return status(o);
    bool known = !every || strcmp(every, "month") == 0 || strcmp(every, "week") == 0 ||
                 strcmp(every, "day") == 0;
    if (n || !known) {
        fprintf(stderr, n ? "sparing: improve: say nothing, back or status\n"
                          : "sparing: improve: every is none of month, week, day\n");
        return EXIT_USAGE;
    }
    setpriority(PRIO_PROCESS, 0, LOWEST); /* behind whoever serves on this machine */
    return every ? forever(o, every[0]) : once(o);
}
