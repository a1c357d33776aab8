/* Experiments: which variant of this server's settings answers a conversation.
 *
 * A file names experiments, each with variants that set something; docs/EXPERIMENTS.md has its
 * keys. A conversation is assigned by a hash, so that all its requests get the same variant, on
 * every server that reads the same file, and nothing has to be kept. Experiments of one group share
 * the conversations out among them: none is in two. What share is left over is held out.
 * What a request says itself stands above what a variant sets.
 * Where an experiment adapts, the hash draws a new conversation by shares that follow the evidence,
 * and what was drawn is kept (pipe/draws.h).
 *
 * Owner:   sp_experiments owns all; names stay as long as it does.
 * Threads: immutable after loading, but for `stopped` and what `draws` hold.
 * Errors:  SP_NOTFOUND, SP_FORMAT: the file, with the line or the name of what is wrong. */
#ifndef SP_PIPE_EXPERIMENT_H
#define SP_PIPE_EXPERIMENT_H

#include "pipe/ask.h"
#include "pipe/draws.h"

#include <stdatomic.h>

enum { SP_EXPERIMENTS = 8 /* that one conversation may be in */ };

typedef struct sp_variant {
    char *name;
    double *weight;    /* among the variants; NULL: 1 */
    sp_settings *set;  /* NULL: nothing, as a control has it */
} sp_variant;

typedef struct sp_experiment {
    char *name, *salt, *group; /* salt, group: NULL: none */
    double *share;             /* of all conversations; NULL: 1 */
    char *metric;              /* that decides; NULL: none is named */
    /* who judges answers to prompts without an exact check, side by side: here, or a place; NULL:
     * nobody */
    char *judge;
    bool interleave; /* its two variants are ranks of passages; a conversation gets both */
    bool adapt; /* shares of the variants follow the evidence */
    sp_variant *variant;       /* [n_variant] at least two; the first one is the control */
    unsigned n_variant;
} sp_experiment;

typedef struct sp_experiments {
    sp_experiment *experiment; /* [n] */
    unsigned n;
    _Atomic unsigned stopped; /* bits of those that give no conversation a variant any more */
    sp_draws *draws[SP_EXPERIMENTS]; /* of those that adapt; NULL: of the others */
} sp_experiments;

/* The variant that a conversation got. */
typedef struct sp_exposure {
    const sp_experiment *experiment;
    const sp_variant *variant; /* NULL: both, interleaved */
    sp_draw draw;              /* where the experiment adapts */
} sp_exposure;
/* Of the variant, or `interleaved`. */
const char *sp_exposure_name(const sp_exposure *e);

/* plain, words, vectors, sentences or graph (plain, and the graph of terms), as sp_rag_how. false:
 * it is none of them. */
bool sp_search_read(unsigned *out, const char *name);

SP_MUST sp_err sp_experiments_load(sp_experiments **out, const char *path, sp_diag *d);
/* NULL is fine. */
void sp_experiments_free(sp_experiments *x);

/* Those of these names are stopped, and no others; names that the file does not have are left
 * out. */
void sp_experiments_stop(sp_experiments *x, const char *const *name, size_t n);
bool sp_experiments_is_stopped(const sp_experiments *x, const sp_experiment *e);

/* What stays the same in all requests of a conversation: its id, or its first question where the
 * client keeps it, or the text of a prompt. Empty: one that begins here now, or goes on from a
 * response. Borrowed from the ask. */
sp_str sp_experiments_unit(const sp_ask *ask);
/* The hash of a conversation and its tenant, 64 hex digits; "": there is no memory. */
void sp_experiments_hash(char out[65], const char *tenant, sp_str unit);
/* The key of a conversation in draws, from that hash. */
uint64_t sp_experiments_key(const char *hash);
/* The variants of the unit, which is what stays the same in a conversation: out [SP_EXPERIMENTS].
 * Returns how many; 0 on lack of memory, too. */
size_t sp_experiments_assign(const sp_experiments *x, const char *tenant, sp_str unit,
                             sp_exposure *out);
/* The model that a variant of the unit sets; NULL: none does. Lives as long as x, which may be
 * NULL. */
const char *sp_experiments_model(const sp_experiments *x, const char *tenant, sp_str unit);
/* Is there a variant that sets a model? x may be NULL. */
bool sp_experiments_has_models(const sp_experiments *x);
/* Sets in a request what it leaves open; NULL: nothing. SP_NOMEM. */
SP_MUST sp_err sp_experiments_set(sp_ask *ask, const sp_settings *set);
/* Assigns a request, and sets in it what its variants set, and then what `below` sets that they
 * leave open. One without a unit is held out. x and below may be NULL. SP_NOMEM. */
SP_MUST sp_err sp_experiments_apply(const sp_experiments *x, const sp_settings *below,
                                    sp_ask *ask, sp_exposure *out, size_t *n);

#endif
