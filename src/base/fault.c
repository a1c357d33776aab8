/* Fault counters. 0 = disarmed, n > 0 = fail the n-th call, -1 = has fired. */
#include "base/fault.h"

#include <stdatomic.h>

static atomic_long countdown[SP_FAULT_KINDS];

void sp_fault_arm(sp_fault_kind kind, long nth)
{
    atomic_store(&countdown[kind], nth);
}

bool sp_fault_was_hit(sp_fault_kind kind)
{
    return atomic_load(&countdown[kind]) < 0;
}

bool sp_fault_hit(sp_fault_kind kind)
{
    long v = atomic_load_explicit(&countdown[kind], memory_order_relaxed);
    while (v > 0) {
        long next = v == 1 ? -1 : v - 1;
        if (atomic_compare_exchange_weak(&countdown[kind], &v, next))
            return v == 1;
    }
    return false;
}
