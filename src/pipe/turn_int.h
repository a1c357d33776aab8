/* What the files of a turn share: turn.c (the way), turn_ask.c (what comes before the prompt),
 * turn_submit.c (prompt, jobs, other paths), turn_book.c (what comes back), turn_tools.c and
 * turn_calls.c (tools), turn_vote.c and turn_deep.c (where an answer is unsure). */
#ifndef SP_PIPE_TURN_INT_H
#define SP_PIPE_TURN_INT_H

#include "base/lock.h"
#include "pipe/experiment.h"
#include "pipe/turn.h"
#include "text/calls.h"

#include <stdatomic.h>

typedef struct sp_turn_choice {
    sp_turn *turn;       /* set with reader */
    sp_answer *reader;   /* takes the text apart; NULL: it has not begun, or is plain text */
    sp_refer *refer;     /* finds spans of a stream that leave as marks; NULL: none has begun */
    const sp_event *from; /* whose tokens go out with the next text; NULL: none */
    sp_job *job;
    sp_call *call;   /* instead of a job, when it is answered upstream */
    bool begun, ended;
    bool given;      /* some of it has left */
    bool in_call;    /* its last call has had no CALL_END */
    sp_turn_answer answer;
} sp_turn_choice;

/* An event on its way out, with what it owns. */
typedef struct sp_turn_node {
    struct sp_turn_node *next;
    sp_turn_event ev;
    sp_buf text, id, name, how;
    sp_event_tok *tok;
} sp_turn_node;

typedef enum sp_deep_state {
    SP_DEEP_NONE,
    SP_DEEP_DOUBT,
    SP_DEEP_SEARCH,
    SP_DEEP_VOTE
} sp_deep_state;

/* A sentence that was drawn. */
typedef struct sp_turn_drawn {
    sp_job *job;
    bool ended;
    sp_finish finish;
    size_t stop_at;
    sp_event_cut *cut;
    sp_buf text;
} sp_turn_drawn;

/* An answer that may become unsure (turn_deep.c). */
typedef struct sp_turn_deep {
    bool on;
    sp_deep_state state;
    sp_ids ids;         /* the prompt, and the answer as far as it is settled: */
    size_t n_said;      /* the last of them */
    sp_event_cut *cut;  /* the sentence that is in doubt; while state is not NONE */
    sp_know_op *find;   /* the search of this doubt */
    sp_know_op *before; /* the search before it, whose passages may still be in use */
    bool has_searched;
    sp_turn_drawn vote[SP_DEEP_VOTES]; /* [n_vote] */
    size_t n_vote;
    size_t n_span;      /* sentences voted on so far */
    size_t n_spent;     /* tokens that the answer does not have */
    size_t n_more;      /* jobs behind the first */
    uint64_t seed;      /* of the answer */
    uint64_t since_ns;
} sp_turn_deep;

/* What another job of the same answer differs in. */
typedef struct sp_turn_more {
    size_t n_said;      /* the last tokens of the prompt that are the answer's */
    bool doubts;
    bool one_sentence;
    size_t max_tok;     /* 0: what is left of the plan's */
    uint64_t seed;
    size_t n_answer;          /* 0: one; as sp_job_cfg has both */
    const float *temperature;
} sp_turn_more;

