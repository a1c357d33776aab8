/* sparing feedback export: what was given, as lines of JSON on stdout, or to a collector of
 * OpenTelemetry, which gets what it has not had yet. */
#include "cmd/cmd.h"

#include "net/otlp_post.h"
#include "pipe/feedback_db.h"
#include "pipe/feedback_export.h"

#include <curl/curl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

enum { BATCH = 256, URL = 1024 };

static sp_err write_lines(sp_db *db, const sp_export_cfg *cfg, int64_t last, sp_diag *d)
{
    sp_err err = SP_OK;
    for (size_t n = BATCH; n == BATCH && err == SP_OK;) {
        sp_buf out = {0};
        err = sp_feedback_export(&out, &n, &last, db, cfg, BATCH, d);
        if (err == SP_OK && fwrite(sp_buf_str(&out), 1, out.len, stdout) != out.len)
            err = SP_FAIL(d, SP_IO, "feedback export: stdout cannot be written");
        sp_buf_fini(&out);
    }
    return err;
}

/* A batch that the collector took is noted before the next one goes, so a run that is broken off
 * sends one batch twice at most. */
static sp_err send_batches(sp_db *db, const sp_export_cfg *cfg, const char *base, sp_diag *d)
{
    char url[URL];
    int64_t last, refused, all_refused = 0;
    size_t all = 0, n_base = strlen(base);
    while (n_base && base[n_base - 1] == '/')
        n_base--;
    if ((size_t)snprintf(url, sizeof url, "%.*s/v1/logs", (int)n_base, base) >= sizeof url)
        return SP_FAIL(d, SP_INVAL, "otlp: the URL is too long");
    SP_TRY(sp_feedback_exported(&last, db, url, d));
    sp_err err = SP_OK;
    for (size_t n = BATCH; n == BATCH && err == SP_OK;) {
        sp_buf out = {0};
        err = sp_feedback_export(&out, &n, &last, db, cfg, BATCH, d);
        if (err == SP_OK && n) {
            err = sp_otlp_post(url, &out, &refused, d);
            if (err == SP_OK)
                err = sp_feedback_export_done(db, url, last, d);
            all += err == SP_OK ? n : 0;
            all_refused += err == SP_OK ? refused : 0;
        }
        sp_buf_fini(&out);
    }
    printf("%zu sent, %lld of them refused by the collector\n", all, (long long)all_refused);
    return err;
}

static int exit_of(sp_err err)
{
    return err == SP_INVAL ? EXIT_USAGE : err == SP_NET || err == SP_NOMEM ? EXIT_RUN : EXIT_STORE;
}

int sp_cmd_feedback(const sp_opts *o)
{
    sp_diag d = {0};
    sp_db *db = NULL;
    const char *const *rest, *path = sp_opt_str(o, "feedback"), *url = sp_opt_str(o, "otlp");
    const sp_export_cfg cfg = {.otlp = url != NULL, .text = sp_opt_str(o, "text-of")};
    sp_err err = SP_OK;
    if (sp_opts_rest(o, &rest) != 1 || strcmp(rest[0], "export") != 0)
        err = SP_FAIL(&d, SP_INVAL, "feedback: say export");
    else if (!path)
        err = SP_FAIL(&d, SP_INVAL,
                      "feedback export: --feedback says where answers are noted, as the server was "
                      "told");
    else if (!sp_db_is_url(path) && access(path, R_OK) != 0)
        err = SP_FAIL(&d, SP_NOTFOUND, "feedback: %.120s: it cannot be read", path);
    else
        err = sp_fdb_open(&db, path, &d);
    if (err == SP_OK && url) {
        err = curl_global_init(CURL_GLOBAL_DEFAULT) == 0 ? send_batches(db, &cfg, url, &d)
                                                         : SP_FAIL(&d, SP_NOMEM, "otlp");
        curl_global_cleanup();
    } else if (err == SP_OK) {
        err = write_lines(db, &cfg, sp_opt_int(o, "after"), &d);
    }
    sp_db_close(db);
    return err == SP_OK ? EXIT_DONE : sp_cmd_fail(exit_of(err), &d);
}
