/* Opening models for the commands. */
#include "cmd/cmd.h"

#include "base/clock.h"
#include "base/host.h"
#include "base/log.h"
#include "cmd/term.h"
#include "fmt/split.h"
#include "sched/engine.h"

#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { MAX_TEMPLATE = 256 << 10 }; /* bytes */

#define FAST_FLOPS 4e11 /* a core at its best: until measured, only what surely pays is fetched */

#define DEFAULT_MODEL "SmolLM2-135M-Instruct.Q4_1.gguf"
#define DEFAULT_EMBED "all-MiniLM-L6-v2" /* as pull_known.c calls it */

sp_err sp_cmd_models_dir(char *out, size_t cap, const sp_opts *o, sp_diag *d)
{
    const char *given = sp_opt_str(o, "models-dir"), *data = getenv("XDG_DATA_HOME"),
               *home = getenv("HOME");
    int n;
    if (given || access("models", F_OK) == 0)
        n = snprintf(out, cap, "%s", given ? given : "models");
    else if (data && *data == '/') /* a relative one is to be ignored, says the XDG specification */
        n = snprintf(out, cap, "%s/sparing/models", data);
    else if (home && *home)
        n = snprintf(out, cap, "%s/.local/share/sparing/models", home);
    else
        return SP_FAIL(d, SP_INVAL,
                       "models-dir: neither XDG_DATA_HOME nor HOME is set: name a folder");
    return n >= 0 && (size_t)n < cap ? SP_OK
                                     : SP_FAIL(d, SP_INVAL, "models-dir: the path is too long");
}

/* In the models folder, if it is there. */
static bool is_in_folder(char *out, size_t cap, const char *dir, const char *name, const char *tail)
{
    int n = snprintf(out, cap, "%s/%s%s", dir, name, tail);
    return n > 0 && (size_t)n < cap && access(out, R_OK) == 0;
}

bool sp_cmd_is_first(const char *dir, const char *name)
{
    char path[1024];
    sp_split s;
    if (!sp_split_parse(&s, name))
        return true;
    for (unsigned no = 1; no < s.no; no++) {
        char part[300];
        if (sp_split_path(part, sizeof part, name, &s, no, NULL) == SP_OK &&
            is_in_folder(path, sizeof path, dir, part, ""))
            return false;
    }
    return true;
}

/* The first model of a folder, or that of this stem in parts; *n says how many there are. */
static bool is_listed(char *out, size_t cap, size_t *n, const char *dir, const char *stem)
{
    DIR *list = opendir(dir);
    *n = 0;
    for (struct dirent *e; list && (e = readdir(list));) {
        size_t k = strlen(e->d_name);
        sp_split s;
        bool is_meant = !stem || (sp_split_parse(&s, e->d_name) && s.stem == strlen(stem) &&
                                  strncmp(e->d_name, stem, s.stem) == 0);
        if (is_meant && k >= 6 && strcmp(e->d_name + k - 5, ".gguf") == 0 &&
            sp_cmd_is_first(dir, e->d_name) && is_in_folder(out, cap, dir, e->d_name, ""))
            (*n)++;
    }
    if (list)
        closedir(list);
    return *n == 1;
}

sp_err sp_cmd_find_parts(char *out, size_t cap, const char *dir, const char *stem, sp_diag *d)
{
    char path[1024];
    size_t n;
    if (!is_listed(path, sizeof path, &n, dir, stem))
        return SP_FAIL(d, SP_NOTFOUND,
                       n ? "%.100s/%.80s: is there in two numbers of parts"
                         : "%.100s/%.80s.gguf: No such file or directory",
                       dir, stem);
    snprintf(out, cap, "%s", path);
    return SP_OK;
}

