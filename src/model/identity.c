#include "model/identity.h"

#include "base/buf.h"
#include "base/mem.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

enum {
    BLK_BYTES = 256 << 10,
    KEEP_BYTES = 16 << 20, /* smaller files are hashed in less than 40 ms by one core */
    LINE_BYTES = 256
};

/* First word of a kept digest and first bytes of what is hashed: another number makes all earlier
 * pages unknown. */
static const char version[] = "sparing-model-id-1";

typedef struct hash_job {
    sp_identity *i;
    size_t first;
    int failed; /* set by any thread, never cleared */
} hash_job;

static void hash_part(void *arg, size_t begin, size_t end, size_t i_thread)
{
    hash_job *j = arg;
    const uint8_t *base = sp_gguf_base(j->i->g);
    size_t n_bytes = sp_gguf_base_bytes(j->i->g);
    (void)i_thread;
    for (size_t b = j->first + begin; b < j->first + end; b++) {
        size_t at = b * BLK_BYTES, n = n_bytes - at < BLK_BYTES ? n_bytes - at : BLK_BYTES;
        if (j->i->done[b])
            continue;
        if (sp_sha256_of(&j->i->blk[b], &(sp_sha256_part){base + at, n}, 1) != SP_OK)
            __atomic_store_n(&j->failed, 1, __ATOMIC_RELAXED);
        j->i->done[b] = 1;
    }
}

sp_err sp_identity_take(sp_identity *i, const void *p, size_t n)
{
    size_t at = (size_t)((const uint8_t *)p - sp_gguf_base(i->g));
    if (i->known || n == 0)
        return SP_OK;
    hash_job j = {.i = i, .first = at / BLK_BYTES};
    sp_pool_run(i->pool, hash_part, &j, (at + n - 1) / BLK_BYTES + 1 - j.first, 1);
    return j.failed ? SP_NOMEM : SP_OK;
}

/* Where the digest may be kept: which 0 beside the file, 1 in the user's cache folder. */
static bool kept_path(char *out, size_t cap, const sp_gguf *g, int which)
{
    const char *path = sp_gguf_part_path(g, 0), *cache = getenv("XDG_CACHE_HOME"),
               *home = getenv("HOME");
    int n = -1;
    if (which == 0) {
        n = snprintf(out, cap, "%s.id", path);
    } else if ((cache && *cache == '/') || (home && *home == '/')) {
        sp_sha256 h;
        char *real = realpath(path, NULL), hex[65];
        if (real && sp_sha256_of(&h, &(sp_sha256_part){real, strlen(real)}, 1) == SP_OK) {
            sp_sha256_hex(hex, &h);
            n = cache && *cache == '/' ? snprintf(out, cap, "%s/sparing/%s.id", cache, hex)
                                       : snprintf(out, cap, "%s/.cache/sparing/%s.id", home, hex);
        }
        free(real);
    }
    return n > 0 && (size_t)n < cap;
}

/* The line that is kept for this digest: what is known of each part, the digest last. */
static void kept_line(sp_buf *out, const sp_gguf *g, const char *hex)
{
    sp_buf_puts(out, version);
    for (size_t i = 0; i < sp_gguf_part_count(g); i++) {
        const sp_file_stamp *s = sp_gguf_part_stamp(g, i);
        sp_buf_printf(out, " %" PRIu64 " %" PRIu64 " %" PRId64 " %" PRId64, s->n_bytes, s->ino,
                      s->mtime_ns, s->ctime_ns);
    }
    sp_buf_printf(out, " %s\n", hex);
}

static bool read_hex(sp_sha256 *out, const char *hex)
{
    static const char digits[] = "0123456789abcdef";
    for (size_t i = 0; i < 64; i++) {
        const char *c = hex[i] ? strchr(digits, hex[i]) : NULL;
        if (!c)
            return false;
        out->b[i / 2] = (uint8_t)(i % 2 ? out->b[i / 2] | (c - digits) : (c - digits) << 4);
    }
    return true;
}

/* Is the digest kept for these very files? The whole line must be the one that would be written
 * now. */
