/* `sparing policy test FILE [EXAMPLES]`: the rules of a placement file over examples, as a
 * table. */
#include "cmd/cmd.h"
#include "pipe/placement.h"

#include <stdio.h>
#include <string.h>

static sp_place_facts facts_of(const sp_place_example *e)
{
    sp_place_facts f = {.tenant = e->tenant,
                        .cls = e->cls,
                        .is_private = e->is_private,
                        .parts = e->parts};
    for (unsigned i = 0; i < e->n_collections && i < SP_PLACE_COLLS; i++)
        f.coll[f.n_coll++] = e->collections[i];
    return f;
}

/* One row. Is it as the example expects? */
static bool put_row(const sp_placement *p, const sp_place_example *e)
{
    const sp_place_facts f = facts_of(e);
    sp_place_verdict v;
    sp_buf parts = {0};
    sp_placement_choose(&v, p, &f, NULL);
    const char *goes = v.to ? v.to->name : "here", *rule = v.rule ? v.rule->name : NULL;
    bool ok = strcmp(goes, e->goes) == 0 && (!e->rule || (rule && strcmp(rule, e->rule) == 0));
    sp_data_parts_write(&parts, f.parts);
    printf("%-5s %-32s %-12s %-12s %-32s %-12s %-8s %s%s%s\n", ok ? "ok" : "WRONG", e->name,
           e->tenant, e->cls ? e->cls : "-", sp_buf_str(&parts), goes,
           sp_where_name(v.to ? v.to->where : SP_WHERE_PRIVATE), v.why, rule ? ": " : "",
           rule ? rule : "");
    if (!ok)
        printf("      expected: %s%s%s\n", e->goes, e->rule ? ", by " : "", e->rule ? e->rule : "");
    sp_buf_fini(&parts);
    return ok;
}

static int test(const char *file, const char *beside)
{
    sp_placement *p = NULL, *other = NULL;
    sp_diag d = {0};
    size_t n = 0, n_bad = 0;
    sp_err err = sp_placement_load(&p, file, &d);
    if (err == SP_OK && beside)
        err = sp_placement_load(&other, beside, &d);
    const sp_place_example *e = NULL;
    if (err == SP_OK)
        e = sp_placement_examples(beside ? other : p, &n);
    if (err == SP_OK && n == 0)
        err = SP_FAIL(&d, SP_FORMAT, "%.100s: there are no examples", beside ? beside : file);
    if (err == SP_OK)
        printf("%-5s %-32s %-12s %-12s %-32s %-12s %-8s %s\n", "", "example", "tenant", "class",
               "parts", "goes to", "where", "why");
    for (size_t i = 0; i < n && err == SP_OK; i++)
        n_bad += !put_row(p, &e[i]);
    if (err == SP_OK)
        printf("%zu of %zu as expected\n", n - n_bad, n);
    sp_placement_free(other);
    sp_placement_free(p);
    if (err != SP_OK)
        return sp_cmd_fail(EXIT_CONFIG, &d);
    return n_bad ? EXIT_RUN : EXIT_DONE;
}

int sp_cmd_policy(const sp_opts *o)
{
    const char *const *rest;
    size_t n = sp_opts_rest(o, &rest);
    sp_diag d = {0};
    if (n < 2 || strcmp(rest[0], "test") != 0) {
        (void)SP_FAIL(&d, SP_INVAL, "policy: test FILE [EXAMPLES] is what it knows");
        return sp_cmd_fail(EXIT_USAGE, &d);
    }
    return test(rest[1], n > 2 ? rest[2] : NULL);
}
