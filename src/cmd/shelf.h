/* The knowledge file, for the commands that read and write it. */
#ifndef SP_CMD_SHELF_H
#define SP_CMD_SHELF_H

#include "cmd/cmd.h"
#include "rag/store.h"

#define TENANT(o) (sp_opt_str(o, "tenant") ? sp_opt_str(o, "tenant") : "default")

typedef struct sp_shelf {
    sp_dev *dev;
    sp_encoder *encoder; /* NULL: not asked for */
    sp_rag_store *store;
} sp_shelf;

/* --knowledge, or the file that stands for it. */
const char *sp_shelf_path(const sp_opts *o);
/* For what only reads, which must not make a file. SP_NOTFOUND: there is none. */
SP_MUST sp_err sp_shelf_is_there(const sp_opts *o, sp_diag *d);
/* s: zeroed; closed by the caller, after an error too. */
SP_MUST sp_err sp_shelf_open(sp_shelf *s, const sp_opts *o, bool with_encoder, sp_diag *d);
void sp_shelf_close(sp_shelf *s);
/* --collection's id. */
SP_MUST sp_err sp_shelf_coll(char id[SP_RAG_ID], sp_shelf *s, const sp_opts *o, bool create,
                             sp_diag *d);
int sp_shelf_exit(sp_err err); /* exit code */

#endif
