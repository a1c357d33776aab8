#include "pipe/models_int.h"

#include "pipe/forget.h"

#include <strings.h>

/* --- names
 * -------------------------------------------------------------------------------------- */

/* Bytes of a name without what clients add to it. */
static size_t bare(const char *name)
{
    static const char *const tail[] = {":latest", ".gguf"};
    size_t n = strlen(name);
    for (size_t i = 0; i < sizeof tail / sizeof tail[0]; i++) {
        size_t k = strlen(tail[i]);
        if (n > k && strncasecmp(name + n - k, tail[i], k) == 0)
            n -= k;
    }
    return n;
}

bool sp_model_same_name(const char *a, const char *b)
{
    size_t n = bare(a);
    return n == bare(b) && strncasecmp(a, b, n) == 0;
}

const char *sp_models_real_name(const sp_models *m, const char *asked)
{
    size_t n = bare(asked);
    for (const char *const *p = m->cfg.aliases; p && *p; p++) {
        const char *eq = strchr(*p, '=');
        if (eq && (size_t)(eq - *p) == n && strncasecmp(*p, asked, n) == 0)
            return eq + 1;
    }
    return asked;
}

/* The lock is held. */
sp_model_slot *sp_models_slot(sp_models *m, const char *name)
{
    for (size_t i = 0; i < m->n_slot; i++)
        if (sp_model_same_name(m->slot[i]->name, name))
            return m->slot[i];
    return NULL;
}

const char *sp_models_find(sp_models *m, const char *asked)
{
    sp_lock_get(&m->lock);
    const char *name = asked ? sp_models_real_name(m, asked) : m->fallback;
    /* an alias does not hide a model */
    const sp_model_slot *s = asked ? sp_models_slot(m, asked) : NULL;
    if (!s && name)
        s = sp_models_slot(m, name);
    sp_lock_put(&m->lock);
    return s ? s->name : NULL;
}

void sp_models_names(sp_models *m, char *out, size_t cap)
{
    size_t n = 0;
    out[0] = 0;
    sp_lock_get(&m->lock);
    for (size_t i = 0; i < m->n_slot; i++) {
        const sp_model_slot *s = m->slot[i];
        if (s->facts.is_encoder)
            continue;
        if (n + strlen(s->name) + 8 >= cap) {
            snprintf(out + n, cap - n, n ? ", …" : "…");
            break;
        }
        n += (size_t)snprintf(out + n, cap - n, n ? ", %s" : "%s", s->name);
    }
    sp_lock_put(&m->lock);
}

/* --- what is known
 * ------------------------------------------------------------------------------ */

sp_err sp_models_add(sp_models *m, const char *name, const char *path, sp_diag *d)
{
    sp_model_slot *s = sp_mem_alloc(sizeof *s);
    char *copy = sp_mem_strdup(path);
    sp_err err = s && copy ? SP_OK : SP_FAIL(d, SP_NOMEM, "models");
    if (err == SP_OK) {
        snprintf(s->name, sizeof s->name, "%s", name);
        s->path = copy;
        s->keep_s = (double)NAN;
        m->cfg.opener.look(m->cfg.opener.arg, &s->facts, path);
        sp_lock_get(&m->lock);
        if (sp_models_slot(m, s->name))
            err = SP_FAIL(d, SP_INVAL, "model: two of them are called %.100s", s->name);
        else if (m->n_slot == SP_MODELS)
            err = SP_FAIL(d, SP_LIMIT, "model: more than %d are known", SP_MODELS);
        else
            m->slot[m->n_slot++] = s;
        sp_lock_put(&m->lock);
    }
    if (err != SP_OK) {
        sp_mem_free(copy);
        sp_mem_free(s);
    }
    return err;
}

bool sp_models_has_path(sp_models *m, const char *path)
{
    bool has = false;
    sp_lock_get(&m->lock);
    for (size_t i = 0; i < m->n_slot; i++)
        has = has || strcmp(m->slot[i]->path, path) == 0;
    sp_lock_put(&m->lock);
    return has;
}

void sp_models_set_default(sp_models *m, const char *name)
{
    const char *own = name ? sp_models_find(m, name) : NULL;
    sp_lock_get(&m->lock);
    m->fallback = own;
    sp_lock_put(&m->lock);
}

const sp_models_cfg *sp_models_config(const sp_models *m)
{
    return &m->cfg;
}

