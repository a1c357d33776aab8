/* Which rules prune an answer, sparing.control: true, a list of rules, or
 * {"rules": …, "thinking_same": 2, "trial_sure": 0.9, "trial_tokens": 512}. */
#include "api/completion_int.h"

#include "api/known.h"

/* true, or a list of names. */
static sp_err read_rules(unsigned *out, const json_t *v, const char *where, sp_diag *d)
{
    *out = json_is_true(v) ? SP_PRUNE_SAFE : 0;
    if (v && !json_is_boolean(v) && !json_is_array(v))
        return SP_FAIL(d, SP_INVAL, "%s must be true, false or a list of rules", where);
    for (size_t i = 0; i < json_array_size(v); i++) {
        const char *name = json_string_value(json_array_get(v, i));
        sp_prune rule;
        if (!name || !sp_prune_find(&rule, name))
            return SP_FAIL(d, SP_INVAL,
                           "%s[%zu] is none of loop, repeat, sentence, thinking, dry, comments, "
                           "learned, trial",
                           where, i);
        *out |= 1u << rule;
    }
    return SP_OK;
}

static sp_err check_thoughts(const request *r, const char *what, sp_diag *d)
{
    const sp_turn_env *env = &r->on->env;
    if (env->think_open != env->think_close)
        return SP_OK;
    return SP_FAIL(d, SP_UNSUP,
                   "sparing.control%s: the model %.60s marks no thoughts with <think> and "
                   "</think>",
                   what, env->name);
}

/* The form with numbers. thinking_same asks for the rule thinking, those of trials for trial. */
static sp_err read_object(request *r, unsigned *out, const json_t *v, sp_diag *d)
{
    const json_t *rules = NULL;
    const char *bad = NULL;
    int64_t same = 0, trial_tok = 0;
    double sure = 0;
    sp_diag inner = {0};
    const sp_param table[] = {
        {"rules", SP_P_JSON, &rules, 0, 0},
        {"thinking_same", SP_P_INT, &same, SP_THINK_SAME_LEAST, SP_THINK_SAME_MOST},
        {"trial_sure", SP_P_NUM, &sure, SP_TRIAL_SURE_LEAST, 1},
        {"trial_tokens", SP_P_INT, &trial_tok, SP_TRIAL_TOK, SP_TRIAL_ALL_MOST}};
    if (sp_params_read(v, table, sizeof table / sizeof table[0], &bad, &inner) != SP_OK)
        return SP_FAIL(d, inner.code, "sparing.control: %.140s", inner.msg);
    SP_TRY(read_rules(out, rules, "sparing.control.rules", d));
    *out |= sure > 0 || trial_tok ? 1u << SP_PRUNE_TRIAL : 0;
    r->ask->session->trial_sure = sure;
    r->ask->session->trial_tok = (size_t)trial_tok;
    if (!same)
        return SP_OK;
    *out |= 1u << SP_PRUNE_THINKING;
    r->ask->session->think_same = (size_t)same;
    return check_thoughts(r, ".thinking_same", d);
}

static sp_err check_policy(const request *r, sp_diag *d)
{
    const sp_turn_env *env = &r->on->env;
    if (!env->policy)
        return SP_FAIL(d, SP_UNSUP,
                       "sparing.control: learned needs a policy, and this server was started "
                       "without --control-policy");
    if (!sp_policy_is_for(env->policy, env->name))
        return SP_FAIL(d, SP_UNSUP,
                       "sparing.control: learned: the server's policy was trained on another "
                       "model than %.60s",
                       env->name);
    return SP_OK;
}

/* Not what must have a form, and of an answer that may call tools only thoughts. */
sp_err sp_completion_control(request *r, const body *b, sp_diag *d)
{
    sp_ask *q = r->ask;
    unsigned rules;
    const sp_lists lists = {.known = sp_known_completion,
                            .lenient = r->app->lenient,
                            .ignored = &r->ignored,
                            .where = ""};
    if (json_is_object(b->control))
        SP_TRY(read_object(r, &rules, b->control, d));
    else
        SP_TRY(read_rules(&rules, b->control, "sparing.control", d));
    if (rules & 1u << SP_PRUNE_LEARNED)
        SP_TRY(check_policy(r, d));
    if (rules & 1u << SP_PRUNE_TRIAL)
        SP_TRY(check_thoughts(r, ": trial", d));
    if (rules && r->logprobs)
        return SP_FAIL(d, SP_INVAL,
                       "sparing.control takes text back, and log-probabilities tell each token");
    bool has_form = q->grammar || sp_completion_has_parts(b);
    unsigned held = has_form ? 0 : q->n_tool ? rules & 1u << SP_PRUNE_THINKING : rules;
    if (held != rules)
        sp_known_ignore(&lists, "sparing.control");
    q->session->rules = held;
    q->ruled = b->control != NULL;
    q->plan.plain = q->plan.plain && !held;
    q->plan.bare = q->plan.bare && !held;
    return SP_OK;
}
