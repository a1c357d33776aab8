/* Drafters that live on the model's hidden states, on a tiny real model: what they see is what the
 * model computed, whatever became of the guesses, and what they guess changes no answer. */
#include "test.h"

void test_asking(void **state);

#include "base/mem.h"
#include "base/file.h"
#include "gen/draft_head.h"
#include "gen/draft_model.h"
#include "gen/head_train.h"
#include "sched/engine.h"

#include <stdio.h>
#include <unistd.h>

enum { N_JOB = 12, N_OUT = 40, N_CTX = 256 };

typedef struct rig {
    sp_gguf *g;
    sp_tok *t;
    sp_dev *dev;
    sp_model *m;
    sp_kv_pool *pool, *draft_pool;
    sp_metrics *metrics;
    sp_draft_source *model; /* the model as its own draft model */
    sp_engine *e;
} rig;

/* n_thread: a step of a tiny model is short, and two threads mostly wait for each other. */
static void open_rig(rig *r, size_t n_page, size_t n_thread)
{
    sp_dev_cfg dev = {.name = "cpu", .n_thread = n_thread, .mask = SP_CPU_LEVELS - 1};
    sp_diag d = {0};
    *r = (rig){0};
    assert_int_equal(sp_gguf_open(&r->g, TEST_DATA "/tiny-gqa-tied.gguf", &d), SP_OK);
    assert_int_equal(sp_tok_open(&r->t, r->g, &d), SP_OK);
    assert_int_equal(sp_dev_open(&r->dev, &dev, &d), SP_OK);
    assert_int_equal(sp_model_load(&r->m, r->g, r->dev, NULL, &d), SP_OK);
    sp_kv_cfg kv = {.shape = sp_model_kv_shape(r->m, sp_kv_format_find("f16")),
                    .model_id = *sp_model_id(r->m)};
    kv.cap_bytes = n_page * sp_kv_page_bytes(&kv.shape);
    assert_int_equal(sp_kv_pool_new(&r->pool, r->dev, &kv, &d), SP_OK);
    kv.cap_bytes = 64 * sp_kv_page_bytes(&kv.shape);
    assert_int_equal(sp_kv_pool_new(&r->draft_pool, r->dev, &kv, &d), SP_OK);
    assert_int_equal(sp_metrics_new(&r->metrics), SP_OK);
    const sp_draft_model_cfg draft = {.model = r->m,
                                      .pool = r->draft_pool,
                                      .n_vocab = sp_tok_count(r->t),
                                      .n_ctx = N_CTX,
                                      .cap_seq = N_JOB};
    assert_int_equal(sp_draft_model_new(&r->model, &draft, &d), SP_OK);
}

/* An engine with these drafters beside lookup and prediction. */
static void start_engine(rig *r, size_t max_run, sp_draft_source *const *draft, size_t n_draft)
{
    sp_diag d = {0};
    sp_engine_cfg cfg = {.model = r->m,
                         .tok = r->t,
                         .pool = r->pool,
                         .metrics = r->metrics,
                         .n_ctx = N_CTX,
                         .max_run = max_run,
                         .max_queue = 100,
                         .chunk_tok = 32,
                         .n_draft = n_draft};
    memcpy(cfg.draft, draft, n_draft * sizeof *draft);
    assert_int_equal(sp_engine_new(&r->e, &cfg, &d), SP_OK);
}

static void close_rig(rig *r)
{
    sp_draft_model_free(r->model);
    sp_kv_pool_free(r->draft_pool);
    sp_metrics_free(r->metrics);
    sp_kv_pool_free(r->pool);
    sp_model_free(r->m);
    sp_dev_close(r->dev);
    sp_tok_close(r->t);
    sp_gguf_close(r->g);
}

/* Prompt i into tok [120]; returns its tokens. */
static size_t prompt_of(uint32_t *tok, size_t i)
{
    size_t n = 5 + i * 9 % 110;
    uint64_t s = i + 1;
    for (size_t k = 0; k < n; k++)
        tok[k] = 3 + test_rand(&s) % 70;
    return n;
}

