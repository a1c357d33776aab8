#include "cmd/improve_course.h"

#include "base/mem.h"
#include "cmd/check.h"
#include "cmd/train_control.h"
#include "cmd/train_head.h"
#include "pipe/control_train.h"

#include <jansson.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

/* The prompts of the earlier days as messages. */
typedef struct lesson {
    const json_t **line; /* [n] */
    sp_chat_msg *msg;
    sp_control_prompt *p; /* [n] */
    size_t n;
} lesson;

static sp_str text_of(const json_t *text)
{
    return (sp_str){json_string_value(text), json_string_length(text)};
}

/* checked: those with a check only. */
static sp_err open_lesson(lesson *s, const sp_prompts *prompts, bool checked, sp_diag *d)
{
    size_t n = prompts->n_early, n_msg = 0, i;
    for (size_t k = 0; k < n; k++)
        n_msg += 1 + json_array_size(json_object_get(prompts->p[k].line, "messages"));
    s->line = sp_mem_array(n, sizeof(void *));
    s->p = sp_mem_array(n, sizeof *s->p);
    s->msg = sp_mem_array(n_msg, sizeof *s->msg);
    sp_chat_msg *to = s->msg;
    for (size_t at = 0; at < n && s->line && s->p && to; at++) {
        const json_t *line = prompts->p[at].line, *m, *list = json_object_get(line, "messages");
        if (checked && !json_object_get(line, "check"))
            continue;
        size_t k = s->n++;
        s->line[k] = line;
        s->p[k].msg = to;
        json_array_foreach(list, i, m) {
            *to++ = (sp_chat_msg){.role = text_of(json_object_get(m, "role")),
                                  .content = text_of(json_object_get(m, "content"))};
            if (!to[-1].role.p || !to[-1].content.p)
                return SP_FAIL(d, SP_FORMAT, "a message of a prompt is not role and content");
        }
        if (!json_array_size(list))
            *to++ = (sp_chat_msg){.role = {"user", 4},
                                  .content = text_of(json_object_get(line, "prompt"))};
        s->p[k].n_msg = (size_t)(to - s->p[k].msg);
    }
    return s->line && s->p && s->msg ? SP_OK : SP_FAIL(d, SP_NOMEM, "prompts");
}

static void close_lesson(lesson *s)
{
    sp_mem_free(s->line);
    sp_mem_free(s->p);
    sp_mem_free(s->msg);
}

static double score(void *arg, const sp_control_prompt *p, const char *answer)
{
    const lesson *s = arg;
    return sp_check_score(json_object_get(s->line[p - s->p], "check"), answer);
}

/* --- a policy --------------------------------------------------------------------------------- */

sp_err sp_own_policy_train(sp_own_policy *out, const sp_course_cfg *c, sp_diag *d)
{
    lesson s = {0};
    sp_turn_env env = {0};
    sp_control_train_cfg cfg;
    sp_control_result r = {0};
    sp_err err = open_lesson(&s, c->prompts, true, d);
    if (err == SP_OK && !s.n)
        err = SP_FAIL(d, SP_INVAL, "retrain-control: no prompt of the earlier days has a check");
    if (err == SP_OK)
        err = sp_cmd_train_env(&env, c->l, c->metrics, d);
    sp_control_train_init(&cfg, &env);
    cfg.seed = c->round + 1;
    cfg.minutes = sp_opt_num(c->o, "minutes");
    cfg.n_round = (size_t)sp_opt_int(c->o, "rounds");
    cfg.max_tok = (size_t)sp_opt_int(c->o, "answer-tokens");
    cfg.price = sp_opt_num(c->o, "token-price");
    cfg.temperature = (float)sp_opt_num(c->o, "heat");
    cfg.score = score;
    cfg.arg = &s;
    if (err == SP_OK)
        err = sp_control_learn(&out->policy, &r, &cfg, s.p, s.n, d);
    sp_engine_free(env.engine);
    close_lesson(&s);
    if (err != SP_OK)
        return err;
    out->n_prompt = r.n_train;
    out->n_round = r.n_round;
    out->number = sp_versions_count(c->versions, "policy-", ".model") + 1;
    return SP_OK;
}

