/* sparing serve: wire everything together, then wait for signals. SIGTERM, SIGINT: stop listening,
 * finish what runs (at most --drain-s), exit 0; again: exit at once. Two seconds after --drain-s
 * the process ends in any case. SIGHUP: read the key file, the certificates and which version of
 * the settings is in force again. A lost device: as SIGTERM, but exit 1, so that the unit starts
 * the server again. */
#include "cmd/serve_encoders.h"
#include "cmd/serve_history.h"
#include "cmd/serve_placement.h"
#include "cmd/notify.h"
#include "cmd/serve_services.h"
#include "cmd/trial.h"

#include "api/about.h"
#include "api/asset.h"
#include "api/front.h"
#include "api/gate.h"
#include "api/running.h"
#include "api/stream.h"
#include "base/clock.h"
#include "base/db.h"
#include "base/file.h"
#include "base/log.h"
#include "base/mem.h"
#include "net/s3.h"
#include "pipe/feedback.h"
#include "pipe/shadow.h"
#include "pipe/version.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum {
    LOOK_S = 2 /* whether certificates have changed */,
    LAST_S = 2 /* from the end of draining to the process's */,
    SERIES_S = 10,
    SERIES_ROWS = 4320 /* twelve hours */
};

typedef struct server {
    _Atomic bool lost; /* an engine's device refuses */
    sp_serve_models models;
    sp_s3 *s3;          /* NULL: no cold tier */
    sp_dev *dev;        /* of search */
    sp_serve_encoders encoders;
    sp_metrics *metrics;
    sp_engine *texts;   /* runs the encoders */
    sp_cores *cores;
    sp_history *history;
    sp_serve_history keeps;
    sp_know *know;
    sp_auth *auth;
    sp_gate *gate;
    sp_workers *workers;
    sp_http *http;
    sp_serve_services grpc;
    sp_app app;
    sp_intent_model intent;
    sp_buf intent_file;
    sp_policy *policy; /* NULL: no --control-policy */
    sp_ledger *ledger;
    sp_running *running;
    sp_otlp *otlp;
    sp_shadow *shadow;
    sp_experiments *experiments;
    sp_versions *versions; /* NULL: no --improved */
    sp_feedback *feedback;
    sp_series *series;
    sp_upstream *upstream;
    sp_front *front;         /* NULL: no --shadow-of */
    sp_placement *placement; /* NULL: no --placement */
    sp_cmd_prices prices;
    sp_budgets *budgets; /* NULL: the prices have none */
    char *hosts_text, *origins_text, *aliases_text;
    char machine[2][72]; /* its name, and the same with .local */
    const char *hosts[SP_SERVE_LIST + 7], *origins[SP_SERVE_LIST + 1], *aliases[SP_SERVE_LIST + 1];
} server;

static sp_err set_log(const sp_opts *o, sp_diag *d)
{
    static const char *const names[] = {"error", "warn", "info", "debug"};
    for (int i = 0; i < 4; i++) {
        if (strcmp(sp_opt_str(o, "log-level"), names[i]) == 0) {
            sp_log_set((sp_log_level)i, sp_opt_flag(o, "log-json"));
            return SP_OK;
        }
    }
    return SP_FAIL(d, SP_INVAL, "log-level: %.20s is none of error, warn, info, debug",
                   sp_opt_str(o, "log-level"));
}

sp_err sp_serve_split(char **text, const char **out, const char *list, sp_diag *d)
{
    size_t n = 0;
    *text = sp_mem_strdup(list ? list : "");
    if (!*text)
        return SP_FAIL(d, SP_NOMEM, "options");
    char *save = NULL;
    for (char *p = strtok_r(*text, ",", &save); p; p = strtok_r(NULL, ",", &save)) {
        if (n == SP_SERVE_LIST)
            return SP_FAIL(d, SP_LIMIT, "a list of more than %d names", SP_SERVE_LIST);
        out[n++] = p;
    }
    return SP_OK;
}

bool sp_serve_is_loopback(const char *host)
{
    return strncmp(host, "127.", 4) == 0 || strcmp(host, "::1") == 0 ||
           strcmp(host, "localhost") == 0;
}

