/* The rules, and the doors that ask them. */
#include "pipe/placement_int.h"

#include "base/mem.h"

#include <stdlib.h>
#include <string.h>

enum { CHECKS = 5 /* of a rule; who passes them all may leave */ };
static const char UNLABELLED[] = "unlabelled"; /* the class of a request that names none */

const char *sp_where_name(sp_where w)
{
    return w == SP_WHERE_PUBLIC ? "public" : "private";
}

void sp_data_parts_write(sp_buf *out, unsigned parts)
{
    static const char *const name[] = {"system",   "messages", "tools",
                                       "passages", "history",  "kept"};
    const char *between = "";
    for (size_t i = 0; i < sizeof name / sizeof *name; i++) {
        if (!(parts & 1u << i))
            continue;
        sp_buf_printf(out, "%s%s", between, name[i]);
        between = ",";
    }
}

/* --- one rule --------------------------------------------------------------------------------- */

static bool has(char *const *list, unsigned n, const char *name, bool any)
{
    for (unsigned i = 0; i < n; i++)
        if (strcmp(list[i], name) == 0 || (any && strcmp(list[i], "*") == 0))
            return true;
    return false;
}

static bool has_collections(const sp_place_rule *r, const sp_place_facts *f)
{
    if (!(f->parts & SP_DATA_PASSAGES))
        return true;
    for (size_t i = 0; i < f->n_coll; i++)
        if (!has(r->collections, r->n_collections, f->coll[i], true))
            return false;
    return f->n_coll > 0; /* passages of nowhere are nobody's to let out */
}

/* How far a request comes with a rule, and what stops it there. */
static unsigned judge(const sp_place_rule *r, const sp_place_facts *f, const sp_place *to,
                      const char **why)
{
    static const char *const stop[CHECKS + 1] = {"no rule leads there",
                                                 "no rule names its tenant",
                                                 "no rule names the class of its data",
                                                 "no rule lets all of its parts leave",
                                                 "no rule names its collections",
                                                 "a rule lets it leave"};
    unsigned step = 0;
    const bool may[CHECKS] = {has(r->to, r->n_to, to->name, false),
                              has(r->tenants, r->n_tenants, f->tenant, true),
                              has(r->classes, r->n_classes, f->cls ? f->cls : UNLABELLED, false),
                              f->parts && (f->parts & ~r->parts) == 0, has_collections(r, f)};
    while (step < CHECKS && may[step])
        step++;
    *why = stop[step];
    return step;
}

bool sp_placement_lets(const sp_placement *p, const sp_place_facts *f, const sp_place *to,
                       const sp_place_rule **rule, const char **why)
{
    unsigned far = 0;
    *why = "the request is private";
    if (f->is_private)
        return false;
    *why = "there are no rules";
    for (unsigned i = 0; i < p->file->n_rules; i++) {
        const char *stop;
        unsigned step = judge(&p->file->rules[i], f, to, &stop);
        if (i == 0 || step > far) {
            far = step;
            *why = stop;
            if (step == CHECKS) {
                *rule = &p->file->rules[i];
                return true;
            }
        }
    }
    return false;
}

/* --- the choice ------------------------------------------------------------------------------- */

static double price(const sp_place *p)
{
    return (p->price_in ? *p->price_in : 0) + (p->price_out ? *p->price_out : 0);
}

static bool is_better(const sp_place *a, const sp_place *b)
{
    if (price(a) < price(b) || price(a) > price(b))
        return price(a) < price(b);
    return (a->latency_ms ? *a->latency_ms : 0) < (b->latency_ms ? *b->latency_ms : 0);
}

static bool is_named(const sp_place *p, const char *name)
{
    return name && strcmp(p->name, name) == 0;
}

void sp_placement_choose(sp_place_verdict *out, const sp_placement *p, const sp_place_facts *f,
                         const char *first)
{
    sp_place_verdict v = {.why = f->is_private ? "the request is private"
                                               : "the file names no place that generates"};
    bool rests = false;
    for (unsigned i = 0; i < p->file->n_places; i++) {
        const sp_place *to = &p->file->places[i];
        const sp_place_rule *rule = NULL;
        const char *why;
        if (!(to->roles & SP_ROLE_AT_GENERATION))
            continue;
        if (!sp_placement_lets(p, f, to, &rule, &why)) {
            v.why = v.to ? v.why : why;
        } else if (p->door[i].upstream && sp_upstream_is_open(p->door[i].upstream)) {
            rests = true;
        } else if (!v.to || is_named(to, first) ||
                   (!is_named(v.to, first) && is_better(to, v.to))) {
            v = (sp_place_verdict){.to = to, .rule = rule, .why = why};
        }
    }
    v.rests = rests && !v.to;
    if (v.rests)
        v.why = "the other server takes no request just now";
    *out = v;
}

const sp_place *sp_placement_named(const sp_placement *p, const char *name)
{
    return sp_place_find(p->file, name);
}

sp_upstream *sp_placement_upstream(const sp_placement *p, const sp_place *to)
{
    return p->door[to - p->file->places].upstream;
}

uint64_t sp_placement_wait_ms(const sp_placement *p)
{
    uint64_t least = 0;
    for (unsigned i = 0; i < p->file->n_places; i++) {
        uint64_t ms = p->door[i].upstream ? sp_upstream_wait_ms(p->door[i].upstream) : 0;
        least = ms && (!least || ms < least) ? ms : least;
    }
    return least;
}

/* --- the doors -------------------------------------------------------------------------------- */

