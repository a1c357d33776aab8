#include "api/ledger.h"

#include "base/lock.h"
#include "base/mem.h"
#include "pipe/intent.h"

#include <stdio.h>
#include <string.h>

/* Sums over a tenant's requests since the start. */
typedef struct sums {
    char tenant[SP_TENANT_BYTES];
    double done, failed, prompt, answer, cost, seconds;
} sums;

struct sp_ledger {
    sp_budgets *budgets; /* NULL: there are none */
    sp_lock lock; /* rank API */
    sp_entry *entry; /* [SP_LEDGER_CAP] ring; guard: lock */
    size_t n;        /* ever added */
    sums *sum;       /* [n_sum], room for cap_sum; guard: lock */
    size_t n_sum, cap_sum;
    sp_metric *class_done[SP_CLASSES + 1], *class_cost[SP_CLASSES + 1]; /* the last: of none */
    sp_metric *path[3], *cost[3], *texts_cost, *joules, *machine, *escalated, *intent, *intents,
        *ms[3];
    sp_metric *unsure[SP_UNSURE_DIDS], *unsure_tok;
    sp_metric *mark_tok, *mark_bytes[2], *prune_tok, *prune_ends;
};

sp_err sp_ledger_new(sp_ledger **out, sp_metrics *m, sp_budgets *budgets)
{
    static const char *const label[] = {"path=\"light\"", "path=\"full\"", "path=\"upstream\""};
    sp_ledger *l = sp_mem_alloc(sizeof *l);
    if (!l)
        return SP_NOMEM;
    l->entry = sp_mem_array(SP_LEDGER_CAP, sizeof *l->entry);
    if (!l->entry) {
        sp_mem_free(l);
        return SP_NOMEM;
    }
    l->budgets = budgets;
    sp_lock_init(&l->lock, SP_RANK_API);
    for (int i = 0; i < 3; i++)
        l->path[i] = sp_metric_counter(m, "sparing_path_total",
                                       "Requests by the path they ended on.", label[i]);
    for (int i = 0; i < 3; i++)
        l->cost[i] =
            sp_metric_counter(m, "sparing_cost_total", "Cost by the price table.", label[i]);
    for (int i = 0; i < 3; i++)
        l->ms[i] = sp_metric_seconds(m, "sparing_response_seconds",
                                     "From arrival to the end, by path.", label[i]);
    l->texts_cost = sp_metric_counter(
        m, "sparing_texts_cost_total", "Cost of texts that were embedded or ranked.", NULL);
    l->joules = sp_metric_counter(m, "sparing_electricity_joules_total",
                                  "Electricity of requests, where it has a price.", NULL);
    l->machine = sp_metric_counter(m, "sparing_machine_seconds_total",
                                   "Time of steps that was for requests that are over.", NULL);
    l->escalated = sp_metric_counter(m, "sparing_escalations_total",
                                     "Light answers that were begun and given up.", NULL);
    l->intent = sp_metric_counter(m, "sparing_intent_seconds_total",
                                  "Time spent judging requests and planning them.", NULL);
    l->intents = sp_metric_counter(m, "sparing_intents_total", "Requests judged.", NULL);
    l->mark_tok =
        sp_metric_counter(m, "sparing_marked_tokens_total",
                          "Tokens of answers that left as marks of what they repeat.", NULL);
    l->mark_bytes[0] =
        sp_metric_counter(m, "sparing_marked_bytes_total",
                          "Bytes of what left as marks, and of the marks.", "kind=\"text\"");
    l->mark_bytes[1] =
        sp_metric_counter(m, "sparing_marked_bytes_total",
                          "Bytes of what left as marks, and of the marks.", "kind=\"marks\"");
    static const char *const did[] = {"did=\"nothing\"", "did=\"retrieved\"", "did=\"voted\""};
    for (int i = 0; i < SP_UNSURE_DIDS; i++)
        l->unsure[i] = sp_metric_counter(
            m, "sparing_uncertain_total",
            "Places where an answer became unsure, by what was done there.", did[i]);
    l->unsure_tok = sp_metric_counter(m, "sparing_uncertain_tokens_total",
                                      "Tokens computed there that the answers do not have.", NULL);
    l->prune_tok = sp_metric_counter(m, "sparing_pruned_tokens_total",
                                     "Tokens that rules took back before they left.", NULL);
    l->prune_ends =
        sp_metric_counter(m, "sparing_ended_by_rules_total",
                          "Requests with an answer, or its thoughts, that a rule ended.", NULL);
    for (int i = 0; i <= SP_CLASSES; i++) {
        char of[40];
        snprintf(of, sizeof of, "class=\"%s\"",
                 i < SP_CLASSES ? sp_class_name((sp_class)i) : "none");
        l->class_done[i] = sp_metric_counter(m, "sparing_class_requests_total",
                                             "Requests by what intent took them for.", of);
        l->class_cost[i] = sp_metric_counter(
            m, "sparing_class_cost_total", "Cost by what intent took the request for.", of);
    }
    *out = l;
    return SP_OK;
}

