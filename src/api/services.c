#include "api/services_int.h"

#include "api/codec.h"
#include "api/gate.h"
#include "api/params.h"
#include "base/mem.h"
#include "base/rng.h"

#include <grpc/health/v1/health.pb-c.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>

enum { MAX_CALLS = 20000, READ_MORE = 1 << 20, READ_TIMES = 8 };

/* --- messages --------------------------------------------------------------------------------- */

typedef struct budget {
    size_t left;
} budget;

static void *take(void *arg, size_t n)
{
    budget *b = arg;
    if (n > b->left)
        return NULL;
    b->left -= n;
    return sp_mem_alloc(n);
}

static void give(void *arg, void *p)
{
    (void)arg;
    sp_mem_free(p);
}

static void *plain_take(void *arg, size_t n)
{
    (void)arg;
    return sp_mem_alloc(n);
}

static const ProtobufCAllocator plain = {.alloc = plain_take, .free = give};

ProtobufCMessage *sp_service_read(const ProtobufCMessageDescriptor *of, const uint8_t *p, size_t n)
{
    budget b = {READ_TIMES * n + READ_MORE};
    ProtobufCAllocator a = {.alloc = take, .free = give, .allocator_data = &b};
    return protobuf_c_message_unpack(of, &a, n, p);
}

void sp_service_free(ProtobufCMessage *m)
{
    if (m)
        /* it is only read */
        protobuf_c_message_free_unpacked(m, (ProtobufCAllocator *)(uintptr_t)&plain);
}

void sp_service_send(sp_grpc_call *c, const ProtobufCMessage *m)
{
    uint8_t *to = sp_grpc_add(c, protobuf_c_message_get_packed_size(m));
    if (to)
        protobuf_c_message_pack(m, to);
}

static sp_grpc_status status_of(const sp_turn_error *e)
{
    if (e->why == SP_WHY_UNKNOWN)
        return SP_GRPC_FAILED_PRECONDITION;
    switch (e->diag.code) {
    case SP_INVAL: case SP_UNSUP: case SP_FORMAT: return SP_GRPC_INVALID_ARGUMENT;
    case SP_NOTFOUND: return SP_GRPC_NOT_FOUND;
    case SP_LIMIT: case SP_NOMEM: return SP_GRPC_RESOURCE_EXHAUSTED;
    case SP_TIMEOUT: return SP_GRPC_DEADLINE_EXCEEDED;
    case SP_CANCEL: case SP_NET: case SP_AGAIN: case SP_DEV: return SP_GRPC_UNAVAILABLE;
    default: return SP_GRPC_INTERNAL;
    }
}

void sp_service_fail(sp_grpc_call *c, sp_services *s, sp_engine *e, const sp_turn_error *why)
{
    sp_grpc_status status = status_of(why);
    double wait_s = 0;
    if (status == SP_GRPC_RESOURCE_EXHAUSTED) {
        wait_s = sp_engine_backlog(e ? e : s->app->texts) / 2;
        wait_s = wait_s < 1 ? 1 : wait_s > 3600 ? 3600 : wait_s;
    }
    sp_grpc_finish(c, status, why->diag.msg, (unsigned)(1000 * wait_s));
}

/* --- the desk --------------------------------------------------------------------------------- */

typedef struct work {
    sp_op op;
    sp_services *s;
    _Atomic size_t *busy; /* operations of its desk; NULL: they are not counted */
    uint64_t call;
    void (*fn)(void *arg);
    void *arg;
    void (*release)(void *of);
    void *of;
} work;

static sp_err run(void *self, sp_op *op)
{
    work *w = (work *)op;
    (void)self;
    w->fn(w->arg);
    if (w->busy)
        atomic_fetch_sub(w->busy, 1);
    return SP_OK;
}

static void ring(void *arg)
{
    const work *w = arg;
    sp_grpc_wake(w->s->g, w->call);
}

static void fini_work(sp_op *op)
{
    work *w = (work *)op;
    if (w->release)
        w->release(w->of);
}

