/* What placement.c (the rules) and placement_read.c (the file) share. */
#ifndef SP_PIPE_PLACEMENT_INT_H
#define SP_PIPE_PLACEMENT_INT_H

#include "pipe/placement.h"

enum { SP_PLACES = 16, SP_PLACE_RULES = 64, SP_PLACE_NAMES = 64, SP_PLACE_EXAMPLES = 1024 };

/* The file as it is written. */
typedef struct sp_place_file {
    sp_place *places;
    sp_place_rule *rules;
    sp_place_example *examples;
    unsigned n_places, n_rules, n_examples;
} sp_place_file;

/* What stands before a place's upstream, and asks the rules once more. */
typedef struct sp_place_door {
    const sp_placement *owner;
    const sp_place *place;
    sp_upstream *upstream; /* NULL: the place generates nothing, or is not connected */
    sp_metric *left, *stopped;
} sp_place_door;

struct sp_placement {
    sp_place_file *file;
    sp_place_door door[SP_PLACES]; /* [file->n_places] */
};

SP_MUST sp_err sp_place_file_read(sp_place_file **out, const char *path, sp_diag *d);
void sp_place_file_free(sp_place_file *f);
const sp_place *sp_place_find(const sp_place_file *f, const char *name);

#endif