/* Answer i: one in three is greedy. Guesses are as many as can be, of whoever is in drafters. */
static sp_job *submit(rig *r, size_t i, size_t draft, unsigned drafters)
{
    uint32_t prompt[120];
    size_t n = prompt_of(prompt, i);
    sp_job *j = NULL;
    sp_diag d = {0};
    sp_job_cfg cfg = {.plan = {.draft = draft, .draft_fixed = true, .drafters = drafters},
                      .tok = prompt,
                      .n_tok = n,
                      .tenant = "t"};
    sp_sample_cfg_init(&cfg.session.sample);
    cfg.session.sample.temperature = i % 3 ? 0.8f : 0;
    cfg.session.sample.seed = i;
    cfg.session.max_tok = N_OUT;
    cfg.session.n_logprobs = -1;
    cfg.session.ignore_end = true;
    assert_int_equal(sp_job_submit(&j, r->e, &cfg, &d), SP_OK);
    return j;
}

static sp_receipt collect(sp_job *j, sp_buf *text)
{
    for (;;) {
        sp_event *e = sp_job_next(j);
        if (!e) {
            sp_job_wait(j, 1000000000);
            continue;
        }
        sp_event_kind kind = e->kind;
        sp_receipt receipt = e->receipt;
        assert_int_not_equal(kind, SP_EVENT_ERROR);
        if (kind == SP_EVENT_TEXT)
            sp_buf_put(text, e->text.p, e->text.len);
        sp_event_free(e);
        if (kind == SP_EVENT_FINISH)
            return receipt;
    }
}

/* All answers together; text [N_JOB]. */
static sp_receipt run_all(rig *r, size_t draft, unsigned drafters, sp_buf *text)
{
    sp_job *job[N_JOB];
    sp_receipt sum = {0};
    for (size_t i = 0; i < N_JOB; i++)
        job[i] = submit(r, i, draft, drafters);
    for (size_t i = 0; i < N_JOB; i++) {
        sp_receipt one = collect(job[i], &text[i]);
        sp_receipt_add(&sum, &one);
        sp_job_put(job[i]);
    }
    return sum;
}

/* --- what drafters see --------------------------------------------------------------------------
 */

enum { SPY_LAYERS = 2, SPY_EMBD = 64 };

/* A drafter that guesses nothing and writes down the hidden states it sees. */
typedef struct spied {
    sp_drafter base;
    struct spy *spy;
    uint32_t tok[N_CTX];
    size_t n_seen[N_CTX], end;
    float row[SPY_LAYERS][N_CTX][SPY_EMBD];
} spied;

typedef struct spy {
    sp_draft_source base;
    const sp_model *m;
    spied *answer[N_JOB];
    size_t n;
} spy;

static sp_err spy_start(sp_draft_source *s, sp_drafter **out, const sp_draft_answer *a)
{
    spy *all = (spy *)s;
    spied *p = sp_mem_alloc(sizeof *p);
    (void)a;
    assert_true(p && all->n < N_JOB);
    *p = (spied){.base.kind = s->kind, .spy = all};
    all->answer[all->n++] = p;
    *out = &p->base;
    return SP_OK;
}

static void spy_propose(sp_drafter *d, sp_draft *out, const sp_draft_text *t)
{
    (void)d;
    (void)out;
    (void)t;
}

