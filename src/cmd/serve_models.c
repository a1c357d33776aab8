#include "cmd/serve_models.h"

#include "cmd/pull.h"
#include "cmd/serve_encoders.h"
#include "cmd/serve_thinking.h"

#include "base/clock.h"
#include "base/host.h"
#include "base/log.h"
#include "base/mem.h"
#include "kv/pays.h"
#include "model/folder.h"
#include "pipe/version.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { HEAD_PATH = 1100 };
#define AUTO_EPS 0.02f

/* A model in memory with all that it needs. */
typedef struct unit {
    sp_served served;
    sp_loaded l;
    sp_cmd_drafter drafters;
    sp_engine *engine;
    sp_events_source *events; /* NULL: nobody hears of its pages */
    sp_seat seat; /* for what is measured before the engine runs */
} unit;

/* --- one model
 * ---------------------------------------------------------------------------------- */

/* AUTO_EPS from the length on where certified attention pays on this machine. */
static void try_epsilon(unit *u, const sp_serve_models *m)
{
    const sp_kv_shape shape =
        sp_model_kv_shape(u->l.model, sp_kv_format_find(sp_opt_str(m->o, "kv-type")));
    size_t from, n_kv = sp_kv_pool_cap(u->l.pool) * SP_PAGE_TOK,
                 most = n_kv < u->l.n_ctx ? n_kv : u->l.n_ctx;
    sp_cores_enter(m->cores, &u->seat);
    uint64_t t = sp_clock_ns();
    sp_err err =
        sp_kv_pays_from(&from, u->l.dev, &shape, sp_model_arch(u->l.model)->n_head, AUTO_EPS, most);
    sp_cores_leave(m->cores, &u->seat);
    if (err != SP_OK)
        sp_log(SP_LOG_WARN, "certified attention could not be tried (%s): the default epsilon is 0",
               sp_err_name(err));
    if (err != SP_OK || from == SIZE_MAX)
        return;
    u->served.env.eps = AUTO_EPS;
    u->served.env.eps_from = from;
    sp_log(SP_LOG_DEBUG, "certified attention tried in %.0f ms", sp_clock_ms(t));
}

static sp_err start_engine(unit *u, const sp_serve_models *m, const char *name, sp_metrics *metrics,
                           sp_diag *d)
{
    const sp_opts *o = m->o;
    sp_engine_cfg cfg = {.dev = u->l.dev,
                         .model = u->l.model,
                         .tok = u->l.tok,
                         .pool = u->l.pool,
                         .tier = u->l.tier,
                         .cores = m->cores,
                         .metrics = metrics,
                         .tok_weight = sp_model_flops_of(u->l.model).per_tok * 1e-9,
                         .n_ctx = u->l.n_ctx,
                         .max_run = (size_t)sp_opt_int(o, "max-run"),
                         .max_queue = (size_t)sp_opt_int(o, "max-queue"),
                         .chunk_tok = (size_t)sp_opt_int(o, "chunk"),
                         .step_ms = (double)sp_opt_int(o, "step-ms"),
                         .max_wait_s = (double)sp_opt_int(o, "max-wait"),
                         .lost = m->lost,
                         .fcfs = strcmp(sp_opt_str(o, "schedule"), "fcfs") == 0};
    if (sp_metrics_labelled(&cfg.gateway, m->metrics, "model_name", name) != SP_OK)
        return SP_FAIL(d, SP_NOMEM, "%.100s", name);
    cfg.n_draft = sp_cmd_drafters(cfg.draft, &u->drafters);
    return sp_engine_new(&u->engine, &cfg, d);
}

/* Letters that are safe in names of folders. */
static void folder_name(char *out, size_t cap, const char *dir, const char *name)
{
    int n = snprintf(out, cap, "%s/", dir);
    for (size_t i = n > 0 ? (size_t)n : 0; *name && i + 1 < cap; i++, name++) {
        bool safe = (*name >= 'a' && *name <= 'z') || (*name >= 'A' && *name <= 'Z') ||
                    (*name >= '0' && *name <= '9') || (*name && strchr("._-+", *name));
        out[i] = safe ? *name : '_';
        out[i + 1] = 0;
    }
}

