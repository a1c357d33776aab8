/* How settings stand in files: those of an experiment's variant, and those of a version. */
#ifndef SP_PIPE_SETTINGS_H
#define SP_PIPE_SETTINGS_H

#include "pipe/ask.h"
#include "pipe/yaml.h"

/* Of a mapping of sp_settings. */
extern const cyaml_schema_field_t sp_settings_fields[];
/* What of the settings is out of its range; NULL: nothing. */
const char *sp_settings_wrong(const sp_settings *s);

#endif