static void spy_see(sp_drafter *d, const sp_draft_text *t, const sp_draft_states *s)
{
    spied *p = (spied *)d;
    size_t n_embd = sp_model_arch(p->spy->m)->n_embd;
    assert_true(n_embd <= SPY_EMBD && s->n > 0 && s->first + s->n < t->n && t->n <= N_CTX);
    p->end = s->first + s->n;
    memcpy(p->tok, t->tok, t->n * sizeof *t->tok);
    for (size_t l = 0; l < SPY_LAYERS; l++)
        for (size_t i = 0; i < s->n; i++) {
            float *row = p->row[l][s->first + i];
            if (p->n_seen[s->first + i]) /* seen before it was preempted: the same */
                assert_memory_equal(row, s->row[l] + i * n_embd, n_embd * sizeof *row);
            memcpy(row, s->row[l] + i * n_embd, n_embd * sizeof *row);
        }
    for (size_t i = 0; i < s->n; i++)
        p->n_seen[s->first + i]++;
}

static void spy_end(sp_drafter *d, const sp_draft_text *t)
{
    (void)d;
    (void)t;
}

/* The states of an answer are those that one pass over its text has. */
static void check_states(rig *r, const spied *p)
{
    sp_model_work *w = NULL;
    sp_kv_seq seq;
    const float *logits;
    sp_diag d = {0};
    size_t n_embd = sp_model_arch(r->m)->n_embd, n = p->end;
    assert_int_equal(sp_model_work_new(&w, r->m, N_CTX, 1, &d), SP_OK);
    assert_null(sp_model_states(r->m, w, 0));
    assert_int_equal(sp_model_work_keep(w, r->m, 0, &d), SP_OK);
    assert_int_equal(sp_kv_seq_init(&seq, r->draft_pool, "s", NULL), SP_OK);
    assert_int_equal(sp_kv_seq_reserve(&seq, r->draft_pool, n), SP_OK);
    const sp_model_span span = {.seq = &seq, .tok = p->tok, .n = n};
    assert_int_equal(sp_model_forward(r->m, w, r->draft_pool, &span, 1, &logits, &d), SP_OK);
    for (size_t i = 0; i < n; i++) {
        assert_true(p->n_seen[i] > 0);
        for (size_t l = 0; l < SPY_LAYERS; l++) {
            const float *all = sp_model_states(r->m, w, p->spy->base.layer[l]);
            assert_memory_equal(p->row[l][i], all + i * n_embd, n_embd * sizeof *all);
        }
    }
    sp_kv_seq_fini(&seq, r->draft_pool);
    sp_model_work_free(w);
}

/* Whatever was guessed, batched or preempted. */
static void test_drafters_see_hidden_states(void **state)
{
    (void)state;
    static const sp_draft_kind kind = {.id = SP_DRAFT_EARLIER,
                                       .start = spy_start,
                                       .propose = spy_propose,
                                       .see = spy_see,
                                       .end = spy_end};
    const struct {
        size_t pages, max_run, draft;
    } cases[] = {{64, 1, SP_DRAFT_MAX}, {64, N_JOB, 7}, {8, N_JOB, SP_DRAFT_MAX}};
    for (size_t c = 0; c < sizeof cases / sizeof cases[0]; c++) {
        rig r;
        sp_buf text[N_JOB] = {{0}};
        open_rig(&r, cases[c].pages, c == 1 ? 2 : 1);
        spy s = {.base = {.kind = &kind, .n_layer = SPY_LAYERS}, .m = r.m};
        s.base.layer[1] = sp_model_arch(r.m)->n_layer - 1;
        start_engine(&r, cases[c].max_run, (sp_draft_source *[]){&s.base, r.model}, 2);
        sp_receipt sum = run_all(&r, cases[c].draft, ~0u, text);
        assert_true(s.n == N_JOB && sum.tok_accepted > 0 && sum.tok_accepted < sum.tok_drafted);
        sp_engine_free(r.e);
        for (size_t i = 0; i < N_JOB; i++) {
            check_states(&r, s.answer[i]);
            sp_mem_free(s.answer[i]);
            sp_buf_fini(&text[i]);
        }
        close_rig(&r);
    }
}

/* --- draft heads --------------------------------------------------------------------------------
 */

static char head_path[64];

