/* API keys: a file of lines `sha256-of-key-in-hex tenant [role]`, read at start and again on
 * request. Role: user (when absent), which sees what is its tenant's own, or operator, which also
 * sees the figures of all.
 *
 * The file must be nobody else's to read or write (at most mode 0640). Keys are compared in
 * constant time; only hashes are held.
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
/* Reads the file again. A line that cannot be read is no key, and a file that cannot be read, or
 * that others can write, holds none: so a key that is not in the file any more is refused whatever
 * else is wrong with it. The error says what was wrong. */
SP_MUST sp_err sp_auth_reload(sp_auth *a, sp_diag *d);
size_t sp_auth_count(sp_auth *a);        /* keys in force */
bool sp_auth_is_open(const sp_auth *a); /* no keys are asked for; everyone is an operator */
/* key: as the client sent it, or NULL. Fills tenant [SP_TENANT_BYTES] and whether the role is
 * operator. */
bool sp_auth_check(sp_auth *a, const char *key, char *tenant, bool *is_operator);

/* Adds the line of a key to a file (made if it is not there, mode 0600), or refuses: SP_INVAL for a
 * name, role or file that is wrong. The old file stays whole until the new one is complete. */
SP_MUST sp_err sp_auth_add(const char *path, const char *key, const char *tenant, const char *role,
                           sp_diag *d);

#endif
