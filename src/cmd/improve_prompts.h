/* The prompts of a round of improvement: those of --prompts, and those that the server's own
 * records can be asked again with, in order of their days.
 * Owner: the caller; sp_prompts_fini, after an error too. */
#ifndef SP_CMD_IMPROVE_PROMPTS_H
#define SP_CMD_IMPROVE_PROMPTS_H

#include "pipe/failures.h"

struct json_t;

typedef struct sp_prompt_line {
    int64_t at;          /* seconds since 1970 */
    size_t order;        /* as it was read */
    struct json_t *line; /* prompt or messages, and check */
    bool is_record;      /* of the server's own records */
} sp_prompt_line;

typedef struct sp_prompts {
    sp_prompt_line *p; /* [n] */
    size_t n, cap;
    size_t n_early; /* the first ones; the others are of days that were held out */
    size_t n_day, n_day_held;
    size_t n_record, left_out; /* of p, those of records; ratings that could not be asked again */
} sp_prompts;

/* A file of JSON lines: {"at": "YYYY-MM-DD", "prompt" or "messages", "check"}; judge->who: a line
 * may be without a check. SP_FORMAT names the line. */
struct sp_cmd_judge;
SP_MUST sp_err sp_prompts_read(sp_prompts *out, const char *path, const struct sp_cmd_judge *judge,
                               sp_diag *d);
SP_MUST sp_err sp_prompts_records(sp_prompts *out, sp_db *feedback, sp_hdb *history, int64_t since,
                                  sp_diag *d);
/* Sorts by day, and holds the last share of the days out. SP_INVAL: there are fewer than two
 * days. */
SP_MUST sp_err sp_prompts_split(sp_prompts *p, double share, sp_diag *d);
void sp_prompts_fini(sp_prompts *p);

#endif