sp_err sp_cmd_find_model(char *out, size_t cap, const char *name, const sp_opts *o, sp_diag *d)
{
    char path[1024], dir[1024];
    size_t n_parts;
    SP_TRY(sp_cmd_models_dir(dir, sizeof dir, o, d));
    bool is_name = !strchr(name, '/') && access(name, F_OK) != 0 &&
                   (is_in_folder(path, sizeof path, dir, name, "") ||
                    is_in_folder(path, sizeof path, dir, name, ".gguf") ||
                    is_listed(path, sizeof path, &n_parts, dir, name));
    int n = snprintf(out, cap, "%s", is_name ? path : name);
    return n >= 0 && (size_t)n < cap ? SP_OK : SP_FAIL(d, SP_INVAL, "the model's path is too long");
}

sp_err sp_cmd_model_path(char *out, size_t cap, const sp_opts *o, sp_diag *d)
{
    const char *given = sp_opt_str(o, "model");
    char dir[1024];
    size_t n;
    if (given)
        return sp_cmd_find_model(out, cap, given, o, d);
    SP_TRY(sp_cmd_models_dir(dir, sizeof dir, o, d));
    if (is_in_folder(out, cap, dir, DEFAULT_MODEL, "") || is_listed(out, cap, &n, dir, NULL))
        return SP_OK;
    if (n)
        return SP_FAIL(d, SP_NOTFOUND, "%.120s: there are %zu models: name one with -m", dir, n);
    return SP_FAIL(d, SP_NOTFOUND,
                   "%.120s: there is no model yet: try `sparing pull smollm2-135m`", dir);
}

bool sp_cmd_embed_path(char *out, size_t cap, const sp_opts *o)
{
    const char *given = sp_opt_str(o, "encoder");
    char dir[1024];
    if (given && strcmp(given, "none") == 0)
        return false;
    if (given) { /* of several the first */
        snprintf(dir, sizeof dir, "%.*s", (int)strcspn(given, ","), given);
        return sp_cmd_find_model(out, cap, dir, o, NULL) == SP_OK;
    }
    if (sp_cmd_models_dir(dir, sizeof dir, o, NULL) != SP_OK)
        snprintf(dir, sizeof dir, "models");
    snprintf(out, cap, "%s/" DEFAULT_EMBED, dir);
    return access(out, R_OK) == 0;
}

sp_err sp_cmd_encoder(sp_encoder **out, sp_dev *dev, const sp_opts *o, sp_diag *d)
{
    char path[1024];
    const char *given = sp_opt_str(o, "encoder");
    if (given && strcmp(given, "none") == 0)
        return SP_FAIL(d, SP_INVAL, "encoder: it is none, and this needs one");
    if (!sp_cmd_embed_path(path, sizeof path, o))
        return SP_FAIL(
            d, SP_NOTFOUND,
            "%.120s is not there: `sparing pull all-minilm-l6-v2` fetches it, or name one "
            "with --encoder",
            path);
    return sp_encoder_open(out, path, dev, (size_t)sp_opt_int(o, "encoder-ctx"), d);
}

/* --threads; less than 0: so many of the cores are left to others, but one. */
static size_t threads_of(const sp_opts *o)
{
    int64_t n = sp_opt_int(o, "threads");
    sp_host host;
    if (n >= 0)
        return (size_t)n;
    sp_host_read(&host, "");
    return host.n_thread > (size_t)-n ? host.n_thread - (size_t)-n : 1;
}

sp_err sp_cmd_device(sp_dev **out, const sp_opts *o, sp_diag *d)
{
    sp_dev_cfg cfg = {.name = sp_opt_str(o, "device"),
                      .n_thread = threads_of(o),
                      .mask = SP_CPU_LEVELS - 1};
    const char *mask = sp_opt_str(o, "cpu-mask");
    if (mask && !sp_cpu_level_parse(&cfg.mask, mask))
        return SP_FAIL(d, SP_INVAL, "cpu-mask: %.20s is none of %s", mask, sp_cpu_level_names());
    return sp_dev_open(out, &cfg, d);
}

