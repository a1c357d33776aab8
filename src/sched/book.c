/* What the engine says of its work: events to the submitter, receipts, metrics. */
#include "sched/engine_int.h"

#include <stdio.h>

enum { WINDOW_NS = 100000000 };
static const double OUT_SHARE = 0.05; /* of a new answer in the mean: the last twenty or so count */

void sp_job_free(sp_job *j)
{
    while (j->events) {
        sp_event *e = j->events;
        j->events = e->next;
        sp_event_free(e);
    }
    sp_event_free(j->last);
    sp_mem_free(j->tenant);
    sp_mem_free(j->flow);
    sp_mem_free(j->vector);
    sp_mem_free(j->part);
    sp_mem_free(j->end);
    sp_mem_free(j->second);
    sp_mem_free(j->forget);
    if (j->call.fini)
        j->call.fini(j->call.arg);
    sp_ids_fini(&j->ids);
    if (j->done)
        j->done(j->done_arg);
    sp_mem_free(j);
}

void sp_job_unref(sp_engine *e, sp_job *j)
{
    sp_lock_get(&e->lock);
    bool last = --j->ref == 0;
    sp_lock_put(&e->lock);
    if (last)
        sp_job_free(j);
}

/* Appends an event and tells the submitter. Takes the event. */
void sp_job_post(sp_job *j, sp_event *ev)
{
    sp_engine *e = j->engine;
    sp_lock_get(&e->lock);
    *j->events_tail = ev;
    j->events_tail = &ev->next;
    void (*notify)(void *) = j->notify;
    void *arg = j->arg;
    j->notifying = notify != NULL;
    pthread_cond_broadcast(&e->changed);
    sp_lock_put(&e->lock);
    if (!notify)
        return;
    notify(arg);
    sp_lock_get(&e->lock);
    j->notifying = false;
    pthread_cond_broadcast(&e->changed);
    sp_lock_put(&e->lock);
}

/* Whether the goals that a request was given were reached. */
static void count_goals(sp_engine *e, const sp_job *j)
{
    size_t n = j->receipt.tok_out;
    if (j->goal_first && j->t_first)
        sp_metric_add(e->m.goal[0][j->t_first > j->goal_first], 1);
    if (j->goal_tok_ms > 0 && n > 1)
        sp_metric_add(e->m.goal[1][j->receipt.ms_decode > j->goal_tok_ms * (double)(n - 1)], 1);
}

static void count_finish(sp_engine *e, const sp_job *j)
{
    const sp_receipt *r = &j->receipt;
    count_goals(e, j);
    sp_metric_add(e->m.tok_computed, (double)r->tok_computed);
    sp_metric_add(e->m.tok_ram, (double)r->tok_ram);
    sp_metric_add(e->m.hit_ram, r->tok_ram > 0);
    sp_metric_add(e->m.tok_ssd, (double)r->tok_ssd);
    sp_metric_add(e->m.tok_s3, (double)r->tok_s3);
    sp_metric_add(e->m.tok_spliced, (double)r->tok_spliced);
    sp_metric_add(e->m.guess_right, (double)r->tok_accepted);
    sp_metric_add(e->m.guess_wrong, (double)(r->tok_drafted - r->tok_accepted));
    for (size_t i = 0; i < SP_DRAFTERS; i++) {
        sp_metric_add(e->m.draft_right[i], (double)r->draft[i].accepted);
        sp_metric_add(e->m.draft_wrong[i], (double)(r->draft[i].drafted - r->draft[i].accepted));
    }
    sp_metric_add(e->m.flops_spent, r->flops_spent);
    sp_metric_add(e->m.flops_dense, r->flops_dense);
    sp_metric_add(e->m.attn_seen, r->attn_seen);
    sp_metric_add(e->m.attn_kept, r->attn_kept);
    sp_metric_add(e->m.kv_read, r->kv_bytes);
    sp_metric_add(e->m.kv_dense, r->kv_dense);
    sp_metric_observe(e->m.e2e, (double)(sp_clock_ns() - j->t_submit) * 1e-9);
}

