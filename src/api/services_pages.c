/* Pages from server to server: Fetch gives those of a ticket, and take_pages asks another server
 * for them.
 *
 * Pages travel as records of a few pages (kv/seq.h), in chunks. Whoever gives them copies them
 * between two steps; whoever takes them checks each chunk, each part and each name before a page is
 * known to anybody. What is not there is computed. */
#include "api/services_turn.h"

#include "base/clock.h"
#include "base/log.h"
#include "kv/seq.h"
#include "net/rpc.h"

#include <stdio.h>
#include <string.h>

enum {
    CHUNK = 128 << 10, /* stays in a core's cache from one copy to the next */
    RECORD_MOST = 256 << 20,
    WAIT_NS = 100000000,
    AHEAD_S = 60, /* without pages of a prompt that is being computed, or waits for its turn */
    JUDGE_NS = 1000000000 /* of a transfer, before it is compared with computing: a busy
                              machine's pauses are no measure */
};
/* A transfer is given up when what is left of it takes so many times what computing it would: both
 * are estimates, and what has come is not lost. */
static const double SLOWER = 2;

/* --- giving ----------------------------------------------------------------------------------- */

/* What a job between two steps does, and what came of it. Owner: the job. */
typedef struct give_box {
    char who[64];
    sp_sha256 *id; /* [n] */
    size_t n, first;
    bool state;    /* the state behind them; else the pages */
    sp_kv_bytes record; /* out */
    size_t n_page;
    sp_err err;
} give_box;

typedef struct fetch {
    sp_services *s;
    sp_grpc_call *c;
    uint64_t id;
    sp_served *on;
    sp_sha256 *name; /* [n] */
    size_t n, at, n_given;
    bool ahead;     /* they may still be computed: the ticket says so */
    bool is_behind; /* those that were asked for last were being computed then */
    bool has_state; /* the model has one, and it was not asked for yet */
    sp_job *job;
    give_box *box;
    sp_kv_bytes record; /* n 0: none is being sent */
    sp_kv_bytes spare;  /* of one that was sent, for the next to be copied into */
    size_t n_page, sent; /* of record */
    uint32_t n_records;
} fetch;

/* The turn that computes page `at`, of a ticket that came ahead; NULL: there is none. */
static sp_service_turn *computes(const fetch *f, size_t at)
{
    return f->ahead && at < f->n
               ? sp_service_turn_ahead(f->s, sp_grpc_who(f->c), &f->name[at], at)
               : NULL;
}

static void wake(void *arg)
{
    const fetch *f = arg;
    sp_grpc_wake(f->s->g, f->id);
}

static void run_give(void *arg, sp_kv_pool *p)
{
    give_box *b = arg;
    b->err = b->state ? sp_kv_pool_export_state(&b->record, p, b->who, b->id, b->n)
                      : sp_kv_pool_export(&b->record, &b->n_page, p, b->who, b->id, b->n, b->first);
}

static void free_give(void *arg)
{
    give_box *b = arg;
    sp_mem_free(b->record.p);
    sp_mem_free(b->id);
    sp_mem_free(b);
}

/* The next pages, or behind all of them the state. */
static sp_err ask_next(fetch *f, sp_diag *d)
{
    give_box *b = sp_mem_alloc(sizeof *b);
    if (!b)
        return SP_FAIL(d, SP_NOMEM, "request");
    b->state = f->at == f->n;
    b->first = b->state ? 0 : f->at;
    b->n = b->state || f->n - f->at < SP_KV_HAND ? f->n - b->first : SP_KV_HAND;
    b->id = sp_mem_array(b->n, sizeof *b->id);
    if (!b->id) {
        sp_mem_free(b);
        return SP_FAIL(d, SP_NOMEM, "request");
    }
    f->has_state = f->has_state && !b->state;
    f->is_behind = computes(f, f->at) != NULL;
    memcpy(b->id, f->name + b->first, b->n * sizeof *b->id);
    snprintf(b->who, sizeof b->who, "%s", sp_grpc_who(f->c));
    b->record = f->spare;
    f->spare = (sp_kv_bytes){0};
    sp_err err = sp_job_call(&f->job, f->on->env.engine,
                             &(sp_job_call_cfg){run_give, free_give, b, wake, f}, d);
    if (err == SP_OK)
        f->box = b;
    else
        free_give(b);
    return err;
}

