/* What events.c (what is held and what waits) and events_send.c (messages, and the thread that
 * sends them) share. */
#ifndef SP_NET_EVENTS_INT_H
#define SP_NET_EVENTS_INT_H

#include "base/lock.h"
#include "net/events.h"

#include <pthread.h>
#include <stdatomic.h>

enum {
    QUEUE = 4096,
    KEPT = 4096,
    BATCH = 256, /* events of a message */
    MODEL_BYTES = 128
};

typedef struct block {
    uint64_t hash, parent;
    bool used, first;
    char *salt; /* owned; NULL: none */
    uint32_t tok[SP_EVENTS_TOK];
} block;

struct sp_events_source {
    sp_events *e;
    sp_events_source *next;
    char model[MODEL_BYTES];
    size_t window;
    block *table; /* [n_slot] open addressing; guard: lock */
    size_t n_slot, n_block, n_cap;
    bool gone;    /* its last message is still to be sent; guard: lock */
};

typedef enum kind { STORED, REMOVED, CLEARED } kind;

typedef struct event {
    sp_events_source *source;
    kind kind;
    block b; /* REMOVED: its hash */
} event;

typedef struct message { /* one that was sent */
    char *p;     /* topic, then payload */
    size_t n_topic, n_payload;
} message;

struct sp_events {
    void *zmq, *pub, *router; /* sockets: owner: the thread, once it runs */
    char name[128];
    pthread_t thread;
    bool started;
    sp_lock lock; /* rank NET */
    sp_events_source *sources;
    event *queue; /* [QUEUE] ring; guard: lock */
    size_t first, n;
    bool lost;    /* events were dropped: all is told anew; guard: lock */
    _Atomic bool stop;
    /* owner: the thread */
    uint64_t seq; /* of the next message */
    message *kept; /* [KEPT] message i at i modulo KEPT */
    event *batch;  /* [BATCH] */
    sp_metric *sent, *dropped;
};

void *sp_events_main(void *e); /* the thread: owner of the sockets */
void sp_events_source_free(sp_events_source *s); /* it is in no list any more */

#endif
