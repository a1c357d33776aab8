/* Rules against a naive reading of them; and the door of a place, which asks them by itself. */
#include "test.h"

#include "pipe/placement.h"

#include <stdio.h>
#include <string.h>
#include <unistd.h>

void test_placement_rules(void **state);
void test_placement_door(void **state);

enum { RULES = 6, FACTS = 4000 };

static const char *const TENANTS[] = {"a", "b", "c"}, *const CLASSES[] = {"open", "inner", NULL},
                         *const COLLS[] = {"x", "y"}, *const PARTS[] = {"system",  "messages",
                                                                        "tools",   "passages",
                                                                        "history", "kept"};

typedef struct naive {
    bool tenant[3], cls[3], coll[2], all; /* all tenants */
    unsigned parts;
} naive;

static bool coin(uint64_t *s)
{
    *s = *s * 6364136223846793005u + 1442695040888963407u;
    return *s >> 63;
}

static void put_list(FILE *f, const char *key, const char *const *name, const bool *has, size_t n)
{
    const char *between = "";
    fprintf(f, "    %s: [", key);
    for (size_t i = 0; i < n; i++)
        if (has[i]) {
            fprintf(f, "%s%s", between, name[i] ? name[i] : "unlabelled");
            between = ", ";
        }
    fprintf(f, "]\n");
}

static void put_rule(FILE *f, naive *r, size_t i, uint64_t *s)
{
    bool part[6];
    r->all = coin(s) && coin(s);
    for (size_t k = 0; k < 3; k++) {
        r->tenant[k] = coin(s) || k == i % 3;
        r->cls[k] = coin(s) || k == i % 3;
    }
    for (size_t k = 0; k < 2; k++)
        r->coll[k] = coin(s);
    r->parts = SP_DATA_MESSAGES;
    for (size_t k = 0; k < 5; k++)
        r->parts |= coin(s) ? 1u << k : 0;
    if (!r->coll[0] && !r->coll[1])
        r->parts &= ~(unsigned)SP_DATA_PASSAGES;
    for (size_t k = 0; k < 6; k++)
        part[k] = r->parts >> k & 1;
    fprintf(f, "  - name: rule %zu\n    to: [far]\n", i);
    static const char *const every[] = {"'*'"};
    put_list(f, "tenants", r->all ? every : TENANTS, r->all ? &r->all : r->tenant, r->all ? 1 : 3);
    put_list(f, "classes", CLASSES, r->cls, 3);
    put_list(f, "parts", PARTS, part, 6);
    if (r->parts & SP_DATA_PASSAGES)
        put_list(f, "collections", COLLS, r->coll, 2);
}

static bool naive_lets(const naive *r, size_t tenant, size_t cls, unsigned parts,
                       const bool coll[2])
{
    if (!(r->all || r->tenant[tenant]) || !r->cls[cls] || parts & ~r->parts || !parts)
        return false;
    if (!(parts & SP_DATA_PASSAGES))
        return true;
    return (coll[0] || coll[1]) && (!coll[0] || r->coll[0]) && (!coll[1] || r->coll[1]);
}

static void open_file(sp_placement **out, naive rules[RULES], uint64_t *s)
{
    char path[] = "/tmp/sparing-placement-XXXXXX";
    sp_diag d = {0};
    int fd = mkstemp(path);
    FILE *f = fdopen(fd, "w");
    assert_non_null(f);
    fprintf(f, "places:\n  - {name: far, where: public, roles: [generation], "
               "address: 'http://127.0.0.1:9/v1', model: m}\nrules:\n");
    for (size_t i = 0; i < RULES; i++)
        put_rule(f, &rules[i], i, s);
    fclose(f);
    if (sp_placement_load(out, path, &d) != SP_OK)
        fail_msg("%s", d.msg);
    unlink(path);
}

void test_placement_rules(void **state)
{
    (void)state;
    size_t n_let = 0;
    for (uint64_t seed = 1; seed <= 20; seed++) {
        naive rules[RULES] = {0};
        uint64_t s = seed;
        sp_placement *p;
        open_file(&p, rules, &s);
        for (size_t i = 0; i < FACTS; i++) {
            size_t tenant = (coin(&s) * 2u + coin(&s)) % 3, cls = (coin(&s) * 2u + coin(&s)) % 3;
            const bool coll[2] = {coin(&s), coin(&s)};
            sp_place_facts f = {.tenant = TENANTS[tenant],
                                .cls = CLASSES[cls],
                                .is_private = coin(&s) && coin(&s) && coin(&s)};
            for (size_t k = 0; k < 6; k++)
                f.parts |= coin(&s) && coin(&s) ? 1u << k : 0;
            for (size_t k = 0; k < 2; k++)
                if (coll[k])
                    f.coll[f.n_coll++] = COLLS[k];
            bool want = false;
            for (size_t k = 0; k < RULES && !f.is_private; k++)
                want = want || naive_lets(&rules[k], tenant, cls, f.parts, coll);
            sp_place_verdict v;
            sp_placement_choose(&v, p, &f, NULL);
            if ((v.to != NULL) != want || (v.rule != NULL) != want || !v.why)
                fail_msg("seed %llu, facts %zu: %s", (unsigned long long)seed, i, v.why);
            n_let += want;
        }
        sp_placement_free(p);
    }
    assert_true(n_let > 1000);
}

/* Whatever a plan has said: what is about to leave is judged by what it holds. */
void test_placement_door(void **state)
{
    (void)state;
    naive rules[RULES] = {0};
    uint64_t s = 3;
    sp_placement *p;
    sp_metrics *metrics;
    sp_diag d = {0};
    sp_call *c = NULL;
    open_file(&p, rules, &s);
    assert_int_equal(sp_metrics_new(&metrics), SP_OK);
    const sp_upstream_cfg base = {.connect_ms = 100,
                                  .silence_ms = 1000,
                                  .retry_ms = 1,
                                  .total_ms = 1000,
                                  .cap_call = 4,
                                  .metrics = metrics};
    assert_int_equal(sp_placement_connect(p, &base, &d), SP_OK);
    const sp_place_facts hidden = {.tenant = "a", .is_private = true, .parts = SP_DATA_MESSAGES},
                         strange = {.tenant = "nobody",
                                    .cls = "no such",
                                    .parts = SP_DATA_MESSAGES},
                         empty = {.tenant = "a", .cls = "open"};
    const sp_place_facts *const list[] = {NULL, &hidden, &strange, &empty};
    sp_place_facts open = {.tenant = "a", .cls = "open", .parts = SP_DATA_MESSAGES};
    sp_place_verdict v;
    for (size_t i = 0; i < 9; i++) { /* the first that may */
        open.tenant = TENANTS[i % 3];
        open.cls = CLASSES[i / 3];
        sp_placement_choose(&v, p, &open, NULL);
        if (v.to)
            break;
    }
    assert_non_null(v.to);
    sp_upstream *up = sp_placement_upstream(p, v.to);
    sp_call_cfg cfg = {.messages = "[]", .max_tok = 1, .temperature = 1, .top_p = 1, .seed = -1};
    for (size_t i = 0; i < sizeof list / sizeof *list; i++) {
        cfg.facts = list[i];
        assert_int_equal(sp_call_start(&c, up, &cfg, &d), SP_INVAL);
        assert_null(c);
    }
    cfg.facts = &open;
    assert_int_equal(sp_call_start(&c, up, &cfg, &d), SP_OK);
    sp_call_put(c);
    sp_placement_free(p);
    sp_metrics_free(metrics);
}
