/* What a person reads of a round of improvement: Markdown, and the same as JSON. */
#ifndef SP_CMD_IMPROVE_REPORT_H
#define SP_CMD_IMPROVE_REPORT_H

#include "cmd/improve_prompts.h"
#include "cmd/judge.h"

typedef struct sp_improve_report {
    size_t round;
    int64_t now;            /* seconds since 1970 */
    unsigned before, after; /* versions in force; the same: nothing was promoted */
    bool dry;
    const char *objective; /* cost, flops or ms */
    const sp_improve_cfg *cfg;
    const sp_failures *failures;
    const sp_signal *signal; /* [SP_SIGNALS]; NULL: there are no records */
    const sp_prompts *prompts;
    const struct sp_retrained *retrained; /* NULL: no model of intent was trained */
    const struct sp_own_policy *policy;   /* NULL: no policy was */
    const struct sp_own_head *head;       /* NULL: no draft head was */
    const sp_cmd_judge *judge;            /* NULL: nobody judged */
    const sp_round *out;
    size_t n_answer;             /* that the round took */
    double seconds, cost, flops; /* of them */
} sp_improve_report;

void sp_improve_report_write(const sp_improve_report *r, sp_buf *out);
void sp_improve_report_json(const sp_improve_report *r, sp_buf *out);
/* "setting from to", for a version's file. */
void sp_improve_report_name(const sp_proposal *p, char *out, size_t cap);

#endif