static sp_err set_access(server *s, const sp_opts *o, sp_diag *d)
{
    const char *host = sp_opt_str(o, "host"), *keys = sp_opt_str(o, "keys");
    if (!keys && !sp_serve_is_loopback(host))
        return SP_FAIL(d, SP_INVAL,
                       "host: without --keys this server listens on loopback only, not on %.80s",
                       host);
    SP_TRY(sp_auth_new(&s->auth, keys, d));
    SP_TRY(sp_serve_split(&s->hosts_text, s->hosts, sp_opt_str(o, "allow-host"), d));
    SP_TRY(sp_serve_split(&s->origins_text, s->origins, sp_opt_str(o, "cors-origin"), d));
    size_t n = 0;
    while (s->hosts[n])
        n++;
    const char *const own[] = {"localhost",
                               "127.0.0.1",
                               "[::1]",
                               host,
                               keys ? s->machine[0] : NULL,
                               keys ? s->machine[1] : NULL};
    if (gethostname(s->machine[0], 64) != 0)
        s->machine[0][0] = 0;
    s->machine[0][63] = 0;
    snprintf(s->machine[1], sizeof s->machine[1], "%.63s.local", s->machine[0]);
    for (size_t i = 0; i < sizeof own / sizeof own[0]; i++)
        if (own[i] && own[i][0] && own[i][0] != '.')
            s->hosts[n++] = own[i];
    return SP_OK;
}

/* Where something lies that servers may share: where its own option says, else --state. */
static const char *shared(const sp_opts *o, const char *name)
{
    const char *own = sp_opt_str(o, name);
    return own ? own : sp_opt_str(o, "state");
}

static sp_err check_state(const sp_opts *o, sp_diag *d)
{
    const char *at = sp_opt_str(o, "state");
    return !at || sp_db_is_url(at)
               ? SP_OK
               : SP_FAIL(d, SP_INVAL, "state: '%.60s' is no postgresql:// address; on one machine "
                                      "--knowledge and --feedback take files", at);
}

/* What reads texts for search and history; NULL: nothing. */
static const sp_tok *search_vocab(const server *s)
{
    const sp_encoder *first = sp_serve_encoders_first(&s->encoders);
    return first ? sp_encoder_vocab(first) : NULL;
}

/* The encoders and the engine that runs them, beside those of the models. */
static sp_err start_texts(server *s, const sp_opts *o, sp_diag *d)
{
    sp_metrics *metrics;
    SP_TRY(sp_cmd_device(&s->dev, o, d));
    SP_TRY(sp_serve_encoders_new(&s->encoders, &s->models,
                                 s->keeps.path[0] || shared(o, "knowledge"), d));
    if (sp_cores_new(&s->cores) != SP_OK ||
        sp_metrics_labelled(&metrics, s->metrics, "model",
                            s->encoders.first ? s->encoders.first : "encoders") != SP_OK)
        return SP_FAIL(d, SP_NOMEM, "encoders");
    const sp_engine_cfg cfg = {.encoder = sp_serve_encoders_first(&s->encoders),
                               .cores = s->cores,
                               .metrics = metrics,
                               .lost = &s->lost,
                               .max_run = 1,
                               .chunk_tok = (size_t)sp_opt_int(o, "chunk"),
                               .max_queue = (size_t)sp_opt_int(o, "max-queue")};
    return sp_engine_new(&s->texts, &cfg, d);
}

/* Objects of pages and of packed conversations. */
static sp_err open_cold(server *s, const sp_opts *o, sp_diag *d)
{
    const char *url = sp_opt_str(o, "s3");
    if (!url)
        return SP_OK;
    if (!sp_opt_str(o, "cache-dir"))
        return SP_FAIL(d, SP_INVAL, "s3: the cold tier needs --cache-dir for its index");
    SP_TRY(sp_s3_open(&s->s3, url, sp_opt_str(o, "s3-endpoint"), d));
    s->models.cold = sp_s3_cold(s->s3);
    return SP_OK;
}

/* Events hold what tenants have asked: beyond this machine they go only where the server itself is
 * behind keys. */
