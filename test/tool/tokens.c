/* tokens FILE [special]: each line of the input is a text in hexadecimal; prints its token ids.
 * tokens FILE time: encodes the whole input, at most 16 MiB, three times; prints the best rate in MB/s.
 * tokens FILE forge: encodes every code point of Unicode alone and between letters, and the text of
 * every token, and prints each text that became a control token, and each that did not come back
 * though the vocabulary keeps all bytes. The last line counts the texts. */
#include "base/clock.h"
#include "base/utf8.h"
#include "text/tokenizer.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static size_t unhex(char *p)
{
    static const char DIGITS[] = "0123456789abcdef";
    size_t n = 0;
    for (const char *hi, *lo; p[2 * n] && (hi = strchr(DIGITS, p[2 * n])) && (lo = strchr(DIGITS, p[2 * n + 1])); n++)
        p[n] = (char)((hi - DIGITS) << 4 | (lo - DIGITS));
    return n;
}

static int encode_lines(const sp_tok *t, sp_special special)
{
    char *line = NULL;
    size_t cap = 0;
    sp_ids ids = {0};
    sp_diag d = {0};
    while (getline(&line, &cap, stdin) > 0) {
        ids.n = 0;
        if (sp_tok_encode(t, &ids, line, unhex(line), special, &d) != SP_OK)
            printf("error: %s", d.msg);
        for (size_t i = 0; i < ids.n; i++)
            printf("%u ", ids.id[i]);
        putchar('\n');
    }
    sp_ids_fini(&ids);
    free(line);
    return 0;
}

static int encode_timed(const sp_tok *t)
{
    static char text[1 << 24];
    size_t n = fread(text, 1, sizeof text, stdin);
    uint64_t best = UINT64_MAX;
    sp_ids ids = {0};
    sp_diag d = {0};
    for (int i = 0; i < 3; i++) {
        ids.n = 0;
        uint64_t from = sp_clock_ns();
        if (sp_tok_encode(t, &ids, text, n, SP_SPECIAL_NONE, &d) != SP_OK) {
            fprintf(stderr, "%s\n", d.msg);
            return 1;
        }
        uint64_t took = sp_clock_ns() - from;
        best = took < best ? took : best;
    }
    printf("%g\n", (double)n * 1e3 / (double)best);
    sp_ids_fini(&ids);
    return 0;
}

typedef struct check {
    const sp_tok *t;
    sp_ids ids;
    sp_buf back;
    bool keeps; /* decoding must give the text back */
    size_t n;
} check;

static void try_text(check *c, const char *s, size_t n)
{
    sp_diag d = {0};
    c->ids.n = 0;
    c->n++;
    sp_buf_clear(&c->back);
    if (sp_tok_encode(c->t, &c->ids, s, n, SP_SPECIAL_NONE, &d) != SP_OK) {
        printf("error %.*s: %s\n", (int)n, s, d.msg);
        return;
    }
    for (size_t i = 0; i < c->ids.n; i++) {
        uint32_t id = c->ids.id[i];
        sp_tok_decode_after(c->t, &c->back, i ? c->ids.id[i - 1] : SP_TOK_NONE, id, true);
        if (sp_tok_is_control(c->t, id) && id != sp_tok_unknown(c->t))
            printf("control %u from %.*s\n", id, (int)n, s);
        if (sp_tok_is_end(c->t, id))
            printf("end %u from %.*s\n", id, (int)n, s);
    }
    if (c->keeps && (c->back.len != n || memcmp(sp_buf_str(&c->back), s, n) != 0))
        printf("lost %.*s: %s\n", (int)n, s, sp_buf_str(&c->back));
}

static int forge(const sp_tok *t, bool keeps)
{
    check c = {.t = t, .keeps = keeps};
    for (uint32_t cp = 1; cp <= 0x10ffff; cp++) {
        char s[8] = "x";
        if (cp >= 0xd800 && cp < 0xe000)
            continue;
        size_t n = sp_utf8_encode(s + 1, cp);
        try_text(&c, s + 1, n);
        s[1 + n] = 'y';
        try_text(&c, s, n + 2);
    }
    for (uint32_t id = 0; id < sp_tok_count(t); id++) {
        sp_str p = sp_tok_piece(t, id);
        if (p.n && sp_utf8_is_valid(p.p, p.n))
            try_text(&c, p.p, p.n);
    }
    printf("%zu\n", c.n);
    sp_ids_fini(&c.ids);
    sp_buf_fini(&c.back);
    return 0;
}

int main(int argc, char **argv)
{
    sp_gguf *g = NULL;
    sp_tok *t = NULL;
    sp_diag d = {0};
    const char *mode = argc > 2 ? argv[2] : "";
    if (argc < 2 || sp_gguf_open(&g, argv[1], &d) != SP_OK || sp_tok_open(&t, g, &d) != SP_OK) {
        fprintf(stderr, "%s\n", d.msg);
        return 1;
    }
    bool forging = strncmp(mode, "forge", 5) == 0;
    int rc = forging                     ? forge(t, strcmp(mode, "forge-keeps") == 0)
             : strcmp(mode, "time") == 0 ? encode_timed(t)
                                         : encode_lines(t, *mode ? SP_SPECIAL_ALL : SP_SPECIAL_NONE);
    sp_tok_close(t);
    sp_gguf_close(g);
    return rc;
}
