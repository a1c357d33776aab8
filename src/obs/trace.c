#include "obs/trace.h"

#include "base/rng.h"

#include <stdio.h>
#include <string.h>

static int hex(char c)
{
    return c >= '0' && c <= '9' ? c - '0' : c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

/* false: not hex, or all zero. */
static bool read_hex(uint8_t *out, const char *p, size_t n)
{
    uint8_t any = 0;
    for (size_t i = 0; i < n; i++) {
        int a = hex(p[2 * i]), b = a < 0 ? -1 : hex(p[2 * i + 1]);
        if (b < 0)
            return false;
        out[i] = (uint8_t)(a << 4 | b);
        any |= out[i];
    }
    return any != 0;
}

static void put_hex(char *out, const uint8_t *p, size_t n)
{
    static const char digit[] = "0123456789abcdef";
    for (size_t i = 0; i < n; i++) {
        out[2 * i] = digit[p[i] >> 4];
        out[2 * i + 1] = digit[p[i] & 15];
    }
    out[2 * n] = 0;
}

void sp_trace_start(sp_trace *t, const char *h)
{
    size_t n = h ? strlen(h) : 0;
    *t = (sp_trace){.sampled = true};
    t->has_parent = n >= 55 && hex(h[0]) >= 0 && hex(h[1]) >= 0 && memcmp(h, "ff", 2) != 0 &&
                    h[2] == '-' && h[35] == '-' && h[52] == '-' &&
                    (n == 55 || (h[55] == '-' && memcmp(h, "00", 2) != 0)) &&
                    read_hex(t->id, h + 3, 16) && read_hex(t->parent, h + 36, 8) &&
                    hex(h[53]) >= 0 && hex(h[54]) >= 0;
    if (t->has_parent)
        t->sampled = (hex(h[54]) & 1) != 0;
    else
        sp_rng_bytes(t->id, sizeof t->id);
    sp_rng_bytes(t->span, sizeof t->span);
}

void sp_trace_header(char out[56], const sp_trace *t)
{
    memcpy(out, "00-", 3);
    put_hex(out + 3, t->id, 16);
    out[35] = '-';
    put_hex(out + 36, t->span, 8);
    memcpy(out + 52, t->sampled ? "-01" : "-00", 4);
}

/* --- spans ------------------------------------------------------------------------------------ */

static void put_head(sp_buf *out, const sp_trace *t, const uint8_t span[8], const uint8_t *parent,
                     const char *name, int kind, double begin, double ms)
{
    char id[33], own[17], up[17] = "";
    put_hex(id, t->id, 16);
    put_hex(own, span, 8);
    if (parent)
        put_hex(up, parent, 8);
    sp_buf_printf(out,
                  "{\"traceId\":\"%s\",\"spanId\":\"%s\",\"parentSpanId\":\"%s\",\"name\":", id,
                  own, up);
    sp_buf_json_str(out, name, strlen(name));
    sp_buf_printf(out, ",\"kind\":%d,\"startTimeUnixNano\":\"%.0f\",\"endTimeUnixNano\":\"%.0f\"",
                  kind, begin, begin + ms * 1e6);
}

static void put_text(sp_buf *out, const char *key, const char *value)
{
    sp_buf_printf(out, "{\"key\":\"%s\",\"value\":{\"stringValue\":", key);
    sp_buf_json_str(out, value, strlen(value));
    sp_buf_puts(out, "}},");
}

static void put_int(sp_buf *out, const char *key, size_t v)
{
    sp_buf_printf(out, "{\"key\":\"%s\",\"value\":{\"intValue\":\"%zu\"}},", key, v);
}

static void put_double(sp_buf *out, const char *key, double v)
{
    sp_buf_printf(out, "{\"key\":\"%s\",\"value\":{\"doubleValue\":%.6g}},", key, v);
}

/* A list of texts, given as JSON strings joined by commas; none of them holds a comma. */
static void put_texts(sp_buf *out, const char *key, const char *list)
{
    sp_buf_printf(out, "{\"key\":\"%s\",\"value\":{\"arrayValue\":{\"values\":[", key);
    for (const char *p = list; *p;) {
        size_t n = strcspn(p, ",");
        sp_buf_printf(out, "%s{\"stringValue\":%.*s}", p == list ? "" : ",", (int)n, p);
        p += n + (p[n] == ',');
    }
    sp_buf_puts(out, "]}}},");
}

/* What was asked for. */
static void put_request(sp_buf *out, const sp_trace_end *e)
{
    put_text(out, "gen_ai.operation.name", e->operation);
    put_text(out, "gen_ai.provider.name", "sparing");
    put_text(out, "gen_ai.request.model", e->model);
    if (e->max_tok)
        put_int(out, "gen_ai.request.max_tokens", e->max_tok);
    if (e->temperature >= 0)
        put_double(out, "gen_ai.request.temperature", e->temperature);
    if (e->top_p >= 0)
        put_double(out, "gen_ai.request.top_p", e->top_p);
    put_text(out, "server.address", e->address);
    put_int(out, "server.port", e->port);
}

/* What came of it. */
static void put_outcome(sp_buf *out, const sp_trace_end *e, const sp_receipt *r)
{
    if (e->id) {
        put_text(out, "gen_ai.response.id", e->id);
        put_text(out, "gen_ai.response.model", e->model);
    }
    if (e->finish)
        put_texts(out, "gen_ai.response.finish_reasons", e->finish);
    if (e->error)
        put_text(out, "error.type", e->error_type);
    put_int(out, "gen_ai.usage.input_tokens", e->n_prompt);
    put_int(out, "gen_ai.usage.cache_read.input_tokens", e->n_cached);
    if (r) {
        put_int(out, "gen_ai.usage.output_tokens", r->tok_out);
        put_text(out, "sparing.path", sp_path_name(r->path));
        put_text(out, "sparing.why", r->why ? r->why : "");
        put_text(out, "sparing.class", r->cls ? r->cls : "");
        put_double(out, "sparing.flops.spent", r->flops_spent);
    }
    sp_buf_printf(out,
                  "{\"key\":\"http.response.status_code\",\"value\":{\"intValue\":\"%d\"}}],"
                  "\"status\":{\"code\":%d",
                  e->status, e->error ? 2 : 1);
    if (e->error) {
        sp_buf_puts(out, ",\"message\":");
        sp_buf_json_str(out, e->error, strlen(e->error));
    }
    sp_buf_puts(out, "}}");
}

static void put_stages(sp_buf *out, const sp_trace *t, double at, const sp_receipt *r)
{
    const struct { const char *name; double ms; } stage[] = {
        {"intent", r->ms_intent}, {"retrieval", r->ms_retrieval}, {"queue", r->ms_queue},
        {"prefill", r->ms_prefill}, {"decode", r->ms_decode}};
    for (size_t i = 0; i < sizeof stage / sizeof stage[0]; i++) {
        uint8_t span[8];
        if (stage[i].ms <= 0)
            continue;
        sp_rng_bytes(span, sizeof span);
        sp_buf_putc(out, ',');
        put_head(out, t, span, t->span, stage[i].name, 1, at, stage[i].ms);
        sp_buf_putc(out, '}');
        at += stage[i].ms * 1e6;
    }
}

void sp_trace_write(sp_buf *out, const sp_trace *t, const sp_trace_end *e, const sp_receipt *r)
{
    char name[160];
    snprintf(name, sizeof name, "%.40s %.100s", e->operation, e->model);
    put_head(out, t, t->span, t->has_parent ? t->parent : NULL, name, 2, e->begin_ns, e->ms);
    sp_buf_puts(out, ",\"attributes\":[");
    put_request(out, e);
    put_outcome(out, e, r);
    if (r)
        put_stages(out, t, e->begin_ns, r);
}