/* Is page `at` still being computed? Then the call is pulled again, when that has ended or with the
 * next tick. */
static bool follows(const fetch *f, size_t at)
{
    sp_service_turn *t = computes(f, at);
    if (t)
        t->follower = f->id;
    return t != NULL;
}

/* What was not there, may it be there in a moment? Then it is asked for again. */
static bool waits(const fetch *f)
{
    if (follows(f, f->at))
        return true;
    if (f->is_behind) /* its turn has ended meanwhile */
        sp_grpc_wake(f->s->g, f->id);
    return f->is_behind;
}

/* The job has ended: its record is this call's. false: not yet, or the call is finished. */
static bool take_record(fetch *f)
{
    sp_event *ev = sp_job_next(f->job);
    if (!ev)
        return false;
    bool fine = ev->kind == SP_EVENT_FINISH && ev->finish == SP_FINISH_STOP;
    sp_event_free(ev);
    sp_err err = fine ? f->box->err : SP_CANCEL;
    if (err == SP_OK) {
        f->record = f->box->record;
        f->n_page = f->box->n_page;
        f->at += f->box->n_page;
        f->box->record = (sp_kv_bytes){0};
        f->sent = 0;
    }
    sp_job_put(f->job);
    f->job = NULL;
    if (err == SP_NOTFOUND && waits(f))
        return false;
    if (err == SP_NOTFOUND && f->n_given) { /* as far as they are there */
        f->n = f->at;
        return true;
    }
    if (err != SP_OK)
        sp_grpc_finish(
            f->c, err == SP_NOTFOUND ? SP_GRPC_NOT_FOUND : SP_GRPC_UNAVAILABLE,
            err == SP_NOTFOUND ? "the pages are not in memory" : "the server is shutting down", 0);
    return err == SP_OK;
}

static void send_chunks(fetch *f)
{
    while (f->sent < f->record.n && sp_grpc_room(f->c)) {
        Sparing__V1__Chunk m = SPARING__V1__CHUNK__INIT;
        size_t n = f->record.n - f->sent < CHUNK ? f->record.n - f->sent : CHUNK;
        m.record = f->n_records;
        m.record_bytes = f->record.n;
        m.offset = f->sent;
        m.data = (ProtobufCBinaryData){n, f->record.p + f->sent};
        m.sum = sp_kv_sum(f->record.p + f->sent, n);
        m.early = computes(f, f->n - 1) != NULL;
        f->sent += n;
        sp_service_send(f->c, &m.base);
    }
    if (f->sent < f->record.n)
        return;
    sp_mem_free(f->spare.p);
    f->spare = f->record;
    f->record = (sp_kv_bytes){0};
    f->n_records++;
    f->n_given++;
    sp_metric_add(computes(f, f->n - 1) ? f->s->given_ahead : f->s->given_after,
                  (double)f->n_page);
}

/* Is there something to ask for now? The state is there when all of the prompt is computed. */
static bool is_due(const fetch *f)
{
    return f->at < f->n || (f->has_state && !follows(f, f->n - 1));
}

/* While a record is sent, the next one is copied. */
static void pull(void *arg)
{
    fetch *f = arg;
    sp_diag d = {0};
    do {
        if (f->job && !f->record.n && !take_record(f))
            return;
        if (!f->job && is_due(f) && ask_next(f, &d) != SP_OK) {
            sp_service_fail(f->c, f->s, f->on->env.engine, &(sp_turn_error){.diag = d});
            return;
        }
        if (f->record.n)
            send_chunks(f);
    } while (f->job && !f->record.n);
    if (!f->record.n && f->at == f->n && !f->has_state)
        sp_grpc_finish(f->c, SP_GRPC_OK, NULL, 0);
}

static void close_fetch(void *arg)
{
    fetch *f = arg;
    sp_job_put(f->job);
    sp_models_done(f->s->app->models, f->on);
    sp_mem_free(f->record.p);
    sp_mem_free(f->spare.p);
    sp_mem_free(f->name);
    sp_mem_free(f);
}

