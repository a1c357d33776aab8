/* What services with a prompt have in common: the model by its name, brought into memory if it is
 * away, and the prompt as an ask has it. Threads: on the desk, but for is_due, which is the gRPC
 * thread's. */
#ifndef SP_API_SERVICES_ASK_H
#define SP_API_SERVICES_ASK_H

#include "api/services_int.h"

#include <sparing/v1/sparing.pb-c.h>

typedef struct sp_service_model {
    sp_served *on;      /* in use; NULL: not yet */
    sp_models_op *op;   /* what brings it; NULL: nothing does */
    uint64_t end_ns;
    sp_services *s;
    uint64_t call;
} sp_service_model;

/* asked "": the default. SP_OK: in use. SP_AGAIN: it is being brought, and the call is woken when
 * it is due. */
SP_MUST sp_err sp_service_model_find(sp_service_model *m, sp_services *s, const char *asked,
                                     uint64_t call, sp_turn_error *e);
/* Was what was waited for done? */
bool sp_service_model_is_due(const sp_service_model *m);
void sp_service_model_fini(sp_service_model *m, sp_services *s);

/* The prompt into the ask, copied. Errors: SP_INVAL: none of the three forms, or more than one. */
SP_MUST sp_err sp_service_prompt(sp_ask *q, const Sparing__V1__Prompt *p, const sp_served *on,
                                 sp_diag *d);
SP_MUST sp_err sp_service_salt(sp_ask *q, const char *salt, sp_diag *d);

#endif