/* What attention left out, and the work that saved. */
static void fill_attention(const sp_engine *e, sp_receipt *r, const sp_dev_cert *c)
{
    const sp_kv_shape *shape = sp_kv_pool_shape(e->cfg.pool);
    r->attn_seen = (double)c->n_seen;
    r->attn_kept = (double)c->n_kept;
    r->attn_bound = (double)c->max_loss;
    r->attn_loss = c->sum_loss;
    r->attn_calls = (double)c->n_call;
    r->attn_dense_calls = (double)c->n_dense;
    r->values_seen = (double)c->n_quad;
    r->values_read = (double)c->n_used;
    r->pages_seen = (double)c->n_page;
    r->pages_kept = (double)c->n_chosen;
    r->samples = (double)c->n_sample;
    r->missed = c->sum_missed;
    r->missed_most = (double)c->max_missed;
    r->kv_bytes = (double)c->bytes;
    r->kv_dense = (double)c->dense_bytes;
    /* half for the score, half for the value */
    double n_head = (double)sp_model_arch(e->cfg.model)->n_head, pair = e->flops.per_pair;
    r->flops_spent -= 0.5 * pair * (double)(c->n_seen - c->n_kept) * n_head / (double)shape->n_head;
    r->flops_spent -=
        0.5 * pair * (double)(c->n_quad - c->n_used) * 64 + pair * (double)c->n_skipped;
}

/* What the submitter needs to go on with an answer that was cut. */
static sp_err note_cut(sp_event *ev, const sp_session *s)
{
    const sp_session_end_at at = sp_session_cut(s);
    sp_event_cut *c = sp_mem_alloc(sizeof *c);
    if (!c)
        return SP_NOMEM;
    *c = (sp_event_cut){.n_kept = at.n_kept,
                        .logprob = at.logprob,
                        .entropy = at.entropy,
                        .margin = at.margin};
    sp_buf_put(&c->rest, at.rest, at.n_rest);
    if (at.steps)
        sp_buf_put(&c->steps, at.steps->p, at.steps->len);
    ev->cut = c;
    return c->rest.failed || c->steps.failed ? SP_NOMEM : sp_ids_add(&c->id, at.id, at.n_id);
}

/* Tokens of the answer that went through the layers: the last one that was chosen goes through
 * none, be it an end, which is in no text. */
static size_t out_through(const sp_receipt *r)
{
    size_t n_chosen = r->steps + r->tok_accepted + r->tok_forced;
    size_t n = n_chosen ? n_chosen - 1 : 0;
    return n < r->tok_out ? n : r->tok_out;
}

/* Closes the job's books, posts its last event and drops the engine's reference. */
void sp_job_end(sp_engine *e, sp_job *j, sp_event_kind kind, sp_finish finish, const sp_diag *d)
{
    sp_event *ev = j->last; /* allocated with the job: an end can always be told */
    j->last = NULL;
    uint64_t now = sp_clock_ns();
    ev->kind = kind;
    ev->finish = finish;
    ev->n_prompt = j->n_prompt;
    if (d)
        ev->diag = *d;
    if (j->session) {
        sp_receipt *r = &j->receipt;
        size_t n_out = sp_session_out(j->session);
        ev->stop_at = sp_session_stop(j->session);
        r->path = j->plan.path;
        r->ms_machine = (double)atomic_load(&j->machine_ns) * 1e-6;
        sp_kv_seq_times(sp_session_seq(j->session), &r->ms_first_layer, &r->ms_load);
        r->tok_out = n_out;
        r->tok_think = sp_session_thought(j->session);
        r->tok_forced = sp_session_forced(j->session);
        r->control = sp_session_control(j->session);
        sp_session_source from = sp_session_reused(j->session);
        r->tok_ram = from.ram;
        r->tok_ssd = from.ssd;
        r->tok_s3 = from.s3;
        r->tok_demoted = from.demoted;
        r->tok_spliced = from.spliced;
        r->placed = from.placed;
        r->tok_computed = finish == SP_FINISH_UNKNOWN
                              ? 0
                              : j->n_prompt - from.ram - from.ssd - from.s3 - from.spliced;
        r->attn_epsilon = j->plan.epsilon;
        r->prefill_keep = j->plan.prefill_keep;
        fill_attention(e, r, sp_session_cert(j->session));
        r->ms_prefill = j->t_first ? (double)(j->t_first - j->t_start) * 1e-6 : 0;
        r->ms_decode = j->t_first ? (double)(now - j->t_first) * 1e-6 : 0;
        /* Dense: the prompt and each chosen token go through the layers once, seeing all before. */
        size_t n_chosen = r->steps + r->tok_accepted;
        bool is_read = finish == SP_FINISH_LENGTH && sp_session_is_read(j->session);
        size_t n = n_chosen ? j->n_prompt + n_chosen - 1 : is_read ? j->n_prompt : 0;
        r->flops_dense = (double)n * e->flops.per_tok + sp_model_flops_seen(&e->flops, 0, n) +
                         (double)(n_chosen + j->n_row) * e->flops.per_logits;
        ev->receipt = *r;
        if (kind == SP_EVENT_FINISH && j->is_cut && note_cut(ev, j->session) != SP_OK) {
            kind = ev->kind = SP_EVENT_ERROR;
            (void)SP_FAIL(&ev->diag, SP_NOMEM, "answer");
        }
        if (kind == SP_EVENT_FINISH && (finish == SP_FINISH_STOP || finish == SP_FINISH_LENGTH))
            sp_session_end(j->session);
        sp_session_free(j->session, e->cfg.pool);
        j->session = NULL;
    }
    if (kind == SP_EVENT_FINISH && finish != SP_FINISH_UNKNOWN)
        count_finish(e, j);
    if (kind == SP_EVENT_FINISH && finish == SP_FINISH_STOP && j->account)
        sp_engine_count_out(e, j);
    if (kind == SP_EVENT_FINISH && finish != SP_FINISH_CANCEL && finish != SP_FINISH_UNSURE &&
        finish != SP_FINISH_UNKNOWN && j->account)
        sp_metric_add(e->m.tok_useful,
                      (double)(j->receipt.tok_computed + out_through(&j->receipt)));
    if (j->account)
        sp_fair_leave(e->fair, j->account);
    sp_metric_add(kind == SP_EVENT_ERROR       ? e->m.failed
                  : finish == SP_FINISH_CANCEL ? e->m.cancelled
                                               : e->m.finished,
                  1);
    j->state = ENDED;
    if (j->fork_of)
        sp_job_unref(e, j->fork_of);
    j->fork_of = NULL;
    sp_job_post(j, ev);
    sp_job_unref(e, j);
}

