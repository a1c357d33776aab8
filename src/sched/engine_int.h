/* What the files of the engine share: engine.c (its thread and the way in and out), order.c (who is
 * next), admit.c (who comes in and who goes out), guess.c (tokens guessed ahead), trial.c (trial
 * answers), step.c (one step: what is computed) and book.c (events, receipts, metrics). Invariants:
 * 1. A job is in one list: `waiting` (submitted, no session pages) or `running`, or it has ended.
 * 2. Only the step thread touches sessions, the pool and the model. The lock guards the waiting
 *    list and each job's event list, cancel flag and notify pointer.
 * 3. A job's events end with exactly one FINISH or ERROR.
 * 4. notify runs without the lock; `notifying` keeps sp_job_put from returning meanwhile.
 * States: WAITING -> RUNNING -> ENDED; RUNNING -> WAITING by preemption. A fork stays WAITING until
 * its parent's prompt is computed, then takes the parent's pages and logits. */
#ifndef SP_SCHED_ENGINE_INT_H
#define SP_SCHED_ENGINE_INT_H

#include "sched/cost.h"
#include "sched/engine.h"
#include "sched/fair.h"

#include "base/clock.h"
#include "base/lock.h"
#include "base/mem.h"

#include <stdatomic.h>
#include <string.h>

typedef enum state { WAITING, RUNNING, ENDED } state;

struct sp_job {
    sp_engine *engine;
    sp_job *next; /* in its list */
    int ref;      /* guard: lock */
    state state;
    _Atomic bool cancel, answer_now;
    _Atomic size_t n_read; /* positions of its text that are computed */
    _Atomic size_t n_known; /* of them, not computed for it */
    _Atomic uint64_t machine_ns; /* of steps, its share */
    size_t n_asked;        /* tokens of its prompt; immutable */
    bool notifying;
    sp_event *events, **events_tail; /* guard: lock */
    sp_event *last;                  /* the event that will end it */
    void (*notify)(void *arg);
    void *arg;
    /* owner: step thread, once submitted */
    sp_session *session; /* NULL: an embedding */
    sp_plan plan;
    sp_job *fork_of;     /* holds a reference while waiting */
    char *tenant;
    sp_ids ids;
    float *vector;
    sp_enc_part *part;   /* [n_part] */
    size_t n_part;
    sp_encoder *encoder; /* whose the texts are */
    void (*done)(void *arg); /* or NULL: called when the job is freed */
    void *done_arg;
    size_t *end;         /* [n_text] where each of several texts ends in ids; NULL: there is one */
    size_t *second;      /* [n_text] or NULL */
    size_t n_text, i_text; /* i_text: the next one */
    /* [2][SP_KV_TAG] tenant and conversation: a deletion; NULL: another kind */
    uint8_t *forget;
    bool forget_conv;
    sp_job_call_cfg call; /* fn NULL: another kind */
    sp_receipt receipt;
    uint64_t t_submit, t_start, t_first, t_last;
    size_t n_prompt;
    size_t max_out;      /* tokens the answer may have */
    sp_account *account; /* its flow's; NULL: not a completion */
    char *flow;
    uint64_t goal_first; /* when its first text should have come; 0: no matter */
    double goal_tok_ms;  /* between two tokens, in the mean; likewise */
    int priority;
    uint64_t deadline;   /* 0: none */
    double work;         /* seconds, when it first came in; 0: not yet */
    bool is_heavy;       /* of far more than others; counted in n_heavy */
    double rank;         /* in this step */
    double least_known;  /* as in sp_job_cfg */
    bool gave_first;
    bool tries;    /* a trial answer is being made: in this step */
    bool is_cut;   /* its end says which tokens it has: see sp_event.cut */
    size_t n_row;  /* rows of logits that the prompt asked for */
    bool no_fetch; /* a load failed or was too slow: compute */
};

/* What was computed in each 100 ms: its mean and spread say how evenly the machine is used. */
typedef struct sp_meter {
    uint64_t window;  /* the one being filled, as a number */
    double flops;     /* in it */
} sp_meter;

