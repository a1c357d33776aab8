/* What a server guesses tokens ahead with. */
#include "cmd/cmd.h"

#include "base/mem.h"
#include "gen/draft_head.h"
#include "gen/draft_model.h"
#include "gen/draft_next.h"
#include "gen/draft_text.h"
#include "gen/earlier.h"

#include <string.h>

static sp_err read_names(unsigned *which, const char *list, sp_diag *d)
{
    char *text = sp_mem_strdup(list), *save = NULL;
    sp_err err = text ? SP_OK : SP_FAIL(d, SP_NOMEM, "options");
    for (char *p = text ? strtok_r(text, ",", &save) : NULL; p && err == SP_OK;
         p = strtok_r(NULL, ",", &save)) {
        sp_draft_id id;
        if (sp_draft_find(&id, p))
            *which |= 1u << id;
        else
            err = SP_FAIL(
                d, SP_INVAL,
                "drafters: '%.40s' is none of lookup, prediction, earlier, model, head, mtp", p);
    }
    sp_mem_free(text);
    return err;
}

/* Opens and loads the file, if it runs here. Where its vocabulary is not that of the model that it
 * guesses for, c->tok is its own. */
static sp_err load_model(sp_cmd_drafter *c, const sp_loaded *l, const char *path,
                         const sp_check_cfg *cfg, const char *packed_dir, size_t *n_ctx,
                         sp_diag *d)
{
    sp_check found;
    sp_check_file(&found, path, cfg);
    sp_err err =
        found.n_why ? SP_FAIL(d, found.why_code[0], "draft-model: %s", found.why[0]) : SP_OK;
    if (err == SP_OK && sp_arch_is_encoder(&found.arch))
        err =
            SP_FAIL(d, SP_UNSUP, "draft-model: %s is an encoder and writes no answers", found.name);
    if (err == SP_OK && sp_draft_same_vocab(l->tok, found.tok, NULL) != SP_OK) {
        c->tok = found.tok;
        found.tok = NULL;
    }
    if (err == SP_OK) {
        *n_ctx = found.n_ctx;
        c->gguf = found.gguf;
        found.gguf = NULL;
        const sp_model_cfg model = {.expert_bytes = found.expert_room, .packed_dir = packed_dir};
        err = sp_model_load(&c->draft, c->gguf, l->dev, &model, d);
    }
    sp_check_fini(&found);
    return err == SP_OK ? sp_gguf_own(c->gguf, d) : err;
}

static sp_err open_model(sp_cmd_drafter *c, const sp_loaded *l, const sp_opts *o, sp_diag *d)
{
    char path[1024], name[128];
    size_t n_ctx;
    sp_check_cfg cfg;
    sp_packed_cfg packed;
    SP_TRY(sp_cmd_find_model(path, sizeof path, sp_opt_str(o, "draft-model"), o, d));
    SP_TRY(sp_cmd_check_cfg(&cfg, l->dev, o, d));
    cfg.kv_bytes = sp_opt_bytes(o, "draft-kv-bytes");
    cfg.kv_is_asked = true;
    cfg.n_ctx = 0;
    SP_TRY(sp_cmd_packed_cfg(&packed, o, d));
    SP_TRY(load_model(c, l, path, &cfg, packed.dir, &n_ctx, d));
    sp_cmd_model_name(name, path);
    SP_TRY(sp_cmd_keep_weights(c->draft, name, o, d));
    size_t snap_bytes = sp_model_state_bytes(c->draft) ? cfg.kv_bytes / 4 : 0;
    const sp_kv_cfg kv = {.shape = sp_model_kv_shape(c->draft, cfg.format),
                          .cap_bytes = cfg.kv_bytes - snap_bytes,
                          .state_bytes = sp_model_state_bytes(c->draft),
                          .snap_bytes = snap_bytes,
                          .window = sp_model_kv_window(c->draft),
                          .model_id = *sp_model_id(c->draft),
                          .reuse = sp_opt_flag(o, "reuse"),
                          .variant = sp_dev_host_kern(l->dev)->isa};
    SP_TRY(sp_kv_pool_new(&c->pool, l->dev, &kv, d));
    const sp_draft_model_cfg draft = {.model = c->draft,
                                      .pool = c->pool,
                                      .n_vocab = sp_tok_count(c->tok ? c->tok : l->tok),
                                      .n_ctx = n_ctx,
                                      .cap_seq = (size_t)sp_opt_int(o, "max-run")};
    SP_TRY(sp_draft_model_new(&c->model, &draft, d));
    const sp_draft_text_cfg text = {
        .inner = c->model, .ours = l->tok, .its = c->tok, .cap_seq = draft.cap_seq};
    return c->tok ? sp_draft_text_new(&c->text, &text, d) : SP_OK;
}

