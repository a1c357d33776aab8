/* Versions of the settings, in a folder: v1.yaml, v2.yaml, …, and the file `current` with the
 * number of the one in force; 0, or no such file: the options alone. A version is never changed.
 * One that sets `intent: N`, `policy: N` or `head: N` has its model of intent, its policy
 * (gen/policy.h) or its draft head (gen/head.h) from the file intent-N.model, policy-N.model or
 * head-N.gguf of the folder.
 *
 * Owner:   sp_versions owns all that were in force since it was opened, so that a request may go on
 *          with the one that it began with.
 * Threads: sp_versions_now from any; the rest one at a time.
 * Errors:  SP_NOTFOUND, SP_IO, SP_FORMAT: the file and what is wrong in it. */
#ifndef SP_PIPE_VERSION_H
#define SP_PIPE_VERSION_H

#include "gen/policy.h"
#include "pipe/intent.h"
#include "pipe/knob.h"

typedef struct sp_version {
    unsigned number, from; /* from: what was in force before it */
    int64_t made;          /* seconds since 1970 */
    char *why;             /* NULL: it is not said */
    sp_settings set;
    sp_buf intent_file;
    sp_intent_model intent; /* where set.intent is above 0; borrows intent_file */
    sp_policy policy;       /* where set.policy is above 0 */
} sp_version;

typedef struct sp_versions sp_versions;

/* Makes the folder if it is not there. */
SP_MUST sp_err sp_versions_open(sp_versions **out, const char *dir, sp_diag *d);
/* NULL is fine. */
void sp_versions_close(sp_versions *v);
/* Reads again which one is in force. What is in force stays if that fails. */
SP_MUST sp_err sp_versions_reload(sp_versions *v, sp_diag *d);
/* NULL: the options alone, or v is NULL. */
const sp_version *sp_versions_now(const sp_versions *v);
/* Writes a new version on top of the one in force, and puts it into force. why has no quotes. */
SP_MUST sp_err sp_versions_add(sp_versions *v, const sp_knobs *k, const char *why, sp_diag *d);
/* Puts the one before the one in force into force. SP_NOTFOUND: there is none. */
SP_MUST sp_err sp_versions_back(sp_versions *v, sp_diag *d);
/* One version, whichever is in force. sp_version_free. */
SP_MUST sp_err sp_version_load(sp_version **out, const char *dir, unsigned number, sp_diag *d);
void sp_version_free(sp_version *v);
/* The model of intent that the version sets; NULL: none, or v is NULL. */
const sp_intent_model *sp_version_intent(const sp_version *v);
const sp_policy *sp_version_policy(const sp_version *v); /* likewise */
/* The path of the draft head that the version in force sets. false: it sets none, or v is NULL. */
bool sp_versions_head(const sp_versions *v, char *out, size_t cap);
/* The highest number N of the files BEFORE N BEHIND of the folder, which begin with 1. */
unsigned sp_versions_count(const sp_versions *v, const char *before, const char *behind);
/* The highest number in the folder. */
unsigned sp_versions_last(const sp_versions *v);
/* Writes a file of the folder, which is there whole or not at all, and survives a crash. */
SP_MUST sp_err sp_versions_write(const sp_versions *v, const char *name, const char *text, size_t n,
                                 sp_diag *d);
/* What a round trained and promoted: a part of the version that is written behind it. */
typedef struct sp_trained {
    const char *what; /* intent, policy or head */
    unsigned number;
    size_t round;
    const char *model; /* [n_model]: the file WHAT-N.model; NULL: its file is there already */
    size_t n_model;
    const char *origin; /* lines of YAML: what it was made of */
} sp_trained;
/* Writes the model, and WHAT-N.yaml with its round, the time and its origin. */
SP_MUST sp_err sp_versions_keep(const sp_versions *v, const sp_trained *t, sp_diag *d);
const char *sp_versions_dir(const sp_versions *v);

#endif