/* Folder of a model's pages: --cache-dir itself, or, of several models, one of its own below.
 * false: there is none. */
static bool cache_folder(char *out, size_t cap, const sp_serve_models *m, const char *name)
{
    const char *dir = sp_opt_str(m->o, "cache-dir");
    if (!dir)
        return false;
    if (sp_models_config(m->models)->is_list)
        folder_name(out, cap, dir, name);
    else
        snprintf(out, cap, "%s", dir);
    return true;
}

static void fill_served(unit *u, const sp_serve_models *m, const char *name)
{
    char digest[65];
    sp_served *s = &u->served;
    float eps = s->env.eps;
    size_t eps_from = s->env.eps_from;
    s->env = m->shared;
    s->env.models = m->models;
    s->env.served = s;
    s->env.name = name;
    if (m->shared.prices)
        s->env.price[0] = sp_prices_of(m->shared.prices, SP_PRICE_GENERATION, name);
    s->env.engine = u->engine;
    s->env.tok = u->l.tok;
    s->env.chat = u->l.chat;
    s->env.plan.drafters = u->drafters.which;
    s->env.eps = m->eps >= 0 ? (float)m->eps : eps;
    s->env.eps_from = m->eps >= 0 ? 0 : eps_from;
    s->file = u->l.gguf;
    s->tier = u->l.tier;
    s->own = u;
    if (sp_gguf_str(&s->template, u->l.gguf, "tokenizer.chat_template", NULL) != SP_OK)
        s->template = (sp_str){"", 0};
    s->id = *sp_model_id(u->l.model);
    sp_sha256_hex(digest, &s->id);
    snprintf(s->fingerprint, sizeof s->fingerprint, "fp_%.12s", digest);
}

static void close_unit(unit *u)
{
    sp_engine_free(u->engine);
    sp_cmd_close_drafters(&u->drafters);
    sp_grammars_free(u->served.env.grammars); /* sessions have let go of theirs */
    sp_cmd_unload(&u->l);
    sp_events_remove(u->events);
    sp_mem_free(u);
}

/* Of several models, those go without a drafter that it does not fit. */
static sp_err may_miss(sp_err err, const unit *u, const sp_serve_models *m, const sp_diag *why,
                       sp_diag *d)
{
    if (err == SP_UNSUP && sp_models_config(m->models)->is_list) {
        sp_log(SP_LOG_WARN, "%s: goes without a drafter: %s", u->l.name, why->msg);
        err = SP_OK;
    }
    if (err != SP_OK)
        *d = *why;
    return err;
}

/* The draft head for a model that is loaded now: of the version in force, or of the options; NULL:
 * there is none. */
static const char *find_head(const sp_serve_models *m, char *room, size_t cap)
{
    return sp_versions_head(m->versions, room, cap) ? room : sp_opt_str(m->o, "draft-head");
}

static sp_err open_drafters(unit *u, const sp_serve_models *m, sp_diag *d)
{
    char room[HEAD_PATH];
    sp_diag why = {0};
    sp_err err = sp_cmd_open_drafters(&u->drafters, &u->l, m->o, &why);
    SP_TRY(may_miss(err, u, m, &why, d));
    err = sp_cmd_open_head(&u->drafters, &u->l, (size_t)sp_opt_int(m->o, "max-run"),
                           find_head(m, room, sizeof room), &why);
    return may_miss(err, u, m, &why, d);
}

/* The last 8 bytes of an identity, as those who read events shorten such names. */
static uint64_t short_id(const sp_sha256 *id)
{
    uint64_t h = 0;
    for (size_t i = sizeof id->b - 8; i < sizeof id->b; i++)
        h = h << 8 | id->b[i];
    return h;
}

