/* sparing experiment: which experiments a file has (list), what is known of them (status), what
 * variants do with the same prompts, side by side (run), and which are over (stop, resume). */
#include "cmd/cmd.h"

#include "base/mem.h"
#include "cmd/paired.h"
#include "pipe/feedback.h"
#include "pipe/feedback_int.h"

#include <jansson.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#define ALPHA 0.05

static const char *text_of(const json_t *j, const char *key)
{
    const char *s = json_string_value(json_object_get(j, key));
    return s ? s : "";
}

static void print_value(const json_t *m, const char *name)
{
    const json_t *value = json_object_get(m, name), *low = json_object_get(m, "low"),
                 *high = json_object_get(m, "high");
    if (!json_is_number(value))
        printf("no samples");
    else if (!json_is_number(low) || !json_is_number(high))
        printf("%.4g, too few samples for an interval", json_number_value(value));
    else
        printf("%.4g (%.4g to %.4g)", json_number_value(value), json_number_value(low),
               json_number_value(high));
}

static void print_variant(const json_t *v, bool control)
{
    const char *name;
    json_t *m, *metrics = json_object_get(v, "metrics");
    printf("  %s%s: %lld conversations\n", text_of(v, "name"), control ? " (control)" : "",
           (long long)json_integer_value(json_object_get(v, "conversations")));
    json_object_foreach (metrics, name, m) {
        const json_t *against = json_object_get(m, "against_control");
        if (json_integer_value(json_object_get(m, "n")) == 0)
            continue;
        printf("    %-16s ", name);
        print_value(m, "mean");
        if (against) {
            printf("; against the control ");
            print_value(against, "difference");
            printf(json_is_true(json_object_get(against, "decided")) ? ": decided"
                                                                     : ": not decided");
            if (json_is_true(json_object_get(against, "holds_among_all")))
                printf(", and holds among all");
            const json_t *adjusted = json_object_get(against, "adjusted");
            if (adjusted) {
                fputs("; for questions as difficult ", stdout);
                print_value(adjusted, "difference");
                fputs(json_is_true(json_object_get(adjusted, "decided")) ? ": decided"
                                                                         : ": not decided",
                      stdout);
            }
        }
        puts("");
    }
}

static void print_interleaved(const json_t *e)
{
    const json_t *is = json_object_get(e, "interleaved");
    printf("  %s and %s, interleaved: %lld conversations; of %lld that used passages, %s was "
           "preferred in ",
           text_of(is, "first"), text_of(is, "second"),
           (long long)json_integer_value(json_object_get(is, "conversations")),
           (long long)json_integer_value(json_object_get(is, "n")), text_of(is, "second"));
    print_value(is, "second_preferred");
    puts(json_is_true(json_object_get(is, "decided")) ? ": decided" : ": not decided");
}

/* Shares of an experiment that adapts, and what is proven. */
static void print_adapting(const json_t *e)
{
    const json_t *adapt = json_object_get(e, "adapt"), *list = json_object_get(adapt, "epochs"),
                 *now = json_array_get(list, json_array_size(list) - 1), *v;
    size_t i;
    if (!now)
        return;
    printf("  adapts, epoch %lld; a new conversation gets",
           (long long)json_integer_value(json_object_get(now, "epoch")));
    json_array_foreach (json_object_get(e, "variants"), i, v) {
        const json_t *mean = json_array_get(json_object_get(now, "means"), i);
        printf("%s %s with %.0f %%", i ? "," : "", text_of(v, "name"),
               100 * json_number_value(json_array_get(json_object_get(now, "shares"), i)));
        if (json_is_number(mean))
            printf(" (estimate %.3g)", json_number_value(mean));
    }
    if (json_is_true(json_object_get(adapt, "decided")))
        printf("; %s is proven to be the best\n", text_of(now, "best"));
    else
        printf("; evidence %.1f of %.1f\n", json_number_value(json_object_get(now, "log_evidence")),
               json_number_value(json_object_get(adapt, "needed")));
}

static void print_report(const json_t *report)
{
    size_t i, k;
    json_t *e, *v;
    json_array_foreach (json_object_get(report, "experiments"), i, e) {
        printf("%s%s%s%s\n", text_of(e, "name"),
               json_is_string(json_object_get(e, "metric")) ? ", decided by " : "",
               text_of(e, "metric"),
               json_is_true(json_object_get(e, "stopped")) ? ", stopped" : "");
        if (json_is_true(json_object_get(e, "assignment_broken")))
            puts("  WARNING: conversations are not shared out as the file says; what is below "
                 "means nothing until it is known why");
        if (json_object_get(e, "interleaved"))
            print_interleaved(e);
        print_adapting(e);
        json_array_foreach (json_object_get(e, "variants"), k, v)
            print_variant(v, k == 0);
    }
}

/* The database of --feedback, and which experiments are stopped there. What is not there is not
 * made. */
static sp_err open_feedback(sp_db **out, const sp_opts *o, sp_experiments *x, sp_diag *d)
{
    const char *path = sp_opt_str(o, "feedback"), *const *name;
    sp_arena a;
    size_t n;
    if (!sp_db_is_url(path) && access(path, R_OK) != 0)
        return SP_FAIL(d, SP_NOTFOUND, "%.120s: it cannot be read", path);
    SP_TRY(sp_fdb_open(out, path, d));
    sp_arena_init(&a, 0);
    sp_err err = sp_fdb_stopped(*out, &a, &name, &n, d);
    if (err == SP_OK)
        sp_experiments_stop(x, name, n);
    sp_arena_fini(&a);
    return err;
}

