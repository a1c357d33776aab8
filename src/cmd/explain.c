/* sparing explain: a receipt in words, with the figures that one can check. */
#include "cmd/cmd.h"

#include "base/file.h"

#include <jansson.h>
#include <stdio.h>
#include <string.h>

enum { MAX_RECEIPT = 64 << 20 };
#define TAKES "it takes an answer of the API, or what `run --json` or `/receipt json` of chat says"

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

static void put_path(FILE *out, const json_t *r)
{
    const char *path = json_string_value(at(r, "path")), *why = json_string_value(at(r, "why"));
    fprintf(out, "Path      %s%s%s%s\n", path ? path : "?", why && *why ? " (" : "", why ? why : "",
           why && *why ? ")" : "");
}

static void put_prompt(FILE *out, const json_t *r)
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
    fprintf(out, "Prompt    %.0f tokens:", all);
    const char *mark = " ";
    for (size_t i = 0; i < 6; i++)
        if (num(r, from[i].key) > 0 || i == 0) {
            fprintf(out, "%s%.0f %s", mark, num(r, from[i].key), from[i].says);
            mark = ", ";
        }
    fprintf(out, "\n");
    if (num(r, "retrieved.chunks") > 0)
        fprintf(out,
                "          with %.0f old turns or passages; %.0f that were found did not fit\n",
                num(r, "retrieved.chunks"), num(r, "retrieved.left_out"));
}

static void put_answer(FILE *out, const json_t *r)
{
    double tok = num(r, "decode.tokens"), steps = num(r, "decode.steps");
    fprintf(out, "Answer    %.0f tokens in %.0f steps", tok, steps);
    if (num(r, "decode.drafted") > 0)
        fprintf(out, "; of %.0f guesses ahead %.0f were right", num(r, "decode.drafted"),
               num(r, "decode.accepted"));
    if (num(r, "decode.forced") > 0)
        fprintf(out, "; %.0f without a choice", num(r, "decode.forced"));
    fprintf(out, "\n");
    if (num(r, "decode.thinking") > 0)
        fprintf(out, "          %.0f of them were thoughts\n", num(r, "decode.thinking"));
}

static void put_attention(FILE *out, const json_t *r)
{
    double eps = num(r, "attention.epsilon"), read = num(r, "attention.kv_bytes.read"),
           dense = num(r, "attention.kv_bytes.dense");
    if (eps <= 0 || dense <= 0) {
        fprintf(out, "Attention exact, every key was read\n");
        return;
    }
    fprintf(out,
            "Attention read %.1f of %.1f MB of keys and values; what was left out weighs at most "
            "%.2g of a step (asked: %.2g)\n",
            read / 1e6, dense / 1e6, num(r, "attention.max_bound"), eps);
}

static void put_computing(FILE *out, const json_t *r)
{
    double spent = num(r, "flops.spent"), dense = num(r, "flops.dense");
    fprintf(out, "Computing %.2f GFLOP; a plain decoder that knows nothing before would spend %.2f",
           spent / 1e9, dense / 1e9);
    if (dense > 0)
        fprintf(out, ": %.0f %% %s", 100 * (spent < dense ? 1 - spent / dense : spent / dense - 1),
               spent < dense ? "saved" : "more");
    fprintf(out, "\n");
}

static void put_time(FILE *out, const json_t *r)
{
    double ms = num(r, "ms.decode"), tok = num(r, "decode.tokens");
    fprintf(out, "Time      %.2f s waiting, %.2f s reading, %.2f s writing",
            num(r, "ms.queue") / 1e3, num(r, "ms.prefill") / 1e3, ms / 1e3);
    if (ms > 0)
        fprintf(out, " (%.0f tokens/s)", tok / ms * 1e3);
    fprintf(out, "\n");
    if (num(r, "cost") > 0)
        fprintf(out, "Cost      %.6g\n", num(r, "cost"));
}

sp_err sp_cmd_explain_receipt(FILE *out, const char *name, const char *p, size_t n, sp_diag *d)
{
    json_error_t why;
    if (n == 0)
        return SP_FAIL(d, SP_FORMAT, "%.100s is empty: " TAKES, name);
    json_t *all = json_loadb(p, n, 0, &why);
    if (!all)
        return SP_FAIL(d, SP_FORMAT, "%.100s:%d: no JSON, %.60s: " TAKES, name, why.line, why.text);
    const json_t *r = find(all);
    if (r) {
        put_path(out, r);
        put_prompt(out, r);
        put_answer(out, r);
        put_attention(out, r);
        put_computing(out, r);
        put_time(out, r);
    }
    json_decref(all);
    return r ? SP_OK : SP_FAIL(d, SP_FORMAT, "%.100s has no receipt: " TAKES, name);
}

int sp_cmd_explain(const sp_opts *o)
{
    sp_diag d = {0};
    sp_buf in = {0};
    const char *const *rest;
    const char *path = sp_opts_rest(o, &rest) ? rest[0] : "-";
    sp_err err = sp_file_read(&in, path, MAX_RECEIPT, &d);
    if (err == SP_OK)
        err = sp_cmd_explain_receipt(stdout, strcmp(path, "-") == 0 ? "stdin" : path,
                                     sp_buf_str(&in), in.len, &d);
    sp_buf_fini(&in);
    return err == SP_OK ? EXIT_DONE : sp_cmd_fail(EXIT_RUN, &d);
}
