/* A sentence encoder, which is a folder of files. They are put into FOLDER.part, which becomes
 * FOLDER when each has the digest of the list (pull_known.c). */
#include "cmd/pull.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/stat.h>
#include <unistd.h>

enum { PATH_BYTES = 1400 };

const sp_pull_part *sp_pull_find_part(const sp_pull_known *known, const char *name)
{
    for (size_t i = 0; known && i < known->n_part; i++)
        if (strcmp(known->part[i].name, name) == 0)
            return &known->part[i];
    return NULL;
}

/* name "": the folder. */
static void path_of(char *out, size_t cap, const sp_pull *p, const char *name)
{
    snprintf(out, cap, "%s/%s.part%s%s", p->dir, p->known->file, *name ? "/" : "", name);
}

sp_err sp_pull_part_path(char *out, size_t cap, const sp_pull *p, const sp_pull_part *part,
                         sp_diag *d)
{
    path_of(out, cap, p, "");
    if (mkdir(out, 0755) != 0 && errno != EEXIST)
        return SP_FAIL(d, SP_IO, "%.150s: %s", out, strerror(errno));
    path_of(out, cap, p, part->name);
    return SP_OK;
}

static sp_err check(const char *path, const sp_pull_part *part, sp_diag *d)
{
    char hex[65];
    if (access(path, F_OK) != 0)
        return SP_FAIL(d, SP_NOTFOUND, "the package has no %.80s", part->name);
    SP_TRY(sp_fetch_digest(hex, path, d));
    if (strcasecmp(hex, part->sha256) != 0)
        return SP_FAIL(d, SP_CORRUPT, "%.80s: sha256 is %.16s…, %.16s… was promised", part->name,
                       hex, part->sha256);
    return SP_OK;
}

sp_err sp_pull_keep_folder(const sp_pull *p, sp_diag *d)
{
    char from[PATH_BYTES], to[PATH_BYTES];
    for (size_t i = 0; i < p->known->n_part; i++) {
        path_of(from, sizeof from, p, p->known->part[i].name);
        SP_TRY(check(from, &p->known->part[i], d));
    }
    path_of(from, sizeof from, p, "");
    snprintf(to, sizeof to, "%s/%s", p->dir, p->known->file);
    if (rename(from, to) != 0)
        return SP_FAIL(d, SP_IO, "%.150s: %s", to, strerror(errno));
    for (size_t i = 0; i < p->known->n_part; i++) {
        snprintf(to, sizeof to, "%s/%s/%s", p->dir, p->known->file, p->known->part[i].name);
        sp_pull_tell(p, to, p->known->part[i].sha256, true);
    }
    return SP_OK;
}

void sp_pull_drop_folder(const sp_pull *p)
{
    char path[PATH_BYTES];
    for (size_t i = 0; i < p->known->n_part; i++) {
        path_of(path, sizeof path, p, p->known->part[i].name);
        (void)unlink(path);
    }
    path_of(path, sizeof path, p, "");
    (void)rmdir(path);
}