/* The block of the file that guesses tokens further on, where it has one. */
static sp_err open_mtp(sp_cmd_drafter *c, const sp_loaded *l, const sp_opts *o, sp_diag *d)
{
    sp_check_cfg cfg;
    if (!l->block)
        return SP_OK;
    SP_TRY(sp_cmd_check_cfg(&cfg, l->dev, o, d));
    const sp_kv_cfg kv = {.shape = sp_model_kv_shape(l->block, cfg.format),
                          .cap_bytes = sp_opt_bytes(o, "draft-kv-bytes"),
                          .model_id = *sp_model_id(l->model)};
    SP_TRY(sp_kv_pool_new(&c->block_pool, l->dev, &kv, d));
    const sp_draft_next_cfg next = {.model = l->model,
                                    .block = l->block,
                                    .pool = c->block_pool,
                                    .dev = l->dev,
                                    .n_vocab = sp_tok_count(l->tok),
                                    .n_ctx = l->n_ctx,
                                    .cap_seq = (size_t)sp_opt_int(o, "max-run")};
    return sp_draft_next_new(&c->mtp, &next, d);
}

sp_err sp_cmd_open_head(sp_cmd_drafter *out, const sp_loaded *l, size_t cap_seq, const char *path,
                        sp_diag *d)
{
    sp_head_file f = {0};
    sp_diag why = {0};
    if (!path)
        return SP_OK;
    sp_err err = sp_head_open(&f, path, &why);
    const sp_draft_head_cfg cfg = {
        .model = l->model, .dev = l->dev, .file = &f, .cap_seq = cap_seq};
    if (err == SP_OK)
        err = sp_draft_head_new(&out->head, &cfg, &why);
    sp_head_close(&f);
    return err == SP_OK ? SP_OK : SP_FAIL(d, err, "draft-head: %.60s: %s", path, why.msg);
}

sp_err sp_cmd_open_drafters(sp_cmd_drafter *out, const sp_loaded *l, const sp_opts *o, sp_diag *d)
{
    size_t bytes = sp_opt_bytes(o, "earlier-bytes");
    SP_TRY(read_names(&out->which, sp_opt_str(o, "drafters"), d));
    if (bytes && sp_earlier_new(&out->earlier, bytes) != SP_OK)
        return SP_FAIL(d, SP_NOMEM, "earlier answers");
    SP_TRY(open_mtp(out, l, o, d));
    return sp_opt_str(o, "draft-model") ? open_model(out, l, o, d) : SP_OK;
}

void sp_cmd_close_drafters(sp_cmd_drafter *c)
{
    sp_earlier_free(c->earlier);
    sp_draft_head_free(c->head);
    sp_draft_next_free(c->mtp);
    sp_kv_pool_free(c->block_pool);
    sp_draft_text_free(c->text);
    sp_draft_model_free(c->model);
    sp_kv_pool_free(c->pool);
    sp_model_free(c->draft);
    sp_tok_close(c->tok);
    sp_gguf_close(c->gguf);
    *c = (sp_cmd_drafter){0};
}

size_t sp_cmd_drafters(sp_draft_source **out, const sp_cmd_drafter *c)
{
    size_t n = 0;
    if (c->earlier)
        out[n++] = c->earlier;
    if (c->head)
        out[n++] = c->head;
    if (c->mtp)
        out[n++] = c->mtp;
    if (c->model)
        out[n++] = c->text ? c->text : c->model;
    return n;
}
