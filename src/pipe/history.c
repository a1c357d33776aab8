#include "pipe/history.h"

#include "base/clock.h"
#include "base/lock.h"
#include "base/log.h"
#include "text/wordpiece.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum {
    MAX_WAITING = 1024,
    MSG_TOK = 8,      /* a message's frame in the template, about */
    RECALL_SHARE = 8, /* recalled turns get 1/8 of the prompt */
    RECALL_MAX = 8,
    TICK_MS = 1000,
    WAIT_MS = 100
};

struct sp_history {
    sp_history_cfg cfg;
    sp_hdb *db; /* owner: history thread */
    pthread_t thread;
    bool started;
    sp_lock lock; /* rank API */
    pthread_cond_t work, changed;
    sp_history_op *first, **last; /* guard: lock */
    size_t n_waiting;             /* guard: lock */
    bool stop;                    /* guard: lock */
    int64_t t_freeze;
    sp_metric *recall_s, *recalled, *ops;
};

/* --- operations as objects --------------------------------------------------------------------- */

sp_history_op *sp_history_op_new(sp_history *h, sp_history_kind kind, const char *tenant)
{
    sp_history_op *op = sp_mem_alloc(sizeof *op);
    if (!op)
        return NULL;
    op->kind = kind;
    op->owner = h;
    op->ref = 1;
    snprintf(op->tenant, sizeof op->tenant, "%s", tenant);
    sp_arena_init(&op->a, 0);
    return op;
}

static void let_go(sp_history_op *op)
{
    sp_history *h = op->owner;
    sp_lock_get(&h->lock);
    bool last = --op->ref == 0;
    sp_lock_put(&h->lock);
    if (!last)
        return;
    sp_arena_fini(&op->a);
    sp_mem_free(op);
}

void sp_history_put(sp_history_op *op)
{
    if (!op)
        return;
    sp_lock_get(&op->owner->lock);
    op->notify = NULL;
    while (op->notifying)
        sp_lock_wait(&op->owner->lock, &op->owner->changed, 0);
    sp_lock_put(&op->owner->lock);
    let_go(op);
}

bool sp_history_is_done(sp_history_op *op)
{
    sp_lock_get(&op->owner->lock);
    bool done = op->done;
    sp_lock_put(&op->owner->lock);
    return done;
}

sp_err sp_history_submit(sp_history_op *op, void (*notify)(void *arg), void *arg, sp_diag *d)
{
    sp_history *h = op->owner;
    sp_lock_get(&h->lock);
    bool full = h->n_waiting >= MAX_WAITING;
    if (!full) {
        op->notify = notify;
        op->arg = arg;
        op->ref++;
        op->next = NULL;
        *h->last = op;
        h->last = &op->next;
        h->n_waiting++;
        pthread_cond_signal(&h->work);
    }
    sp_lock_put(&h->lock);
    return full ? SP_FAIL(d, SP_LIMIT, "%d operations on conversations are waiting already", MAX_WAITING) : SP_OK;
}

/* --- vectors ---------------------------------------------------------------------------------- */

static sp_err wait_job(sp_job *j, size_t *n_prompt)
{
    sp_err err = SP_AGAIN;
    while (err == SP_AGAIN) {
        sp_event *ev = sp_job_next(j);
        if (!ev) {
            sp_job_wait(j, WAIT_MS * 1000000ull);
            continue;
        }
        err = ev->kind == SP_EVENT_FINISH && ev->finish == SP_FINISH_STOP ? SP_OK : SP_CANCEL;
        if (n_prompt)
            *n_prompt = ev->n_prompt;
        sp_event_free(ev);
    }
    return err;
}

/* Unit vectors as int8. Their elements lie around 1/sqrt(384): a gain of 4 uses the range, and cuts off
 * what is more than 5 times that. */
#define VECTOR_GAIN 4.0f

