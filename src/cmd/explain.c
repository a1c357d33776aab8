/* sparing explain: a receipt in words, with the figures that one can check. */
#include "cmd/cmd.h"

#include "base/file.h"

#include <jansson.h>
#include <stdio.h>
#include <string.h>

enum { MAX_RECEIPT = 64 << 20 };

/* The value at a path of keys, "decode.tokens"; NULL: there is none. */
static const json_t *at(const json_t *v, const char *path)
{
    while (v && *path) {
        size_t n = strcspn(path, ".");
        char key[64];
        snprintf(key, sizeof key, "%.*s", (int)n, path);
        v = json_object_get(v, key);
        path += n + (path[n] == '.');
    }
    return v;
}

static double num(const json_t *r, const char *path)
{
    return json_number_value(at(r, path));
}

/* The receipt itself, or where answers have it. */
static const json_t *find(const json_t *v)
{
    static const char *const places[] = {"", "receipt", "usage.sparing", "response.usage.sparing",
                                         "sparing"};
    for (size_t i = 0; i < sizeof places / sizeof places[0]; i++) {
        const json_t *r = at(v, places[i]);
        if (json_is_object(at(r, "flops")) && json_is_object(at(r, "decode")))
            return r;
    }
    return NULL;
}

static void put_path(const json_t *r)
{
    const char *path = json_string_value(at(r, "path")), *why = json_string_value(at(r, "why"));
    printf("Path      %s%s%s%s\n", path ? path : "?", why && *why ? " (" : "", why ? why : "",
           why && *why ? ")" : "");
}

static void put_prompt(const json_t *r)
{
    static const struct {
        const char *key, *says;
    } from[] = {{"prompt_tokens.computed", "computed"},
                {"prompt_tokens.ram", "known in memory"},
                {"prompt_tokens.ssd", "read from disk"},
                {"prompt_tokens.s3", "read from objects"},
                {"prompt_tokens.spliced", "of passages known before"},
                {"prompt_tokens.upstream", "computed by another server"}};
    double all = 0;
    for (size_t i = 0; i < 6; i++)
        all += num(r, from[i].key);
    printf("Prompt    %.0f tokens:", all);
    const char *mark = " ";
    for (size_t i = 0; i < 6; i++)
        if (num(r, from[i].key) > 0 || i == 0) {
            printf("%s%.0f %s", mark, num(r, from[i].key), from[i].says);
            mark = ", ";
        }
    printf("\n");
    if (num(r, "retrieved.chunks") > 0)
        printf("          with %.0f old turns or passages; %.0f that were found did not fit\n",
               num(r, "retrieved.chunks"), num(r, "retrieved.left_out"));
}

static void put_answer(const json_t *r)
{
    double tok = num(r, "decode.tokens"), steps = num(r, "decode.steps");
    printf("Answer    %.0f tokens in %.0f steps", tok, steps);
    if (num(r, "decode.drafted") > 0)
        printf("; of %.0f guesses ahead %.0f were right", num(r, "decode.drafted"),
               num(r, "decode.accepted"));
    if (num(r, "decode.forced") > 0)
        printf("; %.0f without a choice", num(r, "decode.forced"));
    printf("\n");
    if (num(r, "decode.thinking") > 0)
        printf("          %.0f of them were thoughts\n", num(r, "decode.thinking"));
}

static void put_attention(const json_t *r)
{
    double eps = num(r, "attention.epsilon"), read = num(r, "attention.kv_bytes.read"),
           dense = num(r, "attention.kv_bytes.dense");
    if (eps <= 0 || dense <= 0) {
        printf("Attention exact, every key was read\n");
        return;
    }
    printf("Attention read %.1f of %.1f MB of keys and values; what was left out weighs at most "
           "%.2g of a step (asked: %.2g)\n",
           read / 1e6, dense / 1e6, num(r, "attention.max_bound"), eps);
}

static void put_computing(const json_t *r)
{
    double spent = num(r, "flops.spent"), dense = num(r, "flops.dense");
    printf("Computing %.2f GFLOP; a plain decoder that knows nothing before would spend %.2f",
           spent / 1e9, dense / 1e9);
    if (dense > 0)
        printf(": %.0f %% %s", 100 * (spent < dense ? 1 - spent / dense : spent / dense - 1),
               spent < dense ? "saved" : "more");
    printf("\n");
}

static void put_time(const json_t *r)
{
    double out = num(r, "ms.decode"), tok = num(r, "decode.tokens");
    printf("Time      %.2f s waiting, %.2f s reading, %.2f s writing", num(r, "ms.queue") / 1e3,
           num(r, "ms.prefill") / 1e3, out / 1e3);
    if (out > 0)
        printf(" (%.0f tokens/s)", tok / out * 1e3);
    printf("\n");
    if (num(r, "cost") > 0)
        printf("Cost      %.6g\n", num(r, "cost"));
}

int sp_cmd_explain(const sp_opts *o)
{
    sp_diag d = {0};
    sp_buf in = {0};
    json_error_t why;
    const char *const *rest;
    const char *path = sp_opts_rest(o, &rest) ? rest[0] : "-";
    sp_err err = sp_file_read(&in, path, MAX_RECEIPT, &d);
    json_t *all = err == SP_OK ? json_loadb(sp_buf_str(&in), in.len, 0, &why) : NULL;
    if (err == SP_OK && !all)
        err = SP_FAIL(&d, SP_FORMAT, "%.100s:%d: %.60s", path, why.line, why.text);
    const json_t *r = find(all);
    if (err == SP_OK && !r)
        err = SP_FAIL(&d, SP_FORMAT,
                      "%.100s: there is no receipt in it: it takes an answer of the API, what `run "
                      "--json` says, or /receipt of chat",
                      path);
    if (err == SP_OK) {
        put_path(r);
        put_prompt(r);
        put_answer(r);
        put_attention(r);
        put_computing(r);
        put_time(r);
    }
    json_decref(all);
    sp_buf_fini(&in);
    return err == SP_OK ? EXIT_DONE : sp_cmd_fail(EXIT_RUN, &d);
}
