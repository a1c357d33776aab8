/* Does somebody take what waits for them? The first SP_PACE_PIECE bytes of what waits at one moment
 * must be gone after a while, then the next. So a peer that takes a byte now and then is late too,
 * and who takes nothing is so soon, however much waits.
 *
 * Threads: the owner's. Asked with each tick; nothing is done where bytes move. */
#ifndef SP_NET_PACE_H
#define SP_NET_PACE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { SP_PACE_PIECE = 64 << 10 };

typedef struct sp_pace {
    uint64_t mark;   /* so many bytes must have been taken */
    uint64_t end_ns; /* until then; 0: nothing waits */
} sp_pace;

/* taken: bytes since the beginning; waiting: bytes that are there and not taken. */
static inline bool sp_pace_is_late(sp_pace *p, uint64_t taken, size_t waiting, uint64_t now_ns,
                                   uint64_t piece_ns)
{
    size_t n = waiting < SP_PACE_PIECE ? waiting : SP_PACE_PIECE;
    if (waiting == 0)
        p->end_ns = 0;
    else if (p->end_ns == 0 || taken >= p->mark)
        *p = (sp_pace){taken + n, now_ns + piece_ns};
    return p->end_ns && now_ns > p->end_ns;
}

#endif
