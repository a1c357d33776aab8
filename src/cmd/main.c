/* sparing: parse, dispatch, report. */
#include "cmd/cmd.h"

#include "base/nearest.h"
#include "cmd/manual.h"
#include "cmd/term.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

int sp_cmd_fail(int code, const sp_diag *d)
{
    bool color = sp_term_has_color(stderr);
    fprintf(stderr, "%serror:%s %s\n", color ? "\33[1;31m" : "", color ? "\33[0m" : "", d->msg);
    return code;
}

/* sparing.yaml here, else that of the user; NULL: there is none. */
static const char *default_file(char out[1024])
{
    const char *base = getenv("XDG_CONFIG_HOME"), *home = getenv("HOME");
    if (access("sparing.yaml", R_OK) == 0)
        return "sparing.yaml";
    int n = base && base[0] == '/'   ? snprintf(out, 1024, "%s/sparing/sparing.yaml", base)
            : home && home[0] == '/' ? snprintf(out, 1024, "%s/.config/sparing/sparing.yaml", home)
                                     : -1;
    return n > 0 && n < 1024 && access(out, R_OK) == 0 ? out : NULL;
}

static int print(sp_buf *out)
{
    bool ok = !out->failed && fputs(sp_buf_str(out), stdout) >= 0 && fflush(stdout) == 0;
    sp_buf_fini(out);
    return ok ? EXIT_DONE : EXIT_RUN;
}

/* `sparing` alone: what to do next. */
static int next_steps(void)
{
    sp_opts *o;
    sp_diag d = {0};
    sp_paths all = {0};
    char dir[1024], file[1024];
    char *const argv[] = {"models", NULL};
    bool some = false;
    if (sp_opts_parse(&o, sp_cmd_options, sp_cmd_option_count, C_MODELS, 1, argv, 0,
                      default_file(file), &d) != SP_OK)
        return sp_cmd_fail(EXIT_CONFIG, &d);
    if (sp_cmd_models_dir(dir, sizeof dir, o, &d) == SP_OK)
        some = sp_cmd_list_models(&all, dir, &d) == SP_OK && all.n > 0;
    if (some)
        printf("sparing %s. %zu model%s in %s.\n"
               "  sparing chat               talk in the terminal\n"
               "  sparing serve              the API and the chat page\n"
               "  sparing models             which models run here\n",
               SP_VERSION, all.n, all.n == 1 ? "" : "s", dir);
    else
        printf("sparing %s. No model yet.\n"
               "  sparing pull smollm2-135m  get a small model (98 MB)\n"
               "  sparing doctor             what this machine can run\n",
               SP_VERSION);
    printf("  sparing --help             all commands\n");
    sp_cmd_free_paths(&all);
    sp_opts_free(o);
    return EXIT_DONE;
}

/* For completions: names in the models folder, one a line. */
static int complete(const char *what)
{
    sp_opts *o;
    sp_diag d = {0};
    sp_paths all = {0};
    char dir[1024], name[128], file[1024];
    char *const argv[] = {"models", NULL};
    if (!what || strcmp(what, "models") != 0)
        return EXIT_USAGE;
    if (sp_opts_parse(&o, sp_cmd_options, sp_cmd_option_count, C_MODELS, 1, argv, 0,
                      default_file(file), &d) != SP_OK)
        return EXIT_CONFIG;
    if (sp_cmd_models_dir(dir, sizeof dir, o, &d) == SP_OK &&
        sp_cmd_list_models(&all, dir, &d) == SP_OK)
        for (size_t i = 0; i < all.n; i++) {
            sp_cmd_model_name(name, all.p[i]);
            puts(name);
        }
    sp_cmd_free_paths(&all);
    sp_opts_free(o);
    return EXIT_DONE;
}

static int print_what(const char *what)
{
    sp_buf out = {0};
    sp_diag d = {0};
    if (sp_manual_print(&out, what ? what : "") == SP_OK)
        return print(&out);
    sp_buf_fini(&out);
    (void)SP_FAIL(&d, SP_INVAL,
                  "--print takes man, man-COMMAND, man-sparing.yaml, yaml, reference, "
                  "completion-bash, completion-zsh or completion-fish");
    return sp_cmd_fail(EXIT_USAGE, &d);
}

static const sp_command *find(const char *name)
{
    const char *names[64];
    size_t n = 0;
    sp_diag d = {0};
    for (size_t i = 0; i < sp_cmd_command_count && n < 64; i++) {
        if (strcmp(sp_cmd_commands[i].name, name) == 0)
            return &sp_cmd_commands[i];
        names[n++] = sp_cmd_commands[i].name;
    }
    const char *meant = sp_nearest(name, names, n);
    (void)SP_FAIL(&d, SP_INVAL, "there is no command '%.60s'%s%s%s", name,
                  meant ? ". Did you mean " : "; see sparing --help", meant ? meant : "",
                  meant ? "?" : "");
    (void)sp_cmd_fail(EXIT_USAGE, &d);
    return NULL;
}

/* A file that is mapped was cut: the bytes that are asked for are nowhere. Only what may stand in a
 * signal handler. */
static void on_bus_error(int sig)
{
    static const char say[] =
        "error: a file that was being read was cut short; nothing more can be read from it\n";
    (void)sig;
    if (write(STDERR_FILENO, say, sizeof say - 1) < 0)
        _exit(EXIT_MODEL); /* the compiler wants the result looked at */
    _exit(EXIT_MODEL);
}

/* argv[0] is the command. is_dry: the arguments are read, and nothing is done. */
static int run(int argc, char **argv, bool is_dry)
{
    sp_opts *o;
    sp_diag d = {0};
    char file[1024];
    const sp_command *c = find(strcmp(argv[0], "--version") == 0 ? "version" : argv[0]);
    if (!c)
        return EXIT_USAGE;
    for (int i = 1; i < argc && strcmp(argv[i], "--") != 0; i++) {
        if (strcmp(argv[i], "--help") == 0 || strcmp(argv[i], "-h") == 0) {
            sp_buf out = {0};
            sp_manual_help(&out, c, sp_term_width(stdout));
            return print(&out);
        }
    }
    sp_err err = sp_opts_parse(&o, sp_cmd_options, sp_cmd_option_count, c->bit, argc, argv,
                               c->max_rest, default_file(file), &d);
    if (err != SP_OK)
        return sp_cmd_fail(err == SP_INVAL ? EXIT_USAGE : EXIT_CONFIG, &d);
    int code = EXIT_DONE;
    if (sp_term_choose_color(sp_opt_str(o, "color"), &d) != SP_OK)
        code = sp_cmd_fail(EXIT_RUN, &d);
    else if (!is_dry)
        code = c->run(o);
    sp_opts_free(o);
    return code;
}

int main(int argc, char **argv)
{
    signal(SIGPIPE, SIG_IGN);
    signal(SIGBUS, on_bus_error);
    if (argc < 2)
        return next_steps();
    if (strcmp(argv[1], "--help") == 0 || strcmp(argv[1], "-h") == 0 ||
        strcmp(argv[1], "help") == 0) {
        sp_buf out = {0};
        sp_manual_usage(&out, sp_term_width(stdout));
        return print(&out);
    }
    if (strcmp(argv[1], "--print") == 0)
        return print_what(argv[2]);
    if (strcmp(argv[1], "--complete") == 0)
        return complete(argv[2]);
    if (strcmp(argv[1], "--parse") == 0 && argc > 2) /* tests of documented lines */
        return run(argc - 2, argv + 2, true);
    return run(argc - 1, argv + 1, false);
}