static sp_err open_events(server *s, const sp_opts *o, sp_diag *d)
{
    const sp_events_cfg cfg = {.publish = sp_opt_str(o, "kv-events"),
                               .replay = sp_opt_str(o, "kv-events-replay"),
                               .metrics = s->metrics};
    const char *const all[] = {cfg.publish, cfg.replay};
    if (!cfg.publish)
        return cfg.replay
                   ? SP_FAIL(d, SP_INVAL,
                             "kv-events-replay repeats what --kv-events tells: it needs that")
                   : SP_OK;
    for (size_t i = 0; i < 2; i++) {
        bool inside = !all[i] || strncmp(all[i], "ipc://", 6) == 0 ||
                      (strncmp(all[i], "tcp://", 6) == 0 && sp_serve_is_loopback(all[i] + 6));
        if (!inside && !sp_opt_str(o, "keys"))
            return SP_FAIL(
                d, SP_INVAL,
                "kv-events: without --keys only ipc:// and loopback are bound, not %.80s", all[i]);
    }
    return sp_events_new(&s->models.events, &cfg, d);
}

static sp_err start_events(server *s, const sp_opts *o, sp_diag *d)
{
    char name[128], publish[128], replay[128];
    if (!s->models.events)
        return SP_OK;
    snprintf(name, sizeof name, "%.100s:%u", sp_opt_str(o, "host"), sp_http_port(s->http));
    sp_events_endpoints(s->models.events, publish, replay);
    sp_log(SP_LOG_INFO, "KV events of kv@%s on %s%s%s", name, publish,
           replay[0] ? ", repeated on " : "", replay);
    return sp_events_start(s->models.events, name, d);
}

/* What answers cost, what people say of them, and what tenants have spent. */
static sp_err start_feedback(server *s, sp_diag *d)
{
    const sp_prices *prices = s->prices.prices;
    const char *path = s->keeps.feedback;
    const sp_feedback_cfg cfg = {.path = path,
                                 .experiments = s->experiments,
                                 .right = prices ? prices->right : NULL,
                                 .metrics = s->metrics};
    if (path[0])
        SP_TRY(sp_feedback_open(&s->feedback, &cfg, d));
    return sp_cmd_budgets_open(&s->budgets, prices, path, s->metrics, d);
}

static sp_err start_history(server *s, const sp_opts *o, sp_diag *d)
{
    SP_TRY(start_feedback(s, d));
    const sp_history_cfg cfg = {.path = s->keeps.path[0] ? s->keeps.path : NULL,
                                .lease_s = sp_opt_int(o, "state-lease"),
                                .is_default = s->keeps.is_default,
                                .engine = s->texts,
                                .models = s->models.models,
                                .vocab = search_vocab(s),
                                .recount = sp_models_config(s->models.models)->is_list,
                                .cold = s->models.cold,
                                .cold_after_s = sp_opt_int(o, "history-cold-after"),
                                .feedback = s->feedback,
                                .metrics = s->metrics};
    return cfg.path ? sp_history_open(&s->history, &cfg, d) : SP_OK;
}

static sp_err start_knowledge(server *s, const sp_opts *o, sp_diag *d)
{
    const sp_know_cfg cfg = {.path = shared(o, "knowledge"),
                             .hnsw_from = (size_t)sp_opt_int(o, "hnsw-from"),
                             .engine = s->texts,
                             .models = s->models.models,
                             .vocab = search_vocab(s),
                             .kern = sp_dev_host_kern(s->dev),
                             .chunk_tok = (size_t)sp_opt_int(o, "chunk-tokens"),
                             .probe_s = sp_opt_num(o, "probe"),
                             .metrics = s->metrics};
    if (!cfg.path && sp_opt_str(o, "retrieve"))
        return SP_FAIL(d, SP_INVAL, "--retrieve looks into documents: it needs --knowledge");
    return cfg.path ? sp_know_open(&s->know, &cfg, d) : SP_OK;
}

/* The policy of --control-policy. */
static sp_err open_policy(server *s, const sp_opts *o, sp_diag *d)
{
    const char *path = sp_opt_str(o, "control-policy");
    sp_buf file = {0};
    if (!path)
        return SP_OK;
    s->policy = sp_mem_alloc(sizeof *s->policy);
    sp_err err =
        s->policy ? sp_file_read(&file, path, SP_POLICY_BYTES, d) : SP_FAIL(d, SP_NOMEM, "policy");
    if (err == SP_OK)
        err = sp_policy_open(s->policy, sp_buf_str(&file), file.len, d);
    sp_buf_fini(&file);
    return err;
}