static sp_err embed(sp_history *h, int8_t out[SP_HDB_DIM], const char *text, size_t n)
{
    sp_ids ids = {0};
    sp_job *j = NULL;
    sp_encoder *enc = sp_engine_config(h->cfg.engine)->encoder;
    if (!enc || !h->cfg.vocab || sp_encoder_dim(enc) != SP_HDB_DIM)
        return SP_UNSUP;
    sp_err err = sp_wp_encode(h->cfg.vocab, &ids, text, n, NULL);
    if (err == SP_OK && ids.n > sp_encoder_cap(enc)) { /* the beginning stands for the whole; words cover the rest */
        ids.id[sp_encoder_cap(enc) - 1] = ids.id[ids.n - 1];
        ids.n = sp_encoder_cap(enc);
    }
    if (err == SP_OK)
        err = sp_job_embed(&j, h->cfg.engine, ids.id, ids.n, NULL, NULL, NULL);
    if (err == SP_OK)
        err = wait_job(j, NULL);
    for (size_t i = 0; i < SP_HDB_DIM && err == SP_OK; i++)
        out[i] = (int8_t)lrintf(fmaxf(-127, fminf(127, 127 * VECTOR_GAIN * sp_job_vector(j)[i])));
    sp_job_put(j);
    sp_ids_fini(&ids);
    return err;
}

/* One vector a call, between operations. true: there was one to make. */
static bool embed_one(sp_history *h)
{
    sp_arena a;
    sp_hdb_item item;
    int8_t vec[SP_HDB_DIM] = {0};
    if (!h->cfg.vocab)
        return false;
    sp_arena_init(&a, 0);
    bool found = sp_hdb_unembedded(h->db, &a, &item) == SP_OK;
    if (found) {
        sp_err err = embed(h, vec, item.text.p, item.text.n);
        found = err != SP_CANCEL && err != SP_UNSUP; /* an item that cannot be embedded keeps zeros */
        if (found && err != SP_LIMIT && sp_hdb_set_vector(h->db, item.seq, vec, NULL) != SP_OK)
            found = false;
    }
    sp_arena_fini(&a);
    return found;
}

/* --- the prompt of a turn --------------------------------------------------------------------- */

static size_t count_tok(const sp_history *h, sp_str text)
{
    sp_ids ids = {0};
    size_t n = sp_tok_encode(h->cfg.tok, &ids, text.p, text.n, SP_SPECIAL_NONE, NULL) == SP_OK ? ids.n : text.n;
    sp_ids_fini(&ids);
    return n + MSG_TOK;
}

static bool is_role(sp_str s, const char *role)
{
    return s.n == strlen(role) && memcmp(s.p, role, s.n) == 0;
}

/* The first item that stays. Turns leave in steps of half the budget, so that the front of the
 * prompt changes seldom. System items always stay. */
static size_t window_start(const sp_hdb_item *item, size_t n, size_t n_fixed, size_t budget)
{
    size_t all = n_fixed, step = budget / 2 ? budget / 2 : 1, gone = 0, start = 0, want;
    for (size_t i = 0; i < n; i++)
        all += item[i].n_tok;
    if (all <= budget)
        return 0;
    want = (all - budget + step - 1) / step * step;
    while (start < n && (gone < want || !is_role(item[start].role, "user"))) {
        gone += is_role(item[start].role, "system") ? 0 : item[start].n_tok;
        start++;
    }
    return start;
}

static void add_date(sp_buf *out, int64_t seconds, sp_str role)
{
    char date[16];
    time_t t = (time_t)seconds;
    struct tm tm;
    gmtime_r(&t, &tm);
    strftime(date, sizeof date, "%Y-%m-%d", &tm);
    sp_buf_printf(out, "[%s, %.*s] ", date, (int)role.n, role.p);
}

static int by_pos(const void *a, const void *b)
{
    const sp_hdb_item *x = a, *y = b;
    return x->pos < y->pos ? -1 : x->pos > y->pos;
}

