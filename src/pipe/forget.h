/* Pages of a tenant, or of one conversation, gone from RAM, disk and object store. Owner of
 * nothing; waits for the engine. */
#ifndef SP_PIPE_FORGET_H
#define SP_PIPE_FORGET_H

#include "kv/tier.h"
#include "sched/engine.h"

/* tier and conv may be NULL. *n_page: how many there were. SP_CANCEL: the server is shutting
 * down. */
SP_MUST sp_err sp_forget_pages(sp_engine *e, sp_kv_tier *tier, const char *tenant, const char *conv,
                               size_t *n_page, sp_diag *d);

#endif
