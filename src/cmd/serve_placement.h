/* The placement file of a server: read, and held against every address that the options name,
 * before anything is opened. */
#ifndef SP_CMD_SERVE_PLACEMENT_H
#define SP_CMD_SERVE_PLACEMENT_H

#include "cmd/cmd.h"
#include "pipe/placement.h"

/* *out stays as it is without --placement. SP_INVAL, SP_FORMAT, SP_NOTFOUND. */
SP_MUST sp_err sp_serve_placement_open(sp_placement **out, const sp_opts *o, sp_diag *d);

#endif