static bool find_kept(sp_sha256 *out, const sp_gguf *g)
{
    for (int which = 0; which < 2; which++) {
        char path[1024], hex[65];
        sp_buf b = {0}, line = {0};
        bool is_ours = false;
        if (kept_path(path, sizeof path, g, which) &&
            sp_file_read(&b, path, LINE_BYTES * sp_gguf_part_count(g), NULL) == SP_OK &&
            b.len > 65 && read_hex(out, b.p + b.len - 65)) {
            sp_sha256_hex(hex, out);
            kept_line(&line, g, hex);
            is_ours = !line.failed && line.len == b.len && memcmp(line.p, b.p, b.len) == 0;
        }
        sp_buf_fini(&b);
        sp_buf_fini(&line);
        if (is_ours)
            return true;
    }
    return false;
}

/* A digest that cannot be kept is computed at each start: that costs time and nothing else. */
static void keep(const sp_gguf *g, const sp_sha256 *id)
{
    for (int which = 0; which < 2; which++) {
        char path[1024], hex[65];
        if (!kept_path(path, sizeof path, g, which))
            continue;
        if (which == 1) {
            char *slash = strrchr(path, '/');
            *slash = 0;
            int made = mkdir(path, 0700);
            *slash = '/';
            if (made != 0 && errno != EEXIST)
                continue;
        }
        sp_sha256_hex(hex, id);
        sp_buf line = {0};
        kept_line(&line, g, hex);
        bool is_kept_now = !line.failed && sp_file_replace(path, line.p, line.len, NULL) == SP_OK;
        sp_buf_fini(&line);
        if (is_kept_now)
            return;
    }
}

bool sp_identity_is_kept(const sp_gguf *g)
{
    return sp_gguf_part_count(g) && sp_gguf_file_bytes(g) >= KEEP_BYTES;
}

sp_err sp_identity_init(sp_identity *out, const sp_gguf *g, sp_pool *pool, sp_diag *d)
{
    sp_identity i = {.g = g,
                     .pool = pool,
                     .n_blk = (sp_gguf_base_bytes(g) + BLK_BYTES - 1) / BLK_BYTES};
    i.known = sp_identity_is_kept(g) && find_kept(&i.kept, g);
    if (!i.known) {
        i.blk = sp_mem_array(i.n_blk, sizeof *i.blk);
        i.done = sp_mem_array(i.n_blk, 1);
        if (!i.blk || !i.done) {
            sp_identity_fini(&i);
            return SP_FAIL(d, SP_NOMEM, "the model's identity");
        }
    }
    *out = i;
    return SP_OK;
}

void sp_identity_fini(sp_identity *i)
{
    sp_mem_free(i->blk);
    sp_mem_free(i->done);
}

/* Whether the files are those that were opened. same: their stamps too, so that the digest may be
 * kept for them. */
static sp_err check_unchanged(bool *same, const sp_gguf *g, sp_diag *d)
{
    *same = sp_gguf_part_count(g) > 0;
    for (size_t i = 0; i < sp_gguf_part_count(g); i++) {
        const sp_file_stamp *then = sp_gguf_part_stamp(g, i);
        const char *path = sp_gguf_part_path(g, i);
        sp_file_stamp now;
        SP_TRY(sp_file_stamp_of(&now, path, d));
        if (now.ino != then->ino || now.n_bytes != then->n_bytes || now.mtime_ns != then->mtime_ns)
            return SP_FAIL(d, SP_FORMAT, "%s was changed while it was read", path);
        *same = *same && sp_file_stamp_eq(&now, then);
    }
    return SP_OK;
}

sp_err sp_identity_end(sp_identity *i, sp_sha256 *out, sp_diag *d)
{
    bool same;
    SP_TRY(sp_identity_take(i, sp_gguf_base(i->g), sp_gguf_base_bytes(i->g)));
    SP_TRY(check_unchanged(&same, i->g, d));
    if (i->known) {
        *out = i->kept;
        return SP_OK;
    }
    const sp_sha256_part part[] = {{version, sizeof version}, {i->blk, i->n_blk * sizeof *i->blk}};
    SP_TRY(sp_sha256_of(out, part, sizeof part / sizeof part[0]));
    if (same && sp_identity_is_kept(i->g))
        keep(i->g, out);
    return SP_OK;
}