/* Where feedback is: an exit code, EXIT_DONE if the option is there. */
static int need_feedback(const sp_opts *o, const char *what)
{
    sp_diag d = {0};
    if (sp_opt_str(o, "feedback"))
        return EXIT_DONE;
    (void)SP_FAIL(&d, SP_INVAL,
                  "experiment %s: --feedback says where answers are noted, as the server was told",
                  what);
    return sp_cmd_fail(EXIT_USAGE, &d);
}

static int status(const sp_opts *o, sp_experiments *x)
{
    sp_diag d = {0};
    sp_buf out = {0};
    sp_db *db = NULL;
    int code = need_feedback(o, "status");
    if (code != EXIT_DONE)
        return code;
    sp_err err = open_feedback(&db, o, x, &d);
    if (err == SP_OK)
        err = sp_feedback_report(db, x, ALPHA, &out, &d);
    json_t *report = err == SP_OK ? json_loads(sp_buf_str(&out), 0, NULL) : NULL;
    if (err == SP_OK && sp_opt_flag(o, "json"))
        puts(sp_buf_str(&out));
    else if (report)
        print_report(report);
    json_decref(report);
    sp_buf_fini(&out);
    sp_db_close(db);
    return err == SP_OK ? EXIT_DONE : sp_cmd_fail(EXIT_STORE, &d);
}

/* With --feedback also which are stopped. */
static int list(const sp_opts *o, sp_experiments *x)
{
    sp_diag d = {0};
    sp_db *db = NULL;
    sp_err err = sp_opt_str(o, "feedback") ? open_feedback(&db, o, x, &d) : SP_OK;
    sp_db_close(db);
    if (err != SP_OK)
        return sp_cmd_fail(EXIT_STORE, &d);
    for (size_t i = 0; i < x->n; i++) {
        const sp_experiment *e = &x->experiment[i];
        printf("%s: %.0f %% of conversations%s%s", e->name, 100 * (e->share ? *e->share : 1),
               e->group ? " in group " : "", e->group ? e->group : "");
        for (size_t k = 0; k < e->n_variant; k++)
            printf("%s %s", k ? "," : ";", e->variant[k].name);
        fputs(e->interleave ? ", interleaved" : e->adapt ? ", adapting" : "", stdout);
        puts(sp_experiments_is_stopped(x, e) ? "; stopped" : "");
    }
    return EXIT_DONE;
}

static const sp_experiment *named(const sp_experiments *x, const char *name)
{
    for (size_t i = 0; i < x->n; i++)
        if (strcmp(x->experiment[i].name, name) == 0)
            return &x->experiment[i];
    return NULL;
}

/* It is over, or goes on. Servers look every two seconds. */
static int halt(const sp_opts *o, sp_experiments *x, const char *name, bool stop)
{
    sp_diag d = {0};
    sp_db *db = NULL;
    const char *what = stop ? "stop" : "resume";
    int code = need_feedback(o, what);
    if (code != EXIT_DONE)
        return code;
    if (!named(x, name)) {
        (void)SP_FAIL(&d, SP_INVAL, "experiment %s: there is no experiment %.60s", what, name);
        return sp_cmd_fail(EXIT_USAGE, &d);
    }
    sp_err err = open_feedback(&db, o, x, &d);
    if (err == SP_OK)
        err = sp_fdb_stop(db, name, stop, &d);
    sp_db_close(db);
    if (err != SP_OK)
        return sp_cmd_fail(EXIT_STORE, &d);
    printf("%s %s; running servers follow within seconds\n", name, stop ? "is stopped" : "goes on");
    return EXIT_DONE;
}

/* The one that --name means, or the only one. */
static const sp_experiment *find(const sp_experiments *x, const char *name, sp_diag *d)
{
    const sp_experiment *e = name ? named(x, name) : x->n == 1 ? &x->experiment[0] : NULL;
    if (e)
        return e;
    (void)SP_FAIL(d, SP_INVAL,
                  name ? "there is no experiment %.60s"
                       : "the file has several experiments, or none; --name says which",
                  name);
    return NULL;
}

static int run(const sp_opts *o, const sp_experiments *x, const char *path)
{
    sp_diag d = {0};
    const sp_experiment *e = find(x, sp_opt_str(o, "name"), &d);
    if (!e)
        return sp_cmd_fail(EXIT_USAGE, &d);
    return sp_cmd_paired(o, e, path);
}

int sp_cmd_experiment(const sp_opts *o)
{
    sp_diag d = {0};
    sp_experiments *x = NULL;
    const char *const *rest, *path = sp_opt_str(o, "experiments");
    size_t n = sp_opts_rest(o, &rest);
    const char *what = n ? rest[0] : "";
    bool runs = n == 2 && strcmp(what, "run") == 0, lists = n == 1 && strcmp(what, "list") == 0,
         stops = n == 2 && strcmp(what, "stop") == 0,
         resumes = n == 2 && strcmp(what, "resume") == 0;
    if (!runs && !lists && !stops && !resumes && !(n == 1 && strcmp(what, "status") == 0)) {
        fprintf(stderr,
                "sparing: experiment: say list, status, run FILE, stop NAME or resume NAME\n");
        return EXIT_USAGE;
    }
    if (sp_experiments_load(&x, path ? path : "experiments.yaml", &d) != SP_OK)
        return sp_cmd_fail(EXIT_CONFIG, &d);
    int code = runs               ? run(o, x, rest[1])
               : lists            ? list(o, x)
               : stops || resumes ? halt(o, x, rest[1], stops)
                                  : status(o, x);
    sp_experiments_free(x);
    return code;
}