/* Old turns that bear on the question, before the question, oldest first. */
static sp_err recall(sp_history *h, sp_history_op *op, int64_t end, size_t budget)
{
    sp_chat_msg *last = &op->msg[op->n_msg - 1];
    char *question = sp_arena_strndup(&op->a, last->content.p, last->content.n);
    int8_t vec[SP_HDB_DIM];
    uint64_t t = sp_clock_ns();
    sp_hdb_item *found;
    size_t n, used = 0, kept = 0;
    sp_buf text = {0};
    if (!question)
        return SP_FAIL(&op->diag, SP_NOMEM, "recall");
    bool has_vec = embed(h, vec, question, last->content.n) == SP_OK;
    op->ms_vector = sp_clock_ms(t);
    SP_TRY(sp_hdb_search(h->db, &op->a, op->tenant, op->conv, end, question, has_vec ? vec : NULL, RECALL_MAX, &found, &n,
                         &op->diag));
    for (size_t i = 0; i < n; i++) {
        if (used + found[i].n_tok + MSG_TOK > budget)
            continue;
        used += found[i].n_tok + MSG_TOK;
        found[kept++] = found[i];
    }
    qsort(found, kept, sizeof *found, by_pos);
    op->item = found;
    op->n_item = kept;
    sp_metric_observe(h->recall_s, (double)(sp_clock_ns() - t) * 1e-9);
    sp_metric_add(h->recalled, (double)kept);
    if (kept == 0)
        return SP_OK;
    sp_buf_puts(&text, "From earlier in this conversation:\n");
    for (size_t i = 0; i < kept; i++) {
        add_date(&text, found[i].created, found[i].role);
        sp_buf_put(&text, found[i].text.p, found[i].text.n);
        sp_buf_putc(&text, '\n');
    }
    sp_buf_putc(&text, '\n');
    sp_buf_put(&text, last->content.p, last->content.n);
    char *all = text.failed ? NULL : sp_arena_strndup(&op->a, text.p, text.len);
    last->content = (sp_str){all, text.len};
    sp_buf_fini(&text);
    return all ? SP_OK : SP_FAIL(&op->diag, SP_NOMEM, "recall");
}

static sp_err find_conversation(sp_history *h, sp_history_op *op, int64_t *end)
{
    char from[SP_ID_BYTES];
    sp_hdb_conv info;
    *end = INT64_MAX;
    if (op->conv[0])
        return sp_hdb_get(h->db, &op->a, op->tenant, op->conv, &info, &op->diag);
    sp_hdb_id(op->conv, "conv");
    if (!op->previous[0])
        return sp_hdb_create(h->db, op->tenant, op->conv, "{}", &op->diag);
    SP_TRY(sp_hdb_response(h->db, op->tenant, op->previous, from, end, &op->diag));
    SP_TRY(sp_hdb_get(h->db, &op->a, op->tenant, from, &info, &op->diag));
    if (info.n_item == *end) { /* nothing came after it: the conversation goes on */
        snprintf(op->conv, sizeof op->conv, "%s", from);
        return SP_OK;
    }
    return sp_hdb_fork(h->db, op->tenant, from, *end, op->conv, &op->diag);
}

static sp_err run_prepare(sp_history *h, sp_history_op *op)
{
    int64_t end;
    sp_hdb_item *item;
    size_t n, n_new = 0, n_out = 0;
    SP_TRY(find_conversation(h, op, &end));
    SP_TRY(sp_hdb_items(h->db, &op->a, op->tenant, op->conv, end, &item, &n, &op->diag));
    for (size_t i = 0; i < op->n_msg; i++)
        n_new += count_tok(h, op->msg[i].content);
    size_t for_recall = op->budget / RECALL_SHARE, start = window_start(item, n, n_new, op->budget);
    if (start) /* something must go: leave room for what is recalled of it */
        start = window_start(item, n, n_new + for_recall, op->budget);
    sp_chat_msg *msg = sp_arena_alloc(&op->a, (n + op->n_msg) * sizeof *msg);
    if (!msg)
        return SP_FAIL(&op->diag, SP_NOMEM, "conversation");
    if (start && op->n_msg)
        SP_TRY(recall(h, op, item[start < n ? start : n - 1].pos + (start == n), for_recall));
    for (size_t i = 0; i < n; i++)
        if (i >= start || is_role(item[i].role, "system"))
            msg[n_out++] = (sp_chat_msg){item[i].role, item[i].text};
    for (size_t i = 0; i < op->n_msg; i++)
        msg[n_out++] = op->msg[i];
    op->msg = msg;
    op->n_msg = n_out;
    return SP_OK;
}

/* --- the other operations --------------------------------------------------------------------- */

