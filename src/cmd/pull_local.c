/* A model of this machine into the models folder. */
#include "cmd/pull.h"

#include "fmt/split.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/sendfile.h>
#include <sys/stat.h>
#include <unistd.h>

enum { PATH_BYTES = 1400, STEP_BYTES = 16 << 20 };

/* Copies the file to `to`.part, which becomes `to` when all of it is on the disk. */
static sp_err copy(const char *to, const char *from, sp_diag *d)
{
    char part[PATH_BYTES + 8];
    struct stat st;
    snprintf(part, sizeof part, "%s.part", to);
    int in = open(from, O_RDONLY | O_CLOEXEC),
        out = in < 0 ? -1 : open(part, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
    sp_err err = out < 0 || fstat(in, &st) != 0
                     ? SP_FAIL(d, SP_IO, "%.80s: %s", in < 0 ? from : part, strerror(errno))
                     : SP_OK;
    for (off_t left = err == SP_OK ? st.st_size : 0; left && err == SP_OK;) {
        ssize_t n = sendfile(out, in, NULL, left < STEP_BYTES ? (size_t)left : STEP_BYTES);
        if (n <= 0)
            err = SP_FAIL(d, n < 0 && errno == ENOSPC ? SP_LIMIT : SP_IO, "%.80s: %s", part,
                          n < 0 ? strerror(errno) : "the file became shorter");
        left -= n > 0 ? n : 0;
    }
    if (err == SP_OK && (fsync(out) != 0 || rename(part, to) != 0))
        err = SP_FAIL(d, SP_IO, "%.80s: %s", to, strerror(errno));
    if (err != SP_OK && out >= 0)
        (void)unlink(part);
    if (in >= 0)
        close(in);
    if (out >= 0)
        close(out);
    return err;
}

/* Is it a model at all, and the one that was asked for? */
static sp_err check(const sp_pull *p, sp_diag *d)
{
    const char *want = sp_opt_str(p->o, "sha256");
    sp_gguf *g;
    char hex[65];
    SP_TRY(sp_gguf_open(&g, p->local, d));
    size_t n_part = sp_gguf_part_count(g);
    sp_gguf_close(g);
    if (!want)
        return SP_OK;
    if (n_part > 1)
        return SP_FAIL(d, SP_INVAL, "%.100s: one of %zu parts: --sha256 is of one file", p->local,
                       n_part);
    SP_TRY(sp_fetch_digest(hex, p->local, d));
    return strcasecmp(hex, want) == 0
               ? SP_OK
               : SP_FAIL(d, SP_CORRUPT, "%.80s: sha256 is %.16s…, %.16s… was promised", p->local,
                         hex, want);
}

static sp_err bring(const sp_pull *p, const char *from, sp_diag *d)
{
    char to[PATH_BYTES], hex[65];
    const char *slash = strrchr(from, '/'), *name = slash ? slash + 1 : from;
    if (!sp_pull_is_name(name) || !sp_pull_ends_with(name, ".gguf"))
        return SP_FAIL(d, SP_INVAL, "%.100s: not the name of a GGUF file", name);
    snprintf(to, sizeof to, "%s/%s", p->dir, name);
    if (access(to, F_OK) == 0)
        return SP_FAIL(d, SP_INVAL, "%.150s is there already", to);
    char *real = realpath(
        from,
        NULL); /* a link is followed: a second name of a link would hang on its target's name */
    if (!real)
        return SP_FAIL(d, SP_IO, "%.100s: %s", from, strerror(errno));
    sp_err err = link(real, to) == 0 ? SP_OK : copy(to, real, d);
    free(real);
    SP_TRY(err);
    SP_TRY(sp_fetch_digest(hex, to, d));
    sp_pull_tell(p, to, hex, sp_opt_str(p->o, "sha256") != NULL);
    return SP_OK;
}

sp_err sp_pull_local(sp_pull *p, sp_diag *d)
{
    sp_split s;
    char part[PATH_BYTES];
    SP_TRY(check(p, d));
    if (!sp_split_parse(&s, p->local))
        return bring(p, p->local, d);
    for (unsigned no = 1; no <= s.count; no++) {
        SP_TRY(sp_split_path(part, sizeof part, p->local, &s, no, d));
        SP_TRY(bring(p, part, d));
    }
    return SP_OK;
}