struct sp_turn {
    const sp_turn_env *env;
    sp_ask *ask;
    sp_turn_run run;
    sp_lock lock;            /* rank API; guards rung */
    pthread_cond_t changed;
    bool rung;
    _Atomic bool answer_now;
    sp_plan plan;
    sp_turn_choice choice[SP_ASK_CHOICES];
    size_t n_choice, n_ended;
    size_t n_prompt_tok;     /* each prompt counted once */
    sp_ids predicted;        /* the ask's prediction */
    sp_place_verdict place;  /* where it may go; with a placement file */
    sp_receipt receipt;      /* without what the plan says */
    double ms_first;
    sp_power_mark power;     /* when it began; with env->power */
    sp_exposure exposure[SP_EXPERIMENTS]; /* [n_exposure] the variants that answer */
    size_t n_exposure;
    const char *experiment;  /* them as JSON objects, joined by commas; NULL: none */
    unsigned version;        /* of the settings in force; 0: none is */
    const sp_intent_model *intent; /* NULL: requests are not judged */
    const sp_policy *policy;       /* of the rule learned; NULL: there is none */
    bool pending;            /* prepare, find or both are awaited */
    bool unsure, escalated;  /* an answer was given up, and is not yet replaced; a light one was */
    bool stopped, voted, referred;
    sp_chat_msg *msg;        /* [n_msg] of the prompt; the ask's, or prepare's */
    size_t n_msg;
    sp_str question;         /* the last message before passages went into it; p NULL: none did */
    sp_history_op *prepare, *save;
    uint64_t draft_ns;       /* when the answer, as far as it was, was kept last */
    size_t n_draft;          /* and how long it was */
    sp_know_op *find;
    bool looked;             /* the server looks, not the request */
    size_t n_passage, n_fact, n_left;
    sp_grammar *calls;       /* what a call may be; NULL: anything. A share */
    sp_grammar *form;        /* the ask's, behind a head; NULL: answers have no heads. A share */
    bool is_loose;           /* calls is only how a call begins */
    uint32_t mark[SP_MARK_MAX]; /* [n_mark] control tokens in both */
    size_t n_mark;
    /* the format of a call that must come, where the model's own cannot be bound; NULL: its own */
    const sp_call_format *forced;
    char trigger[64];        /* begins a call of the model's own accord */
    sp_str tools;            /* as sp_chat_ask.tools; empty: the model is told of none */
    sp_answer_cfg reads;     /* how answers are read, as the prompt's end says */
    /* [n_begun] ids at the prompt's end that begin the answer: a call that must come */
    uint32_t *begun;
    size_t n_before, n_begun;
    sp_turn_deep deep;
    sp_turn_error error;
    sp_turn_node *head, **tail, *held; /* events that wait; the one that was given last */
};

/* turn.c */
void sp_turn_ring(void *turn); /* there may be an event: for notify functions */
/* Names what of the request the next errors are about; static text. */
void sp_turn_about(sp_turn *t, const char *param);
bool sp_turn_is_user(const sp_chat_msg *m);

/* turn_note.c */
SP_MUST sp_err sp_turn_expose(sp_turn *t, sp_diag *d); /* which variants of experiments answer, and
                                                          what they set */
void sp_turn_note(const sp_turn *t);                   /* an answer is over: what it cost is
                                                          noted */

/* turn_ask.c */
SP_MUST sp_err sp_turn_look(sp_turn *t, sp_diag *d);         /* a search of the server's own */
SP_MUST sp_err sp_turn_begin_history(sp_turn *t, sp_diag *d);
SP_MUST sp_err sp_turn_begin_search(sp_turn *t, sp_diag *d);
SP_MUST sp_err sp_turn_add_passages(sp_turn *t, sp_diag *d);
void sp_turn_forget_search(sp_turn *t);                      /* back to what was asked */
/* The message that is asked about: the last one of the user's. */
sp_chat_msg *sp_turn_question(sp_turn *t);

/* turn_keep.c */
SP_MUST sp_err sp_turn_begin_save(sp_turn *t, sp_diag *d);
void sp_turn_keep_draft(sp_turn *t); /* an answer in the making, now and then */
void sp_turn_leave(sp_turn *t);      /* the turn goes: its answer is not in the making any more */

/* turn_place.c */
/* where it may go, before anything was searched or recalled */
void sp_turn_place(sp_turn *t);
bool sp_turn_may_take(const sp_turn *t);  /* may what the server looks up by itself go there too? */
void sp_turn_facts(sp_place_facts *out, const sp_turn *t); /* of the messages as they are now */
sp_upstream *sp_turn_upstream(const sp_turn *t);           /* NULL: there is none for it */
void sp_turn_put_place(sp_receipt_place *out, const sp_turn *t);

/* turn_cost.c */
/* a job's receipt and its cost */
void sp_turn_count_job(sp_turn *t, const sp_event *ev, bool away);
/* Adds what answers in the making have cost so far. */
void sp_turn_count_running(sp_receipt *out, const sp_turn *t);

/* turn_submit.c */
sp_plan_cfg sp_turn_plan_cfg(sp_turn *t); /* asks the placement rules anew */
/* goes on with the plan as it is now */
SP_MUST sp_err sp_turn_submit_plan(sp_turn *t, sp_diag *d);
SP_MUST sp_err sp_turn_submit_texts(sp_turn *t, sp_diag *d);
/* conversation and search have answered: from messages to jobs */
SP_MUST sp_err sp_turn_submit_rest(sp_turn *t, sp_diag *d);
SP_MUST sp_err sp_turn_replace(sp_turn *t, sp_diag *d);      /* once more, on another path */