sp_err sp_service_defer_for(sp_op **out, sp_services *s, bool slow, uint64_t call,
                            void (*fn)(void *arg), void *arg, void (*release)(void *of), void *of,
                            sp_diag *d)
{
    size_t least = 0;
    for (size_t i = 1; i < SERVICE_SLOW && slow; i++)
        least = atomic_load(&s->n_slow[i]) < atomic_load(&s->n_slow[least]) ? i : least;
    work *w = sp_op_new(slow ? s->slow[least] : s->desk, sizeof *w);
    if (!w)
        return SP_FAIL(d, SP_NOMEM, "request");
    w->s = s;
    w->busy = slow ? &s->n_slow[least] : NULL;
    w->call = call;
    w->fn = fn;
    w->arg = arg;
    w->op.fini = fini_work;
    if (w->busy)
        atomic_fetch_add(w->busy, 1);
    sp_err err = sp_op_submit(&w->op, ring, w, d);
    if (err != SP_OK) {
        if (w->busy)
            atomic_fetch_sub(w->busy, 1);
        sp_op_put(&w->op);
        return err;
    }
    w->release = release; /* read when both have let go, and the caller has not */
    w->of = of;
    *out = &w->op;
    return SP_OK;
}

/* --- who may call ----------------------------------------------------------------------------- */

/* A key as HTTP takes it, from the fields of a call. */
static const char *key_of(const sp_grpc_call *c)
{
    const char *v = sp_grpc_field(c, "authorization");
    if (v && strncasecmp(v, "bearer ", 7) == 0)
        return v + 7 + strspn(v + 7, " ");
    return v ? v : sp_grpc_field(c, "x-api-key");
}

static bool gate(void *app, sp_grpc_call *c, const sp_grpc_method *m, char who[64])
{
    const sp_services *s = app;
    bool all;
    if (m->open || sp_auth_check(s->app->auth, key_of(c), who, &all))
        return true;
    sp_gate_count_key(s->app->gate);
    sp_grpc_finish(c, SP_GRPC_UNAUTHENTICATED, "a valid key is needed: authorization: Bearer KEY",
                   0);
    return false;
}

/* --- health ----------------------------------------------------------------------------------- */

bool sp_service_is_open(const sp_services *s, const char *name)
{
    size_t n = strlen(name);
    for (size_t i = 0; i < s->n_method; i++)
        if (strncmp(s->method[i].path + 1, name, n) == 0 && s->method[i].path[1 + n] == '/')
            return true;
    return false;
}

typedef Grpc__Health__V1__HealthCheckResponse__ServingStatus serving;

typedef struct watch {
    sp_services *s;
    sp_grpc_call *c;
    serving told;
    bool known, first;
} watch;

static serving serving_of(const sp_services *s)
{
    return atomic_load(&s->app->draining)
               ? GRPC__HEALTH__V1__HEALTH_CHECK_RESPONSE__SERVING_STATUS__NOT_SERVING
               : GRPC__HEALTH__V1__HEALTH_CHECK_RESPONSE__SERVING_STATUS__SERVING;
}

static void tell_health(sp_grpc_call *c, serving v)
{
    Grpc__Health__V1__HealthCheckResponse r = GRPC__HEALTH__V1__HEALTH_CHECK_RESPONSE__INIT;
    r.status = v;
    sp_service_send(c, &r.base);
}

static void watch_pull(void *arg)
{
    watch *w = arg;
    serving now = w->known
                      ? serving_of(w->s)
                      : GRPC__HEALTH__V1__HEALTH_CHECK_RESPONSE__SERVING_STATUS__SERVICE_UNKNOWN;
    if (w->first && w->told == now)
        return;
    w->first = true;
    w->told = now;
    tell_health(w->c, now);
}

static void watch_close(void *arg)
{
    atomic_fetch_sub(&((watch *)arg)->s->n_watch, 1);
    sp_mem_free(arg);
}

