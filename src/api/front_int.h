/* What front.c (passing on) and front_compare.c (the comparison and its report) share. */
#ifndef SP_API_FRONT_INT_H
#define SP_API_FRONT_INT_H

#include "api/front.h"
#include "base/lock.h"

enum { SP_FRONT_TEXT = 1 << 20 /* bytes of an answer that is compared */, SP_FRONT_REFUSED = 16 };

typedef struct sp_front_sum { /* of the chats of one class */
    size_t n, same;           /* same: agreement of at least 0.99 */
    double agreement, ms_theirs, ms_ours;
} sp_front_sum;

typedef struct sp_front_refusal {
    char param[64], message[160];
    size_t n;
} sp_front_refusal;

struct sp_front {
    sp_front_cfg cfg;
    char *url;
    sp_relay *relay;
    sp_desk *desk;
    sp_metric *passed, *broken, *compared, *agreement;
    sp_lock lock; /* rank API; guards the rest */
    size_t n_passed, n_broken, n_skipped, n_refused, n_failed;
    sp_front_sum sum[SP_CLASSES + 1]; /* the last: not judged */
    sp_front_refusal refusal[SP_FRONT_REFUSED];
    size_t n_refusal;
};

typedef struct sp_front_said { /* a whole chat; borrowed for the call */
    const char *tenant, *request, *answer;
    size_t n_request, n_answer;
    bool stream;
    double ms;
} sp_front_said;

SP_MUST sp_err sp_front_start_desk(sp_front *f, sp_diag *d);
/* Copies it, if it is drawn and there is room. */
void sp_front_offer(sp_front *f, const sp_front_said *said);

#endif