void sp_job_fail(sp_engine *e, sp_job *j, const sp_diag *d)
{
    sp_job_end(e, j, SP_EVENT_ERROR, SP_FINISH_STOP, d);
}

static void draft_metrics(sp_engine *e)
{
    static const char *const label[SP_DRAFTERS][2] = {
        /* kept by the registry */
        [SP_DRAFT_LOOKUP] = {"drafter=\"lookup\",result=\"accepted\"",
                             "drafter=\"lookup\",result=\"rejected\""},
        [SP_DRAFT_PREDICTION] = {"drafter=\"prediction\",result=\"accepted\"",
                                 "drafter=\"prediction\",result=\"rejected\""},
        [SP_DRAFT_EARLIER] = {"drafter=\"earlier\",result=\"accepted\"",
                              "drafter=\"earlier\",result=\"rejected\""},
        [SP_DRAFT_MODEL] = {"drafter=\"model\",result=\"accepted\"",
                            "drafter=\"model\",result=\"rejected\""},
        [SP_DRAFT_HEAD] = {"drafter=\"head\",result=\"accepted\"",
                           "drafter=\"head\",result=\"rejected\""},
        [SP_DRAFT_MTP] = {"drafter=\"mtp\",result=\"accepted\"",
                          "drafter=\"mtp\",result=\"rejected\""},
    };
    for (size_t i = 0; i < SP_DRAFTERS; i++) {
        sp_metric **m[2] = {&e->m.draft_right[i], &e->m.draft_wrong[i]};
        for (size_t k = 0; k < 2; k++)
            *m[k] = sp_metric_counter(e->cfg.metrics, "sparing_drafter_tokens_total",
                                      "Guesses of finished requests by drafter.", label[i][k]);
    }
}

static void state_metrics(sp_engine *e)
{
    sp_metrics *m = e->cfg.metrics;
    e->m.state_snaps =
        sp_metric_gauge(m, "sparing_state_bytes", "Bytes of recurrent layers' states in RAM.",
                        "kind=\"snapshots\"");
    e->m.state_seqs =
        sp_metric_gauge(m, "sparing_state_bytes", "Bytes of recurrent layers' states in RAM.",
                        "kind=\"sequences\"");
    e->m.snaps_taken = sp_metric_gauge(m, "sparing_state_snapshots_taken",
                                       "Snapshots of states taken since start.", NULL);
    e->m.snaps_evicted = sp_metric_gauge(m, "sparing_state_snapshots_evicted",
                                         "Snapshots of states given up since start.", NULL);
}