static void tell_stored(void *arg, const sp_sha256 *id, const sp_sha256 *parent,
                        const uint32_t *tok, size_t at, const char *salt)
{
    sp_events_stored(arg, &(sp_events_block){.hash = short_id(id),
                                             .parent = short_id(parent),
                                             .first = at == 0,
                                             .tok = tok,
                                             .salt = at == 0 ? salt : NULL});
}

static void tell_removed(void *arg, const sp_sha256 *id)
{
    sp_events_removed(arg, short_id(id));
}

static sp_err watch_pages(unit *u, const sp_serve_models *m, const char *name, sp_diag *d)
{
    _Static_assert((int)SP_EVENTS_TOK == (int)SP_PAGE_TOK, "a block is a page");
    if (!m->events)
        return SP_OK;
    if (sp_events_add(&u->events, m->events, name, sp_kv_pool_cap(u->l.pool),
                      sp_model_kv_window(u->l.model)) != SP_OK)
        return SP_FAIL(d, SP_NOMEM, "%.100s", name);
    sp_kv_pool_watch(u->l.pool, &(sp_kv_watch){tell_stored, tell_removed, u->events});
    return SP_OK;
}

static sp_err open_unit(unit *u, sp_serve_models *m, const char *name, const sp_load_how *how,
                        sp_diag *d)
{
    SP_TRY(sp_cmd_load(&u->l, m->o, how, d));
    if (m->eps < 0)
        try_epsilon(u, m); /* before the engine's thread owns the device */
    SP_TRY(open_drafters(u, m, d));
    SP_TRY(watch_pages(u, m, name, d));
    SP_TRY(start_engine(u, m, name, how->metrics, d));
    fill_served(u, m, name);
    SP_TRY(sp_cmd_keep_weights(u->l.model, name, m->o, d)); /* behind what measures speeds */
    SP_TRY(sp_grammars_new(&u->served.env.grammars, u->l.tok, d));
    return sp_serve_thinking(&u->served.env, m, d);
}

/* --- without loading
 * ---------------------------------------------------------------------------- */

static void look_at_tensors(sp_model_facts *out, const sp_gguf *g)
{
    size_t bytes[SP_TYPE_COUNT] = {0}, most = 0;
    for (size_t i = 0; i < sp_gguf_tensor_count(g); i++) {
        const sp_tensor *t = sp_gguf_tensor_at(g, i);
        out->n_weight += (size_t)(t->dim[0] * t->dim[1] * t->dim[2] * t->dim[3]);
        out->least_bytes += sp_check_must_stay(t) ? t->n_bytes : 0;
        bytes[t->type] += t->n_bytes;
        if (bytes[t->type] > most)
            snprintf(out->type, sizeof out->type, "%s", sp_type_name((uint32_t)t->type));
        most = bytes[t->type] > most ? bytes[t->type] : most;
    }
}

static void look_at(sp_model_facts *out, const sp_gguf *g, const sp_arch *arch, const sp_opts *o)
{
    sp_str text;
    size_t n_ctx = (size_t)sp_opt_int(o, "ctx");
    snprintf(out->arch, sizeof out->arch, "%s", arch->name);
    out->is_encoder = sp_arch_is_encoder(arch);
    out->file_bytes = sp_gguf_file_bytes(g);
    out->n_ctx = n_ctx && n_ctx < arch->n_ctx ? n_ctx : arch->n_ctx;
    out->n_embd = arch->n_embd;
    out->n_layer = arch->n_layer;
    out->n_head = arch->n_head;
    out->n_head_kv = arch->n_head_kv;
    out->has_chat = sp_opt_str(o, "chat-template") ||
                    sp_gguf_str(&text, g, "tokenizer.chat_template", NULL) == SP_OK;
    if (out->is_encoder)
        sp_serve_encoder_look(out, g, arch, o);
    look_at_tensors(out, g);
}