static sp_err begin(fetch *f, const Sparing__V1__FetchRequest *q, sp_turn_error *e)
{
    const Sparing__V1__Ticket *t = q->ticket;
    const char *model = t ? sp_models_find(f->s->app->models, t->model[0] ? t->model : NULL) : NULL;
    if (!t || q->first >= t->n_page)
        return SP_FAIL(&e->diag, SP_INVAL, "a ticket with pages from number first on is needed");
    if (!model || sp_models_use(&f->on, f->s->app->models, model) != SP_OK)
        return SP_FAIL(&e->diag, SP_NOTFOUND, "the model is not in memory here");
    if (t->model_id.len != sizeof f->on->id.b ||
        memcmp(t->model_id.data, f->on->id.b, sizeof f->on->id.b) != 0)
        return SP_FAIL(&e->diag, SP_NOTFOUND, "the model of this name is another one here");
    f->n = t->n_page;
    f->at = q->first;
    f->ahead = t->ahead;
    f->has_state = sp_kv_pool_states(sp_engine_config(f->on->env.engine)->pool) != NULL;
    f->name = sp_mem_array(f->n, sizeof *f->name);
    if (!f->name)
        return SP_FAIL(&e->diag, SP_NOMEM, "request");
    for (size_t i = 0; i < f->n; i++) {
        if (t->page[i].len != sizeof f->name[i].b)
            return SP_FAIL(&e->diag, SP_INVAL, "ticket.page[%zu] is no identity of %zu bytes", i,
                           sizeof f->name[i].b);
        memcpy(f->name[i].b, t->page[i].data, sizeof f->name[i].b);
    }
    return ask_next(f, &e->diag);
}

void sp_service_fetch(void *app, sp_grpc_call *c, const uint8_t *p, size_t n)
{
    sp_turn_error e = {0};
    fetch *f = sp_mem_alloc(sizeof *f);
    ProtobufCMessage *m = sp_service_read(&sparing__v1__fetch_request__descriptor, p, n);
    sp_err err = !f   ? SP_FAIL(&e.diag, SP_NOMEM, "request")
                 : !m ? SP_FAIL(&e.diag, SP_FORMAT, "the message cannot be read")
                      : SP_OK;
    if (f)
        *f = (fetch){.s = app, .c = c, .id = sp_grpc_id(c)};
    if (err == SP_OK)
        err = begin(f, (Sparing__V1__FetchRequest *)m, &e);
    if (err == SP_OK) {
        sp_grpc_set_task(c, &(sp_grpc_task){f, pull, close_fetch});
    } else {
        sp_service_fail(c, app, NULL, &e);
        if (f)
            close_fetch(f);
    }
    sp_service_free(m);
}

/* --- taking ----------------------------------------------------------------------------------- */

/* Owner: the job, as above. */
typedef struct take_box {
    sp_kv_hand hand;
    sp_kv_bytes record;
    char salt[SP_SALT_BYTES];
    bool state;
    size_t n_new;
    sp_err err;
} take_box;

/* Owner: the job. */
typedef struct count_box {
    char who[64];
    size_t n, n_known;
    sp_err err;
    sp_sha256 id[];
} count_box;

typedef struct taking {
    sp_service_turn *t;
    const Sparing__V1__Ticket *ticket;
    const char *salt;
    sp_kv_bytes record; /* being received; n 0: none is */
    sp_kv_bytes spare;  /* of one that was taken */
    uint64_t have;
    uint32_t number;
    sp_job *job;     /* puts the last record into the pool; NULL: none is under way */
    take_box *box;   /* its */
    size_t first;    /* pages before this one are here already */
    size_t n_new, n_state;
    bool is_early;     /* all chunks of the record that is being received were */
    bool was_early;    /* the record before it, which the job puts into the pool, was */
    uint64_t early_ns; /* when the last early chunk came; 0: none did */
    /* From here on the peer has only to send, and had sent so much; 0: it computes. */
    uint64_t since_ns, since_bytes;
    bool is_slow;      /* given up for that */
    sp_diag d;
} taking;

static void run_take(void *arg, sp_kv_pool *p)
{
    take_box *b = arg;
    b->err = b->state ? sp_kv_pool_import_state(&b->n_new, p, &b->hand)
                      : sp_kv_pool_import(&b->n_new, p, &b->hand, b->salt[0] ? b->salt : NULL);
}