sp_err sp_cmd_check_cfg(sp_check_cfg *out, sp_dev *dev, const sp_opts *o, sp_diag *d)
{
    sp_host host;
    const sp_kv_format *format = sp_kv_format_find(sp_opt_str(o, "kv-type"));
    if (!format)
        return SP_FAIL(d, SP_INVAL, "kv-type: %.20s is none of q8, q4, fp8, f16, bf16, f32",
                       sp_opt_str(o, "kv-type"));
    size_t max_run = (size_t)sp_opt_int(o, "max-run");
    sp_host_read(&host, "");
    *out = (sp_check_cfg){.dev = dev,
                          .format = format,
                          .n_ctx = (size_t)sp_opt_int(o, "ctx"),
                          .free_bytes = host.free_bytes,
                          .kv_bytes = sp_opt_bytes(o, "kv-bytes"),
                          .snap_bytes = sp_opt_bytes(o, "state-bytes"),
                          .expert_bytes = sp_opt_bytes(o, "expert-bytes"),
                          .step_tok = sp_engine_step_tok((size_t)sp_opt_int(o, "chunk"), max_run),
                          .step_logits = sp_engine_step_logits(max_run),
                          .kv_is_asked = sp_opt_origin_of(o, "kv-bytes") > SP_ORIGIN_PROFILE};
    return SP_OK;
}

/* One reason is the caller's to print; of more, each gets a line. */
static sp_err tell_why(const sp_check *c, sp_diag *d)
{
    if (!c->n_why)
        return SP_OK;
    for (size_t i = 0; c->n_why > 1 && i < c->n_why; i++)
        fprintf(stderr, "sparing: %s\n", c->why[i]);
    if (c->n_why > 1)
        return SP_FAIL(d, c->why_code[0], "%s: does not run here, for %zu reasons", c->name,
                       c->n_why);
    return SP_FAIL(d, c->why_code[0], "%s", c->why[0]);
}

/* What it costs that not all experts are kept. */
static void warn_experts(const sp_check *c)
{
    if (!c->expert_room || c->expert_room >= c->expert_bytes)
        return;
    double all = (double)c->expert_bytes, away = 1 - (double)c->expert_room / all;
    double each = all * (double)c->arch.route.n_used / (double)c->arch.route.n_expert * away;
    sp_log(SP_LOG_WARN,
           "experts: %zu of %zu MiB are kept in memory; a token reads about %.0f MiB of the others "
           "from the file: %.2g tokens/s at "
           "1 GB/s",
           c->expert_room >> 20, c->expert_bytes >> 20, each / (double)(1 << 20), 1e9 / each);
}

/* Memory that is left for each, as sp_check found. */
typedef struct split_bytes {
    size_t kv, snap, expert;
} split_bytes;

/* Opens the file and all that text needs, if the file runs here. */
static sp_err open_checked(sp_loaded *l, const char *path, const sp_check_cfg *cfg,
                           split_bytes *bytes, sp_diag *d)
{
    sp_check c;
    sp_check_file(&c, path, cfg);
    sp_err err = tell_why(&c, d);
    if (err == SP_OK && sp_arch_is_encoder(&c.arch))
        err = SP_FAIL(d, SP_UNSUP, "%s: is an encoder and writes no answers: --encoder takes it",
                      c.name);
    if (err == SP_OK) {
        l->gguf = c.gguf;
        l->tok = c.tok;
        l->chat = c.chat;
        l->n_ctx = c.n_ctx;
        *bytes = (split_bytes){c.kv_bytes, c.snap_bytes, c.expert_room};
        warn_experts(&c);
        c.gguf = NULL;
        c.tok = NULL;
        c.chat = NULL;
        if (c.kv_bytes != cfg->kv_bytes)
            sp_log(SP_LOG_INFO, "kv-bytes: %zu MiB, half of what the model leaves free",
                   c.kv_bytes >> 20);
    }
    sp_check_fini(&c);
    return err;
}

