/* The step engine: one thread that owns the device, the KV pool and every running session, and
 * moves them forward together. Each step computes one token of every decoding session and chunks of
 * the prompts still being read, as many tokens as fit into the step's time: least work first, less
 * what it has waited, so that a short request never waits behind a long one and a long one does not
 * wait for ever. Who comes in is decided by what each tenant was given before (fair.h).
 *
 * A job is one request inside the engine. Its owner reads events as they come; the engine calls
 * notify (no lock held, from the step thread) whenever there is something new to read.
 *
 * Owner:   the engine owns model-side state; a job is shared by the engine and its submitter and
 *          freed when both have let go.
 * Threads: everything here may be called from any thread.
 * Errors:  SP_LIMIT: the queue is full (HTTP 429). SP_INVAL: the prompt does not fit, with
 *          numbers. */
#ifndef SP_SCHED_ENGINE_H
#define SP_SCHED_ENGINE_H

#include "gen/session.h"
#include "model/encoder.h"
#include "obs/metric.h"
#include "gen/window.h"
#include "sched/cores.h"
#include "sched/cost.h"

enum {
    SP_GUESS_STEP = 16, /* guesses of a step */
    SP_TRIAL_STEP = 4,  /* tokens of trial answers in a step, each of another one */
    SP_PROMPT_ROWS = 32 /* tokens of prompts whose logits are asked for, in a step */
};

typedef struct sp_engine sp_engine;
typedef struct sp_job sp_job;

/* Tokens and rows of logits of the largest step, for which there is memory. */
static inline size_t sp_engine_step_tok(size_t chunk_tok, size_t max_run)
{
    return chunk_tok + max_run + SP_GUESS_STEP + SP_TRIAL_STEP;
}
static inline size_t sp_engine_step_logits(size_t max_run)
{
    return max_run + SP_GUESS_STEP + SP_TRIAL_STEP + SP_PROMPT_ROWS;
}

/* What an engine has learned of its machine and its drafters. */
typedef struct sp_engine_learned {
    bool is_known;
    sp_cost cost;
    double run_cost[SP_DRAFTERS]; /* seconds of a guess; 0: not known */
    sp_accept accept;
} sp_engine_learned;

typedef struct sp_engine_cfg {
    sp_dev *dev;          /* its limits are measured; NULL: they are not */
    const sp_model *model; /* NULL, as tok and pool: an engine that runs encoders only */
    const sp_tok *tok;
    sp_encoder *encoder;  /* NULL: no embeddings */
    sp_kv_pool *pool;
    sp_kv_tier *tier;     /* the pool's, or NULL */
    sp_cores *cores;      /* shared with other engines; NULL: it is alone */
    sp_metrics *metrics;  /* borrowed; must outlive the engine */
    sp_metrics *gateway;  /* NULL; or a view with the label model_name, for the few figures that
                             inference gateways read */
    size_t n_ctx;         /* positions a session may use */
    size_t max_run;       /* sessions that run together */
    /* what a token of this model weighs beside those of engines that share the cores; 0: 1 */
    double tok_weight;
    size_t max_queue;     /* jobs that wait for a place, over all engines that share the cores */
    size_t chunk_tok;     /* prompt tokens of a step, at most */
    /* more work than this waiting, over all of them: SP_LIMIT; 0: no matter */
    double max_wait_s;
    /* how long a step may take while answers are being written: bounds the time between tokens;
     * 0: no matter */
    double step_ms;
    /* [n_draft] drafters beside lookup and prediction; borrowed */
    sp_draft_source *draft[SP_DRAFTERS];
    size_t n_draft;
    /* NULL; or what an earlier engine of the same model and drafters has learned, from which this
     * one goes on where it is known; written when this one is freed. Borrowed */
    sp_engine_learned *learned;
    _Atomic bool *lost;   /* NULL; or set when the device refuses a step (SP_DEV): all jobs have
                             ended with that error, and no more are taken */
    /* first come, first served, for comparison: no fairness, no order by work, no bound on steps */
    bool fcfs;
} sp_engine_cfg;

enum { SP_JOB_ANSWERS = 16 };

typedef struct sp_job_cfg {
    sp_session_cfg session;
    sp_plan plan;
    const uint32_t *tok;  /* [n_tok], copied */
    size_t n_tok;
    const char *tenant;   /* copied */
    int priority;         /* -3..3: each step up counts as a quarter of the work */
    double deadline_ms;   /* after this time the answer is of no use: SP_TIMEOUT; 0: none */
    const char *flow;     /* who of the tenant asks, "" or NULL: nobody in particular; copied */
    double goal_first_ms, goal_tok_ms; /* the first text, and each token behind it, should come
                                          within so long; 0: no matter */
    double least_known;   /* share of the prompt that must be known: else SP_FINISH_UNKNOWN, and
                             nothing is computed; 0: any */
    size_t n_answer;      /* to the prompt, at most SP_JOB_ANSWERS; 0: one. The later ones fork from
                             the first, which alone says
                           * what is known of the prompt; answer i has the seed of `session` and
                           * i */
    const float *temperature; /* [n_answer], or NULL: that of `session` */
    double ms_intent, ms_retrieval;
    void (*notify)(void *arg); /* may be NULL */
    void *arg;
} sp_job_cfg;