void sp_ledger_free(sp_ledger *l)
{
    if (!l)
        return;
    sp_lock_fini(&l->lock);
    sp_mem_free(l->entry);
    sp_mem_free(l->sum);
    sp_mem_free(l);
}

/* NULL: no memory, or too many tenants. The caller holds the lock. */
static sums *find_sums(sp_ledger *l, const char *tenant, bool make)
{
    for (size_t i = 0; i < l->n_sum; i++)
        if (strcmp(l->sum[i].tenant, tenant) == 0)
            return &l->sum[i];
    if (!make || l->n_sum == SP_LEDGER_TENANTS)
        return NULL;
    if (!sp_mem_has_room(&l->sum, &l->cap_sum, l->n_sum, sizeof *l->sum))
        return NULL;
    sums *s = &l->sum[l->n_sum++];
    *s = (sums){0};
    snprintf(s->tenant, sizeof s->tenant, "%s", tenant);
    return s;
}

static void add_sums(sums *s, const sp_entry *e)
{
    s->done += !e->error[0];
    s->failed += e->error[0] != 0;
    s->prompt += (double)e->n_prompt;
    s->answer += (double)e->receipt.tok_out;
    s->cost += e->receipt.cost;
    s->seconds += e->ms * 1e-3;
}

void sp_ledger_metrics(sp_ledger *l, sp_buf *out, const char *tenant)
{
    sums none = {0};
    sp_lock_get(&l->lock);
    const sums *found = find_sums(l, tenant, false);
    const sums s = found ? *found : none;
    sp_lock_put(&l->lock);
    const struct { const char *name, *labels, *help; double v; } row[] = {
        {"sparing_tenant_requests_total", "{result=\"done\"}", "Requests of this key's tenant.",
         s.done},
        {"sparing_tenant_requests_total", "{result=\"failed\"}", NULL, s.failed},
        {"sparing_tenant_prompt_tokens_total", "", "Tokens of its prompts.", s.prompt},
        {"sparing_tenant_answer_tokens_total", "", "Tokens of its answers.", s.answer},
        {"sparing_tenant_cost_total", "", "Its cost by the price table.", s.cost},
        {"sparing_tenant_seconds_total", "", "From arrival to the end, over its requests.",
         s.seconds}};
    for (size_t i = 0; i < sizeof row / sizeof row[0]; i++) {
        if (row[i].help)
            sp_buf_printf(out, "# HELP %s %s\n# TYPE %s counter\n", row[i].name, row[i].help,
                          row[i].name);
        sp_buf_printf(out, "%s%s %.17g\n", row[i].name, row[i].labels, row[i].v);
    }
}

/* SP_CLASSES: nobody judged it. */
static size_t class_of(const sp_receipt *r)
{
    size_t i = 0;
    while (i < SP_CLASSES && !(r->cls && strcmp(r->cls, sp_class_name((sp_class)i)) == 0))
        i++;
    return i;
}

