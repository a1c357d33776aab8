/* The judge of the commands that compare answers to the same prompts (pipe/judge.h): this command's
 * own model, or a place of --placement.
 *
 * A prompt is judged where it has no exact check: none at all, or `like` alone, whose text the
 * judge is told as an answer that is known to be good. What a place is told passes the rules of
 * the placement file twice: before anything is answered, and at its door. A prompt that is private
 * goes to no place, and neither does one of the server's own records, for the class of its data is
 * not kept.
 *
 * Budget: SP_JUDGE_BYTES of each text, a few tokens of a verdict, and --judge-tokens in all; then
 *         all that follows is a tie.
 * Owner:  sp_cmd_judge owns what it opened; the trial is borrowed. Threads: one. */
#ifndef SP_CMD_JUDGE_H
#define SP_CMD_JUDGE_H

#include "cmd/trial.h"
#include "pipe/judge.h"

struct json_t;

typedef struct sp_cmd_judge {
    const char *who; /* here, or the name of a place; NULL: there is no judge */
    const char *passages; /* the collection that answers look into; NULL: none */
    const sp_trial *trial; /* NULL before sp_cmd_judge_start */
    sp_grammars *grammars; /* of here */
    sp_placement *placement;
    const sp_place *place; /* NULL: here */
    size_t cap_tok;
    /* pairs that were judged, and of them: those with equal answers, which nobody was asked about;
     * those whose two verdicts did not agree; those of which a verdict was missing */
    size_t n, n_same, n_split, n_unclear;
    size_t tok; /* of its prompts and verdicts */
    double cost, flops;
} sp_cmd_judge;

/* out is zeroed; closed by the caller, after an error too. who NULL: no judge. SP_INVAL: the place
 * is not in the file of --placement, or takes no requests; SP_NOTFOUND, SP_FORMAT: the file. */
SP_MUST sp_err sp_cmd_judge_open(sp_cmd_judge *j, const char *who, const sp_opts *o, sp_diag *d);
/* From here on it can be asked. Borrows t. */
SP_MUST sp_err sp_cmd_judge_start(sp_cmd_judge *j, const sp_trial *t, sp_diag *d);
void sp_cmd_judge_close(sp_cmd_judge *j);
/* Does it judge this line? record: of the server's own records. */
bool sp_cmd_judge_takes(const sp_cmd_judge *j, const struct json_t *line, bool record);
/* May it? SP_INVAL: the line is private, or no rule lets it go to the place. */
SP_MUST sp_err sp_cmd_judge_may(const sp_cmd_judge *j, const struct json_t *line, sp_diag *d);
/* 1: y is the better answer; -1: x is; 0: neither. SP_NET, SP_TIMEOUT, SP_AGAIN: the place cannot
 * be reached; SP_NOMEM. */
SP_MUST sp_err sp_cmd_judge_pair(sp_cmd_judge *j, int *out, const struct json_t *line, sp_str x,
                                 sp_str y, sp_diag *d);
/* {"name", "pairs", "same", "disagreed", "unclear", "tokens", "cost"} */
void sp_cmd_judge_json(const sp_cmd_judge *j, sp_buf *out);

#endif
