/* A call that is answered by a turn (pipe/turn.h): Generate and Reason.
 *
 * Its state is shared by its task and by what runs for it on a desk; the last of them frees it.
 * Between the two only one works at a time: while an operation is under way, the task touches
 * nothing. */
#ifndef SP_API_SERVICES_TURN_H
#define SP_API_SERVICES_TURN_H

#include "api/services_ask.h"

typedef struct sp_service_turn sp_service_turn;

/* What differs between the two. */
typedef struct sp_service_kind {
    const ProtobufCMessageDescriptor *type; /* of the request, */
    const char *(*model)(const ProtobufCMessage *m); /* the model it names, "" for the default, */
    /* and the pages that another server has; NULL: none. NULL: it has no such field */
    const Sparing__V1__Ticket *(*ticket)(const ProtobufCMessage *m);
    sp_err (*begin)(sp_service_turn *t);    /* on the desk, with the model in use: sets turn, and
                                               starts it with sp_service_turn_start */
    void (*give)(sp_service_turn *t);       /* on the gRPC thread: sends what the turn has to tell,
                                               and finishes */
} sp_service_kind;

struct sp_service_turn {
    const sp_service_kind *kind;
    sp_services *s;
    sp_grpc_call *c;      /* owner: the gRPC thread, until left */
    uint64_t id, deadline_ns;
    char who[64], auth[320]; /* auth: as it goes to peers; "": there is none */
    uint8_t *body;        /* [n_body] of the message; NULL once it was read */
    size_t n_body;
    _Atomic int ref;
    _Atomic bool left;    /* the call is over */
    sp_op *op;            /* what runs on a desk; NULL: nothing */
    ProtobufCMessage *asked;
    sp_service_model model;
    sp_receipt_handed handed; /* of these pages */
    bool wants_pages, has_pages; /* the ticket's are to be fetched; that was done or tried */
    sp_turn *turn;
    sp_ids ids;           /* Reason: the prompt */
    sp_sha256 *page;      /* [n_page] likewise: the names of its pages */
    size_t n_page;
    sp_plan plan;         /* likewise: what intent decided */
    bool ahead;           /* ReasonAhead: it stands in the list of these, with */
    sp_service_turn *next_ahead;
    uint64_t follower;    /* a call of Fetch that waits for its pages; 0: none */
    sp_turn_error e;
    bool started;
    int64_t created;
};

/* Begins a call: its message is read on the desk. */
void sp_service_turn_new(sp_services *s, sp_grpc_call *c, const sp_service_kind *kind,
                         const uint8_t *p, size_t n);
SP_MUST sp_err sp_service_turn_start(sp_service_turn *t);
double sp_service_turn_left_ms(const sp_service_turn *t); /* until its deadline, above 0; 0: it has
                                                             none */
/* services_reason.c: the turn that computes page number `at` of a prompt, under this name and for
 * this tenant, and has told of it; NULL: there is none. On the gRPC thread, as the next. */
sp_service_turn *sp_service_turn_ahead(const sp_services *s, const char *who,
                                       const sp_sha256 *name, size_t at);
/* Its call is over: it leaves the list, if it stands there, and who waits for its pages is
 * woken. */
void sp_service_turn_end_ahead(sp_service_turn *t);
/* services_pages.c: pages of the ticket, from the server that it names, into the pool. What cannot
 * be had is computed. */
void sp_service_turn_take_pages(void *turn);

#endif
