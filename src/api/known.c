#include "api/known.h"

#include <stdio.h>
#include <string.h>

enum { MAX_IGNORED = 4096 }; /* bytes of all names */

#define EXPERIMENTAL "this server samples with temperature, top_k, top_p and min_p only"
#define BEAMS "this server has no beam search"
#define TEXT_ONLY "this server reads and writes text only"
#define WITHOUT_TOOLS "a function is called through tools"

const sp_known sp_known_completion[] = {
    /* bookkeeping of the caller's, and hints about speed and storage */
    {"metadata", NULL, NULL},
    {"user", NULL, NULL},
    {"safety_identifier", NULL, NULL},
    {"service_tier", NULL, NULL},
    {"store", NULL, NULL},
    {"prompt_cache_key", NULL, NULL},
    {"prompt_cache_retention", NULL, NULL},
    {"verbosity", NULL, NULL},
    {"cache_control", NULL, NULL},
    {"cache_prompt", NULL, NULL},
    {"id_slot", NULL, NULL},
    {"request_id", NULL, NULL},
    {"provider", NULL, NULL},
    {"route", NULL, NULL},
    {"transforms", NULL, NULL},
    {"usage", NULL, NULL},
    {"keep_alive", NULL, NULL},
    {"timings_per_token", NULL, NULL},
    {"return_progress", NULL, NULL},
    {"spaces_between_special_tokens", NULL, NULL},
    /* asks for what happens anyway, or is refused */
    {"modalities", "[[\"text\"]]", TEXT_ONLY},
    {"audio", "[{}]", TEXT_ONLY},
    {"parallel_tool_calls", NULL, NULL}, /* of chat a row of its own */
    {"functions", "[[]]", WITHOUT_TOOLS},
    {"function_call", "[\"none\", \"auto\"]", WITHOUT_TOOLS},
    {"web_search_options", "[]",
     "this server does not search the web; file_search looks into documents it keeps"},
    {"skip_special_tokens", "[true]", "control tokens are no part of an answer's text"},
    {"add_generation_prompt", "[true]", NULL},
    {"continue_final_message", "[false]", NULL},
    {"chat_template", "[\"\"]", "no template from a request is ever run"},
    {"chat_template_kwargs", "[{}]", NULL},
    {"include_reasoning", "[true]", "what a model thinks is always told"},
    {"documents", "[[]]", "documents come through file_search"},
    {"use_beam_search", "[false]", BEAMS},
    {"length_penalty", "[1]", BEAMS},
    {"early_stopping", "[false]", BEAMS},
    {"echo", "[false]", NULL},
    {"suffix", "[\"\"]", "/v1/completions fills gaps"},
    {"best_of", "[1]", NULL},
    {"typical_p", "[1]", EXPERIMENTAL},
    {"typ_p", "[1]", EXPERIMENTAL},
    {"tfs_z", "[1]", EXPERIMENTAL},
    {"top_a", "[0]", EXPERIMENTAL},
    {"mirostat", "[0]", EXPERIMENTAL},
    {"mirostat_tau", NULL, NULL}, /* these two mean nothing without mirostat, which is refused */
    {"mirostat_eta", NULL, NULL},
    {"dynatemp_range", "[0]", EXPERIMENTAL},
    {"dynatemp_exponent", NULL, NULL},
    {"xtc_probability", "[0]", EXPERIMENTAL},
    {"xtc_threshold", NULL, NULL},
    {"dry_multiplier", "[0]", EXPERIMENTAL},
    {"dry_base", NULL, NULL},
    {"dry_allowed_length", NULL, NULL},
    {"dry_penalty_last_n", NULL, NULL},
    {"dry_sequence_breakers", NULL, NULL},
    {"repeat_last_n", "[-1]", "penalties look at the whole text"},
    {"n_probs", "[0]", "log-probabilities come through logprobs"},
    {"min_keep", "[0, 1]", EXPERIMENTAL},
    {"n_keep", "[0, -1]", "no part of a prompt is ever dropped"},
    {"lora", "[[]]", "this server has no adapters"},
    {"bad_words", "[[]]", NULL},
    {"allowed_token_ids", "[[]]", NULL},
    {"logits_processors", "[[]]", NULL},
    {"return_token_ids", "[false]", NULL},
    {"return_tokens_as_token_ids", "[false]", NULL},
    {NULL, NULL, NULL}};

const sp_known sp_known_stream[] = {
    {"include_obfuscation", NULL, NULL}, /* padding against those who watch the line's length */
    {"continuous_usage_stats", NULL, NULL},
    {NULL, NULL, NULL}};

const sp_known sp_known_embedding[] = {
    {"user", NULL, NULL},
    {"metadata", NULL, NULL},
    {"priority", NULL, NULL},
    {"request_id", NULL, NULL},
    {"keep_alive", NULL, NULL},
    {"normalize", "[true]", "vectors of this model have length 1"},
    {"add_special_tokens", "[true]", NULL},
    {NULL, NULL, NULL}};

