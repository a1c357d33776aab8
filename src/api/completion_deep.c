/* What a request asks for where its answer becomes unsure while it is written:
 * {"sparing": {"uncertain": {"retrieve": true, "votes": 3, "below": -0.8}}}. */
#include "api/completion_int.h"

#include <stdio.h>
#include <string.h>

enum {
    WINDOW = 8,     /* tokens that are judged together; bench/rag/doubt.py has what it costs and
                       gives */
    BUDGET = 512,   /* tokens that the answer does not have */
    MIN_VOTES = 2
};

static sp_err read_places(sp_ask_deep *q, const json_t *v, sp_diag *d)
{
    q->retrieve = v && !json_is_false(v);
    q->n_colls = json_array_size(v);
    if (!q->retrieve || json_is_true(v))
        return SP_OK;
    if (!json_is_array(v) || q->n_colls == 0 || q->n_colls > SP_KNOW_COLLS)
        return SP_FAIL(d, SP_INVAL,
                       "sparing.uncertain.retrieve must be true, false or a list of 1 to %d ids of "
                       "vector stores",
                       SP_KNOW_COLLS);
    for (size_t i = 0; i < q->n_colls; i++) {
        const char *id = json_string_value(json_array_get(v, i));
        if (!id || strlen(id) >= SP_RAG_ID)
            return SP_FAIL(d, SP_INVAL,
                           "sparing.uncertain.retrieve[%zu] is not the id of a vector store", i);
        snprintf(q->colls[i], sizeof q->colls[i], "%s", id);
    }
    return SP_OK;
}

/* What does not go with an answer that is changed while it is written; NULL: nothing of it is asked
 * for. */
static const char *find_conflict(const request *r, const body *b)
{
    const sp_ask *q = r->ask;
    return !r->chat                                    ? "plain completions"
           : b->n > 1 || b->votes > 1                  ? "several answers"
           : r->logprobs                               ? "log-probabilities, which tell each token"
           : q->grammar || r->pattern.len              ? "an answer that has a form"
           : sp_completion_has_parts(b) || b->structured ? "a structured prompt"
           : q->n_tool                                 ? "functions that may be called"
           : q->session->rules                         ? "sparing.control"
           : b->go_on                                  ? "continue_final_message"
           : json_is_false(b->opens)                   ? "add_generation_prompt: false"
           : b->last_tok                                ? "truncate_prompt_tokens"
                                                       : NULL;
}

sp_err sp_completion_deep(request *r, const body *b, sp_diag *d)
{
    sp_ask_deep *q = &r->ask->deep;
    const sp_turn_env *env = &r->on->env;
    const json_t *retrieve = NULL;
    const char *bad = NULL, *conflict = find_conflict(r, b);
    int64_t votes = 0, window = WINDOW, budget = BUDGET;
    sp_diag inner = {0};
    *q = (sp_ask_deep){.on = true, .when.below = env->plan.watch_least};
    const sp_param table[] = {{"retrieve", SP_P_JSON, &retrieve, 0, 0},
                              {"votes", SP_P_INT, &votes, 0, SP_DEEP_VOTES},
                              {"below", SP_P_NUM, &q->when.below, -100, 0},
                              {"entropy", SP_P_NUM, &q->when.entropy, 0, 100},
                              {"window", SP_P_INT, &window, 1, SP_WATCH_TOK},
                              {"tokens", SP_P_INT, &budget, 1, 1 << 20}};
    if (sp_params_read(b->uncertain, table, sizeof table / sizeof table[0], &bad, &inner) != SP_OK)
        return SP_FAIL(d, inner.code, "sparing.uncertain: %.140s", inner.msg);
    SP_TRY(read_places(q, retrieve, d));
    if (conflict)
        return SP_FAIL(d, SP_INVAL,
                       "sparing.uncertain in the middle of an answer does not go with %s",
                       conflict);
    if (!q->retrieve && votes < MIN_VOTES)
        return SP_FAIL(
            d, SP_INVAL,
            "sparing.uncertain must name what is done: retrieve, votes (%d to %d) or both",
            MIN_VOTES, SP_DEEP_VOTES);
    if (votes == 1)
        return SP_FAIL(d, SP_INVAL, "sparing.uncertain.votes must be 0 or from %d to %d", MIN_VOTES,
                       SP_DEEP_VOTES);
    if (q->retrieve && !env->know)
        return SP_FAIL(d, SP_UNSUP,
                       "sparing.uncertain.retrieve: this server keeps no documents; it was started "
                       "without --knowledge");
    if (q->retrieve && !q->n_colls && !r->ask->find && !env->retrieve)
        return SP_FAIL(d, SP_INVAL,
                       "sparing.uncertain.retrieve: true looks where file_search or --retrieve do, "
                       "and there is neither; name vector stores");
    q->votes = (size_t)votes;
    q->budget_tok = (size_t)budget;
    q->when.n_tok = (size_t)window;
    r->ask->plan.deep = true;
    return SP_OK;
}
