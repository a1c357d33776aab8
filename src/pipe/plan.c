#include "pipe/plan.h"

#include <string.h>

enum { WATCH_TOK = 8, UNSURE_TOK = 16 };

sp_err sp_want_read(sp_want *out, const char *name)
{
    if (strcmp(name, "auto") == 0) {
        *out = SP_WANT_AUTO;
        return SP_OK;
    }
    for (size_t i = 0; i < 3; i++) {
        if (strcmp(name, sp_path_name((sp_path)i)) == 0) {
            *out = (sp_want)(SP_WANT_LIGHT + i);
            return SP_OK;
        }
    }
    return SP_FORMAT;
}

static bool can_pass(const sp_plan_cfg *cfg, const sp_plan_ask *ask)
{
    return ask->plain || (cfg->placed && ask->bare);
}

static bool may_leave(const sp_plan_cfg *cfg, const sp_plan_ask *ask)
{
    return cfg->has_upstream && !ask->is_private && can_pass(cfg, ask) &&
           !ask->forbid[SP_PATH_UPSTREAM];
}

static sp_err check_upstream(const sp_plan_cfg *cfg, const sp_plan_ask *ask, sp_diag *d)
{
    if (!cfg->has_upstream && cfg->upstream_rests)
        return SP_FAIL(d, SP_AGAIN,
                       "path upstream: the other server failed several times in a row and is left "
                       "alone for a while");
    if (ask->is_private)
        return SP_FAIL(d, SP_INVAL, "path upstream: the request is private");
    if (!cfg->has_upstream && cfg->stays)
        return SP_FAIL(d, SP_INVAL, "path upstream: placement: %s", cfg->stays);
    if (!cfg->has_upstream)
        return SP_FAIL(d, SP_INVAL, "path upstream: this server has no --upstream");
    if (!can_pass(cfg, ask))
        return SP_FAIL(d, SP_INVAL,
                       "path upstream: n, votes, logprobs, logit_bias, patterns and ignore_eos are "
                       "not passed on");
    return SP_OK;
}

static sp_err choose(sp_plan *p, const sp_plan_cfg *cfg, const sp_plan_ask *ask, sp_diag *d)
{
    sp_want want = ask->want != SP_WANT_AUTO ? ask->want : cfg->want;
    const bool *no = ask->forbid;
    if (want != SP_WANT_AUTO && no[want - SP_WANT_LIGHT])
        return SP_FAIL(d, SP_INVAL, "the path %s is both wanted and forbidden",
                       sp_path_name((sp_path)(want - SP_WANT_LIGHT)));
    if (want == SP_WANT_UPSTREAM && cfg->upstream_rests && !no[SP_PATH_FULL]) {
        p->path = SP_PATH_FULL;
        p->why = "the other server takes no request just now";
        return SP_OK;
    }
    if (no[SP_PATH_LIGHT] && no[SP_PATH_FULL] && cfg->upstream_rests && !no[SP_PATH_UPSTREAM])
        return check_upstream(cfg, ask, d);
    if (no[SP_PATH_LIGHT] && no[SP_PATH_FULL] && !may_leave(cfg, ask))
        return SP_FAIL(d, SP_INVAL, "every path is forbidden, or not there");
    if (want != SP_WANT_AUTO) {
        if (want == SP_WANT_UPSTREAM)
            SP_TRY(check_upstream(cfg, ask, d));
        p->path = (sp_path)(want - SP_WANT_LIGHT);
        p->why = ask->want != SP_WANT_AUTO ? "the request says so" : "the server was told so";
        return SP_OK;
    }
    bool hard = !p->judged || p->difficulty >= cfg->full_from;
    p->path = !hard ? SP_PATH_LIGHT : may_leave(cfg, ask) ? SP_PATH_UPSTREAM : SP_PATH_FULL;
    p->why = !p->judged ? "nothing to judge it by" : hard ? "difficult" : "easy";
    if (hard && cfg->has_upstream && ask->is_private)
        p->why = "difficult, and private";
    else if (hard && cfg->stays)
        p->why = "difficult, and no placement rule lets it leave";
    if (no[p->path]) {
        p->path = p->path != SP_PATH_FULL && !no[SP_PATH_FULL] ? SP_PATH_FULL
                  : !no[SP_PATH_LIGHT]                         ? SP_PATH_LIGHT
                                                               : SP_PATH_UPSTREAM;
        p->why = "the path it would take is forbidden";
    }
    return SP_OK;
}

