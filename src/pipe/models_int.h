/* What the files of the registry share: models.c (names, uses, what is told) and models_move.c (who
 * comes and who leaves). Invariants:
 * 1. Only the desk's thread brings models and sends them away, one at a time.
 * 2. A slot with uses has its model in memory. `leaving` is set and cleared inside one operation:
 * meanwhile nobody new comes in.
 * 3. `busy`: what is stored of a model that is away is being worked on; it is not opened
 * meanwhile. */
#ifndef SP_PIPE_MODELS_INT_H
#define SP_PIPE_MODELS_INT_H

#include "base/clock.h"
#include "base/lock.h"
#include "base/log.h"
#include "pipe/models.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

typedef struct sp_model_slot {
    char name[SP_MODEL_NAME];
    char *path;
    sp_model_facts facts;
    /* guard: the registry's lock */
    sp_served *served;  /* NULL: away */
    size_t n_use, bytes;
    bool stays;         /* its bytes are among the registry's beside_bytes */
    /* loading: it is asked for; opening: its file is being read */
    bool loading, opening, leaving, busy;
    double keep_s;      /* NAN: the registry's */
    uint64_t used_ns, grace_ns;
    char why[SP_MODEL_WHY];
} sp_model_slot;

struct sp_models {
    sp_models_cfg cfg;
    sp_desk *desk, *pulls; /* pulls: NULL where nothing is fetched */
    sp_lock lock; /* rank MODELS */
    pthread_cond_t changed;
    sp_model_slot *slot[SP_MODELS]; /* guard: lock, as the rest */
    size_t n_slot;
    const char *fallback;
    size_t beside_bytes; /* of what stays; immutable from the first load of another on */
    bool stop;
    sp_metric *loads, *failures, *unloads, *held;
};

/* The lock is held in both. */
/* NULL: there is none of this name */
sp_model_slot *sp_models_slot(sp_models *m, const char *name);
double sp_models_keep_of(const sp_models *m, const sp_model_slot *s);

/* models_move.c: the desk's functions. */
SP_MUST sp_err sp_models_run(void *models, sp_op *op);
bool sp_models_idle(void *models);

#endif
