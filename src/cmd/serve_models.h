/* The models of a server: which ones the options name, and how one of them is loaded and closed
 * (the opener of pipe/models.h). */
#ifndef SP_CMD_SERVE_MODELS_H
#define SP_CMD_SERVE_MODELS_H

#include "cmd/cmd.h"
#include "net/events.h"
#include "pipe/models.h"

/* What all models of a server share. Immutable from the first load on, but for storage_failed. */
typedef struct sp_serve_models {
    const sp_opts *o;
    /* what stands beside each model; a model's env is a copy with its own fields filled */
    sp_turn_env shared;
    sp_cores *cores;
    sp_metrics *metrics;
    const sp_kv_cold *cold; /* NULL: no objects */
    sp_events *events;      /* who hears of pages; NULL: nobody */
    sp_models *models;
    bool storage_failed;    /* the last load failed for its tiers */
    const struct sp_versions *versions; /* the one in force may bring a draft head; NULL: none */
    _Atomic bool *lost;     /* set when an engine's device refuses: the server has to end */
    double eps;             /* of requests that name none; < 0: tried for each model */
} sp_serve_models;

/* Reads the options that all loads need and makes the registry, with every model that the options
 * name. aliases as in sp_models_cfg; borrowed. Errors: SP_INVAL: an option; SP_NOTFOUND: there is
 * no model. */
SP_MUST sp_err sp_serve_models_new(sp_serve_models *m, const char *const *aliases, sp_diag *d);
/* Loads those that are named with --model, as far as the memory holds them; the one that is meant
 * by default at least. */
SP_MUST sp_err sp_serve_models_start(sp_serve_models *m, sp_diag *d);

/* For encoders (serve_encoders.c). */
/* Would this model send no other away? false: says so in the log. */
bool sp_serve_models_has_room(sp_serve_models *m, const char *name);
/* Calls fn with each entry of a list joined by commas. */
SP_MUST sp_err sp_serve_models_each(const char *list,
                                    sp_err (*fn)(sp_serve_models *m, const char *entry, sp_diag *d),
                                    sp_serve_models *m, sp_diag *d);

#endif