static void look(void *arg, sp_model_facts *out, const char *path)
{
    const sp_serve_models *m = arg;
    struct stat st;
    sp_diag d = {0};
    sp_folder folder = {0};
    sp_gguf *g = NULL;
    sp_arch arch;
    out->is_folder = stat(path, &st) == 0 && S_ISDIR(st.st_mode);
    sp_err err = out->is_folder ? sp_folder_read(&folder, path, &d) : sp_gguf_open(&g, path, &d);
    if (err == SP_OK && out->is_folder)
        err = sp_gguf_open_mem(&g, folder.p, folder.n, &d);
    if (err == SP_OK)
        err = sp_arch_read(&arch, g, &d);
    if (err == SP_OK)
        look_at(out, g, &arch, m->o);
    else
        snprintf(out->why, sizeof out->why, "%s", d.msg);
    sp_gguf_close(g);
    sp_mem_free(folder.p);
}

/* What takes memory beside a model and its pages, whichever model it is. */
static size_t draft_bytes(const sp_serve_models *m)
{
    char path[1024], room[HEAD_PATH];
    struct stat st;
    sp_model_facts facts = {0};
    const char *name = sp_opt_str(m->o, "draft-model"), *head = find_head(m, room, sizeof room);
    size_t n = sp_opt_bytes(m->o, "earlier-bytes");
    if (head && stat(head, &st) == 0)
        n += (size_t)st.st_size;
    if (!name || sp_cmd_find_model(path, sizeof path, name, m->o, NULL) != SP_OK)
        return n;
    look((void *)(uintptr_t)m, &facts, path);
    return n + facts.file_bytes + sp_opt_bytes(m->o, "draft-kv-bytes");
}

/* --- opened and closed
 * -------------------------------------------------------------------------- */

static sp_err open_model(void *arg, sp_served **out, const char *name, const char *path,
                         const sp_model_facts *f, size_t kv_bytes, sp_diag *d)
{
    sp_serve_models *m = arg;
    if (f->is_encoder)
        return sp_serve_encoder_open(out, m, name, path, d);
    char folder[1200];
    size_t cap = sp_models_room(m->models);
    sp_load_how how = {.path = path,
                       .cold = m->cold,
                       .kv_bytes = kv_bytes,
                       .cap_bytes = cap == SIZE_MAX ? 0 : cap - draft_bytes(m)};
    uint64_t t = sp_clock_ns();
    unit *u = sp_mem_alloc(sizeof *u);
    if (!u)
        return SP_FAIL(d, SP_NOMEM, "%.100s", name);
    how.cache_dir = cache_folder(folder, sizeof folder, m, name) ? folder : NULL;
    if (how.cache_dir && sp_models_config(m->models)->is_list)
        (void)!mkdir(sp_opt_str(m->o, "cache-dir"), 0700); /* what is wrong with it, opening says */
    sp_err err = sp_metrics_labelled(&how.metrics, m->metrics, "model", name);
    if (err == SP_OK)
        err = open_unit(u, m, name, &how, d);
    m->storage_failed = u->l.storage_failed;
    if (err != SP_OK) {
        close_unit(u);
        return err;
    }
    u->served.load_ms = sp_clock_ms(t);
    *out = &u->served;
    return SP_OK;
}

static void close_model(void *arg, sp_served *s)
{
    (void)arg;
    if (s->encoder)
        sp_serve_encoder_close(s);
    else
        close_unit(s->own);
}

/* --- what it takes
 * ------------------------------------------------------------------------------ */

/* All reasons, one behind the other. */
static sp_err join_reasons(char why[SP_MODEL_WHY], const sp_check *c, sp_diag *d)
{
    size_t n = 0;
    for (size_t i = 0; i < c->n_why && n < SP_MODEL_WHY; i++)
        n += (size_t)snprintf(why + n, SP_MODEL_WHY - n, i ? "; %s" : "%s", c->why[i]);
    return SP_FAIL(d, c->why_code[0], "%s", c->why[0]);
}

/* Of the block that guesses, where the model's file has one; its weights count with the file's. */
static size_t block_bytes(const sp_check *c, const sp_opts *o)
{
    sp_arch block;
    return c->has_arch && sp_cmd_has_drafter(o, SP_DRAFT_MTP) &&
                   sp_arch_next(&block, &c->arch, NULL) == SP_OK
               ? sp_opt_bytes(o, "draft-kv-bytes")
               : 0;
}

