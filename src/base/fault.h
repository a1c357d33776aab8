/* Fault injection: make the n-th allocation or I/O call of this process fail, once.
 * Tests arm it; in production it stays disarmed and costs one relaxed load.
 * Threads: arming is for single-threaded tests; hits are counted atomically. */
#ifndef SP_BASE_FAULT_H
#define SP_BASE_FAULT_H

#include <stdbool.h>

typedef enum sp_fault_kind { SP_FAULT_MEM, SP_FAULT_IO, SP_FAULT_KINDS } sp_fault_kind;

/* nth >= 1 arms: that call from now on fails. 0 disarms. */
void sp_fault_arm(sp_fault_kind kind, long nth);
/* True when the armed call was reached since the last arm. */
bool sp_fault_was_hit(sp_fault_kind kind);
/* Asked by the wrappers in base/; true means: fail now. */
bool sp_fault_hit(sp_fault_kind kind);

#endif