sp_err sp_plan_make(sp_plan *out, const sp_plan_cfg *cfg, const sp_plan_ask *ask,
                    const sp_intent *intent, sp_diag *d)
{
    sp_plan p = {.votes = 1, .why = ""};
    if (intent) {
        p.judged = true;
        p.cls = intent->cls;
        p.sure = intent->sure;
        p.difficulty = intent->difficulty;
        p.need = intent->need;
    }
    SP_TRY(choose(&p, cfg, ask, d));
    bool light = p.path == SP_PATH_LIGHT;
    p.retrieve = cfg->has_passages && (!light || !p.judged || p.need >= cfg->need_from);
    p.max_tok = ask->max_tok && ask->max_tok < ask->cap_tok ? ask->max_tok : ask->cap_tok;
    if (light && !ask->max_tok && cfg->light_tok && cfg->light_tok < p.max_tok)
        p.max_tok = cfg->light_tok;
    p.draft = ask->draft >= 0 ? (size_t)ask->draft : cfg->draft;
    p.draft_fixed = ask->draft_fixed;
    p.drafters = ask->drafters ? ask->drafters : cfg->drafters;
    if (cfg->thinks) /* the light path does not think; the full one, the more the harder it is */
        p.think_tok = ask->think_tok >= 0 ? (size_t)ask->think_tok
                      : light             ? 0
                              : (size_t)((double)cfg->think_tok * (p.judged ? p.difficulty : 1));
    if (ask->votes > 1 && !light)
        p.votes = ask->votes;
    sp_plan better;
    /* small talk is never sure, and need not be */
    bool checkable = p.cls == SP_CLASS_FACT || p.cls == SP_CLASS_EXTRACT || p.cls == SP_CLASS_MATHS;
    if (light && !ask->deep && ask->want == SP_WANT_AUTO && ask->plain && p.judged && checkable &&
        sp_plan_escalate(&better, cfg, ask, &p)) {
        p.watch_tok = WATCH_TOK;
        p.watch_least = cfg->watch_least;
    }
    if (ask->uncertain && ask->plain && p.path != SP_PATH_UPSTREAM &&
        sp_plan_escalate(&better, cfg, ask, &p)) {
        p.watch_tok = UNSURE_TOK;
        p.watch_least = ask->unsure_below < 0 ? ask->unsure_below : cfg->watch_least;
        p.watch_all = true;
    }
    *out = p;
    return SP_OK;
}

bool sp_plan_escalate(sp_plan *out, const sp_plan_cfg *cfg, const sp_plan_ask *ask,
                      const sp_plan *light)
{
    bool leave = may_leave(cfg, ask),
         passages = cfg->has_passages && !light->retrieve && !ask->forbid[SP_PATH_FULL];
    if (!leave && !passages)
        return false;
    *out = *light;
    out->path = leave ? SP_PATH_UPSTREAM : SP_PATH_FULL;
    out->why =
        light->path == SP_PATH_LIGHT ? "the light answer was not sure" : "the answer was not sure";
    out->retrieve = cfg->has_passages;
    if (cfg->thinks)
        out->think_tok = ask->think_tok >= 0 ? (size_t)ask->think_tok : cfg->think_tok;
    out->max_tok = ask->max_tok && ask->max_tok < ask->cap_tok ? ask->max_tok : ask->cap_tok;
    out->watch_tok = 0;
    out->watch_all = false;
    return true;
}
