/* Random answers with reference marks, for tests of whoever expands them. refer FILE.gguf COUNT:
 * one JSON object a line, with the messages' texts, the answer, a stream's deltas, the whole answer
 * with its marks, and the readable form. */
#include "refer_case.h"

#include "base/mem.h"

#include <stdio.h>
#include <stdlib.h>

typedef struct form {
    sp_buf text, deltas, marks;
} form;

static void on_text(void *arg, sp_str text, const char *how)
{
    form *f = arg;
    (void)how;
    sp_buf_put(&f->text, text.p, text.n);
    sp_buf_puts(&f->deltas, f->deltas.len ? ",{\"content\":" : "{\"content\":");
    sp_buf_json_str(&f->deltas, text.p, text.n);
    sp_buf_putc(&f->deltas, '}');
}

static void on_mark(void *arg, const sp_reference *ref)
{
    form *f = arg;
    sp_buf_puts(&f->marks, f->marks.len ? "," : "");
    sp_refer_write(&f->marks, ref, true);
    sp_buf_puts(&f->deltas, f->deltas.len ? ",{\"content\":\"\",\"references\":["
                                          : "{\"content\":\"\",\"references\":[");
    sp_refer_write(&f->deltas, ref, false);
    sp_buf_puts(&f->deltas, "]}");
}

static sp_err run(form *f, refer_case *c, const sp_tok *tok, bool readable, bool stream)
{
    sp_refer *r;
    *f = (form){0};
    SP_TRY(sp_refer_new(&r, &(sp_refer_cfg){.source = c->list,
                                            .n_source = c->n_source,
                                            .tok = tok,
                                            .most = stream ? SP_REFER_SPAN : 0,
                                            .readable = readable,
                                            .text = on_text,
                                            .mark = on_mark,
                                            .arg = f}));
    sp_err err = refer_feed(c, r, stream ? 12 : SIZE_MAX / 2);
    sp_refer_free(r);
    return err;
}

static void put(const char *name, const sp_buf *text)
{
    sp_buf json = {0};
    sp_buf_json_str(&json, sp_buf_str(text), text->len);
    printf(",\"%s\":%s", name, sp_buf_str(&json));
    sp_buf_fini(&json);
}

static sp_err print_case(uint64_t seed, const sp_tok *tok)
{
    refer_case c;
    form stream, whole, readable;
    refer_make(&c, seed);
    SP_TRY(run(&stream, &c, tok, false, true));
    SP_TRY(run(&whole, &c, tok, false, false));
    SP_TRY(run(&readable, &c, tok, true, seed % 2));
    printf("{\"sources\":[");
    for (size_t i = 0; i < c.n_source; i++) {
        sp_buf json = {0};
        sp_buf_json_str(&json, c.list[i].p, c.list[i].n);
        printf("%s%s", i ? "," : "", json.p);
        sp_buf_fini(&json);
    }
    printf("]");
    put("answer", &c.answer);
    printf(",\"deltas\":[%s]", sp_buf_str(&stream.deltas));
    put("content", &whole.text);
    printf(",\"references\":[%s]", sp_buf_str(&whole.marks));
    put("readable", &readable.text);
    printf("}\n");
    form *const all[] = {&stream, &whole, &readable};
    for (size_t i = 0; i < 3; i++) {
        sp_buf_fini(&all[i]->text);
        sp_buf_fini(&all[i]->deltas);
        sp_buf_fini(&all[i]->marks);
    }
    refer_fini(&c);
    return SP_OK;
}

int main(int argc, char **argv)
{
    sp_gguf *g;
    sp_tok *tok;
    if (argc < 3 || sp_gguf_open(&g, argv[1], NULL) != SP_OK || sp_tok_open(&tok, g, NULL) != SP_OK)
        return 2;
    for (unsigned long i = 0, n = strtoul(argv[2], NULL, 10); i < n; i++)
        if (print_case(i, tok) != SP_OK)
            return 1;
    sp_tok_close(tok);
    sp_gguf_close(g);
    return 0;
}
