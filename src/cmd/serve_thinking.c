#include "cmd/serve_thinking.h"

#include <stdlib.h>
#include <string.h>

/* One entry of the option. */
typedef struct entry {
    char model[SP_MODEL_NAME]; /* "": every one */
    size_t same;
} entry;

/* The entry at *list, which moves behind it; false: the list ends. An entry that is none has same
 * 0. */
static bool next_entry(entry *out, const char **list)
{
    const char *p = *list, *end = p + strcspn(p, ","), *eq = memchr(p, '=', (size_t)(end - p));
    size_t n_name = eq ? (size_t)(eq - p) : 0;
    char *stop;
    *out = (entry){0};
    if (!*p)
        return false;
    *list = *end ? end + 1 : end;
    unsigned long n = strtoul(eq ? eq + 1 : p, &stop, 10);
    if (stop != end || n < SP_THINK_SAME_LEAST || n > SP_THINK_SAME_MOST ||
        n_name >= sizeof out->model || (eq && !n_name))
        return true;
    memcpy(out->model, p, n_name);
    out->same = n;
    return true;
}

sp_err sp_serve_thinking_check(const sp_serve_models *m, sp_diag *d)
{
    const char *list = sp_opt_str(m->o, "thinking-same"), *from = list;
    entry e;
    while (list && next_entry(&e, &list)) {
        if (!e.same)
            return SP_FAIL(d, SP_INVAL,
                           "thinking-same: '%.80s' begins with neither a number from %d to %d nor "
                           "MODEL=NUMBER",
                           from, SP_THINK_SAME_LEAST, SP_THINK_SAME_MOST);
        if (e.model[0] && !sp_models_find(m->models, e.model))
            return SP_FAIL(d, SP_INVAL, "thinking-same: there is no model '%.80s' here", e.model);
        from = list;
    }
    return SP_OK;
}

/* What the option says of this model: the last entry of its own, else the last of all. */
static size_t same_of(const sp_serve_models *m, const char *name, bool *is_named)
{
    const char *list = sp_opt_str(m->o, "thinking-same");
    size_t same = 0;
    entry e;
    *is_named = false;
    while (list && next_entry(&e, &list)) {
        const char *own = e.model[0] ? sp_models_find(m->models, e.model) : NULL;
        bool is_it = own && strcmp(own, name) == 0;
        if (is_it || (!e.model[0] && !*is_named))
            same = e.same;
        *is_named = *is_named || is_it;
    }
    return same;
}

sp_err sp_serve_thinking(sp_turn_env *env, const sp_serve_models *m, sp_diag *d)
{
    bool is_named;
    size_t same = same_of(m, env->name, &is_named);
    sp_ids open = {0}, close = {0};
    sp_err err = sp_tok_encode(env->tok, &open, "<think>", 7, SP_SPECIAL_ALL, d);
    if (err == SP_OK)
        err = sp_tok_encode(env->tok, &close, "</think>", 8, SP_SPECIAL_ALL, d);
    bool marks = err == SP_OK && open.n == 1 && close.n == 1;
    if (marks) {
        env->think_open = open.id[0];
        env->think_close = close.id[0];
        env->plan.thinks = true;
        env->think_same = same;
    }
    sp_ids_fini(&open);
    sp_ids_fini(&close);
    if (err == SP_OK && same && !marks && (is_named || !sp_models_config(m->models)->is_list))
        return SP_FAIL(d, SP_UNSUP,
                       "thinking-same: the model %.60s marks no thoughts with <think> and </think>",
                       env->name);
    return err;
}
