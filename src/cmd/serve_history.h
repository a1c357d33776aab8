/* Where a server keeps conversations. */
#ifndef SP_CMD_SERVE_HISTORY_H
#define SP_CMD_SERVE_HISTORY_H

#include "cmd/cmd.h"

enum { SP_HISTORY_PATH_BYTES = 1024 };

typedef struct sp_serve_history {
    char path[SP_HISTORY_PATH_BYTES]; /* "": none are kept */
    char feedback[SP_HISTORY_PATH_BYTES]; /* likewise of feedback */
    bool is_default;                  /* nobody chose it */
    int lock;                         /* of a default file: no other server has it; -1: none */
} sp_serve_history;

/* --history; or --state; or, of a server that is its user's alone, a file in the user's folder of
 * state, unless another server has it. feedback: where it is kept; NULL: it goes with a default
 * file. */
void sp_serve_history_find(sp_serve_history *out, const sp_opts *o, const char *feedback);
void sp_serve_history_fini(sp_serve_history *h);

#endif