/* The file against cap_bytes, of which `beside` are for what guesses tokens. */
static sp_err check_within(size_t *need, size_t *kv_bytes, const char *path, sp_check_cfg *cfg,
                           size_t beside, const sp_opts *o, char why[SP_MODEL_WHY], sp_diag *d)
{
    sp_check c;
    sp_err err = SP_OK;
    cfg->free_bytes -= beside;
    sp_check_file(&c, path, cfg);
    size_t block = block_bytes(&c, o);
    if (block && block < cfg->free_bytes) { /* its pages beside the model's */
        sp_check_fini(&c);
        cfg->free_bytes -= block;
        sp_check_file(&c, path, cfg);
    }
    *need = c.need_bytes + c.kv_bytes + c.snap_bytes + beside + block;
    *kv_bytes = c.kv_bytes;
    if (c.n_why)
        err = join_reasons(why, &c, d);
    sp_check_fini(&c);
    return err;
}

static sp_err measure(void *arg, size_t *need, size_t *kv_bytes, const char *path,
                      const sp_model_facts *f, size_t cap_bytes, char why[SP_MODEL_WHY], sp_diag *d)
{
    const sp_serve_models *m = arg;
    sp_check_cfg cfg;
    sp_dev *dev = NULL;
    *need = *kv_bytes = 0;
    if (f->is_encoder)
        return sp_serve_encoder_measure(need, f, cap_bytes, d);
    /* a model alone takes what there is, and is looked at when it is opened */
    if (cap_bytes == SIZE_MAX)
        return SP_OK;
    size_t beside = draft_bytes(m);
    if (beside >= cap_bytes)
        return SP_FAIL(d, SP_LIMIT,
                       "memory: %zu MiB are available, and what guesses tokens takes %zu MiB: see "
                       "--draft-model, --draft-kv-bytes, --earlier-bytes",
                       cap_bytes >> 20, beside >> 20);
    SP_TRY(sp_cmd_device(&dev, m->o, d));
    sp_err err = sp_cmd_check_cfg(&cfg, dev, m->o, d);
    cfg.free_bytes = cap_bytes;
    if (err == SP_OK)
        err = check_within(need, kv_bytes, path, &cfg, beside, m->o, why, d);
    sp_dev_close(dev);
    return err;
}

static sp_err forget(void *arg, const char *name, sp_kv_forget *f, sp_diag *d)
{
    const sp_serve_models *m = arg;
    char folder[1200];
    sp_kv_tier *t;
    if (!cache_folder(folder, sizeof folder, m, name) || access(folder, F_OK) != 0)
        return SP_OK;
    const sp_kv_tier_cfg cfg = {.dir = folder,
                                .cap_bytes = sp_opt_bytes(m->o, "cache-bytes"),
                                .io = sp_opt_str(m->o, "cache-io"),
                                .cold = m->cold,
                                .cold_after_s = sp_opt_int(m->o, "cold-after"),
                                .cold_expire_s = sp_opt_int(m->o, "cold-expire")};
    SP_TRY(sp_kv_tier_open(&t, &cfg, d));
    sp_err err = sp_kv_tier_forget(t, f, d);
    sp_kv_tier_close(t);
    return err;
}

/* --- new ones
 * ----------------------------------------------------------------------------------- */

/* Adds a model under its file's name, or the one given. */
static sp_err add_model(sp_serve_models *m, const char *path, const char *as, sp_diag *d)
{
    char name[SP_MODEL_NAME];
    sp_cmd_model_name(name, path);
    return sp_models_has_path(m->models, path) ? SP_OK
                                               : sp_models_add(m->models, as ? as : name, path, d);
}

