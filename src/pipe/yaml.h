/* Files of settings: YAML by a schema, whose errors say where they are.
 * Threads: any. */
#ifndef SP_PIPE_YAML_H
#define SP_PIPE_YAML_H

#include "base/err.h"

#include <cyaml/cyaml.h>

/* A pointer to a value that a file may leave out: NULL then. */
#define SP_YAML_MAYBE (CYAML_FLAG_POINTER | CYAML_FLAG_OPTIONAL)

/* *out by a schema of CYAML_FLAG_POINTER; sp_yaml_free. SP_NOTFOUND, SP_IO; SP_FORMAT names the
 * file, what is wrong, and the line. */
SP_MUST sp_err sp_yaml_load(void **out, const char *path, const cyaml_schema_value_t *schema,
                            sp_diag *d);
/* The line, from 1 on, of a key of a file that was loaded: file[list][row][key], or file[list][key]
 * where that is a mapping. Of what is not there: of what would hold it; 0: the file has changed. */
unsigned sp_yaml_line(const char *path, const char *list, unsigned row, const char *key);
/* NULL is fine. */
void sp_yaml_free(const cyaml_schema_value_t *schema, void *p);

#endif
