/* `sparing train control`: prompts with right answers to a policy that prunes answers, and how it
 * does beside rules on families it has not seen. */
#include "cmd/train_control.h"

#include "base/file.h"
#include "pipe/control_train.h"

#include <stdio.h>
#include <string.h>

enum { MAX_INPUT_BYTES = 64 << 20, MAX_RUN = 16, CHUNK = 256 };

static void tell(size_t round, double reward, double right, double tok)
{
    if (round % 10 == 0)
        fprintf(stderr, "round %zu: reward %.3f, right %.3f, %.1f tokens\n", round, reward, right,
                tok);
}

static void print(const sp_control_result *r, bool json)
{
    printf(json ? "{\"train\":%zu,\"test\":%zu,\"rounds\":%zu"
                : "%zu prompts to learn from, %zu of other families to test on, %zu rounds\n",
           r->n_train, r->n_test, r->n_round);
    for (size_t k = 0; k < SP_WAYS; k++) {
        const sp_control_score *s = &r->way[k];
        double n = s->n ? (double)s->n : 1,
               less = r->way[0].n_tok ? 100 * (1 - (double)s->n_tok / (double)r->way[0].n_tok) : 0;
        printf(
            json
                ? ",\"%s\":{\"right\":%.4f,\"gained\":%zu,\"lost\":%zu,\"tokens\":%.1f,"
                  "\"thinking\":%.1f,\"fewer\":%.1f}"
                : "%-8s right %.3f (+%zu -%zu), %.1f tokens, of them %.1f thought: %.1f %% fewer\n",
            sp_control_way_name((sp_control_way)k), s->right / n, s->n_gain, s->n_loss,
            (double)s->n_tok / n, (double)s->n_think / n, less);
    }
    if (json)
        printf("}\n");
}

static sp_err read_policy(sp_policy *out, const char *path, sp_diag *d)
{
    sp_buf b = {0};
    sp_err err = sp_file_read(&b, path, SP_POLICY_BYTES, d);
    if (err == SP_OK)
        err = sp_policy_open(out, sp_buf_str(&b), b.len, d);
    sp_buf_fini(&b);
    return err;
}

static sp_err write_policy(const char *path, const sp_policy *p, sp_diag *d)
{
    sp_buf b = {0};
    sp_policy_write(&b, p);
    FILE *f = b.failed ? NULL : fopen(path, "wb");
    bool ok = f && fwrite(b.p, 1, b.len, f) == b.len;
    ok = f && fclose(f) == 0 && ok;
    sp_buf_fini(&b);
    return ok ? SP_OK : SP_FAIL(d, SP_IO, "%.120s: cannot be written", path);
}

static sp_err run(const sp_opts *o, const char *path, const sp_turn_env *env, sp_diag *d)
{
    const char *given = sp_opt_str(o, "control-policy"), *to = sp_opt_str(o, "output");
    sp_control_train_cfg cfg;
    sp_control_result r;
    sp_policy p;
    sp_buf in = {0};
    sp_control_train_init(&cfg, env);
    cfg.seed = sp_opt_str(o, "seed") ? (uint64_t)sp_opt_int(o, "seed") : cfg.seed;
    cfg.minutes = sp_opt_num(o, "minutes");
    cfg.n_round = (size_t)sp_opt_int(o, "rounds");
    cfg.max_tok = (size_t)sp_opt_int(o, "answer-tokens");
    cfg.price = sp_opt_num(o, "token-price");
    cfg.temperature = (float)sp_opt_num(o, "heat");
    cfg.tell = tell;
    sp_err err = sp_file_read(&in, path, MAX_INPUT_BYTES, d);
    if (err == SP_OK && given) {
        err = read_policy(&p, given, d);
        if (err == SP_OK)
            err = sp_control_test(&r, &p, &cfg, sp_buf_str(&in), in.len, d);
    } else if (err == SP_OK) {
        err = sp_control_train(&p, &r, &cfg, sp_buf_str(&in), in.len, d);
        if (err == SP_OK && to)
            err = write_policy(to, &p, d);
    }
    sp_buf_fini(&in);
    if (err == SP_OK)
        print(&r, sp_opt_flag(o, "json"));
    return err;
}

/* A reasoning model marks what it thinks with two tokens of its own. */
static void find_thinking(sp_turn_env *env)
{
    sp_ids id = {0};
    if (sp_tok_encode(env->tok, &id, "<think></think>", 15, SP_SPECIAL_ALL, NULL) == SP_OK &&
        id.n == 2) {
        env->think_open = id.id[0];
        env->think_close = id.id[1];
    }
    sp_ids_fini(&id);
}

sp_err sp_cmd_train_env(sp_turn_env *env, const sp_loaded *l, sp_metrics *m, sp_diag *d)
{
    const sp_engine_cfg cfg = {.dev = l->dev,
                               .model = l->model,
                               .tok = l->tok,
                               .pool = l->pool,
                               .metrics = m,
                               .n_ctx = l->n_ctx,
                               .max_run = MAX_RUN,
                               .max_queue = 256,
                               .chunk_tok = CHUNK};
    *env = (sp_turn_env){.name = l->name, .tok = l->tok, .chat = l->chat};
    find_thinking(env);
    return sp_engine_new(&env->engine, &cfg, d);
}

int sp_cmd_train_control(const sp_opts *o, const char *path)
{
    sp_loaded l;
    sp_metrics *metrics = NULL;
    sp_turn_env env = {0};
    sp_diag d = {0};
    if (sp_cmd_load(&l, o, NULL, &d) != SP_OK)
        return sp_cmd_fail(EXIT_MODEL, &d);
    sp_err err = sp_metrics_new(&metrics) == SP_OK ? SP_OK : SP_FAIL(&d, SP_NOMEM, "metrics");
    if (err == SP_OK)
        err = sp_cmd_train_env(&env, &l, metrics, &d);
    if (err == SP_OK)
        err = run(o, path, &env, &d);
    sp_engine_free(env.engine);
    sp_metrics_free(metrics);
    sp_cmd_unload(&l);
    return err == SP_OK ? EXIT_DONE : sp_cmd_fail(EXIT_RUN, &d);
}
