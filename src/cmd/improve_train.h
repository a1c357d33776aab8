/* A part that a round of improvement trains itself: the model of intent, from labelled prompts and
 * from what this site's prompts of the earlier days got on either path.
 *
 * Each of these prompts is answered on the light and on the full path. Its label is full where the
 * full path's answer is better, else light; its class and whether it needs knowledge are as the
 * model in force says. They are learned from together with the labelled prompts, and repeated until
 * they are a quarter of all. Whether the result is any good is decided like any other try.
 *
 * Owner: sp_retrained owns its bytes; sp_retrained_fini, after an error too. Threads: one. */
#ifndef SP_CMD_IMPROVE_TRAIN_H
#define SP_CMD_IMPROVE_TRAIN_H

#include "cmd/improve_prompts.h"
#include "pipe/improve.h"
#include "pipe/intent.h"
#include "pipe/version.h"

typedef struct sp_retrained {
    unsigned number;       /* of its file, intent-N.model; 0: nothing was trained */
    sp_buf file;
    sp_intent_model model; /* borrows file */
    size_t n_own, n_full;  /* prompts of this site; those that need the full path */
    size_t n_label;        /* of the file of labelled prompts */
} sp_retrained;

/* One answer of prompt `at` on a path: light or full. */
typedef sp_err (*sp_retrain_fn)(void *arg, sp_outcome *out, size_t at, const char *path,
                                sp_diag *d);

typedef struct sp_retrain_cfg {
    const char *labelled;         /* a file as `sparing train intent` reads it */
    const sp_prompts *prompts;
    size_t most;                  /* prompts of the earlier days that are labelled */
    const sp_intent_model *judge; /* that is in force */
    unsigned number;
    sp_retrain_fn answer;
    void *arg;
} sp_retrain_cfg;

/* out is zeroed. SP_FORMAT: the labelled prompts; errors of the answers. */
SP_MUST sp_err sp_retrain_intent(sp_retrained *out, const sp_retrain_cfg *cfg, sp_diag *d);
/* Writes intent-N.model into the folder of versions, and intent-N.yaml: where it comes from. */
SP_MUST sp_err sp_retrained_keep(const sp_retrained *r, const sp_versions *v, size_t round,
                                 sp_diag *d);
void sp_retrained_fini(sp_retrained *r);

#endif
