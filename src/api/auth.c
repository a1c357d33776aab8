#include "api/auth.h"

#include "base/file.h"
#include "base/lock.h"
#include "base/mem.h"
#include "base/sha256.h"

#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <openssl/crypto.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { MAX_FILE_BYTES = 1 << 20, MAX_KEYS = 4096 };

typedef struct key {
    sp_sha256 hash;
    char tenant[SP_TENANT_BYTES];
    bool is_operator;
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

static sp_err read_role(bool *is_operator, const char *role)
{
    *is_operator = strcmp(role, "operator") == 0;
    return *is_operator || strcmp(role, "user") == 0 ? SP_OK : SP_INVAL;
}

static sp_err parse_line(key *out, const char *line, const char *path, size_t at, sp_diag *d)
{
    char tenant[SP_TENANT_BYTES], role[16] = "user", more;
    int n = strlen(line) < 66 || !parse_hash(&out->hash, line)
                ? 0
                : sscanf(line + 64, " %63[A-Za-z0-9._-] %15[a-z] %c", tenant, role, &more);
    bool apart = n > 0 && (line[64] == ' ' || line[64] == '\t');
    size_t end = apart ? 64 + strspn(line + 64, " \t") + strlen(tenant) : 0;
    if (!apart || n == 3 || (line[end] && line[end] != ' ' && line[end] != '\t') ||
        (n == 1 && line[end]) || read_role(&out->is_operator, role) != SP_OK)
        return SP_FAIL(
            d, SP_FORMAT,
            "%.100s line %zu: expected `<sha256 of the key, hex> <tenant> [user|operator]`", path,
            at);
    memcpy(out->tenant, tenant, sizeof tenant);
    return SP_OK;
}

/* Whoever can write the file can let himself in; whoever can read it can try keys at leisure. */
static sp_err check_mode(const char *path, sp_diag *d)
{
    struct stat st;
    if (stat(path, &st) != 0)
        return SP_FAIL(d, SP_IO, "%.120s: %s", path, strerror(errno));
    if (!S_ISREG(st.st_mode) || (st.st_uid != geteuid() && st.st_uid != 0))
        return SP_FAIL(d, SP_INVAL, "%.120s is not a file of this user's or root's", path);
    if (st.st_mode & 027)
        return SP_FAIL(
            d, SP_INVAL,
            "%.120s has mode %04o: others may read it, or the group may write it; chmod 600", path,
            st.st_mode & 07777);
    return SP_OK;
}

/* Every line of text that is a key. The first line that is none is the error; the others are keys
 * nevertheless. */
static sp_err parse_keys(key *keys, size_t *n, char *text, const char *path, sp_diag *d)
{
    size_t at = 0;
    char *next = NULL;
    sp_err first = SP_OK;
    *n = 0;
    for (char *line = text; line; line = next) {
        next = strchr(line, '\n');
        if (next)
            *next++ = 0;
        at++;
        size_t len = strlen(line);
        while (len && isspace((unsigned char)line[len - 1]))
            line[--len] = 0;
        if (!len || line[0] == '#')
            continue;
        key k = {0};
        sp_err err = *n == MAX_KEYS ? SP_FAIL(first ? NULL : d, SP_LIMIT,
                                              "%.100s: more than %d keys", path, MAX_KEYS)
                                    : parse_line(&k, line, path, at, first ? NULL : d);
        if (err == SP_OK)
            keys[(*n)++] = k;
        first = first ? first : err;
    }
    return first ? first : *n ? SP_OK : SP_FAIL(d, SP_FORMAT, "%.100s holds no key", path);
}

/* *out: the keys that could be read, also on error; NULL when none could. */
static sp_err read_keys(key **out, size_t *n, const char *path, sp_diag *d)
{
    sp_buf b = {0};
    *out = NULL;
    *n = 0;
    SP_TRY(check_mode(path, d));
    sp_err err = sp_file_read(&b, path, MAX_FILE_BYTES, d);
    if (err == SP_OK && b.p && strlen(b.p) != b.len)
        err = SP_FAIL(d, SP_FORMAT, "%.100s holds a NUL byte", path);
    *out = err == SP_OK ? sp_mem_array(MAX_KEYS, sizeof **out) : NULL;
    if (err == SP_OK && !*out)
        err = SP_FAIL(d, SP_NOMEM, "keys");
    if (err == SP_OK)
        err = b.p ? parse_keys(*out, n, b.p, path, d)
                  : SP_FAIL(d, SP_FORMAT, "%.100s holds no key", path);
    sp_buf_fini(&b);
    return err;
}

sp_err sp_auth_reload(sp_auth *a, sp_diag *d)
{
    key *keys;
    size_t n;
    if (!a->path)
        return SP_OK;
    sp_err err = read_keys(&keys, &n, a->path, d);
    sp_lock_get(&a->lock);
    key *old = a->keys;
    a->keys = keys;
    a->n = n;
    sp_lock_put(&a->lock);
    sp_mem_free(old);
    return err;
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

size_t sp_auth_count(sp_auth *a)
{
    sp_lock_get(&a->lock);
    size_t n = a->n;
    sp_lock_put(&a->lock);
    return n;
}

static sp_err hash_key(sp_sha256 *out, const char *k)
{
    const sp_sha256_part part = {k, strlen(k)};
    return sp_sha256_of(out, &part, 1);
}

bool sp_auth_check(sp_auth *a, const char *k, char *tenant, bool *is_operator)
{
    sp_sha256 h;
    bool found = false;
    snprintf(tenant, SP_TENANT_BYTES, "default");
    *is_operator = !a->path;
    if (!a->path)
        return true;
    if (!k || hash_key(&h, k) != SP_OK)
        return false;
    sp_lock_get(&a->lock);
    for (size_t i = 0; i < a->n; i++) { /* every key, so that time says nothing */
        if (CRYPTO_memcmp(h.b, a->keys[i].hash.b, sizeof h.b) == 0) {
            memcpy(tenant, a->keys[i].tenant, SP_TENANT_BYTES);
            *is_operator = a->keys[i].is_operator;
            found = true;
        }
    }
    sp_lock_put(&a->lock);
    return found;
}

/* --- a new key -------------------------------------------------------------------------------- */

/* Writes all of b to a new file beside path, then puts it in path's place. */
static sp_err replace_file(const char *path, const sp_buf *b, sp_diag *d)
{
    char next[1100];
    snprintf(next, sizeof next, "%.1000s.%ld.new", path, (long)getpid());
    int fd = open(next, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (fd < 0)
        return SP_FAIL(d, SP_IO, "%.120s: %s", next, strerror(errno));
    bool fine = write(fd, b->p, b->len) == (ssize_t)b->len && fsync(fd) == 0;
    fine = close(fd) == 0 && fine && rename(next, path) == 0;
    if (fine)
        return SP_OK;
    (void)SP_FAIL(d, SP_IO, "%.120s: %s", path, strerror(errno));
    unlink(next);
    return SP_IO;
}

sp_err sp_auth_add(const char *path, const char *k, const char *tenant, const char *role,
                   sp_diag *d)
{
    sp_buf b = {0};
    sp_sha256 h;
    bool is_operator;
    size_t len = strlen(tenant);
    if (len == 0 || len >= SP_TENANT_BYTES ||
        strspn(tenant, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._-") != len)
        return SP_FAIL(d, SP_INVAL,
                       "a name has 1 to %d letters, digits, dots, lines and underscores",
                       SP_TENANT_BYTES - 1);
    if (read_role(&is_operator, role) != SP_OK)
        return SP_FAIL(d, SP_INVAL, "role: %.20s is none of user, operator", role);
    SP_TRY(hash_key(&h, k));
    if (access(path, F_OK) == 0) {
        SP_TRY(check_mode(path, d));
        SP_TRY(sp_file_read(&b, path, MAX_FILE_BYTES - 1024, d));
    }
    if (b.len && b.p[b.len - 1] != '\n')
        sp_buf_putc(&b, '\n');
    for (size_t i = 0; i < sizeof h.b; i++)
        sp_buf_printf(&b, "%02x", h.b[i]);
    sp_buf_printf(&b, " %s%s\n", tenant, is_operator ? " operator" : "");
    sp_err err = b.failed ? SP_FAIL(d, SP_NOMEM, "keys") : replace_file(path, &b, d);
    sp_buf_fini(&b);
    return err;
}