/* Which path requests take, and what that costs. */
static sp_err set_paths(server *s, const sp_opts *o, sp_diag *d)
{
    sp_turn_env *env = &s->models.shared;
    sp_plan_cfg *p = &env->plan;
    const sp_upstream_cfg up = {.url = sp_opt_str(o, "upstream"),
                                .key = sp_opt_str(o, "upstream-key"),
                                .model = sp_opt_str(o, "upstream-model"),
                                .connect_ms = 3000,
                                .silence_ms = (uint64_t)sp_opt_int(o, "upstream-timeout") * 1000,
                                .retry_ms = 2000,
                                .total_ms = (uint64_t)sp_opt_int(o, "upstream-total") * 1000,
                                .cap_call = (size_t)sp_opt_int(o, "upstream-max"),
                                .metrics = s->metrics};
    SP_TRY(sp_cmd_plan(p, o, d));
    if (p->want == SP_WANT_UPSTREAM && !up.url && !s->placement)
        return SP_FAIL(d, SP_INVAL, "path: upstream needs --upstream or --placement");
    SP_TRY(sp_cmd_intent(&s->intent, &s->intent_file, o, d));
    SP_TRY(open_policy(s, o, d));
    if (sp_ledger_new(&s->ledger, s->metrics, s->budgets) != SP_OK ||
        sp_running_new(&s->running) != SP_OK)
        return SP_FAIL(d, SP_NOMEM, "requests");
    const sp_shadow_cfg shadow = {.share = sp_opt_num(o, "shadow"),
                                  .models = s->models.models,
                                  .metrics = s->metrics};
    if (shadow.share > 0)
        SP_TRY(sp_shadow_new(&s->shadow, &shadow, d));
    if (sp_opt_str(o, "otlp"))
        SP_TRY(sp_otlp_new(&s->otlp, sp_opt_str(o, "otlp"), s->metrics, d));
    if (up.url)
        SP_TRY(sp_upstream_new(&s->upstream, &up, d));
    if (s->placement)
        SP_TRY(sp_placement_connect(s->placement, &up, d));
    env->history = s->history;
    env->know = s->know;
    env->retrieve = sp_opt_str(o, "retrieve");
    env->upstream = s->upstream;
    env->placement = s->placement;
    env->intent = &s->intent;
    env->policy = s->policy;
    env->shadow = s->shadow;
    env->feedback = s->feedback;
    env->experiments = s->experiments;
    env->versions = s->versions;
    return SP_OK;
}

/* Models and places that variants set are there. */
static sp_err check_variant(const server *s, const sp_experiment *e, const sp_variant *v,
                            sp_diag *d)
{
    const char *model = v->set ? v->set->model : NULL, *place = v->set ? v->set->place : NULL;
    if (model && !sp_models_find(s->models.models, model))
        return SP_FAIL(d, SP_INVAL, "experiment %s, variant %s: there is no model %.80s", e->name,
                       v->name, model);
    if (place && !(s->placement && sp_placement_named(s->placement, place)))
        return SP_FAIL(d, SP_INVAL, "experiment %s, variant %s: --placement has no place %.60s",
                       e->name, v->name, place);
    return SP_OK;
}

static sp_err check_variants(const server *s, sp_diag *d)
{
    for (size_t i = 0; s->experiments && i < s->experiments->n; i++)
        for (size_t k = 0; k < s->experiments->experiment[i].n_variant; k++)
            SP_TRY(check_variant(s, &s->experiments->experiment[i],
                                 &s->experiments->experiment[i].variant[k], d));
    return SP_OK;
}

/* Each alias is of a model that is here. */
static sp_err check_aliases(const server *s, sp_diag *d)
{
    char names[120];
    for (size_t i = 0; s->aliases[i]; i++) {
        const char *eq = strchr(s->aliases[i], '=');
        if (!eq || eq == s->aliases[i] || !eq[1])
            return SP_FAIL(d, SP_INVAL, "alias: '%.80s' is not NAME=MODEL", s->aliases[i]);
        sp_models_names(s->models.models, names, sizeof names);
        if (!sp_models_find(s->models.models, eq + 1))
            return SP_FAIL(d, SP_INVAL,
                           "alias: '%.80s' stands for a model that is not here; this server has %s",
                           s->aliases[i], names);
    }
    return SP_OK;
}

