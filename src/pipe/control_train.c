#include "pipe/control_train.h"

#include "base/clock.h"
#include "base/mem.h"
#include "base/rng.h"
#include "base/sha256.h"
#include "pipe/prompt.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

enum { MAX_PROMPTS = 1 << 20, AT_ONCE = 64, WAIT_NS = 50000000 };
/* STILL: where all of a group are right, tokens alone move less */
static const double CUT = 0.2, LOOPS = 0.3, STILL = 0.05, B1 = 0.9, B2 = 0.99, TINY = 1e-8;

typedef sp_control_prompt item;

/* Prompts, and the messages that those of a file consist of. */
typedef struct set {
    const item *e; /* [n] the caller's, or own */
    item *own;
    sp_chat_msg *msg;
    size_t n, cap, cap_msg, n_test;
    sp_sha256 id; /* of what they say */
} set;

/* One answer, as it came out. */
typedef struct outcome {
    double right;
    bool cut, loops;
    size_t n_tok, n_think;
    sp_buf steps; /* sp_policy_step */
} outcome;

typedef struct grad {
    double w[sizeof(sp_policy) / sizeof(float)];
} grad;

typedef struct trainer {
    const sp_control_train_cfg *cfg;
    const set *s;
    sp_policy p, start;
    grad g, m, v;
    size_t n_step;
    double curve[SP_CONTROL_CURVE][3]; /* reward, right, tokens: means over the rounds of each
                                          part */
    size_t n_curve[SP_CONTROL_CURVE];
} trainer;

void sp_control_train_init(sp_control_train_cfg *cfg, const sp_turn_env *env)
{
    *cfg = (sp_control_train_cfg){.env = env,
                                  .group = 8,
                                  .batch = 8,
                                  .max_tok = 256,
                                  .minutes = 10,
                                  .price = 0.3,
                                  .leash = 0.1,
                                  .rate = 0.004,
                                  .temperature = 0.8f,
                                  .seed = 1,
                                  .n_test = 200};
}

const char *sp_control_way_name(sp_control_way way)
{
    static const char *const name[SP_WAYS] = {"plain", "cap", "dry", "loop", "rules", "learned"};
    return name[way];
}

/* --- prompts ---------------------------------------------------------------------------------- */

static bool is_text(sp_str s, const char *text)
{
    return s.n == strlen(text) && memcmp(s.p, text, s.n) == 0;
}

static sp_err read_line(set *s, const char *p, size_t n, size_t i_line, sp_diag *d)
{
    sp_str col[4];
    size_t n_col = 0;
    for (const char *end = p + n; n_col < 4 && p <= end; n_col++) {
        const char *tab = memchr(p, '\t', (size_t)(end - p));
        col[n_col] = (sp_str){p, (size_t)((tab ? tab : end) - p)};
        p = tab ? tab + 1 : end + 1;
    }
    if (n_col < 4 || !col[2].n || !col[3].n)
        return SP_FAIL(d, SP_FORMAT,
                       "line %zu: expected family, train or test, prompt, right answer", i_line);
    if (!is_text(col[1], "train") && !is_text(col[1], "test"))
        return SP_FAIL(d, SP_FORMAT, "line %zu: column 2 must be train or test", i_line);
    if (s->n == MAX_PROMPTS)
        return SP_FAIL(d, SP_LIMIT, "more than %d prompts", MAX_PROMPTS);
    if (!sp_mem_has_room(&s->own, &s->cap, s->n, sizeof *s->own) ||
        !sp_mem_has_room(&s->msg, &s->cap_msg, s->n, sizeof *s->msg))
        return SP_FAIL(d, SP_NOMEM, "prompts");
    s->msg[s->n] = sp_chat_say("user", col[2].p, col[2].n);
    s->own[s->n++] = (item){.right = col[3], .is_test = is_text(col[1], "test")};
    s->n_test += is_text(col[1], "test");
    return SP_OK;
}

