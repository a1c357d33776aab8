/* /inference/v1/generate: token ids in, token ids out, as vLLM has it. A request becomes one of
 * /v1/completions; the answer's tokens come with their log-probabilities from the engine, so these
 * are always asked for. */
#include "api/completion_int.h"

#include "api/known.h"

#include <string.h>

/* The body of /v1/completions that asks for the same. */
static sp_err make_body(json_t **out, request *r, const json_t *j, const char **bad, sp_diag *d)
{
    const json_t *ids = NULL, *sampling = NULL, *options = NULL;
    const char *model = NULL, *name = NULL, *mode = "tokens", *salt = NULL;
    int64_t priority = 0;
    bool stream = false;
    const sp_param table[] = {{"token_ids", SP_P_JSON, &ids, 0, 0},
                              {"sampling_params", SP_P_JSON, &sampling, 0, 0},
                              {"model", SP_P_STR, &model, 0, 0},
                              {"stream", SP_P_BOOL, &stream, 0, 0},
                              {"stream_options", SP_P_JSON, &options, 0, 0},
                              {"request_id", SP_P_STR, &name, 0, 0},
                              {"output_mode", SP_P_STR, &mode, 0, 0},
                              {"priority", SP_P_INT, &priority, -1e9, 1e9},
                              {"cache_salt", SP_P_STR | SP_P_FIRM, &salt, 0, 0}};
    const sp_lists lists = {.known = sp_known_completion,
                            .lenient = r->app->lenient,
                            .ignored = &r->ignored,
                            .where = ""};
    SP_TRY(sp_known_read(j, table, sizeof table / sizeof table[0], &lists, bad, d));
    *bad = "token_ids";
    if (!json_is_array(ids) || !json_is_integer(json_array_get(ids, 0)))
        return SP_FAIL(d, SP_INVAL, "token_ids must be a list of token ids");
    *bad = "sampling_params";
    if (sampling && !json_is_object(sampling))
        return SP_FAIL(d, SP_INVAL, "sampling_params must be an object");
    *bad = "output_mode";
    r->as_text = strcmp(mode, "text") == 0;
    if (!r->as_text && strcmp(mode, "tokens") != 0)
        return SP_FAIL(d, SP_INVAL, "output_mode must be tokens or text");
    *bad = NULL;
    *out = sampling ? json_copy((json_t *)(uintptr_t)sampling) : json_object();
    bool fine =
        *out && json_object_set(*out, "prompt", (json_t *)(uintptr_t)ids) == 0 &&
        json_object_set_new(*out, "stream", json_boolean(stream)) == 0 &&
        json_object_set_new(*out, "priority", json_integer(priority)) == 0 &&
        (!model || json_object_set_new(*out, "model", json_string(model)) == 0) &&
        (!salt || json_object_set_new(*out, "cache_salt", json_string(salt)) == 0) &&
        (!options || json_object_set(*out, "stream_options", (json_t *)(uintptr_t)options) == 0);
    return fine ? SP_OK : SP_FAIL(d, SP_NOMEM, "request");
}

static sp_err read_tokens(void *state, sp_ask *ask, const sp_app *app, const sp_served *on,
                          const json_t *j, const char **bad, sp_diag *d)
{
    request *r = state;
    json_t *plain = NULL;
    r->app = app;
    r->on = on;
    sp_err err = make_body(&plain, r, j, bad, d);
    if (err == SP_OK) {
        err = sp_completion_read_plain(r, ask, app, on, plain, bad, d);
        *bad = !*bad || strcmp(*bad, "model") == 0 ? "model"
               : strcmp(*bad, "prompt") == 0       ? "token_ids"
               /* not of a body that goes */
               : strcmp(*bad, "cache_salt") == 0 ? "cache_salt"
                                                 : "sampling_params";
    }
    if (err == SP_OK && r->echo)
        *bad = "sampling_params",
        err = SP_FAIL(d, SP_UNSUP,
                      "echo is not supported: the prompt's tokens are known to whoever sent them");
    if (err == SP_OK && (ask->refer || ask->costs))
        *bad = "sampling_params", err = SP_FAIL(d, SP_UNSUP,
                                                "sparing.references and sparing.costs are not "
                                                "supported: answers are told as tokens here");
    json_decref(plain);
    if (err == SP_OK && ask->session->n_logprobs < 0)
        ask->session->n_logprobs = 0;
    return err;
}

static void put_ids(sp_buf *out, const sp_event_tok *tok, size_t n)
{
    sp_buf_puts(out, ",\"token_ids\":[");
    for (size_t i = 0; i < n; i++)
        sp_buf_printf(out, "%s%u", i ? "," : "", tok[i].id);
    sp_buf_putc(out, ']');
}

/* One answer, or a piece of it. finish NULL: it goes on. */
static void put_choice(sp_buf *out, request *r, const sp_turn *t, size_t i, sp_str text,
                       const sp_event_tok *tok, size_t n, const char *finish)
{
    sp_buf_printf(out, "{\"index\":%zu", i);
    put_ids(out, tok, n);
    if (r->as_text) {
        sp_buf_puts(out, ",\"text\":");
        sp_buf_json_str(out, text.p, text.n);
    }
    sp_legacy_begin(r, t, i);
    sp_legacy_logprobs(out, r, t, i, NULL, 0, tok, n);
    sp_buf_printf(out, finish ? ",\"finish_reason\":\"%s\"}" : ",\"finish_reason\":null}", finish);
}

static void put_head(sp_buf *out, const request *r, const sp_turn *t)
{
    sp_buf_printf(out, "{\"request_id\":\"%s\",\"output_mode\":\"%s\",\"choices\":[",
                  sp_turn_ask(t)->id, r->as_text ? "text" : "tokens");
}

static void put_whole(void *state, sp_buf *out, const sp_turn *t)
{
    request *r = state;
    put_head(out, r, t);
    for (size_t i = 0; i < sp_turn_answers(t); i++) {
        const sp_turn_answer *a = sp_turn_answer_of(t, i);
        sp_buf_puts(out, i ? "," : "");
        put_choice(out, r, t, i, (sp_str){sp_buf_str(&a->text), a->text.len}, a->tok, a->n_tok,
                   sp_completion_finish(a->finish));
    }
    sp_buf_puts(out, "],\"usage\":");
    sp_completion_usage(out, t);
    sp_buf_putc(out, '}');
}

static void put_event(void *state, sp_buf *out, const sp_turn *t, const sp_turn_event *ev)
{
    request *r = state;
    if (ev->kind == SP_TURN_TEXT || ev->kind == SP_TURN_FINISH) {
        sp_buf_puts(out, "data: ");
        put_head(out, r, t);
        put_choice(out, r, t, ev->choice, ev->text, ev->tok, ev->n_tok,
                   ev->kind == SP_TURN_FINISH ? sp_completion_finish(ev->finish) : NULL);
        sp_buf_puts(out, "]}\n\n");
    } else if (ev->kind == SP_TURN_END || ev->kind == SP_TURN_ERROR) {
        sp_completion_event(state, out, t, ev);
    }
}

const sp_codec sp_codec_tokens = {.span = "text_completion",
                                  .id_prefix = "gen",
                                  .stream_type = SP_CODEC_SSE,
                                  .state_bytes = sizeof(request),
                                  .read = read_tokens,
                                  .event = put_event,
                                  .whole = put_whole,
                                  .ping = sp_api_ping,
                                  .fail = sp_completion_fail,
                                  .close = sp_completion_close};
