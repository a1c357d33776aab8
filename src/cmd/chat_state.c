/* Conversations of `sparing chat` that are kept: JSON files of $XDG_STATE_HOME/sparing. */
#include "cmd/chat.h"

#include "base/file.h"

#include <errno.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

enum { FORMAT = 1, MAX_SAVED = 64 << 20 };

/* Makes each folder of a path that is not there. */
static sp_err make_folders(const char *path, sp_diag *d)
{
    char part[1024];
    snprintf(part, sizeof part, "%s", path);
    for (char *p = part + 1; (p = strchr(p, '/')); *p++ = '/') {
        *p = 0;
        if (mkdir(part, 0700) != 0 && errno != EEXIST)
            return SP_FAIL(d, SP_IO, "%.120s: %s", part, strerror(errno));
    }
    return SP_OK;
}

sp_err sp_repl_state_path(char *out, size_t cap, const char *name, sp_diag *d)
{
    const char *base = getenv("XDG_STATE_HOME"), *home = getenv("HOME");
    int n;
    if (base && base[0] == '/')
        n = snprintf(out, cap, "%s/sparing/%s", base, name);
    else if (home && home[0] == '/')
        n = snprintf(out, cap, "%s/.local/state/sparing/%s", home, name);
    else
        return SP_FAIL(d, SP_NOTFOUND, "neither XDG_STATE_HOME nor HOME is set");
    if (n < 0 || (size_t)n >= cap || n >= 1024)
        return SP_FAIL(d, SP_LIMIT, "the path of the state folder is too long");
    return make_folders(out, d);
}

static sp_err path_of(char *out, size_t cap, const char *name, sp_diag *d)
{
    char file[160];
    size_t n = strspn(name, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_.");
    if (n == 0 || name[n] || n > 100 || name[0] == '.')
        return SP_FAIL(d, SP_INVAL, "a name has 1 to 100 letters, digits, `-`, `_` and `.`");
    snprintf(file, sizeof file, "chats/%s.json", name);
    return sp_repl_state_path(out, cap, file, d);
}

sp_err sp_repl_save(const sp_talk *t, const char *name, sp_diag *d)
{
    char path[1024];
    sp_buf out = {0};
    SP_TRY(path_of(path, sizeof path, name, d));
    sp_buf_printf(&out, "{\"sparing_chat\":%d,\"messages\":[", FORMAT);
    for (size_t i = 0; i < t->n_msg; i++) {
        sp_buf_puts(&out, i ? ",\n{\"role\":" : "\n{\"role\":");
        sp_buf_json_str(&out, t->msg[i].role.p, t->msg[i].role.n);
        sp_buf_puts(&out, ",\"content\":");
        sp_buf_json_str(&out, t->owned[i], t->msg[i].content.n);
        sp_buf_putc(&out, '}');
    }
    sp_buf_puts(&out, "]}\n");
    mode_t before = umask(0077);
    sp_err err = out.failed ? SP_FAIL(d, SP_NOMEM, "conversation")
                            : sp_file_replace(path, out.p, out.len, d);
    umask(before);
    sp_buf_fini(&out);
    return err;
}

static sp_err take_messages(sp_talk *t, const json_t *list, const char *path, sp_diag *d)
{
    static const char *const roles[] = {"system", "user", "assistant"};
    size_t n = json_array_size(list);
    if (!json_is_array(list) || n > SP_TALK_TURNS)
        return SP_FAIL(d, SP_FORMAT, "%.120s: no list of at most %d messages", path, SP_TALK_TURNS);
    for (size_t i = 0; i < n; i++) {
        const json_t *m = json_array_get(list, i), *text = json_object_get(m, "content");
        const char *role = json_string_value(json_object_get(m, "role"));
        size_t k = 0;
        while (k < 3 && !(role && strcmp(role, roles[k]) == 0))
            k++;
        if (k == 3 || (k == 0 && i > 0) || !json_is_string(text))
            return SP_FAIL(d, SP_FORMAT, "%.120s: message %zu is none", path, i + 1);
        SP_TRY(sp_talk_say(t, roles[k], json_string_value(text), json_string_length(text), d));
    }
    return SP_OK;
}

/* The messages are read behind those that are there, which go only when all of them are good. */
sp_err sp_repl_load(sp_talk *t, const char *name, sp_diag *d)
{
    char path[1024];
    sp_buf in = {0};
    json_error_t why;
    SP_TRY(path_of(path, sizeof path, name, d));
    sp_err err = sp_file_read(&in, path, MAX_SAVED, d);
    if (err == SP_NOTFOUND)
        return SP_FAIL(d, err, "there is no conversation %.100s; /save NAME keeps this one", name);
    json_t *all = err == SP_OK ? json_loadb(sp_buf_str(&in), in.len, 0, &why) : NULL;
    if (err == SP_OK && !all)
        err = SP_FAIL(d, SP_FORMAT, "%.120s:%d: %.60s", path, why.line, why.text);
    const json_t *format = json_object_get(all, "sparing_chat");
    if (err == SP_OK && json_integer_value(format) != FORMAT)
        err = SP_FAIL(d, SP_UNSUP, "%.120s: is no conversation of this version", path);
    if (err == SP_OK) {
        size_t before = t->n_msg;
        sp_talk was = *t;
        t->n_msg = 0;
        err = take_messages(t, json_object_get(all, "messages"), path, d);
        if (err == SP_OK) {
            was.n_msg = before;
            sp_talk_keep(&was, 0);
        } else {
            sp_talk_keep(t, 0);
            memcpy(t->msg, was.msg, before * sizeof t->msg[0]);
            memcpy(t->owned, was.owned, before * sizeof t->owned[0]);
            t->n_msg = before;
        }
    }
    json_decref(all);
    sp_buf_fini(&in);
    return err;
}
