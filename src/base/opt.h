/* One table of options makes flags, SPARING_* variables, configuration keys and help.
 * Precedence: flag, then environment, then file, then profile, then default; sp_opt_origin says
 * which won. A profile is a set of values under a name: what rows say for it, where the option
 * `profile` is that name and the command takes this option.
 * Owner: sp_opts owns its strings. Threads: immutable after parsing. */
#ifndef SP_BASE_OPT_H
#define SP_BASE_OPT_H

#include "base/err.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { SP_OPT_PATH = 700 /* bytes of a value whose row is_path */ };

typedef enum sp_opt_kind {
    SP_OPT_STR,
    SP_OPT_INT,
    SP_OPT_NUM,
    SP_OPT_FLAG,
    SP_OPT_BYTES,
    SP_OPT_LIST /* texts by commas; a flag that is given again adds to it */
} sp_opt_kind;

typedef struct sp_opt {
    const char *name; /* long flag; `kv-type` is SPARING_KV_TYPE and kv_type in a file */
    char letter;      /* 0: none */
    sp_opt_kind kind;
    const char *fallback; /* NULL: unset */
    double min, max;      /* of numbers */
    uint32_t commands;    /* bit mask of the commands that take it */
    const char *arg, *help;
    /* heading of help that begins with this row; NULL: that of the row before */
    const char *group;
    const char *values;  /* all that it may be, by spaces; of a list each entry; NULL: any */
    const char *needs;   /* the option without which it has no effect; NULL: none */
    const char *example; /* a value for docs; NULL: the default, or arg */
    const char *profile; /* "NAME=VALUE": what it is in that profile; NULL: as without one */
    bool is_path;        /* shells complete names of files; at most SP_OPT_PATH bytes */
} sp_opt;

typedef enum sp_opt_origin {
    SP_ORIGIN_UNSET,
    SP_ORIGIN_DEFAULT,
    SP_ORIGIN_PROFILE,
    SP_ORIGIN_FILE,
    SP_ORIGIN_ENV,
    SP_ORIGIN_FLAG
} sp_opt_origin;

typedef struct sp_opts sp_opts;

/* Parses argv[1..]: options of `command`, then at most max_rest other arguments. The file comes
 * from --config or, if unset, default_file when it exists. argv[0] is the command's name, for
 * errors. Errors name the option, its value, what it may be and the nearest name; those of the file
 * also its line: SP_INVAL is on the command line, SP_FORMAT in the environment or the file. */
SP_MUST sp_err sp_opts_parse(sp_opts **out, const sp_opt *table, size_t n, uint32_t command,
                             int argc, char *const *argv, size_t max_rest, const char *default_file,
                             sp_diag *d);
void sp_opts_free(sp_opts *o);
/* NULL when unset. Asking for a name that is not in the table is our bug. */
const char *sp_opt_str(const sp_opts *o, const char *name);
int64_t sp_opt_int(const sp_opts *o, const char *name);
double sp_opt_num(const sp_opts *o, const char *name);
bool sp_opt_flag(const sp_opts *o, const char *name);
size_t sp_opt_bytes(const sp_opts *o, const char *name); /* 512M, 2G, 64K or plain bytes */
sp_opt_origin sp_opt_origin_of(const sp_opts *o, const char *name);
size_t sp_opts_rest(const sp_opts *o, const char *const **out);
/* The heading of help that row i stands under; NULL: there is none. */
const char *sp_opt_group(const sp_opt *table, size_t i);
/* A name as a key of files: `kv_type`; in capitals after SPARING_ as a variable. */
void sp_opt_key(char *out, size_t cap, const char *name);
void sp_opt_variable(char *out, size_t cap, const char *name);

#endif