sp_err sp_models_hold(sp_served **out, sp_models *m, const char *name, sp_diag *d)
{
    sp_err err = SP_OK;
    sp_lock_get(&m->lock);
    sp_model_slot *s = sp_models_slot(m, name);
    SP_ASSERT(s && s->served && !s->stays);
    size_t bytes = m->beside_bytes + s->bytes;
    if (bytes >= m->cfg.cap_bytes) {
        err = SP_FAIL(d, SP_NOMEM,
                      "memory: encoders take %zu MiB of %zu MiB, and leave nothing for models",
                      bytes >> 20, m->cfg.cap_bytes >> 20);
    } else {
        m->beside_bytes = bytes;
        s->stays = true;
        s->n_use++;
        *out = s->served;
    }
    sp_lock_put(&m->lock);
    return err;
}

bool sp_models_is_encoder(sp_models *m, const char *name)
{
    sp_lock_get(&m->lock);
    const sp_model_slot *s = sp_models_slot(m, name);
    bool is = s && s->facts.is_encoder;
    sp_lock_put(&m->lock);
    return is;
}

size_t sp_models_room(const sp_models *m)
{
    return m->cfg.cap_bytes == SIZE_MAX ? SIZE_MAX : m->cfg.cap_bytes - m->beside_bytes;
}

double sp_models_keep_of(const sp_models *m, const sp_model_slot *s)
{
    return isnan(s->keep_s) ? m->cfg.keep_s : s->keep_s;
}

bool sp_models_row(sp_models *m, size_t i, sp_model_row *out)
{
    sp_lock_get(&m->lock);
    const sp_model_slot *s = i < m->n_slot ? m->slot[i] : NULL;
    if (s) {
        double keep = sp_models_keep_of(m, s),
               left = keep - (double)(sp_clock_ns() - s->used_ns) * 1e-9;
        *out = (sp_model_row){.name = s->name,
                              .path = s->path,
                              .facts = s->facts,
                              .bytes = s->served ? s->bytes : 0,
                              .n_use = s->n_use};
        out->stays = s->stays;
        out->expires_s = keep < 0 || s->stays ? -1 : s->n_use ? keep : left > 0 ? left : 0;
        out->state = s->leaving   ? SP_MODEL_LEAVING
                     : s->served  ? SP_MODEL_READY
                     : s->loading ? SP_MODEL_LOADING
                     : s->why[0]  ? SP_MODEL_FAILED
                                  : SP_MODEL_AWAY;
        memcpy(out->why, s->why, sizeof out->why);
        if (s->served)
            out->id = s->served->id;
    }
    sp_lock_put(&m->lock);
    return s != NULL;
}

const char *sp_model_state_name(sp_model_state s)
{
    static const char *const names[] = {"unloaded", "loading", "loaded", "leaving", "failed"};
    return names[s];
}

bool sp_models_stays(sp_models *m, const char *name)
{
    sp_lock_get(&m->lock);
    const sp_model_slot *s = sp_models_slot(m, name);
    bool stays = s && s->stays;
    sp_lock_put(&m->lock);
    return stays;
}

/* --- use
 * ---------------------------------------------------------------------------------------- */

sp_err sp_models_use(sp_served **out, sp_models *m, const char *name)
{
    sp_lock_get(&m->lock);
    sp_model_slot *s = sp_models_slot(m, name);
    bool here = s && s->served && !s->leaving;
    if (here) {
        s->n_use++;
        *out = s->served;
    }
    sp_lock_put(&m->lock);
    return here ? SP_OK : SP_AGAIN;
}

/* The slot of what is in memory. The lock is held. */
static sp_model_slot *slot_of(sp_models *m, const sp_served *served)
{
    size_t i = 0;
    while (i < m->n_slot && m->slot[i]->served != served)
        i++;
    SP_ASSERT(i < m->n_slot); /* a model in use is in memory */
    return m->slot[i];
}

void sp_models_use_again(sp_models *m, sp_served *served)
{
    sp_lock_get(&m->lock);
    slot_of(m, served)->n_use++;
    sp_lock_put(&m->lock);
}

void sp_models_done(sp_models *m, sp_served *served)
{
    if (!served)
        return;
    sp_lock_get(&m->lock);
    sp_model_slot *s = slot_of(m, served);
    s->n_use--;
    s->used_ns = sp_clock_ns();
    double keep = sp_models_keep_of(m, s);
    bool leaves = s->n_use == 0 && keep >= 0 && keep <= 0;
    s->grace_ns = 0;
    pthread_cond_broadcast(&m->changed);
    sp_lock_put(&m->lock);
    if (leaves)
        sp_desk_wake(m->desk);
}

