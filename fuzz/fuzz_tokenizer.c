/* Any text through every pre-tokenizer, BPE and back, guards, and WordPiece. The vocabulary is built
 * from the first bytes of the input. */
#include "fuzz.h"

#include "base/utf8.h"
#include "text/bpe.h"
#include "text/pretok.h"
#include "text/wordpiece.h"

int LLVMFuzzerTestOneInput(const uint8_t *p, size_t n)
{
    static const char vocab[] = "[PAD]\n[UNK]\n[CLS]\n[SEP]\na\nb\n##a\n##b\n.\nthe\n";
    const char *s = (const char *)p;
    sp_bpe b;
    sp_bpe_work w = {0};
    sp_wp *wp;
    sp_ids ids = {0};
    if (n < 40 || sp_bpe_init(&b, 16) != SP_OK)
        return 0;
    for (uint32_t i = 0; i < 256; i++)
        b.byte_id[i] = i % 7 == 6 ? SP_TOK_NONE : i % 6;
    for (uint32_t i = 0; i < 16; i++)
        if (sp_bpe_add(&b, p[2 * i] % 22u, p[2 * i + 1] % 22u, 6 + i) != SP_OK)
            break;
    s += 32;
    n -= 32;
    for (size_t kind = 0; sp_pretok_at(kind); kind++) {
        sp_pretok_cut cut;
        sp_pretok_start(&cut, sp_pretok_at(kind), s, n);
        for (size_t at = 0, len; at < n;) {
            len = sp_pretok_next(&cut);
            SP_ASSERT(len >= 1 && len <= n - at);
            if (sp_bpe_word(&b, &w, &ids, s + at, len) != SP_OK)
                break;
            at += len;
        }
    }
    if (sp_bpe_word(&b, &w, &ids, s, n) == SP_OK && sp_wp_open_mem(&wp, vocab, sizeof vocab - 1, NULL) == SP_OK) {
        (void)!sp_wp_encode(wp, &ids, s, n, NULL);
        sp_wp_close(wp);
    }
    (void)sp_utf8_tail(s, n);
    sp_ids_fini(&ids);
    sp_bpe_work_fini(&w);
    sp_bpe_fini(&b);
    return 0;
}
