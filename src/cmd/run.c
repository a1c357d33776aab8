/* sparing run: one question, one answer. The question may have text from stdin and files behind
 * it. */
#include "cmd/talk.h"

#include "base/file.h"
#include "base/mem.h"
#include "cmd/term.h"

#include <stdio.h>
#include <string.h>
#include <unistd.h>

static sp_err add_stdin(sp_buf *question, sp_diag *d)
{
    sp_buf text = {0};
    sp_err err = sp_file_read(&text, "-", SP_TALK_INPUT - question->len, d);
    if (err == SP_OK && text.len)
        sp_buf_printf(question, "%s", question->len ? "\n\n" : "");
    sp_buf_put(question, sp_buf_str(&text), text.len);
    sp_buf_fini(&text);
    return err;
}

static sp_err add_files(sp_buf *question, const char *list, sp_diag *d)
{
    char *all = sp_mem_strdup(list), *save = NULL;
    sp_err err = all ? SP_OK : SP_FAIL(d, SP_NOMEM, "files");
    for (char *p = all ? strtok_r(all, ",", &save) : NULL; p && err == SP_OK;
         p = strtok_r(NULL, ",", &save))
        err = sp_talk_add_file(question, p, d);
    sp_mem_free(all);
    return err;
}

/* The argument, then stdin where it is no terminal, then the files. */
static sp_err read_question(sp_buf *question, const sp_opts *o, sp_diag *d)
{
    const char *const *rest, *files = sp_opt_str(o, "file");
    bool given = sp_opts_rest(o, &rest) > 0;
    if (given && strlen(rest[0]) > SP_TALK_INPUT)
        return SP_FAIL(d, SP_LIMIT, "the question is longer than 16 MiB");
    if (given)
        sp_buf_puts(question, rest[0]);
    if (!isatty(STDIN_FILENO))
        SP_TRY(add_stdin(question, d));
    if (question->len == 0)
        return SP_FAIL(d, SP_INVAL, "there is no question: give it as an argument or on stdin");
    if (files)
        SP_TRY(add_files(question, files, d));
    return question->failed ? SP_FAIL(d, SP_NOMEM, "question") : SP_OK;
}

static void put_json(const sp_talk_answer *a)
{
    sp_buf out = {0};
    sp_buf_puts(&out, "{\"text\":");
    sp_buf_json_str(&out, sp_buf_str(&a->text), a->text.len);
    sp_buf_printf(&out, ",\"finish_reason\":\"%s\"", sp_talk_finish_name(a->finish));
    if (a->looked)
        sp_buf_printf(&out, ",\"sources\":[%s]", sp_buf_str(&a->sources));
    sp_buf_printf(&out, ",\"usage\":{\"prompt_tokens\":%zu,\"completion_tokens\":%zu}",
                  a->usage.n_prompt, a->usage.n_out);
    sp_buf_puts(&out, ",\"receipt\":");
    sp_receipt_write(&a->receipt, &out);
    printf("%s}\n", sp_buf_str(&out));
    sp_buf_fini(&out);
}

/* What a reader at a terminal wants to know behind the answer. */
static void put_summary(const sp_talk *t, const sp_talk_answer *a)
{
    if (t->quiet)
        return;
    sp_talk_put_places(a);
    if (!sp_term_is(stderr))
        return;
    bool color = sp_term_has_color(stderr);
    const sp_receipt *r = &a->receipt;
    fprintf(stderr, "%s%.1f s, %.0f tokens/s", color ? "\33[2m" : "", a->ms / 1000,
            r->ms_decode > 0 ? (double)r->tok_out / r->ms_decode * 1000 : 0);
    if (r->flops_dense > 0 && r->flops_spent < r->flops_dense)
        fprintf(stderr, ", %.0f %% less computing than usual",
                100 * (1 - r->flops_spent / r->flops_dense));
    fprintf(stderr, "%s\n", color ? "\33[0m" : "");
}

/* With --json an error is JSON, too; there is nothing else on stderr then. */
static int fail(const sp_opts *o, int code, const sp_diag *d)
{
    if (!sp_opt_flag(o, "json"))
        return sp_cmd_fail(code, d);
    sp_buf out = {0};
    sp_buf_printf(&out, "{\"error\":{\"code\":\"%s\",\"message\":", sp_err_name(d->code));
    sp_buf_json_str(&out, d->msg, strlen(d->msg));
    fprintf(stderr, "%s}}\n", sp_buf_str(&out));
    sp_buf_fini(&out);
    return code;
}

static int answer(sp_talk *t, const sp_opts *o, const sp_buf *question)
{
    sp_diag d = {0};
    sp_talk_answer a = {0};
    const char *system = sp_opt_str(o, "system"), *where = sp_opt_str(o, "retrieve");
    bool json = sp_opt_flag(o, "json");
    if (where && sp_talk_look(t, where, &d) != SP_OK)
        return fail(o, d.code == SP_NOTFOUND ? EXIT_RUN : EXIT_STORE, &d);
    sp_talk_catch_interrupt();
    sp_err err = sp_talk_set_system(t, system ? system : "", &d);
    if (err == SP_OK)
        err = sp_talk_say(t, "user", question->p, question->len, &d);
    if (err == SP_OK)
        err = sp_talk_answer_last(t, &a, !json, &d);
    if (err == SP_OK && json)
        put_json(&a);
    else if (err == SP_OK)
        puts("");
    if (err == SP_OK && !json)
        put_summary(t, &a);
    sp_talk_done(&a);
    if (err != SP_OK)
        return fail(o, EXIT_RUN, &d);
    return sp_talk_was_interrupted() ? EXIT_INTERRUPT : EXIT_DONE;
}

int sp_cmd_run(const sp_opts *o)
{
    sp_diag d = {0};
    sp_buf question = {0};
    int code = EXIT_DONE;
    sp_err err = read_question(&question, o, &d);
    sp_talk *t = err == SP_OK ? sp_mem_alloc(sizeof *t) : NULL;
    if (err != SP_OK)
        code = fail(o, err == SP_INVAL ? EXIT_USAGE : EXIT_RUN, &d);
    else if (!t || sp_talk_open(t, o, NULL, &d) != SP_OK)
        code = fail(o, EXIT_MODEL, &d);
    else
        code = answer(t, o, &question);
    if (t)
        sp_talk_close(t);
    sp_buf_fini(&question);
    return code;
}