static void goal_metrics(sp_engine *e)
{
    static const char *const label[2][2] = {
        {"goal=\"first\",result=\"kept\"", "goal=\"first\",result=\"missed\""},
        {"goal=\"token\",result=\"kept\"", "goal=\"token\",result=\"missed\""}};
    for (size_t i = 0; i < 4; i++)
        e->m.goal[i / 2][i % 2] =
            sp_metric_counter(e->cfg.metrics, "sparing_goals_total",
                              "Finished requests by whether the first text and the other tokens "
                              "came in the time that they asked for.",
                              label[i / 2][i % 2]);
}

/* The names by which llm-d's and other gateways know vLLM, so that they read this server as they
 * are. Blocks are pages; there are no adapters. */
static void gateway_metrics(sp_engine *e)
{
    char labels[96];
    sp_metrics *m = e->cfg.gateway;
    snprintf(labels, sizeof labels, "block_size=\"%d\",num_gpu_blocks=\"%zu\"", SP_PAGE_TOK,
             sp_kv_pool_cap(e->cfg.pool));
    e->m.gate_waiting = sp_metric_gauge(m, "vllm:num_requests_waiting",
                                        "Requests in the queue, for gateways.", NULL);
    e->m.gate_running = sp_metric_gauge(m, "vllm:num_requests_running",
                                        "Sequences that move in each step, for gateways.", NULL);
    e->m.gate_usage =
        sp_metric_gauge(m, "vllm:kv_cache_usage_perc",
                        "Share of the KV pages that requests use, 0 to 1, for gateways.", NULL);
    e->m.gate_lora = sp_metric_gauge(
        m, "vllm:lora_requests_info", "Adapters, of which there are none, for gateways.",
        "max_lora=\"0\",running_lora_adapters=\"\",waiting_lora_adapters=\"\"");
    e->m.gate_cache = sp_metric_gauge(
        m, "vllm:cache_config_info",
        "1, with tokens of a page and pages in RAM as labels, for gateways.", labels);
    sp_metric_set(e->m.gate_cache, 1);
}

/* What an engine without a model can count, too. */
static void request_metrics(engine_metrics *t, sp_metrics *m)
{
    static const char name[] = "sparing_requests_total", help[] = "Ended requests.";
    t->e2e = sp_metric_seconds(m, "sparing_request_duration_seconds", "From arrival to the end.",
                               NULL);
    t->waiting = sp_metric_gauge(m, "sparing_requests_waiting", "Requests in the queue.", NULL);
    t->finished = sp_metric_counter(m, name, help, "result=\"finished\"");
    t->cancelled = sp_metric_counter(m, name, help, "result=\"cancelled\"");
    t->refused = sp_metric_counter(m, name, help, "result=\"refused\"");
    t->failed = sp_metric_counter(m, name, help, "result=\"failed\"");
}

