/* Requests passed through to another server as they are, and its answers back, byte for byte.
 *
 * A call runs in a thread of its own. Its body is copied; what comes back waits in memory, at most
 * SP_RELAY_WAIT bytes, and then the other server waits. Fields of single connections are not passed
 * on, nor is Accept-Encoding: what comes is not packed. Redirects are given as they are.
 *
 * Budgets: calls, bytes of their bodies together, seconds of silence and in all.
 *
 * Threads: everything from any thread. notify runs on the call's thread, without locks.
 * Errors:  SP_LIMIT: too many calls or bytes. Of a call, before its head: SP_NET, SP_TIMEOUT;
 *          behind it, the answer breaks off. */
#ifndef SP_NET_RELAY_H
#define SP_NET_RELAY_H

#include "base/buf.h"
#include "base/err.h"

#include <stdbool.h>
#include <stdint.h>

enum { SP_RELAY_WAIT = 1 << 20, SP_RELAY_FIELDS = 12 };

typedef struct sp_relay sp_relay;
typedef struct sp_relay_call sp_relay_call;

typedef struct sp_relay_cfg {
    const char *url;  /* http or https; paths are put behind it */
    const char *key;  /* bearer token in the place of the client's, or NULL */
    size_t cap_call, cap_bytes;
    uint64_t connect_ms, silence_ms, total_ms;
} sp_relay_cfg;

typedef struct sp_relay_field {
    const char *name, *value;
} sp_relay_field;

typedef struct sp_relay_ask {
    const char *method, *path; /* GET or POST; path behind the url */
    const char *body;          /* [n_body] copied */
    size_t n_body;
    const sp_relay_field *field; /* [n_field] copied */
    size_t n_field;
    void (*notify)(void *arg);
    void *arg;
} sp_relay_ask;

typedef struct sp_relay_head {
    int status;
    const char *type; /* "" where it says none */
    sp_relay_field field[SP_RELAY_FIELDS]; /* [n_field] others that belong to the answer */
    size_t n_field;
} sp_relay_head;

SP_MUST sp_err sp_relay_new(sp_relay **out, const sp_relay_cfg *cfg, sp_diag *d);
void sp_relay_free(sp_relay *r); /* every call is put; waits for their threads */

SP_MUST sp_err sp_relay_start(sp_relay_call **out, sp_relay *r, const sp_relay_ask *ask,
                              sp_diag *d);
/* The head of the answer, borrowed from the call. SP_AGAIN: it is not there yet. */
SP_MUST sp_err sp_relay_head_of(const sp_relay_head **out, sp_relay_call *c, sp_diag *d);
/* Appends what has come. *done: it was the last; *whole: and nothing is missing. */
void sp_relay_take(sp_relay_call *c, sp_buf *out, bool *done, bool *whole);
/* cancels if it still runs; notify is not called after this returns. NULL is fine */
void sp_relay_put(sp_relay_call *c);

#endif
