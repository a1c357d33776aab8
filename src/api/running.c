#include "api/running.h"

#include "api/params.h"
#include "base/lock.h"
#include "base/mem.h"

#include <stdio.h>
#include <string.h>

typedef struct entry {
    struct entry *next;
    sp_turn *turn;
} entry;

struct sp_running {
    sp_lock lock; /* rank API */
    entry *all;   /* guard: lock */
};

sp_err sp_running_new(sp_running **out)
{
    sp_running *r = sp_mem_alloc(sizeof *r);
    if (!r)
        return SP_NOMEM;
    sp_lock_init(&r->lock, SP_RANK_API);
    *out = r;
    return SP_OK;
}

void sp_running_free(sp_running *r)
{
    if (!r)
        return;
    sp_lock_fini(&r->lock);
    sp_mem_free(r);
}

sp_err sp_running_add(sp_running *r, sp_turn *t)
{
    entry *e = sp_mem_alloc(sizeof *e);
    if (!e)
        return SP_NOMEM;
    e->turn = t;
    sp_lock_get(&r->lock);
    e->next = r->all;
    r->all = e;
    sp_lock_put(&r->lock);
    return SP_OK;
}

void sp_running_remove(sp_running *r, const sp_turn *t)
{
    sp_lock_get(&r->lock);
    entry **at = &r->all;
    while (*at && (*at)->turn != t)
        at = &(*at)->next;
    entry *e = *at;
    if (e)
        *at = e->next;
    sp_lock_put(&r->lock);
    sp_mem_free(e);
}

/* SP_NOTFOUND: the tenant has no such answer in the making. SP_UNSUP: its model marks no
 * thoughts. */
static sp_err answer_now(sp_running *r, const char *tenant, const char *id)
{
    sp_err err = SP_NOTFOUND;
    sp_lock_get(&r->lock);
    for (entry *e = r->all; e && err == SP_NOTFOUND; e = e->next) {
        const sp_ask *q = sp_turn_ask(e->turn);
        const sp_turn_env *env = sp_turn_env_of(e->turn);
        if (strcmp(q->id, id) != 0 || strcmp(q->tenant, tenant) != 0)
            continue;
        err = env->think_open == env->think_close ? SP_UNSUP : SP_OK;
        sp_turn_answer_now(e->turn);
    }
    sp_lock_put(&r->lock);
    return err;
}

static sp_err control(sp_app *app, const json_t *j, const char *tenant, sp_buf *out,
                      const char **bad, sp_diag *d)
{
    const char *id = NULL, *action = NULL;
    const sp_param table[] = {{"id", SP_P_STR, &id, 0, 0}, {"action", SP_P_STR, &action, 0, 0}};
    SP_TRY(sp_params_read(j, table, 2, bad, d));
    *bad = "action";
    if (!action || strcmp(action, "reasoning_end") != 0)
        return SP_FAIL(d, SP_INVAL, "action must be reasoning_end");
    *bad = "id";
    if (!id)
        return SP_FAIL(d, SP_INVAL, "id is missing: that of an answer, as its stream says it");
    sp_err err = answer_now(app->running, tenant, id);
    if (err == SP_UNSUP)
        return SP_FAIL(d, err, "the model of this answer marks no thoughts that could be ended");
    if (err != SP_OK)
        return SP_FAIL(d, err, "no answer %.40s is being written", id);
    sp_buf_puts(out, "{\"id\":");
    sp_buf_json_str(out, id, strlen(id));
    sp_buf_puts(out, ",\"action\":\"reasoning_end\",\"success\":true}");
    return SP_OK;
}

sp_err sp_api_control(sp_app *app, const sp_api_req *req, const char *tenant, sp_buf *out,
                      char bad[64], sp_diag *d)
{
    json_t *j = NULL;
    const char *wrong = NULL;
    bad[0] = 0;
    SP_TRY(sp_params_parse(&j, req->body, req->n_body, d));
    sp_err err = control(app, j, tenant, out, &wrong, d);
    snprintf(bad, 64, "%.60s", err != SP_OK && wrong ? wrong : "");
    json_decref(j);
    return err;
}