void sp_engine_metrics(sp_engine *e)
{
    sp_metrics *m = e->cfg.metrics;
    if (!e->cfg.model) {
        request_metrics(&e->m, m);
        return;
    }
    e->m = (engine_metrics){
        .ttft = sp_metric_seconds(m, "sparing_time_to_first_token_seconds",
                                  "From arrival to the first text.", NULL),
        .itl = sp_metric_seconds(m, "sparing_inter_token_latency_seconds",
                                 "Between two pieces of text.", NULL),
        .queue = sp_metric_seconds(m, "sparing_queue_time_seconds",
                                   "From arrival to the first step.", NULL),
        .running = sp_metric_gauge(m, "sparing_requests_running",
                                   "Sequences that move in each step.", NULL),
        .tok_computed = sp_metric_counter(m, "sparing_prompt_tokens_total",
                                          "Prompt tokens by source.", "source=\"computed\""),
        .tok_ram = sp_metric_counter(m, "sparing_prompt_tokens_total", "Prompt tokens by source.",
                                     "source=\"ram\""),
        .tok_ssd = sp_metric_counter(m, "sparing_prompt_tokens_total", "Prompt tokens by source.",
                                     "source=\"ssd\""),
        .tok_s3 = sp_metric_counter(m, "sparing_prompt_tokens_total", "Prompt tokens by source.",
                                    "source=\"s3\""),
        .tok_spliced = sp_metric_counter(m, "sparing_prompt_tokens_total",
                                         "Prompt tokens by source.", "source=\"spliced\""),
        .tok_out = sp_metric_counter(m, "sparing_generated_tokens_total", "Tokens chosen.", NULL),
        .tok_step = sp_metric_counter(m, "sparing_computed_tokens_total",
                                      "Tokens that went through the layers.", NULL),
        .guess_right = sp_metric_counter(m, "sparing_draft_tokens_total",
                                         "Tokens computed ahead as guesses, of finished requests.",
                                         "result=\"accepted\""),
        .guess_wrong = sp_metric_counter(m, "sparing_draft_tokens_total",
                                         "Tokens computed ahead as guesses, of finished requests.",
                                         "result=\"rejected\""),
        .flops_spent = sp_metric_counter(m, "sparing_flops_total",
                                         "Arithmetic of finished requests.", "kind=\"spent\""),
        .flops_dense = sp_metric_counter(m, "sparing_flops_total",
                                         "Arithmetic of finished requests.", "kind=\"dense\""),
        .attn_seen = sp_metric_counter(m, "sparing_attention_keys_total",
                                       "Keys in certified attention.", "kind=\"seen\""),
        .attn_kept = sp_metric_counter(m, "sparing_attention_keys_total",
                                       "Keys in certified attention.", "kind=\"kept\""),
        .kv_read = sp_metric_counter(m, "sparing_attention_bytes_total",
                                     "Keys and values in certified attention.", "kind=\"read\""),
        .kv_dense = sp_metric_counter(m, "sparing_attention_bytes_total",
                                      "Keys and values in certified attention.", "kind=\"dense\""),
        .page_pinned =
            sp_metric_gauge(m, "sparing_kv_pages", "KV pages in RAM.", "state=\"pinned\""),
        .page_cached =
            sp_metric_gauge(m, "sparing_kv_pages", "KV pages in RAM.", "state=\"cached\""),
        .kv_bytes = sp_metric_gauge(m, "sparing_kv_bytes", "Bytes of KV pages.", "tier=\"ram\""),
        .demoted = sp_metric_gauge(m, "sparing_kv_demoted_pages",
                                   "Pages in RAM that gave up their lo parts.", NULL),
        .unsaved =
            sp_metric_gauge(m, "sparing_kv_unsaved_pages",
                            "Pages not written because too many were waiting, since start.", NULL),
        .hit_ram = sp_metric_counter(m, "sparing_kv_hits_total", "Loads of prefixes by tier.",
                                     "source=\"ram\""),
        .attach = sp_metric_seconds(m, "sparing_kv_attach_seconds",
                                    "Looking up and pinning what is known of a prompt.", NULL),
        .evicted = sp_metric_gauge(m, "sparing_kv_evicted_pages",
                                   "Cached pages given up since start.", NULL),
        .busy = sp_metric_counter(m, "sparing_busy_seconds_total", "Time in steps.", NULL),
        .step_flops = sp_metric_counter(m, "sparing_step_flops_total",
                                        "Arithmetic of all steps, as it was done.", NULL),
        .step_bytes = sp_metric_counter(
            m, "sparing_step_bytes_total",
            "Weights, keys and values that steps read, as if no key were left out.", NULL),
        .windows = sp_metric_counter(m, "sparing_busy_windows_total",
                                     "Windows of 100 ms in which something was computed.", NULL),
        .window_sum = sp_metric_counter(
            m, "sparing_busy_windows_utilisation_total",
            "Sum over them of the share of the machine's arithmetic that was used.", NULL),
        .window_square =
            sp_metric_counter(m, "sparing_busy_windows_utilisation_squares_total",
                              "Sum of its squares: with the two others, the fluctuation.", NULL),
        .peak = sp_metric_gauge(sp_metrics_root(m), "sparing_peak_flops",
                                "Arithmetic this machine can do in a second, measured at start: "
                                "8-bit multiply-adds, two each.",
                                NULL),
        .tok_useful =
            sp_metric_counter(m, "sparing_useful_tokens_total",
                              "Of computed tokens, those of answers that reached their end.", NULL),
        .backlog = sp_metric_gauge(m, "sparing_backlog_seconds",
                                   "Work that waits and runs, as predicted.", NULL),
        .expired = sp_metric_counter(m, "sparing_deadlines_missed_total",
                                     "Requests whose deadline passed.", NULL),
        .preempted = sp_metric_counter(m, "sparing_preemptions_total",
                                       "Sequences that gave their pages to others.", NULL),
    };
    request_metrics(&e->m, m);
    draft_metrics(e);
    goal_metrics(e);
    if (e->cfg.gateway)
        gateway_metrics(e);
    if (e->cfg.pool && sp_kv_pool_states(e->cfg.pool))
        state_metrics(e);
}