/* What an answer holds beside its text, of this server or of another, and a client sends back. */
const sp_known sp_known_message[] = {
    {"id", NULL, NULL},
    {"object", NULL, NULL},
    {"status", NULL, NULL},
    {"created_at", NULL, NULL},
    {"annotations", NULL, NULL},
    {"costs", NULL, NULL},
    {"references", "[]",
     "stands for text that is missing here: clients/references.py expands an answer before it is "
     "sent back"},
    {"refusal", NULL, NULL},
    {"cache_control", NULL, NULL},
    {"provider_specific_fields", NULL, NULL}, /* litellm's, as the next */
    {"thinking_blocks", NULL, NULL},          /* the reasoning once more */
    {"reasoning_details", NULL, NULL},        /* likewise, OpenRouter's */
    {"audio", "[]", TEXT_ONLY},
    {"function_call", "[]", WITHOUT_TOOLS},
    {NULL, NULL, NULL}};

const sp_known sp_known_tool[] = {{"cache_control", NULL, NULL}, {NULL, NULL, NULL}};

const sp_known sp_known_response[] = {
    {"user", NULL, NULL},
    {"safety_identifier", NULL, NULL},
    {"service_tier", NULL, NULL},
    {"prompt_cache_key", NULL, NULL},
    {"prompt_cache_retention", NULL, NULL},
    {"prompt_cache_options", NULL, NULL},
    {"client_metadata", NULL, NULL},
    {"max_tool_calls", NULL, NULL},
    {"context_management", NULL, NULL},
    /* a kept conversation gives way by itself, what is sent never does */
    {"truncation", NULL, NULL},
    {"background", "[false]", "an answer is made while its client waits"},
    {"top_logprobs", "[0]", "log-probabilities come with chat completions"},
    {"prompt", "[]", "this server keeps no prompts"},
    {NULL, NULL, NULL}};

const sp_known sp_known_response_text[] = {{"verbosity", NULL, NULL}, {NULL, NULL, NULL}};

const sp_known sp_known_response_reasoning[] = {
    {"summary", NULL, NULL}, /* what the model thinks is given whole */
    {"generate_summary", NULL, NULL},
    {"context", NULL, NULL},
    {NULL, NULL, NULL}};

/* What an item of an answer holds beside what it says. */
const sp_known sp_known_response_item[] = {
    {"id", NULL, NULL},
    {"status", NULL, NULL},
    {"phase", NULL, NULL},
    {"created_at", NULL, NULL},
    {"created_by", NULL, NULL},
    {"object", NULL, NULL},
    {"namespace", NULL, NULL},
    {NULL, NULL, NULL}};

void sp_known_ignore(const sp_lists *lists, const char *name)
{
    sp_buf one = {0};
    char shown[160];
    if (!lists->ignored)
        return;
    snprintf(shown, sizeof shown, "%.60s%.80s", lists->where, name);
    sp_buf_json_str(&one, shown, strlen(shown));
    bool there = lists->ignored->len && strstr(sp_buf_str(lists->ignored), sp_buf_str(&one));
    if (!one.failed && !there && lists->ignored->len + one.len < MAX_IGNORED)
        sp_buf_printf(lists->ignored, "%s%s", lists->ignored->len ? "," : "", sp_buf_str(&one));
    sp_buf_fini(&one);
}

/* As JSON sees it: 1 and 1.0 are the same. */
static bool is_same(const json_t *a, const json_t *b)
{
    if (json_is_number(a) && json_is_number(b))
        return json_number_value(a) == json_number_value(b);
    return json_equal(a, b);
}

static bool is_neutral(const sp_known *k, const json_t *v)
{
    json_t *list = json_loads(k->neutral, 0, NULL), *one;
    size_t i;
    bool found = false;
    json_array_foreach(list, i, one)
        found = found || is_same(one, v);
    json_decref(list);
    return found;
}

/* A name that is not in the table, with a value. */
static sp_err judge(const sp_lists *lists, const char *name, const json_t *v, sp_diag *d)
{
    const sp_known *k = lists->known;
    while (k->name && strcmp(k->name, name) != 0)
        k++;
    if (!k->name && !lists->lenient)
        return SP_FAIL(d, SP_UNSUP, "%.80s is not a parameter of this server", name);
    if (k->name && k->neutral && is_neutral(k, v))
        return SP_OK;
    if (k->name && k->neutral)
        return SP_FAIL(d, SP_UNSUP, "%s is not supported%s%s", name, k->why ? ": " : "",
                       k->why ? k->why : "");
    sp_known_ignore(lists, name);
    return SP_OK;
}

sp_err sp_known_read(const json_t *obj, const sp_param *table, size_t n, const sp_lists *lists,
                     const char **bad, sp_diag *d)
{
    const char *name;
    json_t *v;
    json_object_foreach((json_t *)(uintptr_t)obj, name, v)
    {
        const sp_param *p = sp_params_find(table, n, name);
        *bad = p ? p->name : name;
        if (p)
            SP_TRY(sp_params_read_one(p, v, d));
        else if (!json_is_null(v))
            SP_TRY(judge(lists, name, v, d));
    }
    *bad = NULL;
    return SP_OK;
}