static void free_take(void *arg)
{
    take_box *b = arg;
    sp_mem_free(b->record.p);
    sp_mem_free(b);
}

/* A state is the one behind a page of the ticket, the first of which is_useful has looked at. */
static bool is_of_ticket(const sp_kv_rec *r, const Sparing__V1__Ticket *t)
{
    return r->first >= 1 && r->first <= t->n_page &&
           t->page[r->first - 1].len == sizeof r->parent.b &&
           memcmp(t->page[r->first - 1].data, r->parent.b, sizeof r->parent.b) == 0;
}

/* The end of a job, or NULL: the caller has left. */
static sp_event *wait_for(sp_job *j, const sp_service_turn *t)
{
    sp_event *ev;
    while (!(ev = sp_job_next(j)) && !atomic_load(&t->left))
        sp_job_wait(j, WAIT_NS);
    return ev;
}

static void run_count(void *arg, sp_kv_pool *p)
{
    count_box *b = arg;
    b->err = sp_kv_pool_count(&b->n_known, p, b->who, b->id, b->n);
}

/* How many of the ticket's first pages are here; 0 where that cannot be told. With states all are
 * asked for: the one that is wanted comes behind them. */
static size_t count_known(const taking *k)
{
    const sp_engine_cfg *cfg = sp_engine_config(k->t->model.on->env.engine);
    size_t n = k->ticket->n_page, n_known = 0;
    sp_job *j;
    if (sp_kv_pool_states(cfg->pool))
        return 0;
    count_box *b = sp_mem_alloc(sizeof *b + n * sizeof *b->id);
    if (!b)
        return 0;
    snprintf(b->who, sizeof b->who, "%s", k->t->who);
    while (b->n < n && k->ticket->page[b->n].len == sizeof *b->id) {
        memcpy(&b->id[b->n], k->ticket->page[b->n].data, sizeof *b->id);
        b->n++;
    }
    if (sp_job_call(&j, k->t->model.on->env.engine,
                    &(sp_job_call_cfg){.fn = run_count, .fini = sp_mem_free, .arg = b},
                    NULL) != SP_OK) {
        sp_mem_free(b);
        return 0;
    }
    sp_event *ev = wait_for(j, k->t);
    if (ev && ev->finish == SP_FINISH_STOP && b->err == SP_OK)
        n_known = b->n_known;
    if (ev)
        sp_event_free(ev);
    sp_job_put(j);
    return n_known;
}

/* Waits until the last record is in the pool. */
static sp_err settle(taking *k)
{
    if (!k->job)
        return SP_OK;
    sp_event *ev = wait_for(k->job, k->t);
    sp_err err = ev && ev->finish == SP_FINISH_STOP ? k->box->err : SP_CANCEL;
    size_t n_new = ev ? k->box->n_new : 0;
    *(k->box->state ? &k->n_state : &k->n_new) += n_new;
    k->t->handed.early_pages += k->was_early && !k->box->state ? n_new : 0;
    if (ev) {
        sp_event_free(ev);
        sp_mem_free(k->spare.p);
        k->spare = k->box->record;
        k->box->record = (sp_kv_bytes){0};
    }
    sp_job_put(k->job);
    k->job = NULL;
    return err == SP_OK ? SP_OK
                        : SP_FAIL(&k->d, err, "pages cannot be taken: %s", sp_err_name(err));
}

/* The record is whole: checked here, put into the pool between two steps, while the next one comes.
 * Takes the record. */
static sp_err put_record(taking *k)
{
    sp_engine *engine = k->t->model.on->env.engine;
    take_box *b = sp_mem_alloc(sizeof *b);
    if (!b)
        return SP_FAIL(&k->d, SP_NOMEM, "pages");
    b->record = k->record;
    k->record = (sp_kv_bytes){0};
    snprintf(b->salt, sizeof b->salt, "%s", k->salt);
    sp_err err = sp_kv_hand_read(&b->hand, sp_engine_config(engine)->pool, k->t->who, b->record.p,
                                 b->record.n, &k->d);
    b->state = err == SP_OK && sp_kv_rec_is_state(&b->hand.head.rec);
    if (b->state && !is_of_ticket(&b->hand.head.rec, k->ticket))
        err = SP_FAIL(&k->d, SP_FORMAT, "a state that is behind no page of the ticket");
    if (err == SP_OK)
        err = settle(k);
    if (err == SP_OK)
        err = sp_job_call(&k->job, engine,
                          &(sp_job_call_cfg){.fn = run_take, .fini = free_take, .arg = b}, &k->d);
    if (err == SP_OK) {
        k->box = b;
        k->was_early = k->is_early;
    } else {
        free_take(b);
    }
    return err;
}