static sp_err read_set(set *s, const char *text, size_t n, sp_diag *d)
{
    size_t i_line = 1;
    for (const char *p = text, *end = text + n; p < end; i_line++) {
        const char *nl = memchr(p, '\n', (size_t)(end - p)), *to = nl ? nl : end;
        if (to > p && *p != '#')
            SP_TRY(read_line(s, p, (size_t)(to - p), i_line, d));
        p = to + 1;
    }
    for (size_t i = 0; i < s->n; i++) {
        s->own[i].msg = &s->msg[i];
        s->own[i].n_msg = 1;
    }
    s->e = s->own;
    if (s->n_test == 0 || s->n_test == s->n)
        return SP_FAIL(d, SP_FORMAT, "there must be prompts of both kinds, train and test");
    const sp_sha256_part all = {text, n};
    return sp_sha256_of(&s->id, &all, 1) == SP_OK ? SP_OK : SP_FAIL(d, SP_NOMEM, "prompts");
}

/* Prompts of the caller's. */
static sp_err take_set(set *s, const item *p, size_t n, sp_diag *d)
{
    size_t n_part = 0;
    for (size_t i = 0; i < n; i++) {
        s->n_test += p[i].is_test;
        n_part += p[i].n_msg;
    }
    if (s->n_test == n)
        return SP_FAIL(d, SP_INVAL, "there is no prompt to learn from");
    s->e = p;
    s->n = n;
    sp_sha256_part *part = sp_mem_array(n_part, sizeof *part);
    for (size_t i = n_part = 0; i < n && part; i++)
        for (size_t k = 0; k < p[i].n_msg; k++)
            part[n_part++] = (sp_sha256_part){p[i].msg[k].content.p, p[i].msg[k].content.n};
    sp_err err = part ? sp_sha256_of(&s->id, part, n_part) : SP_NOMEM;
    sp_mem_free(part);
    return err == SP_OK ? SP_OK : SP_FAIL(d, SP_NOMEM, "prompts");
}

static void free_set(set *s)
{
    sp_mem_free(s->own);
    sp_mem_free(s->msg);
}

/* --- answers ---------------------------------------------------------------------------------- */

static bool is_word(char c)
{
    return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') ||
           (unsigned char)c >= 0x80;
}

static char small(char c)
{
    return c >= 'A' && c <= 'Z' ? (char)(c + 32) : c;
}

/* Does the text's last line that has words hold these, whole? */
static bool is_right(const char *p, size_t n, sp_str want)
{
    while (n && !is_word(p[n - 1]))
        n--;
    size_t from = n;
    while (from && p[from - 1] != '\n')
        from--;
    for (size_t i = from; i + want.n <= n; i++) {
        size_t k = 0;
        while (k < want.n && small(p[i + k]) == small(want.p[k]))
            k++;
        if (k == want.n && (i == from || !is_word(p[i - 1])) && (i + k == n || !is_word(p[i + k])))
            return true;
    }
    return false;
}

/* Do the last 64 words have fewer than half as many different neighbours? */
static bool is_loop(const char *p, size_t n)
{
    uint64_t pair[64];
    size_t n_pair = 0, n_new = 0;
    uint64_t before = 0;
    for (size_t i = n; i && n_pair < 64;) {
        uint64_t h = 14695981039346656037u;
        while (i && !is_word(p[i - 1]))
            i--;
        while (i && is_word(p[i - 1]))
            h = (h ^ (unsigned char)small(p[--i])) * 1099511628211u;
        pair[n_pair++] = h * 31 + before;
        before = h;
    }
    for (size_t i = 0; i < n_pair; i++) {
        bool is_new = true;
        for (size_t k = 0; k < i; k++)
            is_new = is_new && pair[k] != pair[i];
        n_new += is_new;
    }
    return n_pair >= 32 && n_new * 2 < n_pair;
}