/* The existing server that this one stands in front of. */
static sp_err start_front(server *s, const sp_opts *o, sp_diag *d)
{
    enum { CONNECT_MS = 5000, MOST_CALLS = 256 };
    const sp_front_cfg cfg = {
        .relay = {.url = sp_opt_str(o, "shadow-of"),
                  .key = sp_opt_str(o, "shadow-key"),
                  .cap_call = MOST_CALLS,
                  .cap_bytes = sp_opt_bytes(o, "max-bodies"),
                  .connect_ms = CONNECT_MS,
                  .silence_ms = (uint64_t)sp_opt_int(o, "upstream-timeout") * 1000,
                  .total_ms = (uint64_t)sp_opt_int(o, "upstream-total") * 1000},
        .share = sp_opt_num(o, "shadow-share"),
        .app = &s->app,
        .metrics = s->metrics};
    if (!cfg.relay.url)
        return SP_OK;
    SP_TRY(sp_front_new(&s->front, &cfg, d));
    s->app.front = s->front;
    return SP_OK;
}

static sp_err start_http(server *s, const sp_opts *o, sp_diag *d)
{
    s->app.models = s->models.models;
    s->app.encoder = s->encoders.first;
    s->app.reranker = s->encoders.ranker;
    SP_TRY(check_aliases(s, d));
    SP_TRY(check_variants(s, d));
    SP_TRY(sp_workers_start(&s->workers, d));
    s->app.workers = s->workers;
    SP_TRY(sp_streams_start(&s->app.streams, d));
    s->app.texts = s->texts;
    s->app.shared = &s->models.shared;
    s->app.created = sp_clock_wall();
    s->app.metrics = s->metrics;
    s->app.ledger = s->ledger;
    s->app.budgets = s->budgets;
    s->app.running = s->running;
    s->app.otlp = s->otlp;
    s->app.series = s->series;
    s->app.auth = s->auth;
    s->app.gate = s->gate;
    SP_TRY(start_front(s, o, d));
    s->app.web_dir = sp_opt_str(o, "web-dir");
    if (s->app.web_dir && access(s->app.web_dir, R_OK | X_OK) != 0)
        return SP_FAIL(d, SP_INVAL, "web-dir: %.120s is no folder that can be read",
                       s->app.web_dir);
    s->app.lenient = sp_opt_flag(o, "lenient");
    s->app.max_body = sp_opt_bytes(o, "max-body");
    s->app.hosts = s->hosts;
    s->app.origins = s->origins;
    const sp_http_cfg cfg = {.host = sp_opt_str(o, "host"),
                             .port = (uint16_t)sp_opt_int(o, "port"),
                             .max_body = s->app.max_body,
                             .max_bodies = sp_opt_bytes(o, "max-bodies"),
                             .max_conn = (size_t)sp_opt_int(o, "max-conn"),
                             .gate = sp_api_gate,
                             .handler = sp_api_handle,
                             .refuse = sp_api_refuse,
                             .app = &s->app};
    if (cfg.max_bodies < cfg.max_body)
        return SP_FAIL(d, SP_INVAL, "max-bodies: %zu bytes for all bodies are less than --max-body",
                       cfg.max_bodies);
    s->app.address = cfg.host;
    SP_TRY(sp_http_new(&s->http, &cfg, d));
    s->app.port = sp_http_port(s->http);
    return SP_OK;
}

/* Which version of the settings is in force now? */
static void read_version(server *s)
{
    sp_diag d = {0};
    if (!s->versions)
        return;
    sp_err err = sp_versions_reload(s->versions, &d);
    const sp_version *now = sp_versions_now(s->versions);
    if (err == SP_OK)
        sp_log(SP_LOG_INFO, "version %u of the settings is in force", now ? now->number : 0);
    else
        sp_log(SP_LOG_ERROR, "version %u of the settings stays in force: %s",
               now ? now->number : 0, d.msg);
}

