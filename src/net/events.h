/* KV events: which pages this server holds, told to whoever subscribes, as vLLM tells it (ZMQ PUB,
 * three frames: topic `kv@HOST:PORT@MODEL`, sequence as 8 bytes big-endian, msgpack [seconds,
 * [event...], nil]).
 *
 *   ["BlockStored", [hash], parent or nil, tokens, 32, nil, nil, nil, [[salt]] or nil, 0, kind,
 *   window or nil]
 *   ["BlockRemoved", [hash...], nil, 0]
 *   ["AllBlocksCleared"]
 *
 * A second socket (ROUTER) repeats what a subscriber missed: it asks with the sequence it wants
 * next and gets all messages from there on, then one with sequence 2^64 - 1 and without payload.
 * Messages that are not kept any more are replaced: the first of them by everything that is held
 * now, the others by empty ones, so that numbers have no gap and a late subscriber knows all.
 *
 * Whoever stores pages never waits: an event is copied under a lock. When events come faster than
 * they leave, they are dropped and everything that is held is told anew behind an AllBlocksCleared.
 *
 * Limits:  QUEUE events wait; KEPT messages are kept for repeating.
 * Owner:   sp_events owns its thread, sockets and sources. Threads: sp_events_stored and the like
 * from any; new, start and free from one.
 * Source:  vllm/distributed/kv_events.py; llm-d-router pkg/kvevents (adapter, subscriber). */
#ifndef SP_NET_EVENTS_H
#define SP_NET_EVENTS_H

#include "base/err.h"
#include "obs/metric.h"

#include <stddef.h>
#include <stdint.h>

enum { SP_EVENTS_TOK = 32 /* of a block */ };

typedef struct sp_events sp_events;
typedef struct sp_events_source sp_events_source;

typedef struct sp_events_cfg {
    const char *publish, *replay; /* endpoints to bind, "tcp://127.0.0.1:5557"; replay NULL: nothing
                                     is repeated */
    sp_metrics *metrics; /* NULL: nothing is counted */
} sp_events_cfg;

/* One block that is held. */
typedef struct sp_events_block {
    uint64_t hash, parent;
    bool first;          /* it has no parent */
    const uint32_t *tok; /* [SP_EVENTS_TOK] */
    const char *salt;    /* of the first block of a salted prompt; NULL: none */
} sp_events_block;

/* Binds the sockets; nothing leaves before sp_events_start. Errors: SP_NET with the endpoint. */
SP_MUST sp_err sp_events_new(sp_events **out, const sp_events_cfg *cfg, sp_diag *d);
/* name: HOST:PORT of the server, as subscribers know it. */
SP_MUST sp_err sp_events_start(sp_events *e, const char *name, sp_diag *d);
/* Where it listens, with the ports that were found where "*" was asked for. replay: "" without
 * one. */
void sp_events_endpoints(const sp_events *e, char publish[128], char replay[128]);
/* Every source is removed. NULL is fine. */
void sp_events_free(sp_events *e);

/* The blocks of a model, at most n_cap at a time. window: tokens that its layers see; 0: all.
 * SP_NOMEM. */
SP_MUST sp_err sp_events_add(sp_events_source **out, sp_events *e, const char *model, size_t n_cap,
                             size_t window);
/* All its blocks are gone. NULL is fine. */
void sp_events_remove(sp_events_source *s);
void sp_events_stored(sp_events_source *s, const sp_events_block *b);
void sp_events_removed(sp_events_source *s, uint64_t hash);

#endif
