/* What the parts of options share: the state, and how a value is set. */
#ifndef SP_BASE_OPT_INT_H
#define SP_BASE_OPT_INT_H

#include "base/opt.h"

enum { SP_OPT_NAME = 64 /* bytes of a key or a variable */ };

struct sp_opts {
    const sp_opt *table;
    size_t n;
    uint32_t command;
    const char *verb; /* its name; borrowed */
    char **value;
    sp_opt_origin *origin;
    unsigned *line; /* of the file, 0 where it is from elsewhere */
    char file[96]; /* the end of its path, for errors; "": none was read */
    const char **rest;
    size_t n_rest;
};

/* Sets option i unless a stronger origin has done so. where: "sparing.yaml:7: kv_type: q3", for
 * errors: `where: must be …`. */
SP_MUST sp_err sp_opts_set(sp_opts *o, size_t i, const char *v, sp_opt_origin origin,
                           const char *where, sp_diag *d);
/* Reads keys of a YAML file: one mapping of scalars, or of lists of them for options that are
 * lists. */
SP_MUST sp_err sp_opts_read_file(sp_opts *o, const char *path, sp_diag *d);
/* ". Did you mean X?" with the nearest of the names of options; "" where none is near. A key of a
 * file where is_key, else the option of a command. */
void sp_opts_meant(char *out, size_t cap, const sp_opts *o, const char *word, bool is_key);

#endif