static sp_err append_msg(sp_history *h, sp_history_op *op)
{
    op->item = sp_arena_alloc(&op->a, (op->n_msg + 1) * sizeof *op->item);
    if (!op->item)
        return SP_FAIL(&op->diag, SP_NOMEM, "conversation");
    op->n_item = op->n_msg;
    for (size_t i = 0; i < op->n_msg; i++)
        op->item[i] =
            (sp_hdb_item){.role = op->msg[i].role, .text = op->msg[i].content, .n_tok = count_tok(h, op->msg[i].content)};
    return op->n_msg
               ? sp_hdb_append(h->db, op->tenant, op->conv, op->item, op->n_msg, op->response[0] ? op->response : NULL, &op->diag)
               : SP_OK;
}

static sp_err run_search(sp_history *h, sp_history_op *op)
{
    int8_t vec[SP_HDB_DIM];
    sp_hdb_conv info;
    uint64_t t = sp_clock_ns();
    SP_TRY(sp_hdb_get(h->db, &op->a, op->tenant, op->conv, &info, &op->diag));
    bool has_vec = embed(h, vec, op->query, strlen(op->query)) == SP_OK;
    op->ms_vector = sp_clock_ms(t);
    sp_err err = sp_hdb_search(h->db, &op->a, op->tenant, op->conv, INT64_MAX, op->query, has_vec ? vec : NULL, op->cap,
                               &op->item, &op->n_item, &op->diag);
    sp_metric_observe(h->recall_s, (double)(sp_clock_ns() - t) * 1e-9);
    return err;
}

/* Pages in RAM, then on disk and in the object store, then the text: whatever fails on the way, the conversation is
 * still there to be deleted again. No turn comes between: turns begin on this thread. */
static sp_err run_forget(sp_history *h, sp_history_op *op, const char *conv)
{
    uint8_t tag[SP_KV_TAG], conv_tag[SP_KV_TAG];
    sp_hdb_conv info;
    sp_job *j;
    if (conv)
        SP_TRY(sp_hdb_get(h->db, &op->a, op->tenant, conv, &info, &op->diag));
    if (sp_kv_tag(tag, op->tenant) != SP_OK || (conv && sp_kv_tag(conv_tag, conv) != SP_OK))
        return SP_FAIL(&op->diag, SP_NOMEM, "deleting pages");
    SP_TRY(sp_job_forget(&j, h->cfg.engine, tag, conv ? conv_tag : NULL, &op->diag));
    sp_err err = wait_job(j, &op->n_page);
    sp_job_put(j);
    if (err != SP_OK)
        return SP_FAIL(&op->diag, err, "the server is shutting down");
    sp_kv_forget f = {.tag = tag, .conv = conv ? conv_tag : NULL};
    if (h->cfg.tier)
        SP_TRY(sp_kv_tier_forget(h->cfg.tier, &f, &op->diag));
    op->n_page = f.n_page > op->n_page ? f.n_page : op->n_page;
    return sp_hdb_delete(h->db, op->tenant, conv, &op->n_conv, &op->diag);
}

static sp_err run_create(sp_history *h, sp_history_op *op)
{
    sp_hdb_id(op->conv, "conv");
    SP_TRY(sp_hdb_create(h->db, op->tenant, op->conv, op->metadata ? op->metadata : "{}", &op->diag));
    return append_msg(h, op);
}

static sp_err run_op(sp_history *h, sp_history_op *op)
{
    sp_err err = SP_OK;
    switch (op->kind) {
    case SP_HISTORY_CREATE: err = run_create(h, op); break;
    case SP_HISTORY_UPDATE: err = sp_hdb_set_metadata(h->db, op->tenant, op->conv, op->metadata, &op->diag); break;
    case SP_HISTORY_DELETE: return run_forget(h, op, op->conv);
    case SP_HISTORY_FORGET: return run_forget(h, op, NULL);
    case SP_HISTORY_ITEMS:
        err = sp_hdb_items(h->db, &op->a, op->tenant, op->conv, INT64_MAX, &op->item, &op->n_item, &op->diag);
        break;
    case SP_HISTORY_SEARCH: err = run_search(h, op); break;
    case SP_HISTORY_PREPARE: return run_prepare(h, op);
    case SP_HISTORY_ADD:
    case SP_HISTORY_SAVE: err = append_msg(h, op); break;
    case SP_HISTORY_GET: break;
    }
    return err == SP_OK ? sp_hdb_get(h->db, &op->a, op->tenant, op->conv, &op->info, &op->diag) : err;
}

