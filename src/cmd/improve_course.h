/* What a round of improvement trains by the courses of `sparing train`, on this site's prompts of
 * the earlier days: a policy that prunes answers, and a draft head.
 *
 * The policy learns from the prompts with their checks (pipe/control_train.h), the head from the
 * model's own answers to them (cmd/train_head.h). Neither sees a prompt of the days that are held
 * out. Whether they are any good is decided like any other try.
 *
 * Owner: the structs own what they hold; fini, after an error too. Threads: one; no engine may be
 * at work on the model. */
#ifndef SP_CMD_IMPROVE_COURSE_H
#define SP_CMD_IMPROVE_COURSE_H

#include "cmd/cmd.h"
#include "cmd/improve_prompts.h"
#include "gen/head.h"
#include "gen/policy.h"
#include "pipe/version.h"

typedef struct sp_own_policy {
    unsigned number; /* of its file, policy-N.model; 0: none was trained */
    sp_policy policy;
    size_t n_prompt, n_round;
} sp_own_policy;

typedef struct sp_own_head {
    unsigned number; /* of its file, head-N.gguf; 0: none was trained */
    bool is_kept;    /* else fini removes the file */
    char path[1200];
    sp_head_about about;
    size_t n_prompt;
} sp_own_head;

typedef struct sp_course_cfg {
    const sp_opts *o; /* --minutes, --steps, --rounds and the like */
    const sp_loaded *l;
    sp_metrics *metrics;
    const sp_prompts *prompts;
    const sp_versions *versions;
    size_t round; /* the seed */
} sp_course_cfg;

/* out is zeroed. SP_INVAL: too little to learn from; errors of the answers. */
SP_MUST sp_err sp_own_policy_train(sp_own_policy *out, const sp_course_cfg *cfg, sp_diag *d);
/* The head lies in the folder of versions from here on. */
SP_MUST sp_err sp_own_head_train(sp_own_head *out, const sp_course_cfg *cfg, sp_diag *d);
/* What was promoted stays: writes policy-N.model and policy-N.yaml, or head-N.yaml beside the head:
 * where they come from. */
SP_MUST sp_err sp_own_policy_keep(const sp_own_policy *p, const sp_versions *v, size_t round,
                                  sp_diag *d);
SP_MUST sp_err sp_own_head_keep(sp_own_head *h, const sp_versions *v, size_t round, sp_diag *d);
void sp_own_head_fini(sp_own_head *h);

#endif
