/* The model of a request: by the name in its body, in use as long as the request needs it, brought
 * into memory if it is away.
 *
 * A request whose model is away is parked (work.h): its handler runs again when the model is there.
 * A stream begins meanwhile and pings. Each request waits for at most --load-wait.
 *
 * Owner:   the caller's storage, all zero at first; sp_api_seek_fini.
 * Threads: on a worker. */
#ifndef SP_API_SEEK_H
#define SP_API_SEEK_H

#include "api/codec.h"

typedef struct sp_api_seek {
    sp_models *models;
    sp_served *on;     /* in use; NULL: not yet */
    sp_models_op *op;  /* what is waited for; NULL: nothing */
    uint64_t end_ns;   /* when the wait is over; 0: it has not begun */
    /* the model that a variant of an experiment has in the stead of the default one; NULL: none */
    const char *variant;
    json_t *body;      /* as it was parsed; NULL: it has none */
} sp_api_seek;

/* Finds the model that the body names, or where that is the default one, the one that a variant of
 * the tenant's conversation sets. codec NULL: the request is none for an answer. SP_OK: s->on is in
 * use. SP_AGAIN: the request is parked, the handler returns without an answer. Errors: e says
 * why. */
SP_MUST sp_err sp_api_seek_model(sp_api_seek *s, sp_app *app, const sp_api_req *req,
                                 const sp_codec *codec, const char *tenant, sp_turn_error *e);
/* The same by name; NULL: the default. */
SP_MUST sp_err sp_api_seek_name(sp_api_seek *s, sp_app *app, const sp_api_req *req,
                                const char *name, const sp_park *park, sp_turn_error *e);
/* The encoder that the body names, or the one meant where it names none. ranks: a reranker will do,
 * and is meant first. */
SP_MUST sp_err sp_api_seek_encoder(sp_api_seek *s, sp_app *app, const sp_api_req *req, bool ranks,
                                   sp_turn_error *e);
/* POST /models/load and /models/unload: the model that the body names is brought into memory, or
 * sent away when nobody uses it any more. SP_OK: it is done. SP_AGAIN: the request is parked. */
SP_MUST sp_err sp_api_move_model(sp_api_seek *s, sp_app *app, const sp_api_req *req, bool leave,
                                 sp_turn_error *e);
void sp_api_seek_fini(sp_api_seek *s);
/* 404 in the words of every protocol, with the names that there are. */
sp_err sp_api_no_model(const sp_app *app, const char *asked, sp_turn_error *e);

#endif
