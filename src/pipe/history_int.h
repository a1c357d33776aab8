/* What history.c (operations and their desk) and history_turn.c (prompts and answers) share. All of
 * it runs on the desk's thread. */
#ifndef SP_PIPE_HISTORY_INT_H
#define SP_PIPE_HISTORY_INT_H

#include "pipe/history.h"

enum { SP_HISTORY_OWED = 64 /* so many answers may end while PostgreSQL is away */ };

struct sp_history {
    sp_history_cfg cfg;
    sp_desk *desk;
    sp_hdb *db; /* owner: the desk's thread */
    int64_t t_freeze;
    uint64_t t_lease;                     /* when the lease was last seen to, in ns */
    bool is_away;                         /* PostgreSQL did not answer then */
    sp_history_op *owed[SP_HISTORY_OWED]; /* ends of answers that PostgreSQL has not taken yet */
    size_t n_owed;
    sp_metric *recall_s, *recalled, *ops;
};

/* {"model", "error", "name", "reasoning", "call_id", "calls": [[id, name, arguments]]} of a
 * message, in a; empty where there is nothing. model: which gave it. SP_NOMEM. */
SP_MUST sp_err sp_history_keep_more(sp_str *out, sp_arena *a, const sp_chat_msg *m, sp_str model,
                                    sp_str error);
/* Tokens of a message, about; tok NULL: guessed. */
size_t sp_history_count(const sp_tok *tok, const sp_chat_msg *m);

/* SP_HISTORY_PREPARE, DRAFT and FINISH; the last may be run again. Of an answer that was not begun
 * the last two do nothing. */
SP_MUST sp_err sp_history_prepare(sp_history *h, sp_history_op *op);
SP_MUST sp_err sp_history_keep_draft(sp_history *h, sp_history_op *op);
SP_MUST sp_err sp_history_finish(sp_history *h, sp_history_op *op, sp_diag *d);

#endif
