/* The course of a draft head's training for a model that is loaded: texts become rows of hidden
 * states, and these a head (gen/head_train.h). `sparing train draft` and `sparing improve` use it.
 *
 * Every tenth text is held out, to measure the head on. The model and its pages are the course's
 * while it runs: no engine may be at work on them.
 *
 * Owner: sp_head_course owns its lists; sp_head_course_fini, after an error too. Threads: one. */
#ifndef SP_CMD_TRAIN_HEAD_H
#define SP_CMD_TRAIN_HEAD_H

#include "cmd/cmd.h"

#include "gen/head_train.h"

typedef struct sp_head_course {
    const sp_loaded *l; /* borrowed */
    bool own;           /* texts are prompts, and what is learned are the model's answers to them */
    size_t n_step;      /* 0: until the time is up */
    size_t n_tok;       /* that the head may guess, at most */
    double minutes;     /* for rows and steps together; unused with n_step */
    bool tells;         /* on stderr, how far it is */
    /* filled by the functions below */
    sp_ids ids;
    size_t *at, n, cap; /* [n] where each text begins in ids */
    uint64_t begin, end; /* ns */
    sp_head_data train, held;
    sp_head_trained head;
} sp_head_course;

/* A text begins at the end of c->ids, which the caller then adds to. */
SP_MUST sp_err sp_head_course_text(sp_head_course *c, sp_diag *d);
/* A prompt of messages [n], by the model's template. SP_UNSUP: it has none that can be used. */
SP_MUST sp_err sp_head_course_ask(sp_head_course *c, const sp_chat_msg *msg, size_t n, sp_diag *d);
/* Trains. about: seed is read; data and tenant are the caller's, the rest is filled in. SP_INVAL:
 * too little to learn from. */
SP_MUST sp_err sp_head_course_run(sp_head_course *c, sp_head_about *about, sp_diag *d);
SP_MUST sp_err sp_head_course_write(const sp_head_course *c, const char *path,
                                    const sp_head_about *about, sp_diag *d);
void sp_head_course_fini(sp_head_course *c);

#endif