/* false: the call is finished. *known: there is such a service, or the server itself is meant. */
static bool read_health(bool *known, const sp_services *s, sp_grpc_call *c, const uint8_t *p,
                        size_t n)
{
    ProtobufCMessage *m =
        sp_service_read(&grpc__health__v1__health_check_request__descriptor, p, n);
    if (!m) {
        sp_grpc_finish(c, SP_GRPC_INVALID_ARGUMENT, "the message cannot be read", 0);
        return false;
    }
    const char *name = ((Grpc__Health__V1__HealthCheckRequest *)m)->service;
    *known = !name[0] || sp_service_is_open(s, name);
    sp_service_free(m);
    return true;
}

static void health_check(void *app, sp_grpc_call *c, const uint8_t *p, size_t n)
{
    sp_services *s = app;
    bool known;
    if (!read_health(&known, s, c, p, n))
        return;
    if (known)
        tell_health(c, serving_of(s));
    sp_grpc_finish(c, known ? SP_GRPC_OK : SP_GRPC_NOT_FOUND,
                   known ? NULL : "there is no such service here", 0);
}

static void health_watch(void *app, sp_grpc_call *c, const uint8_t *p, size_t n)
{
    sp_services *s = app;
    bool known;
    if (!read_health(&known, s, c, p, n))
        return;
    watch *w = sp_mem_alloc(sizeof *w);
    if (!w) {
        sp_grpc_finish(c, SP_GRPC_RESOURCE_EXHAUSTED, "no memory", 1000);
        return;
    }
    *w = (watch){.s = s, .c = c, .known = known};
    atomic_fetch_add(&s->n_watch, 1);
    sp_grpc_set_task(c, &(sp_grpc_task){w, watch_pull, watch_close});
    watch_pull(w);
}

/* --- life ------------------------------------------------------------------------------------- */

sp_err sp_role_read(unsigned *out, const char *list, sp_diag *d)
{
    static const struct {
        const char *name;
        unsigned role;
    } of[] = {{"all", SP_ROLE_ALL},
              {"retrieval", SP_ROLE_RETRIEVAL},
              {"reasoning", SP_ROLE_REASONING},
              {"generation", SP_ROLE_GENERATION}};
    *out = 0;
    for (const char *p = list; *p;) {
        size_t n = strcspn(p, ","), i = 0;
        while (i < 4 && (strlen(of[i].name) != n || strncmp(of[i].name, p, n) != 0))
            i++;
        if (i == 4)
            return SP_FAIL(d, SP_INVAL,
                           "role: '%.*s' is none of all, retrieval, reasoning, generation",
                           (int)(n < 40 ? n : 40), p);
        *out |= of[i].role;
        p += n + (p[n] == ',');
    }
    return *out ? SP_OK : SP_FAIL(d, SP_INVAL, "role: none is named");
}

static void offer(sp_services *s)
{
    static const struct {
        unsigned roles; /* one of them; 0: always */
        sp_grpc_method method;
    } of[] = {
        {SP_ROLE_GENERATION,
         {"/sparing.v1.Generation/Generate", SERVICE_PROMPT, false, false, sp_service_generate}},
        {SP_ROLE_REASONING,
         {"/sparing.v1.Reasoning/Reason", SERVICE_PROMPT, false, false, sp_service_reason}},
        {SP_ROLE_REASONING,
         {"/sparing.v1.Reasoning/ReasonAhead", SERVICE_PROMPT, false, false,
          sp_service_reason_ahead}},
        {SP_ROLE_REASONING | SP_ROLE_GENERATION,
         {"/sparing.v1.Pages/Fetch", SERVICE_PROMPT, false, false, sp_service_fetch}},
        {SP_ROLE_RETRIEVAL,
         {"/sparing.v1.Retrieval/Retrieve", SERVICE_SMALL, false, false, sp_service_retrieve}},
        {0, {"/grpc.health.v1.Health/Check", SERVICE_SMALL, false, true, health_check}},
        {0, {"/grpc.health.v1.Health/Watch", SERVICE_SMALL, false, true, health_watch}},
        {0,
         {"/grpc.reflection.v1.ServerReflection/ServerReflectionInfo", SERVICE_SMALL, true, true,
          sp_service_reflect}},
        {0,
         {"/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo", SERVICE_SMALL, true,
          true, sp_service_reflect}}};
    for (size_t i = 0; i < sizeof of / sizeof of[0]; i++)
        if (!of[i].roles || of[i].roles & s->roles)
            s->method[s->n_method++] = of[i].method;
}