static bool is_sentence(const char *p, size_t n)
{
    while (n && (p[n - 1] == ' ' || p[n - 1] == '\n'))
        n--;
    return n && strchr(".!?)\"`", p[n - 1]);
}

/* How an answer is made. */
typedef struct how {
    unsigned rules;
    const sp_policy *policy;
    bool traces;
    float temperature;
    size_t max_tok;
} how;

static sp_err submit(sp_job **out, const sp_control_train_cfg *cfg, const item *e, const how *h,
                     uint64_t seed, sp_diag *d)
{
    const sp_turn_env *env = cfg->env;
    const sp_chat_ask ask = {
        .msg = e->msg, .n_msg = e->n_msg, .think = SP_THINK_UNSET, .add_answer = true};
    sp_context ctx = {0};
    sp_job_cfg job = {.plan = {.path = SP_PATH_FULL,
                               .why = "",
                               .max_tok = h->max_tok,
                               .drafters = 1u << SP_DRAFT_LOOKUP},
                      .tenant = "train"};
    sp_session_cfg *s = &job.session;
    SP_TRY(sp_prompt_ask(&ctx, NULL, env->tok, env->chat, &ask,
                         sp_engine_config(env->engine)->n_ctx, d));
    sp_sample_cfg_init(&s->sample);
    s->sample.temperature = h->temperature;
    s->sample.seed = seed;
    s->n_logprobs = -1;
    s->max_tok = h->max_tok;
    s->think_open = env->think_open;
    s->think_close = env->think_close;
    s->think_tok = h->max_tok;
    s->marks = env->think_open != env->think_close;
    s->rules = h->rules;
    s->how = true;
    s->policy = h->policy;
    s->traces = h->traces;
    job.tok = ctx.prompt.id;
    job.n_tok = ctx.prompt.n;
    sp_err err = sp_job_submit(out, env->engine, &job, d);
    sp_context_fini(&ctx);
    return err;
}

/* What stands behind the thoughts. */
static sp_str answer_of(const sp_turn_env *env, const sp_buf *text)
{
    sp_str all = {sp_buf_str(text), text->len};
    if (env->think_open == env->think_close)
        return all;
    sp_str mark = sp_tok_piece(env->tok, env->think_close);
    const char *at = memmem(all.p, all.n, mark.p, mark.n);
    return at ? (sp_str){at + mark.n, all.n - (size_t)(at + mark.n - all.p)} : (sp_str){"", 0};
}

/* said is the end of a text, so that a zero stands behind it. */
static double score(const sp_control_train_cfg *cfg, const item *e, sp_str said)
{
    return cfg->score ? cfg->score(cfg->arg, e, said.p) : is_right(said.p, said.n, e->right);
}

static sp_err collect(outcome *o, sp_job *j, const sp_control_train_cfg *cfg, const item *e,
                      sp_diag *d)
{
    sp_buf text = {0};
    sp_err err = SP_OK;
    for (bool done = false; !done;) {
        sp_event *ev = sp_job_next(j);
        if (!ev) {
            sp_job_wait(j, WAIT_NS);
            continue;
        }
        if (ev->kind == SP_EVENT_TEXT)
            sp_buf_put(&text, ev->text.p, ev->text.len);
        if (ev->kind == SP_EVENT_ERROR)
            err = (d ? *d = ev->diag : ev->diag).code;
        if (ev->kind == SP_EVENT_FINISH) {
            sp_str said = answer_of(cfg->env, &text);
            *o = (outcome){.right = score(cfg, e, said),
                           .cut = ev->finish == SP_FINISH_LENGTH && !is_sentence(said.p, said.n),
                           .loops = is_loop(said.p, said.n),
                           .n_tok = ev->receipt.tok_out,
                           .n_think = ev->receipt.tok_think};
            if (ev->cut) {
                o->steps = ev->cut->steps;
                ev->cut->steps = (sp_buf){0};
            }
        }
        done = ev->kind == SP_EVENT_FINISH || ev->kind == SP_EVENT_ERROR;
        sp_event_free(ev);
    }
    err = err == SP_OK && text.failed ? SP_FAIL(d, SP_NOMEM, "answer") : err;
    sp_buf_fini(&text);
    return err;
}

