/* API keys: a file of lines `sha256-of-key-in-hex tenant`, read at start and again on request.
 * Keys are compared in constant time; only hashes are ever held.
 * Threads: any. Errors name the file and line. */
#ifndef SP_API_AUTH_H
#define SP_API_AUTH_H

#include "base/err.h"

#include <stdbool.h>
#include <stddef.h>

typedef struct sp_auth sp_auth;

enum { SP_TENANT_BYTES = 64 };

/* path NULL: no keys, everyone is the tenant "default". */
SP_MUST sp_err sp_auth_new(sp_auth **out, const char *path, sp_diag *d);
void sp_auth_free(sp_auth *a);
/* Reads the file again; on error the old keys stay. */
SP_MUST sp_err sp_auth_reload(sp_auth *a, sp_diag *d);
bool sp_auth_is_open(const sp_auth *a); /* no keys are asked for */
/* header: the Authorization header's value or NULL. Fills tenant [SP_TENANT_BYTES]. */
bool sp_auth_check(sp_auth *a, const char *header, char *tenant);

#endif