/* --- thread ----------------------------------------------------------------------------------- */

static void freeze_some(sp_history *h)
{
    sp_diag d = {0};
    int64_t now = sp_clock_wall();
    if (!h->cfg.cold_after_s || now == h->t_freeze)
        return;
    h->t_freeze = now;
    sp_err err = sp_hdb_freeze(h->db, now - h->cfg.cold_after_s, &d);
    if (err != SP_OK && err != SP_NOTFOUND)
        sp_log(SP_LOG_WARN, "an old conversation stays as it is: %s", d.msg);
}

static void finish_op(sp_history *h, sp_history_op *op)
{
    sp_lock_get(&h->lock);
    op->done = true;
    void (*notify)(void *) = op->notify;
    op->notifying = notify != NULL;
    sp_lock_put(&h->lock);
    if (notify) {
        notify(op->arg);
        sp_lock_get(&h->lock);
        op->notifying = false;
        pthread_cond_broadcast(&h->changed);
        sp_lock_put(&h->lock);
    }
    let_go(op);
}

static void *history_main(void *arg)
{
    sp_history *h = arg;
    for (;;) {
        sp_lock_get(&h->lock);
        sp_history_op *op = h->first;
        bool stop = h->stop && !op;
        if (op) {
            h->first = op->next;
            if (!h->first)
                h->last = &h->first;
            h->n_waiting--;
        }
        sp_lock_put(&h->lock);
        if (stop)
            return NULL;
        if (op) {
            uint64_t t = sp_clock_ns();
            sp_err err = run_op(h, op);
            if (err != SP_OK && op->diag.code == SP_OK)
                (void)SP_FAIL(&op->diag, err, "conversations: %s", sp_err_name(err));
            op->ms = sp_clock_ms(t);
            sp_metric_add(h->ops, 1);
            finish_op(h, op);
            continue;
        }
        freeze_some(h);
        if (embed_one(h))
            continue;
        sp_lock_get(&h->lock);
        if (!h->first && !h->stop)
            sp_lock_wait(&h->lock, &h->work, TICK_MS * 1000000ull);
        sp_lock_put(&h->lock);
    }
}

sp_err sp_history_open(sp_history **out, const sp_history_cfg *cfg, sp_diag *d)
{
    sp_history *h = sp_mem_alloc(sizeof *h);
    if (!h)
        return SP_FAIL(d, SP_NOMEM, "conversations");
    h->cfg = *cfg;
    h->last = &h->first;
    sp_lock_init(&h->lock, SP_RANK_API);
    sp_lock_cond_init(&h->work);
    sp_lock_cond_init(&h->changed);
    h->recall_s = sp_metric_seconds(cfg->metrics, "sparing_history_recall_seconds",
                                    "Finding old turns, the question's vector included.", NULL);
    h->recalled = sp_metric_counter(cfg->metrics, "sparing_history_recalled_total", "Old turns put before a question.", NULL);
    h->ops = sp_metric_counter(cfg->metrics, "sparing_history_operations_total", "Operations on conversations.", NULL);
    sp_err err = sp_hdb_open(&h->db, cfg->path, cfg->cold, d);
    if (err == SP_OK && pthread_create(&h->thread, NULL, history_main, h) != 0)
        err = SP_FAIL(d, SP_NOMEM, "conversations: cannot start a thread");
    h->started = err == SP_OK;
    if (err == SP_OK)
        *out = h;
    else
        sp_history_close(h);
    return err;
}

void sp_history_close(sp_history *h)
{
    if (!h)
        return;
    if (h->started) {
        sp_lock_get(&h->lock);
        h->stop = true;
        pthread_cond_broadcast(&h->work);
        sp_lock_put(&h->lock);
        pthread_join(h->thread, NULL);
    }
    sp_hdb_close(h->db);
    sp_lock_fini(&h->lock);
    pthread_cond_destroy(&h->work);
    pthread_cond_destroy(&h->changed);
    sp_mem_free(h);
}