void sp_ledger_add(sp_ledger *l, const sp_entry *e)
{
    sp_lock_get(&l->lock);
    sp_entry *at = &l->entry[l->n++ % SP_LEDGER_CAP];
    *at = *e;
    at->receipt.not_enforced = NULL;
    at->receipt.ignored = NULL; /* borrowed from the request */
    at->receipt.experiment = NULL;
    sums *s = find_sums(l, e->tenant, true);
    if (s)
        add_sums(s, e);
    sp_lock_put(&l->lock);
    const sp_receipt *r = &e->receipt;
    sp_budgets_spend(l->budgets, e->tenant, r->cost);
    sp_metric_add(l->joules, r->joules);
    sp_metric_add(l->machine, r->ms_machine * 1e-3);
    if (e->error[0])
        return;
    sp_metric_add(l->path[r->path], 1);
    sp_metric_add(l->cost[r->path], r->cost);
    size_t cls = class_of(r);
    sp_metric_add(l->class_done[cls], 1);
    sp_metric_add(l->class_cost[cls], r->cost);
    sp_metric_observe(l->ms[r->path], e->ms * 1e-3);
    sp_metric_add(l->escalated, r->escalated);
    sp_metric_add(l->mark_tok, (double)r->refs.tok);
    sp_metric_add(l->mark_bytes[0], (double)r->refs.bytes);
    sp_metric_add(l->mark_bytes[1], (double)r->refs.mark_bytes);
    for (int i = 0; i < SP_UNSURE_DIDS; i++)
        sp_metric_add(l->unsure[i], (double)r->unsure.n_did[i]);
    sp_metric_add(l->unsure_tok, (double)r->unsure.tok);
    sp_metric_add(l->prune_tok, (double)r->control.tok);
    sp_metric_add(l->prune_ends, r->control.ended || r->control.thought);
    sp_metric_add(l->intents, r->cls != NULL);
    sp_metric_add(l->intent, r->ms_intent * 1e-3);
}

void sp_ledger_add_texts(sp_ledger *l, const char *tenant, double cost)
{
    sp_lock_get(&l->lock);
    sums *s = find_sums(l, tenant, true);
    if (s)
        s->cost += cost;
    sp_lock_put(&l->lock);
    sp_metric_add(l->texts_cost, cost);
    sp_budgets_spend(l->budgets, tenant, cost);
}

static void put_entry(sp_buf *out, const sp_entry *e, bool named)
{
    sp_buf_putc(out, '{');
    if (named)
        sp_buf_printf(out, "\"tenant\":\"%s\",", e->tenant);
    sp_buf_printf(out,
                  "\"id\":\"%s\",\"created\":%lld,\"status\":%d,\"ms\":%.3f,\"ms_first\":%.3f,"
                  "\"prompt_tokens\":%zu,\"error\":",
                  e->id, (long long)e->created, e->status, e->ms, e->ms_first, e->n_prompt);
    if (e->error[0])
        sp_buf_json_str(out, e->error, strlen(e->error));
    else
        sp_buf_puts(out, "null");
    sp_buf_puts(out, ",\"receipt\":");
    sp_receipt_write(&e->receipt, out);
    sp_buf_putc(out, '}');
}

void sp_ledger_write(sp_ledger *l, sp_buf *out, const char *tenant, size_t limit)
{
    size_t n = 0;
    sp_buf_puts(out, "{\"object\":\"list\",\"data\":[");
    sp_lock_get(&l->lock);
    size_t kept = l->n < SP_LEDGER_CAP ? l->n : SP_LEDGER_CAP;
    for (size_t i = 0; i < kept && n < limit; i++) {
        const sp_entry *e = &l->entry[(l->n - 1 - i) % SP_LEDGER_CAP];
        if (tenant && strcmp(e->tenant, tenant) != 0)
            continue;
        if (n++)
            sp_buf_putc(out, ',');
        put_entry(out, e, tenant == NULL);
    }
    sp_lock_put(&l->lock);
    sp_buf_puts(out, "]}");
}
