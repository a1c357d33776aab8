/* Parts of the reference table. Only kern/ includes this. */
#ifndef SP_KERN_REF_REF_H
#define SP_KERN_REF_REF_H

#include "kern/kern.h"

void sp_ref_expand_init(sp_kern *k);

#endif