/* Waits for signals; returns the exit status when all work is done or time is up. */
static int serve(server *s, const sigset_t *signals, int64_t drain_s)
{
    int code = EXIT_DONE;
    for (;;) {
        const struct timespec look = {.tv_sec = LOOK_S};
        int sig = sigtimedwait(signals, NULL, &look);
        if (sig == SIGTERM || sig == SIGINT)
            break;
        if (atomic_load(&s->lost)) {
            sp_log(SP_LOG_ERROR, "the device is lost: the server ends");
            code = EXIT_RUN;
            break;
        }
        sp_serve_services_look(&s->grpc, sig == SIGHUP);
        if (sig != SIGHUP)
            continue;
        sp_diag d = {0};
        read_version(s);
        sp_err err = sp_auth_reload(s->auth, &d);
        if (err == SP_OK)
            sp_log(SP_LOG_INFO, "keys read again: %zu", sp_auth_count(s->auth));
        else
            sp_log(SP_LOG_ERROR, "keys read again, %zu are in force: %s", sp_auth_count(s->auth),
                   d.msg);
    }
    sp_notify("STOPPING=1");
    sp_log(SP_LOG_INFO, "draining, at most %lld s; a second signal exits at once",
           (long long)drain_s);
    atomic_store(&s->app.draining, true);
    sp_models_drain(s->models.models);
    sp_engine_drain(s->texts);
    sp_http_quiesce(s->http);
    if (s->grpc.services)
        sp_services_quiesce(s->grpc.services);
    uint64_t end = sp_clock_ns() + (uint64_t)drain_s * 1000000000u;
    alarm((unsigned)drain_s + LAST_S);
    while (sp_clock_ns() < end &&
           (!sp_models_are_idle(s->models.models) || !sp_engine_is_idle(s->texts) ||
            sp_http_open_count(s->http) || sp_streams_live(s->app.streams) ||
            (s->grpc.services && sp_services_busy_count(s->grpc.services)))) {
        const struct timespec tick = {.tv_nsec = 20000000};
        int sig = sigtimedwait(signals, NULL, &tick);
        if (sig == SIGTERM || sig == SIGINT)
            _exit(128 + sig);
    }
    /* what waits for another machine is given up; what lies on this one is finished */
    sp_s3_stop(s->s3);
    return code;
}

/* Time is up, whatever still hangs. Pages and databases are in order at every moment, as after a
 * crash. */
static void on_alarm(int sig)
{
    static const char say[] =
        "sparing: error: something did not end in time; the server exits without it\n";
    (void)sig;
    if (write(STDERR_FILENO, say, sizeof say - 1) < 0)
        _exit(EXIT_RUN); /* the compiler wants the result looked at */
    _exit(EXIT_RUN);
}

static void stop(server *s)
{
    sp_serve_services_stop(&s->grpc);
    sp_http_free(s->http); /* its tasks let their jobs go */
    sp_front_free(s->front);
    sp_workers_stop(s->workers);
    sp_streams_stop(s->app.streams);
    sp_upstream_free(s->upstream);
    sp_placement_free(s->placement);
    sp_shadow_free(s->shadow); /* it asks the collections and the engine */
    sp_otlp_free(s->otlp);
    sp_ledger_free(s->ledger);
    sp_running_free(s->running);
    sp_series_free(s->series);
    sp_buf_fini(&s->intent_file);
    sp_history_close(s->history); /* they may wait for the engine */
    sp_serve_history_fini(&s->keeps);
    sp_know_close(s->know);
    sp_budgets_close(s->budgets);
    sp_feedback_close(s->feedback); /* conversations that go ask it to forget them */
    sp_experiments_free(s->experiments);
    sp_versions_close(s->versions);
    sp_engine_free(s->texts); /* its jobs use encoders */
    if (s->models.models)
        sp_serve_encoders_leave(&s->encoders, s->models.models);
    sp_models_free(s->models.models);
    sp_mem_free(s->policy);
    sp_cmd_prices_close(&s->prices);
    sp_events_free(s->models.events);
    sp_cores_free(s->cores);
    sp_s3_close(s->s3);
    sp_auth_free(s->auth);
    sp_gate_free(s->gate);
    sp_mem_free(s->hosts_text);
    sp_mem_free(s->origins_text);
    sp_mem_free(s->aliases_text);
    sp_dev_close(s->dev);
    sp_metrics_free(s->metrics); /* the tiers still count while they close */
    sp_mem_free(s);
}

