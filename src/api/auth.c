#include "api/auth.h"

#include "base/file.h"
#include "base/lock.h"
#include "base/mem.h"
#include "base/sha256.h"

#include <ctype.h>
#include <openssl/crypto.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>

enum { MAX_FILE_BYTES = 1 << 20, MAX_KEYS = 4096 };

typedef struct key {
    sp_sha256 hash;
    char tenant[SP_TENANT_BYTES];
} key;

struct sp_auth {
    char *path;
    sp_lock lock; /* rank API; guards keys */
    key *keys;
    size_t n;
};

static bool parse_hash(sp_sha256 *out, const char *s)
{
    for (size_t i = 0; i < 64; i++)
        if (!isxdigit((unsigned char)s[i]))
            return false;
    for (size_t i = 0; i < 32; i++) {
        unsigned v;
        if (sscanf(s + 2 * i, "%2x", &v) != 1)
            return false;
        out->b[i] = (uint8_t)v;
    }
    return true;
}

static sp_err parse_line(key *out, const char *line, const char *path, size_t at, sp_diag *d)
{
    char tenant[SP_TENANT_BYTES];
    if (strlen(line) < 66 || !parse_hash(&out->hash, line) || sscanf(line + 64, " %63[A-Za-z0-9._-]", tenant) != 1 ||
        line[64 + strspn(line + 64, " \t") + strlen(tenant)] != 0)
        return SP_FAIL(d, SP_FORMAT, "%.100s line %zu: expected `<sha256 of the key, hex> <tenant>`", path, at);
    memcpy(out->tenant, tenant, sizeof tenant);
    return SP_OK;
}

static sp_err read_keys(key **out, size_t *n, const char *path, sp_diag *d)
{
    sp_buf b = {0};
    sp_err err = sp_file_read(&b, path, MAX_FILE_BYTES, d);
    key *keys = err == SP_OK ? sp_mem_array(MAX_KEYS, sizeof *keys) : NULL;
    if (err == SP_OK && !keys)
        err = SP_FAIL(d, SP_NOMEM, "keys");
    size_t n_key = 0, at = 0;
    char *save = NULL;
    for (char *line = err == SP_OK && b.p ? b.p : NULL; line && err == SP_OK; line = save) {
        save = strchr(line, '\n');
        if (save)
            *save++ = 0;
        at++;
        size_t len = strlen(line);
        while (len && isspace((unsigned char)line[len - 1]))
            line[--len] = 0;
        if (!len || line[0] == '#')
            continue;
        err = n_key == MAX_KEYS ? SP_FAIL(d, SP_LIMIT, "%.100s: more than %d keys", path, MAX_KEYS)
                                : parse_line(&keys[n_key++], line, path, at, d);
    }
    if (err == SP_OK && n_key == 0)
        err = SP_FAIL(d, SP_FORMAT, "%.100s holds no key", path);
    sp_buf_fini(&b);
    if (err != SP_OK) {
        sp_mem_free(keys);
        return err;
    }
    *out = keys;
    *n = n_key;
    return SP_OK;
}

sp_err sp_auth_reload(sp_auth *a, sp_diag *d)
{
    key *keys;
    size_t n;
    if (!a->path)
        return SP_OK;
    SP_TRY(read_keys(&keys, &n, a->path, d));
    sp_lock_get(&a->lock);
    key *old = a->keys;
    a->keys = keys;
    a->n = n;
    sp_lock_put(&a->lock);
    sp_mem_free(old);
    return SP_OK;
}

sp_err sp_auth_new(sp_auth **out, const char *path, sp_diag *d)
{
    sp_auth *a = sp_mem_alloc(sizeof *a);
    if (!a)
        return SP_FAIL(d, SP_NOMEM, "keys");
    sp_lock_init(&a->lock, SP_RANK_API);
    sp_err err = SP_OK;
    if (path) {
        a->path = sp_mem_strdup(path);
        err = a->path ? sp_auth_reload(a, d) : SP_FAIL(d, SP_NOMEM, "keys");
    }
    if (err == SP_OK)
        *out = a;
    else
        sp_auth_free(a);
    return err;
}

void sp_auth_free(sp_auth *a)
{
    if (!a)
        return;
    sp_lock_fini(&a->lock);
    sp_mem_free(a->keys);
    sp_mem_free(a->path);
    sp_mem_free(a);
}

bool sp_auth_is_open(const sp_auth *a)
{
    return !a->path;
}

bool sp_auth_check(sp_auth *a, const char *header, char *tenant)
{
    static const char prefix[] = "Bearer ";
    snprintf(tenant, SP_TENANT_BYTES, "default");
    if (!a->path)
        return true;
    if (!header || strncasecmp(header, prefix, sizeof prefix - 1) != 0)
        return false;
    const char *k = header + sizeof prefix - 1;
    const sp_sha256_part part = {k, strlen(k)};
    sp_sha256 h;
    bool found = false;
    if (sp_sha256_of(&h, &part, 1) != SP_OK)
        return false;
    sp_lock_get(&a->lock);
    for (size_t i = 0; i < a->n; i++) { /* every key, so that time says nothing */
        if (CRYPTO_memcmp(h.b, a->keys[i].hash.b, sizeof h.b) == 0) {
            memcpy(tenant, a->keys[i].tenant, SP_TENANT_BYTES);
            found = true;
        }
    }
    sp_lock_put(&a->lock);
    return found;
}