/* The answers to n prompts, at most AT_ONCE of them together. */
static sp_err answer_all(outcome *out, const sp_control_train_cfg *cfg, const item *const *e,
                         size_t n, const how *h, uint64_t seed, sp_diag *d)
{
    sp_job *job[AT_ONCE];
    sp_err err = SP_OK;
    for (size_t from = 0; from < n && err == SP_OK; from += AT_ONCE) {
        size_t k = n - from < AT_ONCE ? n - from : AT_ONCE, n_job = 0;
        for (; n_job < k && err == SP_OK; n_job += err == SP_OK)
            err = submit(&job[n_job], cfg, e[from + n_job], h, seed + from + n_job, d);
        for (size_t i = 0; i < n_job; i++) {
            sp_err one =
                err == SP_OK ? collect(&out[from + i], job[i], cfg, e[from + i], d) : SP_OK;
            err = err == SP_OK ? one : err;
            sp_job_put(job[i]);
        }
    }
    return err;
}

/* --- learning --------------------------------------------------------------------------------- */

/* Adds the gradient of weight x log prob[act] - leash x KL(now, start) of one decision. */
static void add_step(trainer *t, const sp_policy_step *s, double weight, double leash)
{
    double now[SP_POLICY_ACTS], was[SP_POLICY_ACTS], dz[SP_POLICY_ACTS], kl = 0;
    float mid[SP_POLICY_MID];
    sp_policy_run(&t->p, now, mid, s->x, s->may);
    sp_policy_run(&t->start, was, NULL, s->x, s->may);
    for (size_t a = 0; a < SP_POLICY_ACTS; a++)
        kl += now[a] > 0 ? now[a] * log(now[a] / fmax(was[a], 1e-9)) : 0;
    for (size_t a = 0; a < SP_POLICY_ACTS; a++) {
        double off = now[a] > 0 ? log(now[a] / fmax(was[a], 1e-9)) - kl : 0;
        dz[a] = now[a] > 0 ? weight * ((a == s->act) - now[a]) - leash * now[a] * off : 0;
    }
    double *g = t->g.w;
    size_t at_bias = SP_POLICY_MID * SP_POLICY_IN, at_out = at_bias + SP_POLICY_MID,
           at_last = at_out + SP_POLICY_ACTS * SP_POLICY_MID;
    for (size_t i = 0; i < SP_POLICY_MID; i++) {
        double dh = 0;
        for (size_t a = 0; a < SP_POLICY_ACTS; a++) {
            g[at_out + a * SP_POLICY_MID + i] += dz[a] * (double)mid[i];
            dh += dz[a] * (double)t->p.out[a][i];
        }
        dh *= 1 - (double)(mid[i] * mid[i]);
        g[at_bias + i] += dh;
        for (size_t k = 0; k < SP_POLICY_IN; k++)
            g[i * SP_POLICY_IN + k] += dh * (double)s->x[k];
    }
    for (size_t a = 0; a < SP_POLICY_ACTS; a++)
        g[at_last + a] += dz[a];
}

/* Adam, upwards. */
static void step(trainer *t)
{
    float *w = &t->p.in[0][0];
    size_t n = SP_POLICY_MID * (SP_POLICY_IN + 1) + SP_POLICY_ACTS * (SP_POLICY_MID + 1);
    t->n_step++;
    double fix1 = 1 - pow(B1, (double)t->n_step), fix2 = 1 - pow(B2, (double)t->n_step);
    for (size_t i = 0; i < n; i++) {
        double g = t->g.w[i];
        t->m.w[i] = B1 * t->m.w[i] + (1 - B1) * g;
        t->v.w[i] = B2 * t->v.w[i] + (1 - B2) * g * g;
        w[i] += (float)(t->cfg->rate * t->m.w[i] / fix1 / (sqrt(t->v.w[i] / fix2) + TINY));
    }
    memset(&t->g, 0, sizeof t->g);
}