typedef struct engine_metrics {
    sp_metric *ttft, *itl, *queue, *e2e, *waiting, *running, *tok_computed, *tok_ram, *tok_ssd,
        *tok_s3, *tok_spliced, *tok_out, *tok_step, *guess_right, *guess_wrong,
        *draft_right[SP_DRAFTERS], *draft_wrong[SP_DRAFTERS];
    sp_metric *flops_spent, *flops_dense, *attn_seen, *attn_kept, *kv_read, *kv_dense, *page_pinned,
        *page_cached, *evicted, *cancelled, *finished, *failed;
    sp_metric *kv_bytes, *demoted, *attach, *unsaved, *hit_ram;
    sp_metric *goal[2][2]; /* first text, tokens; kept, missed */
    /* NULL: no gateway reads them */
    sp_metric *gate_waiting, *gate_running, *gate_usage, *gate_lora, *gate_cache;
    /* NULL: the model has no recurrent layers */
    sp_metric *state_snaps, *state_seqs, *snaps_taken, *snaps_evicted;
    sp_metric *busy, *step_flops, *step_bytes, *windows, *window_sum, *window_square, *peak,
        *tok_useful, *refused, *backlog, *expired, *preempted;
} engine_metrics;

/* What could be guessed ahead for a span, and how much of it the step takes. */
typedef struct sp_guess {
    double p[SP_DRAFT_MAX]; /* [n] that so many are right */
    size_t n, n_taken;
    size_t cap, n_run;      /* guesses that fit; of them, those that a drafter is to compute */
    sp_draft_id runner;     /* which, where n_run > 0 */
} sp_guess;


struct sp_engine {
    sp_engine_cfg cfg;
    pthread_t thread;
    bool started;
    sp_lock lock; /* rank SCHED */
    pthread_cond_t wake, changed;
    sp_job *waiting, **waiting_tail; /* guard: lock */
    size_t n_waiting, n_running;     /* guard: lock */
    bool stop, drain, poked;         /* guard: lock; poked: the tiers have news */
    bool lost;                       /* guard: lock; the device refuses */
    /* [max_run] oldest first; as they are served; owner: step thread */
    sp_job **run, **order;
    size_t n_run;
    sp_model_work *work;
    sp_model_span *span;
    sp_dev_best *best;               /* [max_run], by span: what its logits are told by */
    sp_job **span_job;
    sp_guess *guess;                 /* [max_run], by span */
    sp_draft_run *draft_run;         /* [max_run] */
    /* owner: step thread, but for the list of sources, which never changes */
    sp_drafts drafts;
    double run_cost[SP_DRAFTERS];    /* seconds that a drafter which computes needs for each guess
                                        of a batch, of late; 0: not known */
    sp_model_flops flops;
    sp_fair *fair, own_fair;         /* own_fair: of an engine that is alone */
    sp_fair_part part;               /* what others know of it */
    double tok_weight;               /* cfg's, or 1 */
    sp_cost cost;                    /* owner: step thread, written under the lock */
    double out_mean[SP_CLASSES];     /* tokens of answers so far, by class; likewise */
    double work_mean;                /* seconds of a job when it comes in; owner: step thread */
    size_t n_heavy;                  /* running jobs of far more work than that */
    double backlog;                  /* seconds of all work that is here; guard: lock */
    sp_meter meter;                  /* owner: step thread */
    sp_seat seat;                    /* owner: step thread */
    bool is_inside;                  /* of the cores; likewise */
    engine_metrics m;
};

/* book.c. All on the step thread, but for job_free and unref. */
void sp_job_free(sp_job *j);
void sp_job_unref(sp_engine *e, sp_job *j);
/* Appends an event and tells the submitter. Takes the event. */
void sp_job_post(sp_job *j, sp_event *ev);
/* Closes the job's books, posts its last event and drops the engine's reference. */
void sp_job_end(sp_engine *e, sp_job *j, sp_event_kind kind, sp_finish finish, const sp_diag *d);
void sp_job_fail(sp_engine *e, sp_job *j, const sp_diag *d);
void sp_engine_metrics(sp_engine *e);
void sp_engine_publish(sp_engine *e);
void sp_engine_unpublish(sp_engine *e); /* its gauges are 0: it holds nothing any more */

