#include "cmd/serve_encoders.h"

#include "base/clock.h"
#include "base/mem.h"

#include <string.h>
#include <sys/stat.h>

/* An encoder in memory, on a device of its own. */
typedef struct unit {
    sp_served served;
    sp_dev *dev;
} unit;

/* --- one encoder ------------------------------------------------------------------------------ */

static size_t cap_tok(const sp_opts *o)
{
    return (size_t)sp_opt_int(o, "encoder-ctx");
}

void sp_serve_encoder_look(sp_model_facts *out, const sp_gguf *g, const sp_arch *arch,
                           const sp_opts *o)
{
    out->n_ctx = arch->n_ctx < cap_tok(o) ? arch->n_ctx : cap_tok(o);
    out->is_ranker = arch->pooling == SP_POOL_RANK;
    out->n_dim = out->is_ranker ? 1 : sp_arch_dim(arch);
    out->encoder_bytes = sp_encoder_need(arch, g, cap_tok(o));
}

sp_err sp_serve_encoder_measure(size_t *need, const sp_model_facts *f, size_t cap_bytes, sp_diag *d)
{
    *need = f->encoder_bytes;
    return *need <= cap_bytes
               ? SP_OK
               : SP_FAIL(d, SP_NOMEM, "the encoder needs %zu MiB of memory, %zu MiB are available; "
                     "--encoder none goes without it",
                         *need >> 20, cap_bytes >> 20);
}

sp_err sp_serve_encoder_open(sp_served **out, const sp_serve_models *m, const char *name,
                             const char *path, sp_diag *d)
{
    uint64_t t = sp_clock_ns();
    unit *u = sp_mem_alloc(sizeof *u);
    if (!u)
        return SP_FAIL(d, SP_NOMEM, "%.100s", name);
    sp_served *s = &u->served;
    sp_err err = sp_cmd_device(&u->dev, m->o, d);
    if (err == SP_OK)
        err = sp_encoder_open(&s->encoder, path, u->dev, cap_tok(m->o), d);
    s->env.models = m->models;
    s->env.served = s;
    s->env.name = name;
    s->own = u;
    if (err != SP_OK) {
        sp_serve_encoder_close(s);
        return err;
    }
    s->bytes = sp_encoder_bytes(s->encoder);
    s->load_ms = sp_clock_ms(t);
    *out = s;
    return SP_OK;
}

void sp_serve_encoder_close(sp_served *s)
{
    unit *u = s->own;
    sp_encoder_close(s->encoder);
    sp_dev_close(u->dev);
    sp_mem_free(u);
}

/* --- which ones ------------------------------------------------------------------------------- */

static bool find_row(sp_models *m, const char *name, sp_model_row *row)
{
    for (size_t i = 0; sp_models_row(m, i, row); i++)
        if (sp_model_same_name(row->name, name))
            return true;
    return false;
}

static bool is_same_file(const char *a, const char *b)
{
    struct stat x, y;
    return stat(a, &x) == 0 && stat(b, &y) == 0 && x.st_dev == y.st_dev && x.st_ino == y.st_ino;
}