/* The second check: what is about to be sent, whatever the plan has said. */
static sp_err guard(void *arg, const void *facts, sp_diag *d)
{
    const sp_place_door *door = arg;
    const sp_place_rule *rule;
    const char *why = "nobody says what it holds";
    bool may = facts && sp_placement_lets(door->owner, facts, door->place, &rule, &why);
    sp_metric_add(may ? door->left : door->stopped, 1);
    return may ? SP_OK
               : SP_FAIL(d, SP_INVAL, "placement: nothing of this request may go to %s: %s",
                         door->place->name, why);
}

static sp_err connect_one(sp_place_door *door, const sp_upstream_cfg *base, sp_diag *d)
{
    const sp_place *at = door->place;
    sp_upstream_cfg cfg = *base;
    if (sp_metrics_labelled(&cfg.metrics, base->metrics, "place", at->name) != SP_OK)
        return SP_FAIL(d, SP_NOMEM, "placement");
    door->left = sp_metric_counter(cfg.metrics, "sparing_placement_total",
                                   "Requests at the door of a place.", "result=\"left\"");
    door->stopped = sp_metric_counter(cfg.metrics, "sparing_placement_total",
                                      "Requests at the door of a place.", "result=\"stopped\"");
    cfg.url = at->address;
    cfg.model = at->model;
    cfg.key = at->key_env ? getenv(at->key_env) : NULL;
    cfg.guard = guard;
    cfg.guard_arg = door;
    if (at->key_env && !cfg.key)
        return SP_FAIL(d, SP_INVAL, "placement: %s: the variable %s that holds its key is not set",
                       at->name, at->key_env);
    return sp_upstream_new(&door->upstream, &cfg, d);
}

sp_err sp_placement_connect(sp_placement *p, const sp_upstream_cfg *base, sp_diag *d)
{
    for (unsigned i = 0; i < p->file->n_places; i++)
        if (p->file->places[i].roles & SP_ROLE_AT_GENERATION)
            SP_TRY(connect_one(&p->door[i], base, d));
    return SP_OK;
}

/* Scheme, host and port of an address: the rest names what lies there, or who asks. A query counts
 * where it may name another host, as libpq's do. */
static void outline(sp_buf *out, const char *address)
{
    const char *host = strstr(address, "://"), *query = strchr(address, '?');
    size_t n = 0;
    if (host)
        sp_buf_put(out, address, (size_t)(host - address) + 3);
    host = host ? host + 3 : address;
    n = strcspn(host, "/?#");
    for (size_t i = n; i-- > 0;)
        if (host[i] == '@') {
            host += i + 1;
            n -= i + 1;
            break;
        }
    sp_buf_put(out, host, n);
    if (query && strstr(query, "host"))
        sp_buf_puts(out, query);
}

static bool is_same_host(const char *a, const char *b)
{
    sp_buf x = {0}, y = {0};
    outline(&x, a);
    outline(&y, b);
    bool same = !x.failed && !y.failed && x.len && strcmp(sp_buf_str(&x), sp_buf_str(&y)) == 0;
    sp_buf_fini(&x);
    sp_buf_fini(&y);
    return same;
}

static bool lets_kept(const sp_placement *p, const sp_place *to)
{
    for (unsigned i = 0; i < p->file->n_rules; i++) {
        const sp_place_rule *r = &p->file->rules[i];
        if (r->parts & SP_DATA_KEPT && has(r->to, r->n_to, to->name, false))
            return true;
    }
    return false;
}

sp_err sp_placement_check(const sp_placement *p, const char *option, const char *address,
                          sp_place_role role, sp_diag *d)
{
    sp_buf shown = {0};
    const sp_place *at = NULL;
    for (unsigned i = 0; i < p->file->n_places && !at; i++)
        if (p->file->places[i].roles & role && is_same_host(p->file->places[i].address, address))
            at = &p->file->places[i];
    outline(&shown, address);
    sp_err err = SP_OK;
    if (!at)
        err = SP_FAIL(d, SP_INVAL,
                      "%s: the placement file has no place with the address %.80s and this role",
                      option, sp_buf_str(&shown));
    else if (at->where == SP_WHERE_PUBLIC && !lets_kept(p, at))
        err = SP_FAIL(d, SP_INVAL,
                      "%s: %s is public, and no rule of the placement file lets what is kept go "
                      "there",
                      option, at->name);
    sp_buf_fini(&shown);
    return err;
}

/* --- the file --------------------------------------------------------------------------------- */

const sp_place_example *sp_placement_examples(const sp_placement *p, size_t *n)
{
    *n = p->file->n_examples;
    return p->file->examples;
}

sp_err sp_placement_load(sp_placement **out, const char *path, sp_diag *d)
{
    sp_placement *p = sp_mem_alloc(sizeof *p);
    if (!p)
        return SP_FAIL(d, SP_NOMEM, "placement");
    sp_err err = sp_place_file_read(&p->file, path, d);
    if (err != SP_OK) {
        sp_placement_free(p);
        return err;
    }
    for (unsigned i = 0; i < p->file->n_places; i++)
        p->door[i] = (sp_place_door){.owner = p, .place = &p->file->places[i]};
    *out = p;
    return SP_OK;
}

void sp_placement_free(sp_placement *p)
{
    if (!p)
        return;
    for (unsigned i = 0; i < SP_PLACES; i++)
        sp_upstream_free(p->door[i].upstream);
    sp_place_file_free(p->file);
    sp_mem_free(p);
}