/* More jobs with the same answer's session but for what *more says; ids [n] are their prompt. out
 * [more->n_answer]. */
SP_MUST sp_err sp_turn_submit_more(sp_turn *t, sp_job **out, const uint32_t *id, size_t n,
                                   const sp_turn_more *more, sp_diag *d);
/* The messages as they are now, and the answer as far as it has left, which the prompt ends in. */
SP_MUST sp_err sp_turn_render_on(sp_context *out, sp_turn *t, sp_diag *d);

/* turn_book.c */
void sp_turn_take_text(sp_turn *t, size_t choice, const sp_event *ev);
void sp_turn_end_choice(sp_turn *t, size_t choice, sp_finish how, size_t stop_at); /* it is whole */
void sp_turn_drain(sp_turn *t); /* takes in what the jobs have */
/* copies texts and tokens, unless nothing leaves yet; no memory: the turn's error */
void sp_turn_push(sp_turn *t, const sp_turn_event *ev);
void sp_turn_push_answer(sp_turn *t, size_t choice);    /* a whole answer at once */
void sp_turn_node_free(sp_turn_node *n);
void sp_turn_answer_fini(sp_turn_answer *a);

/* More of an answer: text or a thought; a call, of which there is one at a time. */
void sp_turn_say(sp_turn *t, size_t choice, sp_str text, sp_turn_kind kind);
void sp_turn_open_call(sp_turn *t, size_t choice, sp_str id, sp_str name);
void sp_turn_add_args(sp_turn *t, size_t choice, sp_str text);
void sp_turn_close_call(sp_turn *t, size_t choice);

/* turn_refer.c: spans that leave as marks. */
/* text of an answer leaves, as it is or as marks */
void sp_turn_give(sp_turn *t, size_t choice, const sp_turn_event *text);
/* what is held back; ends: nothing follows */
void sp_turn_give_rest(sp_turn *t, size_t choice, bool ends);
void sp_turn_refer(sp_turn *t); /* once all answers are there: marks of whole ones */

/* turn_tools.c */
bool sp_turn_has_tools(const sp_turn *t); /* the model is told of them */
SP_MUST sp_err sp_turn_read_tools(sp_turn *t, sp_diag *d);
SP_MUST sp_err sp_turn_begin_call(sp_turn *t, sp_context *ctx, sp_diag *d);
/* An answer of a form: thoughts that the prompt has begun end there, unless the session ends them;
 * heads become a part of the form. */
SP_MUST sp_err sp_turn_begin_form(sp_turn *t, sp_context *ctx, sp_diag *d);
bool sp_turn_is_read(const sp_turn *t);   /* answers are taken apart */
SP_MUST sp_err sp_turn_read_text(sp_turn *t, size_t choice, const sp_event *ev, sp_diag *d);
SP_MUST sp_err sp_turn_read_end(sp_turn *t, size_t choice, sp_diag *d);

/* turn_calls.c: the grammar of calls. */
SP_MUST sp_err sp_turn_bind_calls(sp_turn *t, sp_diag *d);
/* Makes t->form. SP_UNSUP: no head is known. */
SP_MUST sp_err sp_turn_head_form(sp_turn *t, sp_diag *d);

/* turn_deep.c */
void sp_turn_deep_init(sp_turn *t);        /* the plan is made */
void sp_turn_deep_fini(sp_turn *t);
void sp_turn_deep_stop(sp_turn *t);        /* its jobs are cancelled */
bool sp_turn_deep_asks(const sp_turn *t);  /* is there anything that a doubt could still lead to? */
void sp_turn_doubt(sp_turn *t, sp_event *ev); /* the answer's job has ended in doubt; takes
                                                 ev->cut */
bool sp_turn_deep_waits(sp_turn *t);       /* for a search or votes; state is not NONE */
SP_MUST sp_err sp_turn_deepen(sp_turn *t, sp_diag *d); /* the next step, where prompts are
                                                          rendered */

/* turn_vote.c. Which of n drawn texts is kept: the commonest by its words; of several the one most
 * like all others; of several the first. */
size_t sp_votes_pick(const sp_str *text, size_t n);
/* All answers are there; the most common one becomes the only one, or of those that were drawn the
 * likeliest stay. */
void sp_turn_vote(sp_turn *t);

#endif