void sp_models_keep(sp_models *m, const char *name, double seconds)
{
    sp_lock_get(&m->lock);
    sp_model_slot *s = sp_models_slot(m, name);
    if (s && m->cfg.is_list)
        s->keep_s = seconds;
    sp_lock_put(&m->lock);
    if (s && seconds >= 0)
        sp_desk_wake(m->desk);
}

sp_models_op *sp_models_op_new(sp_models *m, const char *name, bool leave)
{
    sp_models_op *op = sp_op_new(m->desk, sizeof *op);
    if (!op)
        return NULL;
    snprintf(op->name, sizeof op->name, "%s", name);
    op->leave = leave;
    op->end_ns = sp_clock_ns() + (uint64_t)(m->cfg.wait_s * 1e9);
    return op;
}

/* --- fetching
 * ----------------------------------------------------------------------------------- */

static bool on_pull(void *arg, const char *file, uint64_t done, uint64_t total)
{
    sp_models_pull *p = arg;
    sp_lock_get(&p->models->lock);
    snprintf(p->file, sizeof p->file, "%s", file);
    p->done = done;
    p->total = total;
    bool stop = p->models->stop;
    sp_lock_put(&p->models->lock);
    return !stop && !sp_op_is_left(&p->op);
}

static sp_err run_pull(void *self, sp_op *op)
{
    sp_models *m = self;
    sp_models_pull *p = (sp_models_pull *)op;
    return m->cfg.opener.pull(m->cfg.opener.arg, p->what, on_pull, p, &op->diag);
}

sp_models_pull *sp_models_pull_new(sp_models *m, const char *what)
{
    sp_models_pull *p = m->pulls ? sp_op_new(m->pulls, sizeof *p) : NULL;
    if (!p)
        return NULL;
    p->models = m;
    snprintf(p->what, sizeof p->what, "%s", what);
    return p;
}

void sp_models_pull_at(sp_models_pull *p, char file[SP_MODEL_NAME], uint64_t *done, uint64_t *total)
{
    sp_lock_get(&p->models->lock);
    snprintf(file, SP_MODEL_NAME, "%s", p->file);
    *done = p->done;
    *total = p->total;
    sp_lock_put(&p->models->lock);
}

/* --- all of them
 * --------------------------------------------------------------------------------- */

typedef struct waiter {
    sp_models *m;
    bool done;
} waiter;

static void on_done(void *arg)
{
    waiter *w = arg;
    sp_lock_get(&w->m->lock);
    w->done = true;
    pthread_cond_broadcast(&w->m->changed);
    sp_lock_put(&w->m->lock);
}

sp_err sp_models_bring(sp_models *m, const char *name, char why[SP_MODEL_WHY], sp_diag *d)
{
    waiter w = {m, false};
    sp_models_op *op = sp_models_op_new(m, name, false);
    if (!op)
        return SP_FAIL(d, SP_NOMEM, "models");
    sp_err err = sp_op_submit(&op->op, on_done, &w, d);
    sp_lock_get(&m->lock);
    while (err == SP_OK && !w.done)
        sp_lock_wait(&m->lock, &m->changed, 0);
    sp_lock_put(&m->lock);
    if (err == SP_OK && op->op.diag.code)
        err = op->op.diag.code;
    if (err != SP_OK && d)
        *d = op->op.diag.code ? op->op.diag : *d;
    memcpy(why, op->why, SP_MODEL_WHY);
    sp_op_put(&op->op);
    return err;
}

static sp_engine *engine_of(const sp_model_slot *s)
{
    return s->served ? s->served->env.engine : NULL; /* encoders have one together, which is the
                                                        server's */
}

bool sp_models_are_idle(sp_models *m)
{
    bool idle = true;
    sp_lock_get(&m->lock);
    for (size_t i = 0; i < m->n_slot; i++)
        idle = idle && (!engine_of(m->slot[i]) || sp_engine_is_idle(engine_of(m->slot[i])));
    sp_lock_put(&m->lock);
    return idle;
}

void sp_models_drain(sp_models *m)
{
    sp_lock_get(&m->lock);
    m->stop = true;
    for (size_t i = 0; i < m->n_slot; i++)
        if (engine_of(m->slot[i]))
            sp_engine_drain(engine_of(m->slot[i]));
    pthread_cond_broadcast(&m->changed);
    sp_lock_put(&m->lock);
}

