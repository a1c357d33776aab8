/* Any text through every pre-tokenizer, BPE and back, and every kind of tokenizer. Vocabularies are
 * built from the first bytes of the input. */
#include "fuzz.h"

#include "base/utf8.h"
#include "text/bpe.h"
#include "text/pretok.h"
#include "../test/unit/vocab.h"

/* Tokens <unk>, <s>, </s>, all bytes, then pieces of the text itself; scores from the input. */
static void one_kind(const char *model, const uint8_t *p, const char *s, size_t n, bool map)
{
    enum { FIRST = 259, N = 291 };
    static const char HEX[] = "0123456789ABCDEF";
    char text[FIRST][8] = {"<unk>", "<s>", "</s>"};
    sp_str token[N];
    int32_t type[N] = {2, 3, 3};
    float score[N] = {0};
    vocab v = {0};
    for (int i = 0; i < FIRST; i++) {
        if (i > 2) {
            memcpy(text[i], "<0x00>", 6);
            text[i][3] = HEX[(i - 3) >> 4];
            text[i][4] = HEX[(i - 3) & 15];
            type[i] = 6;
        }
        token[i] = (sp_str){text[i], strlen(text[i])};
    }
    for (size_t i = FIRST; i < N; i++) {
        size_t at = n ? p[i - FIRST] % n : 0, len = n - at < 1 + i % 5 ? n - at : 1 + i % 5;
        token[i] = (sp_str){s + at, len};
        type[i] = p[i - FIRST] % 7 == 0 ? 4 : 1;
        score[i] = -(float)(p[i - FIRST] % 9);
    }
    vocab_begin(&v, model, token, type, score, N);
    vocab_key(&v, "tokenizer.ggml.unknown_token_id", 4);
    vocab_num(&v, 0, 4);
    if (map) {
        vocab_array(&v, "tokenizer.ggml.precompiled_charsmap", 0, n);
        sp_buf_put(&v.b, s, n);
    }
    if (strcmp(model, "gemma4") == 0) {
        vocab_array(&v, "tokenizer.ggml.merges", 8, 0);
    }
    if (vocab_open(&v, NULL) == SP_OK) {
        sp_ids ids = {0};
        const sp_tok_range foreign = {0, n};
        if (sp_tok_encode_marked(v.t, &ids, s, n, &foreign, 1, NULL) == SP_OK)
            for (size_t i = 0; i < ids.n; i++)
                SP_ASSERT(!sp_tok_is_control(v.t, ids.id[i]) || ids.id[i] == sp_tok_unknown(v.t));
        sp_ids_fini(&ids);
    }
    vocab_fini(&v);
}

int LLVMFuzzerTestOneInput(const uint8_t *p, size_t n)
{
    const char *s = (const char *)p;
    sp_bpe b;
    sp_bpe_work w = {0};
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
    (void)!sp_bpe_word(&b, &w, &ids, s, n);
    one_kind("llama", p, s, n, false);
    one_kind("t5", p, s, n, false);
    one_kind("t5", p, s, n, true);
    one_kind("bert", p, s, n, false);
    one_kind("gemma4", p, s, n, false);
    (void)sp_utf8_tail(s, n);
    sp_ids_fini(&ids);
    sp_bpe_work_fini(&w);
    sp_bpe_fini(&b);
    return 0;
}