static sp_head_shape shape_of(const rig *r)
{
    const sp_arch *a = sp_model_arch(r->m);
    return (sp_head_shape){.n_embd = a->n_embd,
                           .n_ff = 2 * a->n_embd,
                           .n_tok = a->n_vocab / 2,
                           .layer = {0, a->n_layer - 1},
                           .n_tap = 2};
}

/* The model's own answers to N_JOB prompts, to learn from; the same are held out, for what matters
 * here is that it learns. */
static void train_head(rig *r, sp_head_trained *out, const char *tenant)
{
    uint32_t tok[N_JOB][120];
    sp_head_text text[N_JOB];
    bool is_held[N_JOB] = {false};
    sp_head_data rows = {0}, none = {0};
    sp_diag d = {0};
    sp_head_shape shape = shape_of(r);
    for (size_t i = 0; i < N_JOB; i++)
        text[i] = (sp_head_text){tok[i], prompt_of(tok[i], i)};
    const sp_head_gather g = {.model = r->m,
                              .dev = r->dev,
                              .pool = r->pool,
                              .tok = r->t,
                              .layer = {shape.layer[0], shape.layer[1]},
                              .n_tap = shape.n_tap,
                              .n_out = N_OUT,
                              .most = 10000};
    assert_int_equal(sp_head_gather_answers(&rows, &none, &g, text, is_held, N_JOB, &d), SP_OK);
    assert_int_equal(sp_head_gather_texts(&rows, &g, text, N_JOB, &d), SP_OK);
    assert_true(rows.n > 64 && none.n == 0 && rows.n_seq > N_JOB);
    for (size_t i = 0; i + 1 < rows.n && rows.seq[i + 1] == 0; i++) /* a greedy answer */
        assert_int_equal(rows.tok[i + 1], rows.next[i]);
    const sp_head_train_cfg cfg = {
        .model = r->m, .dev = r->dev, .shape = shape, .seed = 3, .n_step = 150};
    assert_int_equal(sp_head_train(out, &cfg, &rows, &rows, &d), SP_OK);
    assert_true(out->n_held > 64 && out->right[0] > 0.6f && out->right[1] <= out->right[0]);
    sp_head_about about = {.seed = 3, .n_step = 150, .name = "tiny", .data = "its own answers"};
    sp_sha256_hex(about.model, sp_model_id(r->m));
    snprintf(about.tenant, sizeof about.tenant, "%s", tenant);
    snprintf(head_path, sizeof head_path, "/tmp/sparing-head-%d.gguf", (int)getpid());
    assert_int_equal(sp_head_write(head_path, &out->shape, &about, (const float *const *)out->mat,
                                   out->norm, out->tok, &d),
                     SP_OK);
    sp_head_data_fini(&rows);
    sp_head_data_fini(&none);
}

static sp_draft_source *open_head(rig *r)
{
    sp_head_file f;
    sp_diag d = {0};
    sp_draft_source *s = NULL;
    assert_int_equal(sp_head_open(&f, head_path, &d), SP_OK);
    const sp_draft_head_cfg cfg = {.model = r->m, .dev = r->dev, .file = &f, .cap_seq = N_JOB};
    assert_int_equal(sp_draft_head_new(&s, &cfg, &d), SP_OK);
    sp_head_close(&f);
    return s;
}