static void publish_states(const sp_engine *e)
{
    const sp_kv_states *s = sp_kv_pool_states(e->cfg.pool);
    sp_kv_state_stat st;
    if (!s)
        return;
    sp_kv_states_stat(s, &st);
    sp_metric_set(e->m.state_snaps, (double)(st.n_snap * st.state_bytes));
    sp_metric_set(e->m.state_seqs,
                  (double)((st.n_block - st.n_snap) * st.state_bytes + st.n_kept * st.kept_bytes));
    sp_metric_set(e->m.snaps_taken, (double)st.n_taken);
    sp_metric_set(e->m.snaps_evicted, (double)st.n_evicted);
}

static void publish_pages(sp_engine *e)
{
    sp_kv_stat st;
    sp_kv_pool_stat(e->cfg.pool, &st);
    sp_metric_set(e->m.page_pinned, (double)st.n_pinned);
    sp_metric_set(e->m.gate_usage, st.n_cap ? (double)st.n_pinned / (double)st.n_cap : 0);
    sp_metric_set(e->m.page_cached, (double)st.n_cached);
    sp_metric_set(e->m.kv_bytes, (double)st.n_bytes);
    sp_metric_set(e->m.demoted, (double)st.n_demoted);
    sp_metric_set(e->m.unsaved, (double)st.n_unsaved);
    sp_metric_set(e->m.evicted, (double)st.n_evicted);
    publish_states(e);
}

void sp_engine_unpublish(sp_engine *e)
{
    sp_metric *const gauge[] = {e->m.page_pinned, e->m.page_cached,  e->m.kv_bytes,
                                e->m.demoted,     e->m.running,      e->m.waiting,
                                e->m.backlog,     e->m.gate_waiting, e->m.gate_running,
                                e->m.gate_usage,  e->m.gate_cache};
    for (size_t i = 0; i < sizeof gauge / sizeof gauge[0]; i++)
        sp_metric_set(gauge[i], 0);
}

void sp_engine_publish(sp_engine *e)
{
    if (e->cfg.pool)
        publish_pages(e);
    sp_metric_set(e->m.running, (double)e->n_run);
    sp_metric_set(e->m.gate_running, (double)e->n_run);
    sp_lock_get(&e->lock);
    sp_metric_set(e->m.waiting, (double)e->n_waiting);
    sp_metric_set(e->m.gate_waiting, (double)e->n_waiting);
    e->n_running = e->n_run;
    e->backlog = 0;
    for (const sp_job *j = e->waiting; j; j = j->next)
        e->backlog += sp_job_work(e, j);
    for (size_t i = 0; i < e->n_run; i++)
        e->backlog += sp_job_work(e, e->run[i]);
    sp_metric_set(e->m.backlog, e->backlog);
    sp_fair_tell(e->fair, &e->part, e->n_waiting, e->backlog);
    sp_lock_put(&e->lock);
}

static void close_window(sp_engine *e)
{
    double peak = sp_metric_value(e->m.peak),
           share = peak > 0 ? e->meter.flops / (WINDOW_NS * 1e-9 * peak) : 0;
    if (e->meter.flops <= 0)
        return;
    sp_metric_add(e->m.windows, 1);
    sp_metric_add(e->m.window_sum, share);
    sp_metric_add(e->m.window_square, share * share);
    e->meter.flops = 0;
}

void sp_engine_meter(sp_engine *e, uint64_t from, uint64_t to, double flops)
{
    sp_metric_add(e->m.busy, (double)(to - from) * 1e-9);
    sp_metric_add(e->m.step_flops, flops);
    double rate = flops / (double)(to - from + 1);
    for (uint64_t at = from; at < to;) {
        uint64_t window = at / WINDOW_NS,
                 end = (window + 1) * WINDOW_NS < to ? (window + 1) * WINDOW_NS : to;
        if (window != e->meter.window)
            close_window(e);
        e->meter.window = window;
        e->meter.flops += rate * (double)(end - at);
        at = end;
    }
}

void sp_engine_count_out(sp_engine *e, const sp_job *j)
{
    double *mean = &e->out_mean[j->plan.cls];
    sp_lock_get(&e->lock);
    *mean += OUT_SHARE * ((double)j->receipt.tok_out - *mean);
    sp_lock_put(&e->lock);
}