static double reward_of(const outcome *o, const sp_control_train_cfg *cfg)
{
    return o->right - cfg->price * (double)o->n_tok / (double)cfg->max_tok - CUT * o->cut -
           LOOPS * o->loops;
}

/* Gradients of one group's decisions. A group without a right answer says nothing: it would teach
 * to be wrong sooner. */
static void learn_group(trainer *t, const outcome *o, size_t n)
{
    double mean = 0, var = 0, n_all = 0;
    bool any = false;
    for (size_t i = 0; i < n; i++)
        any = any || o[i].right > 0;
    for (size_t i = 0; i < n && any; i++) {
        mean += reward_of(&o[i], t->cfg) / (double)n;
        n_all += (double)(o[i].steps.len / sizeof(sp_policy_step));
    }
    for (size_t i = 0; i < n; i++)
        var += pow(reward_of(&o[i], t->cfg) - mean, 2) / (double)n;
    for (size_t i = 0; i < n && any; i++) {
        double weight = (reward_of(&o[i], t->cfg) - mean) / (sqrt(var) + STILL);
        for (size_t k = 0; k < o[i].steps.len / sizeof(sp_policy_step); k++) {
            sp_policy_step s;
            memcpy(&s, o[i].steps.p + k * sizeof s, sizeof s);
            add_step(t, &s, weight / n_all, t->cfg->leash / n_all);
        }
    }
}

static void free_outcomes(outcome *o, size_t n)
{
    for (size_t i = 0; i < n; i++)
        sp_buf_fini(&o[i].steps);
    sp_mem_free(o);
}

static void note(trainer *t, const outcome *o, size_t n, size_t round, double part)
{
    size_t at = part >= 1 ? SP_CONTROL_CURVE - 1 : (size_t)(part * SP_CONTROL_CURVE);
    double mean[3] = {0};
    for (size_t i = 0; i < n; i++) {
        mean[0] += reward_of(&o[i], t->cfg) / (double)n;
        mean[1] += o[i].right / (double)n;
        mean[2] += (double)o[i].n_tok / (double)n;
    }
    for (size_t k = 0; k < 3; k++)
        t->curve[at][k] += mean[k];
    t->n_curve[at]++;
    if (t->cfg->tell)
        t->cfg->tell(round, mean[0], mean[1], mean[2]);
}

/* One round. */
static sp_err learn_round(trainer *t, sp_rng *rng, size_t round, double part, sp_diag *d)
{
    const sp_control_train_cfg *cfg = t->cfg;
    size_t n = cfg->batch * cfg->group;
    const item **e = sp_mem_array(n, sizeof *e);
    outcome *o = sp_mem_array(n, sizeof *o);
    const how h = {.rules = 1u << SP_PRUNE_LEARNED,
                   .policy = &t->p,
                   .traces = true,
                   .temperature = cfg->temperature,
                   .max_tok = cfg->max_tok};
    sp_err err = e && o ? SP_OK : SP_FAIL(d, SP_NOMEM, "answers");
    for (size_t b = 0; b < cfg->batch && err == SP_OK; b++) {
        const item *one;
        do
            one = &t->s->e[sp_rng_next(rng) % t->s->n];
        while (one->is_test);
        for (size_t i = 0; i < cfg->group; i++)
            e[b * cfg->group + i] = one;
    }
    if (err == SP_OK)
        err = answer_all(o, cfg, e, n, &h, sp_rng_next(rng) >> 1, d);
    for (size_t b = 0; b < cfg->batch && err == SP_OK; b++)
        learn_group(t, o + b * cfg->group, cfg->group);
    if (err == SP_OK) {
        step(t);
        note(t, o, n, round, part);
    }
    free_outcomes(o, o ? n : 0);
    sp_mem_free(e);
    return err;
}