/* The tiers below RAM. */
static sp_err open_tiers(sp_loaded *l, const sp_opts *o, const sp_load_how *how, sp_diag *d)
{
    static const char *const fetch[] = {"auto", "always", "never"};
    const char *when = sp_opt_str(o, "cache-fetch");
    sp_model_flops flops = sp_model_flops_of(l->model);
    sp_kv_tier_cfg cfg = {.dir = how->cache_dir,
                          .cap_bytes = sp_opt_bytes(o, "cache-bytes"),
                          .io = sp_opt_str(o, "cache-io"),
                          .metrics = how->metrics,
                          .cold = how->cold,
                          .cold_after_s = sp_opt_int(o, "cold-after"),
                          .cold_expire_s = sp_opt_int(o, "cold-expire"),
                          .depth_cost = flops.per_seen / flops.per_tok,
                          .tok_s = flops.per_tok /
                                   (FAST_FLOPS * (double)sp_pool_size(sp_dev_host_pool(l->dev)))};
    int k = 0;
    while (k < 3 && strcmp(fetch[k], when) != 0)
        k++;
    if (k == 3)
        return SP_FAIL(d, SP_INVAL, "cache-fetch: %.20s is none of auto, always, never", when);
    cfg.fetch = (sp_kv_fetch)k;
    if (!how->cache_dir)
        return SP_OK;
    sp_err err = sp_kv_tier_open(&l->tier, &cfg, d);
    l->storage_failed = err != SP_OK;
    return err;
}

/* The template that --chat-template names, or a file holds; empty: the option is not given. */
static sp_err read_template(sp_buf *out, const sp_opts *o, sp_diag *d)
{
    const char *given = sp_opt_str(o, "chat-template"),
               *named = given ? sp_chat_named(given) : NULL;
    sp_buf names = {0};
    if (!given)
        return SP_OK;
    if (named) {
        sp_buf_puts(out, named);
        return out->failed ? SP_FAIL(d, SP_NOMEM, "chat-template") : SP_OK;
    }
    sp_chat_names(&names);
    sp_err err = SP_OK;
    if (access(given, F_OK) != 0)
        err = SP_FAIL(d, SP_INVAL, "chat-template: %.200s is neither a file nor one of %s", given,
                      sp_buf_str(&names));
    sp_buf_fini(&names);
    return err == SP_OK ? sp_file_read(out, given, MAX_TEMPLATE, d) : err;
}

/* A template that was asked for must be usable. */
static sp_err open_with_template(sp_loaded *l, const char *path, const sp_check_cfg *cfg,
                                 const sp_opts *o, split_bytes *bytes, sp_diag *d)
{
    sp_buf source = {0};
    sp_check_cfg with = *cfg;
    sp_err err = read_template(&source, o, d);
    with.chat = (sp_str){source.p, source.len};
    if (err == SP_OK)
        err = open_checked(l, path, &with, bytes, d);
    if (err == SP_OK && source.len && sp_chat_why(l->chat))
        err = SP_FAIL(d, SP_INVAL, "chat-template: %s", sp_chat_why(l->chat));
    sp_buf_fini(&source);
    return err;
}

void sp_cmd_model_name(char out[128], const char *path)
{
    sp_split parts;
    const char *base = strrchr(path, '/');
    snprintf(out, 128, "%.120s", base ? base + 1 : path);
    char *dot = strstr(out, ".gguf");
    if (sp_split_parse(&parts, out))
        out[parts.stem] = 0;
    else if (dot)
        *dot = 0;
}

static sp_err open_pool(sp_loaded *l, const sp_opts *o, const sp_kv_format *format,
                        const split_bytes *bytes, bool attend_demoted, sp_diag *d)
{
    sp_kv_cfg kv = {.shape = sp_model_kv_shape(l->model, format),
                    .cap_bytes = bytes->kv,
                    .window = sp_model_kv_window(l->model),
                    .state_bytes = sp_model_state_bytes(l->model),
                    .kept_bytes = sp_model_kept_bytes(l->model),
                    .snap_bytes = bytes->snap,
                    .model_id = *sp_model_id(l->model),
                    .reuse = sp_opt_flag(o, "reuse"),
                    .variant = sp_dev_host_kern(l->dev)->isa,
                    .tier = l->tier,
                    .attend_demoted = attend_demoted};
    const char *form = sp_opt_str(o, "state-form");
    kv.squeeze = form && strcmp(form, "i12") == 0;
    if (form && !kv.squeeze && strcmp(form, "f32") != 0)
        return SP_FAIL(d, SP_INVAL, "state-form: %.20s is none of i12, f32", form);
    return sp_kv_pool_new(&l->pool, l->dev, &kv, d);
}

