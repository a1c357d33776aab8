/* Names of the parts of a split model: NAME-00002-of-00005.gguf is the second of five. Pure. */
#ifndef SP_FMT_SPLIT_H
#define SP_FMT_SPLIT_H

#include "base/err.h"

#include <stdbool.h>
#include <stddef.h>

enum { SP_SPLIT_PARTS = 1000 }; /* that one model may have */

typedef struct sp_split {
    size_t stem;        /* bytes of the path before "-00002-of-00005.gguf" */
    unsigned no, count; /* no: 1 to count */
} sp_split;

/* Is it the name of a part among several? The path may have folders. */
bool sp_split_parse(sp_split *out, const char *path);
/* The path of another part of the same model, no from 1 on. Errors: SP_INVAL: too long. */
SP_MUST sp_err sp_split_path(char *out, size_t cap, const char *path, const sp_split *s,
                             unsigned no, sp_diag *d);

#endif