/* What a pull brought is known from then on. A file whose name another model has already is not. */
static sp_err pull(void *arg, const char *what, sp_models_watch *watch, void *watch_arg, sp_diag *d)
{
    sp_serve_models *m = arg;
    sp_pull p = {.o = m->o, .watch = watch, .watch_arg = watch_arg};
    sp_paths all = {0};
    SP_TRY(sp_pull_run(&p, what, d));
    sp_err err = sp_cmd_list_models(&all, p.dir, d);
    for (size_t i = 0; i < all.n && err == SP_OK; i++)
        if (add_model(m, all.p[i], NULL, NULL) != SP_OK)
            sp_log(SP_LOG_WARN, "%s is not served: its name is taken", all.p[i]);
    sp_cmd_free_paths(&all);
    return err;
}

/* --- which ones
 * --------------------------------------------------------------------------------- */

sp_err sp_serve_models_each(const char *list,
                            sp_err (*fn)(sp_serve_models *m, const char *entry, sp_diag *d),
                            sp_serve_models *m, sp_diag *d)
{
    sp_err err = SP_OK;
    char *text = sp_mem_strdup(list), *save = NULL;
    if (!text)
        return SP_FAIL(d, SP_NOMEM, "models");
    for (char *p = strtok_r(text, ",", &save); p && err == SP_OK; p = strtok_r(NULL, ",", &save))
        err = fn(m, p, d);
    sp_mem_free(text);
    return err;
}

static sp_err add_named(sp_serve_models *m, const char *entry, sp_diag *d)
{
    char path[1024];
    SP_TRY(sp_cmd_find_model(path, sizeof path, entry, m->o, d));
    SP_TRY(add_model(m, path, NULL, d));
    if (!sp_models_find(m->models, NULL)) {
        char name[SP_MODEL_NAME];
        sp_cmd_model_name(name, path);
        sp_models_set_default(m->models, name);
    }
    return SP_OK;
}

/* All files of the folder; what would be the model of a server without a list is meant by
 * default. */
static sp_err add_folder(sp_serve_models *m, sp_diag *d)
{
    char dir[1024], path[1024], name[SP_MODEL_NAME];
    sp_paths all = {0};
    SP_TRY(sp_cmd_models_dir(dir, sizeof dir, m->o, d));
    sp_err err = sp_cmd_list_models(&all, dir, d);
    for (size_t i = 0; i < all.n && err == SP_OK; i++)
        err = add_model(m, all.p[i], NULL, d);
    sp_cmd_free_paths(&all);
    SP_TRY(err);
    sp_diag why = {0};
    if (sp_models_find(m->models, NULL) ||
        sp_cmd_model_path(path, sizeof path, m->o, &why) != SP_OK)
        return all.n
                   ? SP_OK
                   : SP_FAIL(d, SP_NOTFOUND,
                             "%.120s: there is no model yet: try `sparing pull smollm2-135m`",
                             dir);
    sp_cmd_model_name(name, path);
    sp_models_set_default(m->models, name);
    return SP_OK;
}

static sp_err add_all(sp_serve_models *m, bool has_folder, sp_diag *d)
{
    char path[1024], name[SP_MODEL_NAME];
    const char *given = sp_opt_str(m->o, "model"), *as = sp_opt_str(m->o, "model-name");
    bool is_list = sp_models_config(m->models)->is_list;
    if (is_list && as)
        return SP_FAIL(d, SP_INVAL,
                       "model-name: there are several models; --alias gives each another name");
    if (is_list && given)
        SP_TRY(sp_serve_models_each(given, add_named, m, d));
    if (is_list)
        return has_folder ? add_folder(m, d) : SP_OK;
    SP_TRY(sp_cmd_model_path(path, sizeof path, m->o, d));
    SP_TRY(add_model(m, path, as, d));
    sp_cmd_model_name(name, path);
    sp_models_set_default(m->models, as ? as : name);
    return SP_OK;
}

/* --epsilon-default: auto, or a number. */
static sp_err read_epsilon(double *out, const sp_opts *o, sp_diag *d)
{
    const char *v = sp_opt_str(o, "epsilon-default");
    char *end;
    *out = strtod(v, &end);
    if (strcmp(v, "auto") == 0)
        *out = -1;
    else if (end == v || *end || !(*out >= 0 && *out <= 0.5))
        return SP_FAIL(d, SP_INVAL,
                       "epsilon-default: '%.20s' is neither auto nor a number from 0 to 0.5", v);
    return SP_OK;
}