enum { BLOCK_HEAD = 32768 /* tokens that the block may guess: the first ones, which BPE merged first
                             */ };

bool sp_cmd_has_drafter(const sp_opts *o, sp_draft_id id)
{
    return strstr(sp_opt_str(o, "drafters"), sp_draft_name(id)) != NULL;
}

/* The block of the file that guesses tokens further on. A file that has it in part goes without. */
static void load_block(sp_loaded *l, const sp_opts *o)
{
    sp_diag why = {0};
    sp_arch block;
    if (!sp_cmd_has_drafter(o, SP_DRAFT_MTP) ||
        sp_arch_next(&block, sp_model_arch(l->model), NULL) != SP_OK)
        return;
    if (sp_model_load_next(&l->block, l->gguf, l->model, BLOCK_HEAD, &why) != SP_OK)
        sp_log(SP_LOG_WARN, "%s: the block that guesses is left out: %s", l->name, why.msg);
}

bool sp_cmd_wants_fp8(const sp_opts *o)
{
    return strcmp(sp_opt_str(o, "device-weights"), "fp8") == 0;
}

sp_err sp_cmd_load_plain(sp_model **out, const sp_loaded *l, sp_diag *d)
{
    const sp_model_cfg cfg = {.n_ctx = l->n_ctx};
    return sp_model_load(out, l->gguf, l->dev, &cfg, d);
}

static sp_err check_weights(const sp_loaded *l, const sp_opts *o, sp_diag *d)
{
    sp_model *plain;
    SP_TRY(sp_cmd_load_plain(&plain, l, d));
    const sp_certify a = {
        .model = l->model, .plain = plain, .dev = l->dev, .tok = l->tok, .n_ctx = l->n_ctx};
    sp_err err = sp_cmd_gate(&a, sp_opt_str(o, "kv-gate"), l->name, d);
    sp_model_free(plain);
    return err;
}

sp_err sp_cmd_check_format(const sp_loaded *l, const sp_opts *o, const sp_kv_format *format,
                           sp_diag *d)
{
    const sp_certify a = {.model = l->model, .dev = l->dev, .tok = l->tok, .n_ctx = l->n_ctx,
                          .format = format};
    if (sp_cmd_wants_fp8(o))
        SP_TRY(check_weights(l, o, d));
    return format->is_fp8 ? sp_cmd_gate(&a, sp_opt_str(o, "kv-gate"), l->name, d) : SP_OK;
}

/* How far loading is: a line that is written over on a terminal, else one every ten seconds. */
typedef struct loading {
    const char *name;
    uint64_t since_ns, said_ns;
    bool quiet;
} loading;

static void tell_loading(void *arg, size_t n_bytes, size_t all_bytes)
{
    loading *t = arg;
    bool is_line = sp_term_is(stderr), ends = n_bytes == all_bytes;
    double percent = 100.0 * (double)n_bytes / (double)all_bytes;
    if (t->quiet || (is_line ? !ends && sp_clock_ms(t->said_ns) < 100
                             : ends || sp_clock_ms(t->said_ns) < 10e3))
        return;
    t->said_ns = sp_clock_ns();
    if (!is_line) {
        sp_log(SP_LOG_INFO, "%s: %.0f %% of the weights are in place", t->name, percent);
    } else if (ends) {
        fputs("\r\33[K", stderr);
    } else {
        fprintf(stderr, "\r\33[KLoading %s, %.0f %%", t->name, percent);
        sp_term_put_left(stderr, t->since_ns, n_bytes, all_bytes);
    }
}