static sp_model_slot *slot_at(sp_models *m, size_t i)
{
    sp_lock_get(&m->lock);
    sp_model_slot *s = i < m->n_slot ? m->slot[i] : NULL;
    sp_lock_put(&m->lock);
    return s;
}

/* Holds a slot for forgetting: its model in use, or, while that is away, its folder. */
static sp_served *hold(sp_models *m, sp_model_slot *s)
{
    sp_lock_get(&m->lock);
    while (s->busy || s->opening)
        sp_lock_wait(&m->lock, &m->changed, 0);
    s->n_use += s->served != NULL;
    s->busy = s->served == NULL;
    sp_served *served = s->served;
    sp_lock_put(&m->lock);
    return served;
}

static void let_go(sp_models *m, sp_model_slot *s)
{
    sp_lock_get(&m->lock);
    s->n_use -= s->served != NULL;
    s->busy = false;
    pthread_cond_broadcast(&m->changed);
    sp_lock_put(&m->lock);
}

static sp_err forget_away(sp_models *m, const sp_model_slot *s, const char *tenant,
                          const char *conv, size_t *n_page, sp_diag *d)
{
    uint8_t tag[SP_KV_TAG], conv_tag[SP_KV_TAG];
    if (sp_kv_tag(tag, tenant) != SP_OK || (conv && sp_kv_tag(conv_tag, conv) != SP_OK))
        return SP_FAIL(d, SP_NOMEM, "deleting pages");
    sp_kv_forget f = {.tag = tag, .conv = conv ? conv_tag : NULL};
    sp_err err = m->cfg.opener.forget(m->cfg.opener.arg, s->name, &f, d);
    *n_page = f.n_page;
    return err;
}

sp_err sp_models_forget(sp_models *m, const char *tenant, const char *conv, size_t *n_page,
                        sp_diag *d)
{
    sp_err err = SP_OK;
    size_t i = 0;
    *n_page = 0;
    for (sp_model_slot *s; err == SP_OK && (s = slot_at(m, i)); i++) {
        size_t n = 0;
        sp_served *served = hold(m, s);
        err = served && served->encoder ? SP_OK
              : served ? sp_forget_pages(served->env.engine, served->tier, tenant, conv, &n, d)
                       : forget_away(m, s, tenant, conv, &n, d);
        let_go(m, s);
        *n_page += n;
    }
    return err;
}

sp_err sp_models_new(sp_models **out, const sp_models_cfg *cfg, sp_diag *d)
{
    sp_models *m = sp_mem_alloc(sizeof *m);
    if (!m)
        return SP_FAIL(d, SP_NOMEM, "models");
    m->cfg = *cfg;
    sp_lock_init(&m->lock, SP_RANK_MODELS);
    sp_lock_cond_init(&m->changed);
    static const char *const what = "Models brought into memory and sent away.";
    m->loads =
        sp_metric_counter(cfg->metrics, "sparing_model_moves_total", what, "kind=\"loaded\"");
    m->failures =
        sp_metric_counter(cfg->metrics, "sparing_model_moves_total", what, "kind=\"failed\"");
    m->unloads =
        sp_metric_counter(cfg->metrics, "sparing_model_moves_total", what, "kind=\"unloaded\"");
    m->held = sp_metric_gauge(cfg->metrics, "sparing_models_bytes",
                              "Memory that the models in it may take, pages included.", NULL);
    sp_err err = sp_desk_start(&m->desk,
                               &(sp_desk_cfg){"models", sp_models_run, sp_models_idle, m, NULL}, d);
    if (err == SP_OK && cfg->opener.pull)
        err = sp_desk_start(&m->pulls, &(sp_desk_cfg){"pulls", run_pull, NULL, m, NULL}, d);
    if (err == SP_OK)
        *out = m;
    else
        sp_models_free(m);
    return err;
}

void sp_models_free(sp_models *m)
{
    if (!m)
        return;
    sp_models_drain(m);
    sp_desk_stop(m->pulls);
    sp_desk_stop(m->desk);
    for (size_t i = 0; i < m->n_slot; i++) {
        sp_model_slot *s = m->slot[i];
        SP_ASSERT(s->n_use == 0);
        if (s->served)
            m->cfg.opener.close(m->cfg.opener.arg, s->served);
        sp_mem_free(s->path);
        sp_mem_free(s);
    }
    sp_lock_fini(&m->lock);
    pthread_cond_destroy(&m->changed);
    sp_mem_free(m);
}