/* What a code says is wrong when this step fails. */
static int start(server *s, const sp_opts *o, sp_diag *d)
{
    s->models.o = o;
    s->models.lost = &s->lost;
    if (sp_metrics_new(&s->metrics) != SP_OK || sp_gate_new(&s->gate, s->metrics) != SP_OK) {
        (void)SP_FAIL(d, SP_NOMEM, "metrics");
        return EXIT_RUN;
    }
    s->models.metrics = s->metrics;
    if (sp_serve_split(&s->aliases_text, s->aliases, sp_opt_str(o, "alias"), d) != SP_OK)
        return EXIT_USAGE;
    if (check_state(o, d) != SP_OK || sp_serve_placement_open(&s->placement, o, d) != SP_OK)
        return EXIT_CONFIG;
    sp_err err = sp_serve_models_new(&s->models, s->aliases, d);
    if (err != SP_OK)
        return err == SP_NOTFOUND ? EXIT_MODEL : EXIT_USAGE;
    if (open_events(s, o, d) != SP_OK)
        return EXIT_BIND;
    if (sp_opt_str(o, "experiments") &&
        sp_experiments_load(&s->experiments, sp_opt_str(o, "experiments"), d) != SP_OK)
        return EXIT_CONFIG;
    if (sp_opt_str(o, "improved") &&
        sp_versions_open(&s->versions, sp_opt_str(o, "improved"), d) != SP_OK)
        return EXIT_CONFIG;
    if (sp_cmd_prices_open(&s->prices, &s->models.shared, o, NULL, true, d) != SP_OK)
        return sp_opt_str(o, "prices") ? EXIT_CONFIG : EXIT_USAGE;
    s->models.versions = s->versions;
    sp_serve_history_find(&s->keeps, o, shared(o, "feedback"));
    if (open_cold(s, o, d) != SP_OK || start_texts(s, o, d) != SP_OK)
        return EXIT_MODEL;
    s->models.cores = s->cores;
    if (start_history(s, o, d) != SP_OK || start_knowledge(s, o, d) != SP_OK)
        return EXIT_STORE;
    if (set_paths(s, o, d) != SP_OK)
        return EXIT_USAGE;
    if (sp_serve_models_start(&s->models, d) != SP_OK ||
        sp_serve_encoders_start(&s->encoders, &s->models, d) != SP_OK)
        return s->models.storage_failed ? EXIT_STORE : EXIT_MODEL;
    if (sp_series_new(&s->series, s->metrics, SERIES_S, SERIES_ROWS) != SP_OK) {
        (void)SP_FAIL(d, SP_NOMEM, "metrics");
        return EXIT_RUN;
    }
    return start_http(s, o, d) == SP_OK &&
                   sp_serve_services_start(&s->grpc, &s->app, o, s->machine[0], d) == SP_OK &&
                   start_events(s, o, d) == SP_OK
               ? EXIT_DONE
               : EXIT_BIND;
}

static void tell_ready(server *s, const sp_opts *o, uint64_t since)
{
    sp_served *first = NULL;
    const char *name = sp_models_find(s->models.models, NULL);
    if (!name || sp_models_use(&first, s->models.models, name) != SP_OK)
        first = NULL;
    sp_log(SP_LOG_INFO,
           "%s ready in %.0f ms on http://%s:%u (%s, %zu threads, %zu MiB of KV pages, epsilon %g "
           "from position %zu on)",
           name ? name : "no model yet,", sp_clock_ms(since), sp_opt_str(o, "host"),
           sp_http_port(s->http), sp_dev_host_kern(s->dev)->isa,
           sp_pool_size(sp_dev_host_pool(s->dev)), sp_opt_bytes(o, "kv-bytes") >> 20,
           first ? (double)first->env.eps : 0, first ? first->env.eps_from : 0);
    sp_models_done(s->models.models, first);
}

int sp_cmd_serve(const sp_opts *o)
{
    sp_diag d = {0};
    uint64_t t = sp_clock_ns();
    sigset_t signals;
    sigemptyset(&signals);
    sigaddset(&signals, SIGTERM);
    sigaddset(&signals, SIGINT);
    sigaddset(&signals, SIGHUP);
    pthread_sigmask(SIG_BLOCK, &signals, NULL); /* before any thread starts */
    signal(SIGALRM, on_alarm);
    server *s = sp_mem_alloc(sizeof *s);
    if (!s || set_log(o, &d) != SP_OK || set_access(s, o, &d) != SP_OK) {
        if (s)
            stop(s);
        return sp_cmd_fail(EXIT_CONFIG, &d);
    }
    int code = start(s, o, &d);
    if (code == EXIT_DONE) {
        tell_ready(s, o, t);
        sp_notify("READY=1");
        code = serve(s, &signals, sp_opt_int(o, "drain-s"));
    } else {
        (void)sp_cmd_fail(code, &d);
    }
    stop(s);
    return code;
}
