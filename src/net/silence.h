/* When a transfer of curl's has been silent for too long. curl's own bound on speed takes the mean
 * of the last seconds, and so hears of silence some 7 s late. This one is asked from the progress
 * callback, which curl calls at least once a second.
 * Threads: the transfer's. */
#ifndef SP_NET_SILENCE_H
#define SP_NET_SILENCE_H

#include "base/clock.h"

#include <curl/curl.h>
#include <stdbool.h>

typedef struct sp_silence {
    curl_off_t n;      /* bytes of both directions, the last time there were others */
    uint64_t since_ns;
    bool is_over;      /* it was too long: the transfer ends with CURLE_ABORTED_BY_CALLBACK */
} sp_silence;

static inline void sp_silence_begin(sp_silence *s)
{
    *s = (sp_silence){.since_ns = sp_clock_ns()};
}

/* down, up: bytes so far. most_ms 0: it may be silent for ever. */
static inline bool sp_silence_is_over(sp_silence *s, curl_off_t down, curl_off_t up,
                                      uint64_t most_ms)
{
    if (down + up != s->n) {
        s->n = down + up;
        s->since_ns = sp_clock_ns();
    } else if (most_ms && sp_clock_ms(s->since_ns) >= (double)most_ms) {
        s->is_over = true;
    }
    return s->is_over;
}

#endif
