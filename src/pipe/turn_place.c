/* Where a turn may be answered: what it holds, and what the placement rules say of that. */
#include "pipe/turn_int.h"

#include <string.h>

static bool is_role(const sp_chat_msg *m, const char *name)
{
    return m->role.n == strlen(name) && memcmp(m->role.p, name, m->role.n) == 0;
}

static unsigned part_of(const sp_chat_msg *m)
{
    if (is_role(m, "system") || is_role(m, "developer"))
        return SP_DATA_SYSTEM;
    return is_role(m, "tool") || m->call_id.n || m->n_call ? SP_DATA_TOOLS : SP_DATA_MESSAGES;
}

static void name_collections(sp_place_facts *f, const sp_know_op *find)
{
    f->parts |= SP_DATA_PASSAGES;
    f->n_coll = 0;
    if (find->by_name)
        f->coll[f->n_coll++] = find->by_name;
    for (size_t i = 0; i < find->n_colls && f->n_coll < SP_PLACE_COLLS && !find->by_name; i++)
        f->coll[f->n_coll++] = find->colls[i];
}

_Static_assert((int)SP_KNOW_COLLS <= (int)SP_PLACE_COLLS, "collections of a search");

/* What every kind of facts begins with. */
static sp_place_facts begin(const sp_turn *t)
{
    const sp_ask *q = t->ask;
    sp_place_facts f = {.tenant = q->tenant,
                        .cls = q->data_class,
                        .is_private = q->plan.is_private};
    for (size_t i = 0; i < t->n_msg; i++)
        f.parts |= part_of(&t->msg[i]);
    if (q->n_tool)
        f.parts |= SP_DATA_TOOLS;
    if (q->plan.conversation || t->prepare)
        f.parts |= SP_DATA_HISTORY;
    return f;
}

void sp_turn_place(sp_turn *t)
{
    const sp_placement *p = t->env->placement;
    sp_place_facts f = begin(t);
    if (!p)
        return;
    if (t->find && !t->looked)
        name_collections(&f, t->find);
    sp_placement_choose(&t->place, p, &f, t->ask->set.place);
}

bool sp_turn_may_take(const sp_turn *t)
{
    const sp_place_rule *rule;
    const char *why;
    sp_place_facts f = begin(t);
    if (!t->env->placement || !t->place.to || !t->find)
        return false;
    name_collections(&f, t->find);
    return sp_placement_lets(t->env->placement, &f, t->place.to, &rule, &why);
}

void sp_turn_facts(sp_place_facts *out, const sp_turn *t)
{
    *out = begin(t);
    if (t->find && t->n_passage + t->n_fact)
        name_collections(out, t->find);
}

sp_upstream *sp_turn_upstream(const sp_turn *t)
{
    if (!t->env->placement)
        return t->env->upstream;
    return t->place.to ? sp_placement_upstream(t->env->placement, t->place.to) : NULL;
}

void sp_turn_put_place(sp_receipt_place *out, const sp_turn *t)
{
    const sp_place_verdict *v = &t->place;
    bool away = t->plan.path == SP_PATH_UPSTREAM && v->to;
    if (!t->env->placement || !t->ask->chat)
        return;
    *out = (sp_receipt_place){
        .where = sp_where_name(away ? v->to->where : SP_WHERE_PRIVATE),
        .name = away ? v->to->name : "here",
        .rule = away ? v->rule->name : NULL,
        .why = !away && v->to ? "a rule would let it leave, and its path is here" : v->why};
}
