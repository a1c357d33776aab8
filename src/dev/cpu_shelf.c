/* Experts that stay in the file. A slot holds one expert of one layer in the device's layout; what
 * was not needed for longest makes room. The experts of one call always fit: a shelf has room for
 * all of a layer. */
#include "base/mem.h"
#include "dev/cpu.h"

struct sp_dev_shelf {
    cpu_slot *slot; /* [n_room] */
    uint32_t *at;   /* [n_expert]: slots; NONE: not here */
    char *mem;      /* [n_room][each_bytes] */
    size_t n_expert, n_room, each_bytes;
    uint64_t call;
};

static const uint32_t NONE = UINT32_MAX;

sp_err cpu_shelf_new(sp_dev *dev, sp_dev_shelf **out, size_t n_expert, size_t n_room,
                     size_t each_bytes)
{
    sp_dev_shelf *s = sp_mem_alloc(sizeof *s);
    if (!s)
        return SP_NOMEM;
    *s = (sp_dev_shelf){.slot = sp_mem_array(n_room, sizeof *s->slot),
                        .at = sp_mem_array(n_expert, sizeof *s->at),
                        .mem = sp_mem_raw(n_room * each_bytes + 64),
                        .n_expert = n_expert,
                        .n_room = n_room,
                        .each_bytes = each_bytes};
    if (!s->slot || !s->at || !s->mem) {
        cpu_shelf_free(dev, s);
        return SP_NOMEM;
    }
    for (size_t i = 0; i < n_expert; i++)
        s->at[i] = NONE;
    *out = s;
    return SP_OK;
}

void cpu_shelf_free(sp_dev *dev, sp_dev_shelf *s)
{
    (void)dev;
    if (!s)
        return;
    sp_mem_free(s->slot);
    sp_mem_free(s->at);
    sp_mem_free(s->mem);
    sp_mem_free(s);
}

const cpu_slot *cpu_shelf_at(const sp_dev_shelf *s, size_t id)
{
    return &s->slot[s->at[id]];
}

/* Packs expert e of the tall matrices into a slot. */
static sp_err fill(cpu_dev *c, cpu_slot *slot, char *mem, const sp_dev_weight *const *w,
                   const size_t *each, size_t n_w, size_t e)
{
    for (size_t i = 0; i < n_w; i++) {
        const char *rows =
            (const char *)w[i]->data + e * each[i] * sp_type_row_bytes(w[i]->type, w[i]->k);
        SP_TRY(cpu_weight_put(&c->dev, &slot->w[i], mem, w[i]->type, rows, each[i], w[i]->k));
        mem += cpu_weight_bytes(&c->dev, w[i]->type, each[i], w[i]->k);
    }
    return SP_OK;
}

sp_err cpu_shelf_bring(cpu_dev *c, sp_dev_shelf *s, size_t first, const uint32_t *busy,
                       size_t n_busy, const sp_dev_weight *const *w, const size_t *each, size_t n_w)
{
    size_t oldest = 0;
    s->call++;
    for (size_t i = 0; i < n_busy; i++) /* what is here stays */
        if (s->at[first + busy[i]] != NONE)
            s->slot[s->at[first + busy[i]]].used = s->call;
    for (size_t i = 0; i < n_busy; i++) {
        size_t id = first + busy[i];
        if (s->at[id] != NONE)
            continue;
        for (size_t k = 0; k < s->n_room; k++)
            oldest = s->slot[k].used < s->slot[oldest].used ? k : oldest;
        cpu_slot *slot = &s->slot[oldest];
        SP_ASSERT(slot->used < s->call);
        if (slot->used)
            s->at[slot->id] = NONE;
        slot->used = 0; /* empty until it is whole */
        SP_TRY(fill(c, slot, s->mem + oldest * s->each_bytes, w, each, n_w, busy[i]));
        slot->id = (uint32_t)id;
        slot->used = s->call;
        s->at[id] = (uint32_t)oldest;
    }
    return SP_OK;
}
