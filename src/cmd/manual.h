/* What is printed from the tables of commands and options: help, man pages, completions, a
 * commented sparing.yaml and the reference page. */
#ifndef SP_CMD_MANUAL_H
#define SP_CMD_MANUAL_H

#include "base/buf.h"
#include "cmd/cmd.h"

/* What an option is for, its values, what it needs and its default, in one line. */
void sp_manual_about(sp_buf *out, const sp_opt *t);
/* The groups of the options of `commands` in their order; returns how many, at most cap. */
size_t sp_manual_groups(const char **out, size_t cap, uint32_t commands);
/* Rows of a group that one of `commands` takes: calls fn with each. */
void sp_manual_each(const char *group, uint32_t commands, void (*fn)(void *arg, const sp_opt *t),
                    void *arg);
/* An example's line, and what it is for or "". */
typedef struct sp_manual_example {
    char line[128], says[128];
} sp_manual_example;
/* Takes an example of sp_command apart. */
void sp_manual_split(sp_manual_example *out, const char *example);

/* `sparing COMMAND --help`, wrapped at so many columns. */
void sp_manual_help(sp_buf *out, const sp_command *c, size_t width);
/* `sparing --help`. */
void sp_manual_usage(sp_buf *out, size_t width);
/* man | man-COMMAND | man-sparing.yaml | yaml | reference | completion-bash|zsh|fish.
 * Errors: SP_NOTFOUND. */
SP_MUST sp_err sp_manual_print(sp_buf *out, const char *what);

/* What sp_manual_print is made of; each appends a whole page. */
void sp_manual_man(sp_buf *out);                              /* sparing.1, in mdoc */
void sp_manual_man_command(sp_buf *out, const sp_command *c); /* sparing-COMMAND.1 */
void sp_manual_man_yaml(sp_buf *out);                         /* sparing.yaml.5 */
void sp_manual_yaml(sp_buf *out);                             /* an example, all of it comments */
void sp_manual_reference(sp_buf *out);                        /* docs/OPTIONS.md */
void sp_manual_bash(sp_buf *out);                             /* completions, as the next two */
void sp_manual_zsh(sp_buf *out);
void sp_manual_fish(sp_buf *out);

#endif