/* Is the rest of the prompt computed sooner than the peer sends its pages? */
static bool is_slower(const taking *k)
{
    const sp_engine_cfg *cfg = sp_engine_config(k->t->model.on->env.engine);
    uint64_t now = sp_clock_ns(), bytes = k->t->handed.bytes;
    size_t page_bytes = sp_kv_page_bytes(sp_kv_pool_shape(cfg->pool)), n = k->ticket->n_page;
    size_t have = k->first + (size_t)(bytes / page_bytes) < n
                      ? k->first + (size_t)(bytes / page_bytes)
                      : n;
    if (!k->since_ns || now - k->since_ns < JUDGE_NS || have == n)
        return false;
    double spent_s = (double)(now - k->since_ns) * 1e-9, came = (double)(bytes - k->since_bytes),
           left = (double)((n - have) * page_bytes);
    double compute_s = sp_engine_prompt_s(k->t->model.on->env.engine, have * SP_PAGE_TOK,
                                          n * SP_PAGE_TOK);
    /* Of what has not begun to come, as long again is the least that can be expected. */
    double left_s = came > 0 ? spent_s * left / came : spent_s;
    return compute_s > 0 && left_s > SLOWER * compute_s;
}

static sp_err take_chunk(taking *k, const Sparing__V1__Chunk *m)
{
    if (!k->record.n) {
        if (m->offset || m->record_bytes == 0 || m->record_bytes > RECORD_MOST)
            return SP_FAIL(&k->d, SP_FORMAT, "a record that does not begin, or is too large");
        sp_mem_free(k->record.p);
        k->record = k->spare;
        k->spare = (sp_kv_bytes){0};
        if (sp_kv_bytes_fit(&k->record, (size_t)m->record_bytes) != SP_OK)
            return SP_FAIL(&k->d, SP_NOMEM, "pages");
        k->have = 0;
        k->number = m->record;
        k->is_early = true;
    }
    if (m->record != k->number || m->record_bytes != k->record.n || m->offset != k->have ||
        m->data.len > k->record.n - k->have || m->data.len == 0)
        return SP_FAIL(&k->d, SP_FORMAT, "chunks do not follow one another");
    if (sp_kv_sum(m->data.data, m->data.len) != m->sum)
        return SP_FAIL(&k->d, SP_CORRUPT, "a chunk is not what was sent");
    memcpy(k->record.p + k->have, m->data.data, m->data.len);
    k->have += m->data.len;
    k->is_early = k->is_early && m->early;
    k->t->handed.bytes += m->data.len;
    k->t->handed.early_bytes += m->early ? m->data.len : 0;
    k->early_ns = m->early ? sp_clock_ns() : k->early_ns;
    if (!m->early && !k->since_ns) {
        k->since_ns = sp_clock_ns();
        k->since_bytes = k->t->handed.bytes;
    }
    return k->have == k->record.n ? put_record(k) : SP_OK;
}

static bool on_message(void *arg, const uint8_t *p, size_t n)
{
    taking *k = arg;
    ProtobufCMessage *m = sp_service_read(&sparing__v1__chunk__descriptor, p, n);
    sp_err err = m ? take_chunk(k, (Sparing__V1__Chunk *)m)
                   : SP_FAIL(&k->d, SP_FORMAT, "a message cannot be read");
    sp_service_free(m);
    return err == SP_OK && !atomic_load(&k->t->left);
}

static bool is_wanted(void *arg)
{
    taking *k = arg;
    k->is_slow = k->is_slow || is_slower(k);
    return !k->is_slow && !atomic_load(&k->t->left);
}