/* Texts for an encoder. */
typedef struct sp_texts {
    sp_encoder *encoder;    /* NULL: the engine's own */
    void (*done)(void *arg); /* NULL, or called once when the job is gone and nobody runs the
                                encoder for it any more; not on failure */
    void *arg;
    const uint32_t *id;     /* text i is id [end[i - 1], end[i]) */
    const size_t *end;      /* [n] */
    /* [n] where the second text of a pair begins in it, see sp_encoder_pair; or NULL */
    const size_t *second;
    size_t n;
} sp_texts;

SP_MUST sp_err sp_engine_new(sp_engine **out, const sp_engine_cfg *cfg, sp_diag *d);
/* Cancels what is left and joins the thread. */
void sp_engine_free(sp_engine *e);
/* No new jobs from now on. */
void sp_engine_drain(sp_engine *e);
bool sp_engine_is_idle(sp_engine *e);
const sp_engine_cfg *sp_engine_config(const sp_engine *e);
/* Sequences that move in each step, as of the last one. */
size_t sp_engine_running(sp_engine *e);
/* Positions that a second sequence can use beside one of n_tok tokens. */
size_t sp_engine_room(const sp_engine *e, size_t n_tok);
/* Can a prompt of n_tok tokens be answered? SP_INVAL: it is empty. SP_LIMIT: it is too long, with
 * numbers. */
SP_MUST sp_err sp_engine_fits(const sp_engine *e, size_t n_tok, sp_diag *d);
/* Seconds that computing tokens [from, to) of a prompt takes with the machine for itself; 0 while
 * nothing is known of this machine. */
double sp_engine_prompt_s(sp_engine *e, size_t from, size_t to);
/* Seconds until the work that waits and runs would be done. */
double sp_engine_backlog(sp_engine *e);

/* out [n_answer]. All answers come in together or none does: a queue with one place takes them
 * all. */
SP_MUST sp_err sp_job_submit(sp_job **out, sp_engine *e, const sp_job_cfg *cfg, sp_diag *d);
/* Embeds one text (ids of the encoder's vocabulary, copied) and parts of it; the vectors come as
 * the job's result. */
SP_MUST sp_err sp_job_embed(sp_job **out, sp_engine *e, const uint32_t *id, size_t n,
                            const sp_enc_part *part, size_t n_part, void (*notify)(void *arg),
                            void *arg, sp_diag *d);
/* Vectors or scores of texts as one job, a few short ones or one long one in each step. What t
 * points to is copied, but for the encoder. */
SP_MUST sp_err sp_job_texts(sp_job **out, sp_engine *e, const sp_texts *t,
                            void (*notify)(void *arg), void *arg, sp_diag *d);
/* Forgets a tenant's pages in RAM, or of them what a conversation computed (conv may be NULL). The
 * FINISH event's n_prompt counts the pages. */
SP_MUST sp_err sp_job_forget(sp_job **out, sp_engine *e, const uint8_t *tag, const uint8_t *conv,
                             sp_diag *d);
/* fn(arg) runs once between two steps, when the pool is nobody else's: for a few milliseconds,
 * pages in and out of it (kv/seq.h). The end is told as FINISH. fini(arg): when the job is gone,
 * whether fn ran or not, on any thread; on failure here it is not called. */
typedef struct sp_job_call_cfg {
    void (*fn)(void *arg, sp_kv_pool *p);
    void (*fini)(void *arg);
    void *arg;
    void (*notify)(void *arg); /* may be NULL */
    void *notify_arg;
} sp_job_call_cfg;
SP_MUST sp_err sp_job_call(sp_job **out, sp_engine *e, const sp_job_call_cfg *cfg, sp_diag *d);
/* The next event, which the caller frees, or NULL when there is none yet. FINISH or ERROR is the
 * last. */
sp_event *sp_job_next(sp_job *j);
/* Waits until there is an event or timeout_ns have passed. */
void sp_job_wait(sp_job *j, uint64_t timeout_ns);
/* An embedding's vectors [1 + n_part, dim], or [n, dim], valid after FINISH and while the job is
 * held. */
const float *sp_job_vector(const sp_job *j);
/* Tokens of its prompt that are computed or were known, of all; 0 of them: it waits. */
void sp_job_progress(const sp_job *j, size_t *done, size_t *total);
/* What a job has taken so far, for who lets go of it before its end. */
typedef struct sp_job_use {
    size_t n_prompt, n_known, n_out; /* tokens read, of them known before; of the answer */
    double ms_machine;               /* as in sp_receipt */
} sp_job_use;
void sp_job_used(sp_job_use *out, const sp_job *j);
/* Stops the work within one step. */
void sp_job_cancel(sp_job *j);
/* A model that thinks stops thinking within one step, and answers. */
void sp_job_answer_now(sp_job *j);
/* Lets go: cancels if it still runs; notify is not called after this returns. */
void sp_job_put(sp_job *j);

#endif
