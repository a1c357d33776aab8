/* `sparing prompt lint`: free text to parts, and the token bill of both. */
#include "cmd/cmd.h"

#include "api/structured.h"
#include "base/file.h"
#include "pipe/lint.h"

#include <stdio.h>
#include <string.h>

enum { MAX_INPUT_BYTES = 64 << 20 };

/* Tokens of a prompt; of them, those computed again when the context is another one and whole pages
 * before it are cached. */
typedef struct bill {
    size_t all, again;
} bill;

static sp_err count(bill *out, const sp_loaded *l, sp_str message, sp_str context, sp_diag *d)
{
    sp_context ctx;
    size_t first = 0, end = 0;
    const sp_chat_msg msg = sp_chat_say("user", message.p, message.n);
    SP_TRY(l->chat ? sp_prompt_chat(&ctx, l->tok, l->chat, &msg, 1, 0, d)
                   : sp_prompt_text(&ctx, l->tok, message.p, message.n, 0, d));
    size_t n_line = 0; /* the first line of the context: lint joins what lay apart */
    while (n_line < context.n && context.p[n_line] != '\n' && n_line < 60)
        n_line++;
    bool found =
        n_line && sp_prompt_find(&first, &end, &ctx, l->tok, 0, context.p, n_line) == SP_OK;
    *out = (bill){ctx.prompt.n,
                  ctx.prompt.n - (found ? first : ctx.prompt.n - 1) / SP_PAGE_TOK * SP_PAGE_TOK};
    sp_context_fini(&ctx);
    return SP_OK;
}

static sp_err lint(sp_buf *out, bill bills[2], const sp_loaded *l, const sp_buf *in, sp_diag *d)
{
    sp_buf part[SP_PARTS] = {{0}};
    sp_structured s = {0};
    sp_err err = sp_lint(part, sp_buf_str(in), in->len, d);
    if (err == SP_OK) {
        sp_lint_write(out, part);
        err = out->failed ? SP_FAIL(d, SP_NOMEM, "prompt")
                          : sp_structured_text(&s, sp_buf_str(out), out->len, d);
    }
    sp_str context = {part[SP_PART_CONTEXT].p, part[SP_PART_CONTEXT].len};
    if (err == SP_OK)
        err = count(&bills[0], l, (sp_str){in->p, in->len}, context, d);
    if (err == SP_OK)
        err = count(&bills[1], l, (sp_str){s.message.p, s.message.len}, context, d);
    sp_structured_fini(&s);
    for (size_t i = 0; i < SP_PARTS; i++)
        sp_buf_fini(&part[i]);
    return err;
}

int sp_cmd_prompt(const sp_opts *o)
{
    sp_diag d = {0};
    sp_loaded l = {0};
    sp_buf in = {0}, out = {0};
    bill bills[2];
    const char *const *rest;
    size_t n_rest = sp_opts_rest(o, &rest);
    const char *file = n_rest > 1 ? rest[1] : "-";
    char path[1024];
    int code = EXIT_DONE;
    if (n_rest == 0 || strcmp(rest[0], "lint") != 0) {
        (void)SP_FAIL(&d, SP_INVAL, "prompt: the action is lint, with a FILE or stdin");
        return sp_cmd_fail(EXIT_USAGE, &d);
    }
    if (sp_cmd_model_path(path, sizeof path, o, &d) != SP_OK ||
        sp_gguf_open(&l.gguf, path, &d) != SP_OK || sp_tok_open(&l.tok, l.gguf, &d) != SP_OK)
        code = sp_cmd_fail(EXIT_MODEL, &d);
    sp_err err = code == EXIT_DONE ? sp_chat_open(&l.chat, l.gguf, &d) : SP_OK;
    if (err != SP_OK && err != SP_NOTFOUND)
        code = sp_cmd_fail(EXIT_MODEL, &d);
    if (code == EXIT_DONE && (sp_file_read(&in, file, MAX_INPUT_BYTES, &d) != SP_OK ||
                              lint(&out, bills, &l, &in, &d) != SP_OK))
        code = sp_cmd_fail(EXIT_RUN, &d);
    if (code == EXIT_DONE && sp_opt_flag(o, "json")) {
        sp_buf json = {0};
        sp_buf_json_str(&json, sp_buf_str(&out), out.len);
        printf("{\"prompt\":%s,\"free\":{\"tokens\":%zu,\"next\":%zu},\"structured\":{\"tokens\":%"
               "zu,\"next\":%zu}}\n",
               sp_buf_str(&json), bills[0].all, bills[0].again, bills[1].all, bills[1].again);
        sp_buf_fini(&json);
    } else if (code == EXIT_DONE) {
        printf("%s", sp_buf_str(&out));
        fprintf(stderr, "%-12s %8s   %s\n%-12s %8zu   %zu\n%-12s %8zu   %zu\n", "", "tokens",
                "computed again for another context", "free text", bills[0].all, bills[0].again,
                "structured", bills[1].all, bills[1].again);
    }
    sp_chat_close(l.chat);
    sp_tok_close(l.tok);
    sp_gguf_close(l.gguf);
    sp_buf_fini(&in);
    sp_buf_fini(&out);
    return code;
}