sp_err sp_own_policy_keep(const sp_own_policy *p, const sp_versions *v, size_t round, sp_diag *d)
{
    char origin[80];
    sp_buf b = {0};
    sp_policy_write(&b, &p->policy);
    snprintf(origin, sizeof origin, "prompts: %zu\nrounds: %zu\n", p->n_prompt, p->n_round);
    const sp_trained t = {.what = "policy",
                          .number = p->number,
                          .round = round,
                          .model = b.p,
                          .n_model = b.len,
                          .origin = origin};
    sp_err err = b.failed ? SP_FAIL(d, SP_NOMEM, "policy") : sp_versions_keep(v, &t, d);
    sp_buf_fini(&b);
    return err;
}

/* --- a draft head ----------------------------------------------------------------------------- */

/* What the head is trained on, with the digest of the prompts' tokens. */
static sp_err note_data(char out[SP_HEAD_NAME], const sp_head_course *c, size_t n_day)
{
    sp_sha256 sum;
    char hex[65];
    const sp_sha256_part all = {c->ids.id, c->ids.n * sizeof *c->ids.id};
    SP_TRY(sp_sha256_of(&sum, &all, 1));
    sp_sha256_hex(hex, &sum);
    snprintf(out, SP_HEAD_NAME, "own answers to %zu prompts of %zu days, sha256 %.16s", c->n, n_day,
             hex);
    return SP_OK;
}

sp_err sp_own_head_train(sp_own_head *out, const sp_course_cfg *cfg, sp_diag *d)
{
    lesson s = {0};
    sp_head_course c = {.l = cfg->l,
                        .own = true,
                        .n_step = (size_t)sp_opt_int(cfg->o, "steps"),
                        .n_tok = (size_t)sp_opt_int(cfg->o, "draft-tokens"),
                        .minutes = sp_opt_num(cfg->o, "minutes")};
    unsigned number = sp_versions_count(cfg->versions, "head-", ".gguf") + 1;
    out->about.seed = cfg->round + 1;
    sp_err err = open_lesson(&s, cfg->prompts, false, d);
    for (size_t i = 0; i < s.n && err == SP_OK; i++)
        err = sp_head_course_ask(&c, s.p[i].msg, s.p[i].n_msg, d);
    if (err == SP_OK &&
        note_data(out->about.data, &c, cfg->prompts->n_day - cfg->prompts->n_day_held) != SP_OK)
        err = SP_FAIL(d, SP_NOMEM, "prompts");
    if (err == SP_OK)
        err = sp_head_course_run(&c, &out->about, d);
    snprintf(out->path, sizeof out->path, "%.1000s/head-%u.gguf", sp_versions_dir(cfg->versions),
             number);
    if (err == SP_OK) {
        out->number = number; /* from here on there may be a file to remove */
        out->n_prompt = s.n;
        err = sp_head_course_write(&c, out->path, &out->about, d);
    }
    sp_head_course_fini(&c);
    close_lesson(&s);
    return err;
}

sp_err sp_own_head_keep(sp_own_head *h, const sp_versions *v, size_t round, sp_diag *d)
{
    char origin[300];
    snprintf(origin, sizeof origin, "prompts: %zu\nsteps: %llu\ndata: \"%.120s\"\n", h->n_prompt,
             (unsigned long long)h->about.n_step, h->about.data);
    h->is_kept = true;
    return sp_versions_keep(
        v, &(sp_trained){.what = "head", .number = h->number, .round = round, .origin = origin},
        d);
}

void sp_own_head_fini(sp_own_head *h)
{
    if (h->number && !h->is_kept)
        (void)unlink(h->path);
}