/* a step did so much in this time */
void sp_engine_meter(sp_engine *e, uint64_t from, uint64_t to, double flops);
/* an answer ended by itself: how long such answers are */
void sp_engine_count_out(sp_engine *e, const sp_job *j);

/* order.c. Lists: the step thread's, but for sp_engine_take, which is called with the lock held. */
/* Seconds of work left of a completion, as far as can be told. */
double sp_job_work(const sp_engine *e, const sp_job *j);
/* What orders jobs: seconds of work by priority, less a share of its age. Least first. */
double sp_job_rank(const sp_engine *e, const sp_job *j, uint64_t now);
/* Takes j, which runs, out of the list of running jobs. */
/* The device refuses: every job ends with SP_DEV, and whoever made the engine is told. */
void sp_engine_lose(sp_engine *e);
void sp_engine_drop(sp_engine *e, sp_job *j);
/* Puts j, which is in no list, before or behind all that wait. */
void sp_engine_wait_first(sp_engine *e, sp_job *j);
void sp_engine_wait_last(sp_engine *e, sp_job *j);
/* Takes the job behind a link out of the waiting list; NULL: there is none, or no link. The lock is
 * held. */
sp_job *sp_engine_take(sp_engine *e, sp_job **at);
/* Takes the next job of its kind off the waiting list: completions, or embeddings and deletions.
 * NULL: none. */
sp_job *sp_engine_pop(sp_engine *e, bool completion);
/* Running jobs in the order they are served, into e->order. */
void sp_engine_order(sp_engine *e);
void sp_engine_tell_tenants(sp_engine *e); /* writes into its seat whose jobs it has */

/* admit.c */
/* Runs one small job (an embedding, a deletion) and lets jobs in while there are places. true: a
 * small one was run. */
bool sp_engine_admit(sp_engine *e);
/* Ends a job whose time is over; it is in no list. false: its time is not over. */
bool sp_job_expire(sp_engine *e, sp_job *j);
/* Room for n more tokens of j, if need be that of younger jobs. false: it waits this step, or has
 * been ended. */
bool sp_engine_reserve(sp_engine *e, sp_job *j, size_t n);
/* A load that failed, or takes longer than computing: its job starts again with what there is. */
void sp_engine_restart(sp_engine *e);

/* guess.c */
/* Gives free places of the step to guesses, the likeliest first, as long as tokens come sooner so:
 * a guess that is right with probability p is worth p tokens. n: spans so far, all of them
 * decoding. Returns their tokens. */
size_t sp_engine_guess(sp_engine *e, size_t n);

/* trial.c. Behind the spans of a step, and in the same arrays, stand those of trial answers. */
/* Before a step is planned: sequences of trials begin where their texts stand. Are there any? */
bool sp_engine_begin_trials(sp_engine *e);
/* Gives free places of a step of n_span spans to trials; those for which there is none are given
 * up. Returns their spans, each of one token. */
size_t sp_engine_try(sp_engine *e, size_t n_span);
/* logits: of the whole step, whose jobs are all there yet. */
void sp_engine_take_trials(sp_engine *e, size_t n_span, size_t n_try, const float *logits);

/* step.c */
/* What a step of the first n_span spans is before it is computed. */
typedef struct sp_step_size {
    size_t n_tok;
    double cost; /* tokens, and what they see in tokens */
    double seen; /* as sp_cost_seen */
} sp_step_size;
sp_step_size sp_engine_size_of(const sp_engine *e, size_t n_span);
void sp_engine_step(sp_engine *e);
/* Before and after what computes: the cores are this engine's until it leaves, or others have used
 * less of them. */
void sp_engine_take_cores(sp_engine *e);
void sp_engine_leave_cores(sp_engine *e);
/* Nothing can be computed just now: until a load or a write has news. The timeout bounds what a
 * lost wake costs. */
void sp_engine_idle(sp_engine *e);
/* Takes in what the tiers have finished. true: there was something. */
bool sp_engine_take_news(sp_engine *e);

#endif
