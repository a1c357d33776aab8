#ifndef SP_FUZZ_H
#define SP_FUZZ_H
#include "base/mem.h"

#include <stddef.h>
#include <stdint.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *p, size_t n);

#endif