/* --- measuring -------------------------------------------------------------------------------- */

static sp_err measure(sp_control_result *r, const set *s, const sp_policy *p,
                      const sp_control_train_cfg *cfg, sp_diag *d)
{
    size_t n = 0, every = s->n_test > cfg->n_test ? s->n_test / cfg->n_test : 1, i_test = 0;
    const item **e = sp_mem_array(s->n_test, sizeof *e);
    outcome *plain = sp_mem_array(s->n_test, sizeof *plain),
            *o = sp_mem_array(s->n_test, sizeof *o);
    sp_err err = e && plain && o ? SP_OK : SP_FAIL(d, SP_NOMEM, "answers");
    for (size_t i = 0; i < s->n && err == SP_OK; i++)
        if (s->e[i].is_test && i_test++ % every == 0)
            e[n++] = &s->e[i];
    const how ways[SP_WAYS] = {[SP_WAY_DRY] = {.rules = 1u << SP_PRUNE_DRY},
                               [SP_WAY_LOOP] = {.rules = 1u << SP_PRUNE_LOOP},
                               [SP_WAY_RULES] = {.rules = SP_PRUNE_SAFE},
                               [SP_WAY_LEARNED] = {.rules = 1u << SP_PRUNE_LEARNED, .policy = p}};
    static const sp_control_way order[SP_WAYS] = {SP_WAY_PLAIN, SP_WAY_LEARNED, SP_WAY_CAP,
                                                  SP_WAY_DRY,   SP_WAY_LOOP,    SP_WAY_RULES};
    for (size_t k = 0; k < SP_WAYS && err == SP_OK; k++) {
        how h = ways[order[k]];
        sp_control_score *sum = &r->way[order[k]];
        const sp_control_score *learned = &r->way[SP_WAY_LEARNED];
        h.max_tok =
            order[k] == SP_WAY_CAP && learned->n ? learned->n_tok / learned->n + 1 : cfg->max_tok;
        outcome *to = k ? o : plain;
        err = answer_all(to, cfg, e, n, &h, cfg->seed, d);
        for (size_t i = 0; i < n && err == SP_OK; i++) {
            sum->n++;
            sum->right += to[i].right;
            sum->n_tok += to[i].n_tok;
            sum->n_think += to[i].n_think;
            sum->n_gain += to[i].right > plain[i].right;
            sum->n_loss += to[i].right < plain[i].right;
        }
    }
    r->n_test = n;
    r->n_train = s->n - s->n_test;
    sp_mem_free(e);
    sp_mem_free(plain);
    sp_mem_free(o);
    return err;
}