sp_err sp_services_start(sp_services **out, sp_app *app, const sp_services_cfg *cfg, sp_diag *d)
{
    const sp_desk_cfg desk = {.name = "gRPC calls", .run = run};
    sp_services *s = sp_mem_alloc(sizeof *s);
    if (!s)
        return SP_FAIL(d, SP_NOMEM, "grpc");
    s->app = app;
    s->roles = cfg->roles;
    s->files = sp_asset_named("services.desc");
    offer(s);
    const sp_grpc_cfg grpc = {.host = cfg->host,
                              .port = cfg->port,
                              .method = s->method,
                              .n_method = s->n_method,
                              .max_message = SERVICE_SMALL,
                              .max_bytes = cfg->max_bytes,
                              .max_conn = cfg->max_conn,
                              .max_calls = MAX_CALLS,
                              .gate = gate,
                              .app = s,
                              .metrics = app->metrics,
                              .tls = cfg->tls};
    s->peers = cfg->peers;
    s->peer_tls = cfg->peer_tls;
    s->fetched = sp_metric_counter(app->metrics, "sparing_pages_fetched_total",
                                   "KV pages taken from other servers.", NULL);
    s->states = sp_metric_counter(app->metrics, "sparing_states_fetched_total",
                                  "Snapshots of recurrent layers' states taken from other servers.",
                                  NULL);
    s->given_ahead = sp_metric_counter(app->metrics, "sparing_pages_given_total",
                                       "KV pages given to other servers, by whether the prompt "
                                       "was still being computed.",
                                       "when=\"ahead\"");
    s->given_after = sp_metric_counter(app->metrics, "sparing_pages_given_total",
                                       "KV pages given to other servers, by whether the prompt "
                                       "was still being computed.",
                                       "when=\"after\"");
    s->whole = sp_metric_counter(app->metrics, "sparing_tickets_total",
                                 "Tickets to pages of other servers.", "result=\"whole\"");
    s->broken = sp_metric_counter(app->metrics, "sparing_tickets_total",
                                  "Tickets to pages of other servers.", "result=\"broken\"");
    s->slower = sp_metric_counter(app->metrics, "sparing_tickets_total",
                                  "Tickets to pages of other servers.", "result=\"slower\"");
    s->refused = sp_metric_counter(app->metrics, "sparing_tickets_total",
                                   "Tickets to pages of other servers.", "result=\"refused\"");
    sp_err err = sp_desk_start(&s->desk, &desk, d);
    for (size_t i = 0; i < SERVICE_SLOW && err == SP_OK; i++)
        err = sp_desk_start(&s->slow[i], &desk, d);
    if (err == SP_OK)
        err = sp_grpc_new(&s->g, &grpc, d);
    if (err == SP_OK) {
        snprintf(s->name, sizeof s->name, "%.100s:%u", cfg->name ? cfg->name : cfg->host,
                 sp_grpc_port(s->g));
        *out = s;
    } else {
        sp_services_stop(s);
    }
    return err;
}

uint16_t sp_services_port(const sp_services *s)
{
    return sp_grpc_port(s->g);
}

void sp_services_quiesce(sp_services *s)
{
    sp_grpc_quiesce(s->g);
}

size_t sp_services_busy_count(const sp_services *s)
{
    return sp_grpc_open_count(s->g) - atomic_load(&s->n_watch);
}

void sp_services_stop(sp_services *s)
{
    if (!s)
        return;
    if (s->g)
        sp_grpc_stop(s->g);
    for (size_t i = 0; i < SERVICE_SLOW; i++)
        sp_desk_stop(s->slow[i]);
    sp_desk_stop(s->desk); /* finishes what calls have left, which may still wake */
    sp_grpc_free(s->g);
    sp_mem_free(s);
}