sp_err sp_serve_models_new(sp_serve_models *m, const char *const *aliases, sp_diag *d)
{
    const sp_opts *o = m->o;
    const char *given = sp_opt_str(o, "model"), *schedule = sp_opt_str(o, "schedule");
    bool has_folder = sp_opt_origin_of(o, "models-dir") > SP_ORIGIN_DEFAULT;
    bool is_list = has_folder || (given && strchr(given, ',') && access(given, F_OK) != 0);
    sp_host host;
    sp_host_read(&host, "");
    if (strcmp(schedule, "work") != 0 && strcmp(schedule, "fcfs") != 0)
        return SP_FAIL(d, SP_INVAL, "schedule: %.20s is none of work, fcfs", schedule);
    SP_TRY(read_epsilon(&m->eps, o, d));
    size_t memory = sp_opt_bytes(o, "memory");
    const sp_models_cfg cfg = {.opener = {.look = look,
                                          .measure = measure,
                                          .open = open_model,
                                          .close = close_model,
                                          .forget = forget,
                                          .pull = is_list && has_folder ? pull : NULL,
                                          .arg = m},
                               .cap_bytes = memory    ? memory
                                            : is_list ? host.free_bytes
                                                      : SIZE_MAX,
                               .keep_s = is_list ? sp_opt_num(o, "keep-alive") : -1,
                               .wait_s = sp_opt_num(o, "load-wait"),
                               .is_list = is_list,
                               .aliases = aliases,
                               .metrics = m->metrics};
    SP_TRY(sp_models_new(&m->models, &cfg, d));
    SP_TRY(add_all(m, has_folder, d));
    return sp_serve_thinking_check(m, d);
}

/* Of a model that is to write answers. */
static sp_err bring(sp_serve_models *m, const char *name, sp_diag *d)
{
    char why[SP_MODEL_WHY];
    if (sp_models_is_encoder(m->models, name))
        return SP_FAIL(d, SP_UNSUP,
                       "%.100s: is an encoder and writes no answers: --encoder takes it", name);
    sp_err err = sp_models_bring(m->models, name, why, d);
    if (err != SP_OK && why[0] && strstr(why, "; "))
        fprintf(stderr, "sparing: %s\n", why);
    return err;
}

bool sp_serve_models_has_room(sp_serve_models *m, const char *name)
{
    size_t used = 0, need, kv;
    sp_model_row row, own = {0};
    char why[SP_MODEL_WHY] = "";
    for (size_t i = 0; sp_models_row(m->models, i, &row); i++) {
        used += row.stays ? 0 : row.bytes;
        own = strcmp(row.name, name) == 0 ? row : own;
    }
    if (!used ||
        measure(m, &need, &kv, own.path, &own.facts, sp_models_room(m->models), why, NULL) != SP_OK)
        return true; /* what is wrong with it, loading says */
    if (used + need <= sp_models_room(m->models))
        return true;
    sp_log(SP_LOG_INFO, "%s is loaded when it is asked for: --memory holds no more", name);
    return false;
}

/* Those behind the first one stay away where they would send another away. */
static sp_err bring_named(sp_serve_models *m, const char *entry, sp_diag *d)
{
    char path[1024], name[SP_MODEL_NAME];
    SP_TRY(sp_cmd_find_model(path, sizeof path, entry, m->o, d));
    sp_cmd_model_name(name, path);
    return sp_serve_models_has_room(m, name) ? bring(m, name, d) : SP_OK;
}

sp_err sp_serve_models_start(sp_serve_models *m, sp_diag *d)
{
    const char *given = sp_opt_str(m->o, "model"), *first = sp_models_find(m->models, NULL);
    if (sp_models_config(m->models)->is_list && given)
        return sp_serve_models_each(given, bring_named, m, d);
    return first ? bring(m, first, d) : SP_OK;
}