/* What the file says of itself. */
static sp_err put_origin(trainer *t, const sp_control_result *r, sp_diag *d)
{
    const sp_control_train_cfg *cfg = t->cfg;
    sp_buf b = {0};
    char hex[65];
    sp_sha256_hex(hex, &t->s->id);
    sp_buf_puts(&b, "{\"model\":");
    sp_buf_json_str(&b, cfg->env->name ? cfg->env->name : "",
                    cfg->env->name ? strlen(cfg->env->name) : 0);
    sp_buf_printf(
        &b,
        ",\"data\":\"%s\",\"prompts\":%zu,\"seed\":%llu,\"rounds\":%zu,\"batch\":%zu,\"group\":%zu,"
        "\"max_tokens\":%zu,\"price\":%g,\"leash\":%g,\"rate\":%g,\"temperature\":%g,\"curve\":[",
        hex, r->n_train, (unsigned long long)cfg->seed, r->n_round, cfg->batch, cfg->group,
        cfg->max_tok, cfg->price, cfg->leash, cfg->rate, (double)cfg->temperature);
    for (size_t i = 0, any = 0; i < SP_CONTROL_CURVE; i++)
        if (t->n_curve[i]) {
            double k = (double)t->n_curve[i];
            sp_buf_printf(&b, "%s[%.3f,%.3f,%.1f]", any++ ? "," : "", t->curve[i][0] / k,
                          t->curve[i][1] / k, t->curve[i][2] / k);
        }
    sp_buf_printf(&b, "],\"held_out\":{\"prompts\":%zu", r->n_test);
    for (size_t k = 0; k < SP_WAYS; k++)
        sp_buf_printf(&b, ",\"%s\":{\"right\":%.6g,\"tokens\":%zu}",
                      sp_control_way_name((sp_control_way)k), r->way[k].right, r->way[k].n_tok);
    sp_buf_puts(&b, "}}");
    sp_err err = b.failed || b.len >= SP_POLICY_ORIGIN
                     ? SP_FAIL(d, SP_LIMIT, "policy: what it was trained on is too long to say")
                     : SP_OK;
    if (err == SP_OK)
        memcpy(t->p.origin, b.p, b.len + 1);
    sp_buf_fini(&b);
    return err;
}

static sp_err learn(sp_policy *out, sp_control_result *r, const sp_control_train_cfg *cfg,
                    const set *s, sp_diag *d)
{
    sp_rng rng;
    trainer *t = sp_mem_alloc(sizeof *t);
    sp_err err = t ? SP_OK : SP_FAIL(d, SP_NOMEM, "policy");
    if (err == SP_OK) {
        t->cfg = cfg;
        t->s = s;
        sp_policy_start(&t->p, cfg->seed);
        t->start = t->p;
        sp_rng_init(&rng, cfg->seed);
    }
    uint64_t from = sp_clock_ns();
    double part = 0;
    while (err == SP_OK && part < 1 && (!cfg->n_round || r->n_round < cfg->n_round)) {
        double by_time = sp_clock_ms(from) / (6e4 * cfg->minutes),
               by_round = cfg->n_round ? (double)r->n_round / (double)cfg->n_round : 0;
        part = by_time > by_round ? by_time : by_round;
        if (part < 1)
            err = learn_round(t, &rng, r->n_round++, part, d);
    }
    r->n_train = s->n - s->n_test;
    if (err == SP_OK && s->n_test)
        err = measure(r, s, &t->p, cfg, d);
    if (err == SP_OK)
        err = put_origin(t, r, d);
    if (err == SP_OK)
        *out = t->p;
    sp_mem_free(t);
    return err;
}

sp_err sp_control_learn(sp_policy *out, sp_control_result *r, const sp_control_train_cfg *cfg,
                        const sp_control_prompt *p, size_t n, sp_diag *d)
{
    set s = {0};
    *r = (sp_control_result){0};
    sp_err err = take_set(&s, p, n, d);
    if (err == SP_OK)
        err = learn(out, r, cfg, &s, d);
    free_set(&s);
    return err;
}

sp_err sp_control_train(sp_policy *out, sp_control_result *r, const sp_control_train_cfg *cfg,
                        const char *text, size_t n, sp_diag *d)
{
    set s = {0};
    *r = (sp_control_result){0};
    sp_err err = read_set(&s, text, n, d);
    if (err == SP_OK)
        err = learn(out, r, cfg, &s, d);
    free_set(&s);
    return err;
}

sp_err sp_control_test(sp_control_result *r, const sp_policy *p, const sp_control_train_cfg *cfg,
                       const char *text, size_t n, sp_diag *d)
{
    set s = {0};
    *r = (sp_control_result){0};
    sp_err err = read_set(&s, text, n, d);
    if (err == SP_OK)
        err = measure(r, &s, p, cfg, d);
    free_set(&s);
    return err;
}
