/* Where the parts of a service lie, and which data may go there.
 *
 * A file (docs/PLACEMENT.md) names places, private and public, and rules. A request leaves for a
 * place only if one single rule lets it: the rule leads there, names the request's tenant, the
 * class of its data and, where it holds passages, their collections, and lets out all of its parts.
 * What no rule names stays here, and a request that is private stays in any case.
 *
 * The rules are asked twice: by the plan, and by the door of a place, which sp_call_start asks with
 * what is really about to be sent. Addresses of other outlets (stores, peers, traces) are checked
 * once, before the server starts.
 *
 * Owner:   sp_placement owns all; what a verdict names lives as long as it does.
 * Threads: immutable after sp_placement_connect; everything from any thread.
 * Errors:  SP_NOTFOUND, SP_FORMAT: the file, with what is wrong and where. */
#ifndef SP_PIPE_PLACEMENT_H
#define SP_PIPE_PLACEMENT_H

#include "net/upstream.h"

enum { SP_PLACE_COLLS = 8 /* of one request */ };

typedef enum sp_where { SP_WHERE_PRIVATE, SP_WHERE_PUBLIC } sp_where;

typedef enum sp_place_role { /* bits */
                             SP_ROLE_AT_GENERATION = 1,
                             SP_ROLE_AT_REASONING = 2,
                             SP_ROLE_AT_RETRIEVAL = 4,
                             SP_ROLE_AT_STORAGE = 8,
                             SP_ROLE_AT_TRACES = 16,
                             SP_ROLE_AT_FRONT = 32 /* the server behind --shadow-of */
} sp_place_role;

typedef enum sp_data_part {                       /* bits: what a request is made of */
                            SP_DATA_SYSTEM = 1,   /* system and developer messages */
                            SP_DATA_MESSAGES = 2, /* the other messages of the request itself */
                            SP_DATA_TOOLS = 4,    /* definitions of tools, and what they gave */
                            SP_DATA_PASSAGES = 8, /* what a search found in collections */
                            SP_DATA_HISTORY = 16, /* a conversation that this server keeps */
                            SP_DATA_KEPT =
                                32 /* whatever else it keeps: pages, documents, figures, traces */
} sp_data_part;

typedef struct sp_place {
    char *name, *address;
    sp_where where;
    unsigned roles;
    char *model, *key_env;        /* NULL: none */
    double *price_in, *price_out; /* of a million tokens; NULL: 0 */
    unsigned *latency_ms;         /* to be expected; NULL: not known */
} sp_place;

typedef struct sp_place_rule {
    char *name;
    char **to, **tenants, **classes, **collections; /* tenants, collections: "*" means all */
    unsigned n_to, n_tenants, n_classes, n_collections;
    unsigned parts;
} sp_place_rule;

typedef struct sp_place_example {
    char *name, *tenant, *cls; /* cls NULL: the request names none */
    bool is_private;
    unsigned parts;
    char **collections;
    unsigned n_collections;
    char *goes, *rule; /* expected: a place or "here"; the rule, or NULL: whichever */
} sp_place_example;

typedef struct sp_placement sp_placement;

/* What the rules judge by. */
typedef struct sp_place_facts {
    const char *tenant, *cls; /* cls NULL: the request names none */
    bool is_private;
    unsigned parts;                   /* sp_data_part */
    const char *coll[SP_PLACE_COLLS]; /* [n_coll] ids or names, where there are passages */
    size_t n_coll;
} sp_place_facts;

typedef struct sp_place_verdict {
    const sp_place *to;        /* NULL: it stays here */
    const sp_place_rule *rule; /* that lets it go; NULL: none does */
    bool rests;                /* it might go, but who is there takes no request just now */
    const char *why;           /* static */
} sp_place_verdict;

SP_MUST sp_err sp_placement_load(sp_placement **out, const char *path, sp_diag *d);
/* Closes its upstreams; waits for their calls. NULL is fine. */
void sp_placement_free(sp_placement *p);
/* Makes an upstream of each place of generation: base without url, key and model. SP_INVAL: the
 * variable that holds a place's key is not set. */
SP_MUST sp_err sp_placement_connect(sp_placement *p, const sp_upstream_cfg *base, sp_diag *d);

/* May what these facts are of go to the place? false: *rule is untouched, *why says it. */
bool sp_placement_lets(const sp_placement *p, const sp_place_facts *f, const sp_place *to,
                       const sp_place_rule **rule, const char **why);
/* Of the places of generation that it may go to, the cheapest, and of those the nearest. first: the
 * name of one that is taken before all others where it may go there; NULL: none is. */
void sp_placement_choose(sp_place_verdict *out, const sp_placement *p, const sp_place_facts *f,
                         const char *first);
/* NULL: the file has no place of this name. */
const sp_place *sp_placement_named(const sp_placement *p, const char *name);
/* Of a place that a verdict named; NULL before sp_placement_connect. */
sp_upstream *sp_placement_upstream(const sp_placement *p, const sp_place *to);
/* Until one of them that rests is tried again; 0: now. */
uint64_t sp_placement_wait_ms(const sp_placement *p);
/* May this server send what it keeps to the address, as `option` asks for? Only to a place of the
 * file with that role, and to a public one only if a rule lets out what is kept. SP_INVAL. */
SP_MUST sp_err sp_placement_check(const sp_placement *p, const char *option, const char *address,
                                  sp_place_role role, sp_diag *d);

const char *sp_where_name(sp_where w);
const sp_place_example *sp_placement_examples(const sp_placement *p, size_t *n);
/* Names of the parts, joined by commas. */
void sp_data_parts_write(sp_buf *out, unsigned parts);

#endif
