#include "cmd/serve_history.h"

#include "base/log.h"
#include "cmd/serve_services.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

/* Each folder of a path, as far as it is missing, for the user alone. */
static bool make_folders(char *path)
{
    for (char *p = path + 1; *p; p++) {
        if (*p != '/')
            continue;
        *p = 0;
        bool fine = mkdir(path, 0700) == 0 || errno == EEXIST;
        *p = '/';
        if (!fine)
            return false;
    }
    return true;
}

/* $XDG_STATE_HOME/sparing/NAME, or below ~/.local/state. false: there is no such place. */
static bool find_state(char out[SP_HISTORY_PATH_BYTES], const char *name)
{
    const char *state = getenv("XDG_STATE_HOME"), *home = getenv("HOME");
    int n = -1;
    if (state && state[0] == '/')
        n = snprintf(out, SP_HISTORY_PATH_BYTES, "%s/sparing/%s", state, name);
    else if (home && home[0] == '/')
        n = snprintf(out, SP_HISTORY_PATH_BYTES, "%s/.local/state/sparing/%s", home, name);
    return n > 0 && n < SP_HISTORY_PATH_BYTES && make_folders(out);
}

static int lock_beside(const char *path)
{
    char name[SP_HISTORY_PATH_BYTES + 8];
    snprintf(name, sizeof name, "%s.lock", path);
    int fd = open(name, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    if (fd >= 0 && flock(fd, LOCK_EX | LOCK_NB) == 0)
        return fd;
    if (fd >= 0)
        close(fd);
    return -1;
}

void sp_serve_history_find(sp_serve_history *out, const sp_opts *o, const char *feedback)
{
    const char *own = sp_opt_str(o, "history"), *given = own ? own : sp_opt_str(o, "state");
    *out = (sp_serve_history){.lock = -1};
    snprintf(out->feedback, sizeof out->feedback, "%s", feedback ? feedback : "");
    if (given) {
        snprintf(out->path, sizeof out->path, "%s", strcmp(given, "none") == 0 ? "" : given);
        return;
    }
    if (sp_opt_str(o, "keys") || !sp_serve_is_loopback(sp_opt_str(o, "host")) ||
        !find_state(out->path, "history.db")) {
        out->path[0] = 0;
        return;
    }
    out->is_default = true;
    out->lock = lock_beside(out->path);
    if (out->lock < 0) {
        sp_log(SP_LOG_WARN,
               "no conversations are kept: another server has %.200s, or it cannot be written; see "
               "--history",
               out->path);
        out->path[0] = 0;
        return;
    }
    if (!feedback && !find_state(out->feedback, "feedback.db"))
        out->feedback[0] = 0;
}

void sp_serve_history_fini(sp_serve_history *h)
{
    if (h->is_default && h->lock >= 0)
        close(h->lock);
    h->lock = -1;
}