/* One of the options' names. */
static sp_err add(sp_serve_encoders *e, sp_serve_models *m, const char *entry, bool ranks,
                  sp_diag *d)
{
    char path[1024], name[SP_MODEL_NAME];
    sp_model_row row;
    if (e->n == SP_ENCODERS + (ranks ? 1 : 0))
        return SP_FAIL(d, SP_LIMIT, "encoder: more than %d are named", SP_ENCODERS);
    SP_TRY(sp_cmd_find_model(path, sizeof path, entry, m->o, d));
    for (size_t n = strlen(path); n > 1 && path[n - 1] == '/'; n--)
        path[n - 1] = 0;
    sp_cmd_model_name(name, path);
    if (!find_row(m->models, name, &row)) /* a model of the folder is known already */
        SP_TRY(sp_models_add(m->models, name, path, d));
    if (!find_row(m->models, name, &row))
        return SP_FAIL(d, SP_NOTFOUND, "encoder: %.100s", name);
    if (!is_same_file(row.path, path))
        return SP_FAIL(d, SP_INVAL, "encoder: another model is called %.100s, too: %.60s", name,
                       row.path);
    if (row.facts.why[0])
        return SP_FAIL(d, SP_FORMAT,
                       strncmp(row.facts.why, path, strlen(path)) == 0 ? "%.0s%s" : "%.60s: %s",
                       path, row.facts.why);
    if (!row.facts.is_encoder)
        return SP_FAIL(d, SP_UNSUP,
                       "%.60s: architecture %s without the key %s.pooling_type is no encoder", path,
                       row.facts.arch, row.facts.arch);
    if (row.facts.is_ranker != ranks)
        return ranks
                   ? SP_FAIL(d, SP_UNSUP,
                             "reranker: %.100s makes vectors and ranks nothing: --encoder takes it",
                             entry)
                   : SP_FAIL(d, SP_UNSUP, "encoder: %.100s is a reranker: --reranker takes it",
                             entry);
    for (size_t i = 0; i < e->n; i++)
        if (sp_model_same_name(e->name[i], name))
            return SP_FAIL(d, SP_INVAL, "encoder: two of them are called %.100s", name);
    e->name[e->n++] = row.name;
    return SP_OK;
}

static sp_err add_list(sp_serve_encoders *e, sp_serve_models *m, const char *list, sp_diag *d)
{
    char *text = sp_mem_strdup(list), *save = NULL;
    sp_err err = text ? SP_OK : SP_FAIL(d, SP_NOMEM, "encoders");
    for (char *p = text ? strtok_r(text, ",", &save) : NULL; p && err == SP_OK;
         p = strtok_r(NULL, ",", &save))
        err = add(e, m, p, false, d);
    sp_mem_free(text);
    return err;
}

static sp_err keep(sp_serve_encoders *e, sp_serve_models *m, const char *name, sp_diag *d)
{
    char why[SP_MODEL_WHY];
    SP_TRY(sp_models_bring(m->models, name, why, d));
    SP_TRY(sp_models_hold(&e->kept[e->n_kept], m->models, name, d));
    e->n_kept++;
    return SP_OK;
}

sp_err sp_serve_encoders_new(sp_serve_encoders *e, sp_serve_models *m, bool is_searched, sp_diag *d)
{
    const char *given = sp_opt_str(m->o, "encoder"), *ranker = sp_opt_str(m->o, "reranker");
    char path[1024];
    if (given && strcmp(given, "none") != 0)
        SP_TRY(add_list(e, m, given, d));
    else if (sp_cmd_embed_path(path, sizeof path, m->o))
        SP_TRY(add(e, m, path, false, d));
    e->first = e->n ? e->name[0] : NULL;
    if (ranker) {
        SP_TRY(add(e, m, ranker, true, d));
        e->ranker = e->name[e->n - 1];
    }
    size_t n_stay = !sp_models_config(m->models)->is_list ? e->n : e->first && is_searched ? 1 : 0;
    for (size_t i = 0; i < n_stay; i++)
        SP_TRY(keep(e, m, e->name[i], d));
    return SP_OK;
}

sp_err sp_serve_encoders_start(const sp_serve_encoders *e, sp_serve_models *m, sp_diag *d)
{
    char why[SP_MODEL_WHY];
    for (size_t i = e->n_kept; i < e->n; i++)
        if (sp_serve_models_has_room(m, e->name[i]))
            SP_TRY(sp_models_bring(m->models, e->name[i], why, d));
    return SP_OK;
}

void sp_serve_encoders_leave(sp_serve_encoders *e, sp_models *m)
{
    while (e->n_kept)
        sp_models_done(m, e->kept[--e->n_kept]);
}

sp_encoder *sp_serve_encoders_first(const sp_serve_encoders *e)
{
    return e->n_kept && e->first ? e->kept[0]->encoder : NULL;
}