/* Is the target one of ours? Whether TLS is spoken with it is our options', not the ticket's. */
static bool is_peer(bool *tls, const sp_services *s, const char *target)
{
    static const char secure[] = "grpcs://";
    for (const char *const *p = s->peers; p && *p; p++) {
        *tls = strncmp(*p, secure, sizeof secure - 1) == 0;
        if (strcmp(*p + (*tls ? sizeof secure - 1 : 0), target) == 0)
            return true;
    }
    return false;
}

/* Pages that a server of the same model, format and level names as this one does. Where the prompt
 * is known, they are its own. */
static bool is_useful(const sp_service_turn *t, const Sparing__V1__GenerateRequest *m)
{
    const Sparing__V1__Ticket *k = m->ticket;
    const sp_served *on = t->model.on;
    const sp_kv_pool *pool = sp_engine_config(on->env.engine)->pool;
    sp_sha256 first;
    if (k->model_id.len != sizeof on->id.b ||
        memcmp(k->model_id.data, on->id.b, sizeof on->id.b) != 0)
        return false;
    if (!m->prompt || m->prompt->n_token_ids <= SP_PAGE_TOK)
        return m->prompt && m->prompt->n_token_ids == 0;
    return k->page[0].len == sizeof first.b &&
           sp_kv_seq_names(&first, pool, t->who, m->cache_salt[0] ? m->cache_salt : NULL,
                           m->prompt->token_ids, SP_PAGE_TOK) == SP_OK &&
           memcmp(first.b, k->page[0].data, sizeof first.b) == 0;
}

void sp_service_turn_take_pages(void *turn)
{
    sp_service_turn *t = turn;
    const Sparing__V1__GenerateRequest *m = (const Sparing__V1__GenerateRequest *)t->asked;
    Sparing__V1__FetchRequest q = SPARING__V1__FETCH_REQUEST__INIT;
    taking k = {.t = t, .ticket = m->ticket, .salt = m->cache_salt};
    sp_diag d = {0};
    bool tls = false;
    if (atomic_load(&t->left) || !is_peer(&tls, t->s, m->ticket->server) || !is_useful(t, m)) {
        sp_metric_add(t->s->refused, 1);
        return;
    }
    k.first = count_known(&k);
    if (k.first == m->ticket->n_page) { /* nobody needs to be asked */
        sp_metric_add(t->s->whole, 1);
        return;
    }
    q.ticket = m->ticket;
    q.first = (uint32_t)k.first;
    size_t n = sparing__v1__fetch_request__get_packed_size(&q);
    uint8_t *request = sp_mem_alloc(n + 1);
    if (!request)
        return;
    sparing__v1__fetch_request__pack(&q, request);
    const sp_rpc_cfg cfg = {.target = m->ticket->server,
                            .tls = tls ? &t->s->peer_tls : NULL,
                            .method = "/sparing.v1.Pages/Fetch",
                            .authorization = t->auth[0] ? t->auth : NULL,
                            .slow_s = m->ticket->ahead ? AHEAD_S : 0,
                            .request = request,
                            .n_request = n,
                            .cap = 2 * CHUNK,
                            .on_message = on_message,
                            .is_wanted = is_wanted,
                            .arg = &k};
    uint64_t since = sp_clock_ns();
    k.since_ns = m->ticket->ahead ? 0 : since;
    sp_err err = sp_rpc_call(&cfg, &d), last = settle(&k);
    err = err == SP_OK ? last : err;
    t->handed.pages = k.n_new;
    t->handed.ms = sp_clock_ms(since);
    t->handed.late_ms = k.early_ns ? sp_clock_ms(k.early_ns) : t->handed.ms;
    if (err != SP_OK)
        sp_log(SP_LOG_INFO, "pages of %.80s: %s; the rest is computed", m->ticket->server,
               k.is_slow   ? "slower than computing"
               : k.d.code ? k.d.msg
                          : d.msg);
    sp_metric_add(t->s->fetched, (double)k.n_new);
    sp_metric_add(t->s->states, (double)k.n_state);
    sp_metric_add(err == SP_OK ? t->s->whole : k.is_slow ? t->s->slower : t->s->broken, 1);
    sp_mem_free(k.record.p);
    sp_mem_free(k.spare.p);
    sp_mem_free(request);
}