static sp_err load(sp_loaded *l, const sp_opts *o, const sp_load_how *how, sp_diag *d)
{
    split_bytes bytes;
    sp_packed_cfg packed;
    char path[1024];
    sp_check_cfg cfg;
    if (how && how->path)
        snprintf(path, sizeof path, "%s", how->path);
    else
        SP_TRY(sp_cmd_model_path(path, sizeof path, o, d));
    sp_cmd_model_name(l->name, path);
    SP_TRY(sp_cmd_device(&l->dev, o, d));
    SP_TRY(sp_cmd_check_cfg(&cfg, l->dev, o, d));
    if (how && how->cap_bytes)
        cfg.free_bytes = how->cap_bytes;
    if (how && how->kv_bytes) {
        cfg.kv_bytes = how->kv_bytes;
        cfg.kv_is_asked = true;
    }
    SP_TRY(open_with_template(l, path, &cfg, o, &bytes, d));
    SP_TRY(sp_cmd_packed_cfg(&packed, o, d));
    loading tells = {l->name, sp_clock_ns(), sp_term_is(stderr) ? 0 : sp_clock_ns(),
                     sp_opt_flag(o, "quiet")};
    const sp_model_cfg model = {.n_ctx = cfg.n_ctx,
                                .expert_bytes = bytes.expert,
                                .packed_dir = packed.dir,
                                .fp8 = sp_cmd_wants_fp8(o),
                                .told = tell_loading,
                                .told_arg = &tells};
    SP_TRY(sp_model_load(&l->model, l->gguf, l->dev, &model, d));
    if (sp_model_is_from_packed(l->model))
        sp_log(SP_LOG_DEBUG, "%s: its packed weights are read from %s", l->name, packed.dir);
    if (how)
        load_block(l, o);
    SP_TRY(sp_gguf_own(l->gguf, d));
    if (how) {
        SP_TRY(sp_cmd_check_format(l, o, cfg.format, d));
        SP_TRY(open_tiers(l, o, how, d));
    }
    const char *demoted = how ? sp_opt_str(o, "kv-demoted") : "promote";
    if (strcmp(demoted, "promote") != 0 && strcmp(demoted, "attend") != 0)
        return SP_FAIL(d, SP_INVAL, "kv-demoted: %.20s is neither promote nor attend", demoted);
    return open_pool(l, o, cfg.format, &bytes, strcmp(demoted, "attend") == 0, d);
}

sp_err sp_cmd_load(sp_loaded *out, const sp_opts *o, const sp_load_how *how, sp_diag *d)
{
    *out = (sp_loaded){0};
    sp_err err = load(out, o, how, d);
    bool storage = out->storage_failed;
    if (err != SP_OK)
        sp_cmd_unload(out);
    out->storage_failed = storage;
    return err;
}

void sp_cmd_unload(sp_loaded *l)
{
    sp_kv_pool_free(l->pool);
    sp_kv_tier_close(l->tier);
    sp_model_free(l->block);
    sp_model_free(l->model);
    sp_dev_close(l->dev);
    sp_chat_close(l->chat);
    sp_tok_close(l->tok);
    sp_gguf_close(l->gguf);
    *l = (sp_loaded){0};
}

sp_err sp_cmd_epsilons(float *out, size_t cap, size_t *n, const sp_opts *o, sp_diag *d)
{
    const char *all = sp_opt_str(o, "epsilon"), *p = all;
    *n = 0;
    do {
        char *end;
        float v = strtof(p, &end);
        if (end == p || (*end && *end != ',') || !(v >= 0 && v <= 0.5f) || *n == cap)
            return SP_FAIL(d, SP_INVAL, "epsilon: '%.40s' is not a list of numbers from 0 to 0.5",
                           all);
        out[(*n)++] = v;
        p = *end ? end + 1 : end;
    } while (*p);
    return SP_OK;
}
