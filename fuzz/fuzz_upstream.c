/* Any bytes as what another server streams, in pieces whose sizes the first byte gives. The reading functions are file-private: this
 * target includes their file. */
#include "fuzz.h"

#include "net/upstream.c"

int LLVMFuzzerTestOneInput(const uint8_t *p, size_t n)
{
    static sp_upstream u;
    static bool ready;
    if (!ready) {
        sp_lock_init(&u.lock, SP_RANK_NET);
        sp_lock_cond_init(&u.changed);
        ready = true;
    }
    sp_call *c = sp_mem_alloc(sizeof *c);
    size_t piece = n ? 1 + p[0] % 64u : 1, n_event = 0;
    if (!c)
        return 0;
    *c = (sp_call){.owner = &u, .ref = 1, .max_tok = 8};
    c->tail = &c->events;
    for (size_t at = n ? 1 : 0; at < n; at += piece) {
        size_t len = n - at < piece ? n - at : piece;
        char *copy = sp_mem_grow(NULL, len); /* of just this size, so that reading past it is seen */
        memcpy(copy, p + at, len);
        size_t took = on_write(copy, 1, len, c);
        sp_mem_free(copy);
        if (took != len) {
            SP_ASSERT(c->diag.code || c->cut);
            break;
        }
    }
    for (sp_event *e; (e = sp_call_next(c)); n_event++)
        sp_event_free(e);
    SP_ASSERT(c->n_piece == n_event && (!c->cut || c->finish == SP_FINISH_LENGTH));
    call_unref(c);
    return 0;
}
