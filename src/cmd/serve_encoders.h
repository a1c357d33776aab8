/* The encoders and rerankers of a server: which ones the options name, which of them stay in
 * memory, and how one is loaded and closed.
 *
 * They are models of the registry. Those of a server of one model stay, as that one does. Of
 * several models the first encoder stays where search or conversations need its vectors; the others
 * come when they are asked for and leave as models do.
 * Owner:   sp_serve_encoders holds what stays until sp_serve_encoders_leave.
 * Threads: open and close on the registry's; the rest on the main one. */
#ifndef SP_CMD_SERVE_ENCODERS_H
#define SP_CMD_SERVE_ENCODERS_H

#include "cmd/serve_models.h"

enum { SP_ENCODERS = 8 /* that --encoder names */ };

typedef struct sp_serve_encoders {
    const char *name[SP_ENCODERS + 1]; /* [n] the registry's names of those that the options name;
                                          the reranker is the last one */
    size_t n;
    const char *first, *ranker;        /* meant where a request names none; NULL: there is none */
    sp_served *kept[SP_ENCODERS + 1];  /* [n_kept] what stays; the first of --encoder is the first
                                          one */
    size_t n_kept;
} sp_serve_encoders;

/* Makes those that the options name known to the registry, and brings those that stay. is_searched:
 * search or conversations need vectors.
 * Errors: SP_UNSUP: a model of another kind; SP_NOMEM: no memory is left for models; SP_NOTFOUND
 * and what loading says. */
SP_MUST sp_err sp_serve_encoders_new(sp_serve_encoders *e, sp_serve_models *m, bool is_searched,
                                     sp_diag *d);
/* Brings the others, as far as the memory holds them. */
SP_MUST sp_err sp_serve_encoders_start(const sp_serve_encoders *e, sp_serve_models *m, sp_diag *d);
/* What stays may leave. Nobody runs it any more. */
void sp_serve_encoders_leave(sp_serve_encoders *e, sp_models *m);
/* The encoder of search and conversations; NULL: there is none. */
sp_encoder *sp_serve_encoders_first(const sp_serve_encoders *e);

/* For the opener: see sp_models_opener. */
void sp_serve_encoder_look(sp_model_facts *out, const sp_gguf *g, const sp_arch *arch,
                           const sp_opts *o);
SP_MUST sp_err sp_serve_encoder_measure(size_t *need, const sp_model_facts *f, size_t cap_bytes,
                                        sp_diag *d);
SP_MUST sp_err sp_serve_encoder_open(sp_served **out, const sp_serve_models *m, const char *name,
                                     const char *path, sp_diag *d);
void sp_serve_encoder_close(sp_served *s);

#endif