/* A head that was trained for the model guesses right often, and no answer depends on it. */
static void test_head(void **state)
{
    (void)state;
    const struct {
        size_t pages, max_run, draft;
        unsigned drafters;
    } cases[] = {{64, N_JOB, 0, ~0u},
                 {64, 1, SP_DRAFT_MAX, 1u << SP_DRAFT_HEAD},
                 {64, N_JOB, 3, 1u << SP_DRAFT_HEAD},
                 {8, N_JOB, SP_DRAFT_MAX, 1u << SP_DRAFT_HEAD},
                 {64, N_JOB, 7, ~0u}};
    sp_buf plain[N_JOB] = {{0}};
    for (size_t c = 0; c < sizeof cases / sizeof cases[0]; c++) {
        rig r;
        sp_head_trained head;
        sp_buf text[N_JOB] = {{0}};
        open_rig(&r, cases[c].pages, c == 4 ? 2 : 1);
        if (c == 0) {
            train_head(&r, &head, "");
            sp_head_trained_fini(&head);
        }
        sp_draft_source *s = open_head(&r);
        start_engine(&r, cases[c].max_run, (sp_draft_source *[]){s, r.model}, 2);
        sp_receipt sum = run_all(&r, cases[c].draft, cases[c].drafters, text);
        sp_engine_free(r.e);
        const sp_receipt_draft *by = &sum.draft[SP_DRAFT_HEAD];
        if (cases[c].drafters == 1u << SP_DRAFT_HEAD) /* greedy answers are what it learned from */
            assert_true(by->accepted > 40 && by->accepted < by->drafted);
        for (size_t i = 0; i < N_JOB; i++) {
            if (c == 0)
                plain[i] = text[i];
            else
                assert_string_equal(sp_buf_str(&text[i]), sp_buf_str(&plain[i]));
            if (c > 0)
                sp_buf_fini(&text[i]);
        }
        sp_draft_head_free(s);
        close_rig(&r);
    }
    for (size_t i = 0; i < N_JOB; i++)
        sp_buf_fini(&plain[i]);
    unlink(head_path);
}

/* A head of one tenant's texts guesses for nobody else; one of another model is refused; so is a file
 * with anything wrong in it. */
static void test_head_is_refused(void **state)
{
    (void)state;
    rig r;
    sp_head_trained head;
    sp_head_file f;
    sp_drafter *p = NULL;
    sp_diag d = {0};
    open_rig(&r, 64, 1);
    train_head(&r, &head, "ann");
    sp_draft_source *s = open_head(&r);
    assert_int_equal(s->kind->start(s, &p, &(sp_draft_answer){.tenant = "bob"}), SP_OK);
    assert_null(p);
    assert_int_equal(s->kind->start(s, &p, &(sp_draft_answer){.tenant = "ann"}), SP_OK);
    assert_non_null(p);
    p->kind->end(p, NULL);
    sp_draft_head_free(s);
    const sp_draft_head_cfg cfg = {.model = r.m, .dev = r.dev, .file = &f, .cap_seq = 1};
    assert_int_equal(sp_head_open(&f, head_path, &d), SP_OK);
    f.about.model[0] = f.about.model[0] == '0' ? '1' : '0';
    assert_int_equal(sp_draft_head_new(&s, &cfg, &d), SP_UNSUP);
    sp_head_close(&f);
    sp_buf whole = {0};
    assert_int_equal(sp_file_read(&whole, head_path, 1 << 20, &d), SP_OK);
    char *mem = sp_mem_raw(whole.len);
    for (size_t i = 0; i < 4096; i++) { /* every byte of the keys and of the table, changed */
        size_t at = i % whole.len;
        memcpy(mem, whole.p, whole.len);
        mem[at] ^= (char)(1 << i % 8);
        if (sp_head_open_mem(&f, mem, whole.len, &d) == SP_OK)
            sp_head_close(&f);
        size_t n = whole.len * i / 4096 & ~(size_t)63; /* and cut */
        if (n && sp_head_open_mem(&f, mem, n, &d) == SP_OK)
            fail_msg("a file of %zu bytes of %zu was opened", n, whole.len);
    }
    sp_mem_free(mem);
    sp_buf_fini(&whole);
    sp_head_trained_fini(&head);
    close_rig(&r);
    unlink(head_path);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_asking), cmocka_unit_test(test_drafters_see_hidden_states),
                                       cmocka_unit_test(test_head),
                                       cmocka_unit_test(test_head_is_refused)};
    return cmocka_run_group_tests_name("draft", tests, NULL, NULL);
}
