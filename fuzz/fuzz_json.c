/* Any bytes as a request body of every endpoint, against a server core with a tiny model. Requests
 * that would run are let go at once. */
#include "fuzz.h"

#include "api/codec.h"
#include "api/params.h"
#include "api/running.h"

#include <stdlib.h>

static sp_app app;
static sp_turn_env shared;
static sp_served served;

static void look(void *arg, sp_model_facts *out, const char *path)
{
    (void)arg;
    (void)path;
    out->has_chat = true;
}

static sp_err measure(void *arg, size_t *need, size_t *kv_bytes, const char *path, const sp_model_facts *f, size_t cap,
                      char why[SP_MODEL_WHY], sp_diag *d)
{
    (void)f;
    (void)arg;
    (void)path;
    (void)cap;
    (void)why;
    (void)d;
    *need = *kv_bytes = 0;
    return SP_OK;
}

static sp_err open_model(void *arg, sp_served **out, const char *name, const char *path, const sp_model_facts *f, size_t kv_bytes,
                         sp_diag *d)
{
    (void)f;
    (void)arg;
    (void)name;
    (void)path;
    (void)kv_bytes;
    (void)d;
    *out = &served;
    return SP_OK;
}

static bool start_models(void)
{
    char why[SP_MODEL_WHY];
    const sp_models_cfg cfg = {.opener = {.look = look, .measure = measure, .open = open_model}, .cap_bytes = SIZE_MAX, .keep_s = -1,
                               .wait_s = 600, .metrics = app.metrics};
    if (sp_models_new(&app.models, &cfg, NULL) != SP_OK || sp_models_add(app.models, "m", "m", NULL) != SP_OK)
        return false;
    sp_models_set_default(app.models, "m");
    served.env.models = app.models;
    served.env.served = &served;
    return sp_models_bring(app.models, "m", why, NULL) == SP_OK;
}

static bool start(void)
{
    const char *path = getenv("SPARING_FUZZ_MODEL");
    static sp_gguf *g;
    static sp_tok *t;
    static sp_dev *dev;
    static sp_model *m;
    static sp_kv_pool *pool;
    sp_dev_cfg cfg = {.name = "cpu", .n_thread = 1, .mask = SP_CPU_LEVELS - 1};
    if (sp_gguf_open(&g, path ? path : "test/golden/data/tiny-mha.gguf", NULL) != SP_OK || sp_tok_open(&t, g, NULL) != SP_OK ||
        sp_dev_open(&dev, &cfg, NULL) != SP_OK || sp_model_load(&m, g, dev, NULL, NULL) != SP_OK || sp_metrics_new(&app.metrics) != SP_OK)
        return false;
    sp_kv_cfg kv = {.shape = sp_model_kv_shape(m, sp_kv_format_find("f16")), .cap_bytes = 1 << 20, .reuse = true};
    if (sp_kv_pool_new(&pool, dev, &kv, NULL) != SP_OK)
        return false;
    sp_engine_cfg e = {.model = m, .tok = t, .pool = pool, .metrics = app.metrics, .n_ctx = 128, .max_run = 2, .max_queue = 4, .chunk_tok = 64};
    served.env.tok = t;
    served.env.name = "m";
    app.shared = &shared;
    if (sp_ledger_new(&app.ledger, app.metrics, NULL) != SP_OK || sp_running_new(&app.running) != SP_OK)
        return false;
    return sp_engine_new(&served.env.engine, &e, NULL) == SP_OK && start_models();
}

int LLVMFuzzerTestOneInput(const uint8_t *p, size_t n)
{
    static bool ready;
    if (!ready && !(ready = start()))
        abort();
    for (int chat = 0; chat < 2; chat++) {
        sp_api_req req = {.method = "POST", .path = "/", .body = (const char *)p, .n_body = n};
        sp_http_task task = {0};
        sp_http_reply reply = {0};
        sp_served *on;
        SP_ASSERT(sp_models_use(&on, app.models, "m") == SP_OK);
        sp_api_answer(&(sp_api_place){.app = &app, .on = &served}, chat ? &sp_codec_chat : &sp_codec_completion, &req, "t", &reply, &task);
        if (task.arg)
            task.close(task.arg);
        else
            SP_ASSERT(reply.status >= 400 && reply.body.len);
        sp_models_done(app.models, on);
        sp_buf_fini(&reply.body);
    }
    json_t *j;
    if (sp_params_parse(&j, (const char *)p, n, NULL) == SP_OK)
        json_decref(j);
    return 0;
}
