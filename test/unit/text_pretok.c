/* Pre-tokenizers against PCRE2 with the published patterns, on random texts of all classes.
 * SPARING_PRETOK_TEXTS says how many for each pattern. */
#define PCRE2_CODE_UNIT_WIDTH 8
#include "test.h"

#include "base/utf8.h"
#include "text/pretok.h"

#include <pcre2.h>
#include <stdio.h>
#include <utf8proc.h>

/* \s is White_Space: PCRE2's own also takes U+180E. */
#define WS "\\x{9}-\\x{d}\\x{20}\\x{85}\\x{a0}\\x{1680}\\x{2000}-\\x{200a}\\x{2028}\\x{2029}\\x{202f}\\x{205f}\\x{3000}"
#define S "[" WS "]"
#define NOT_BLACK "(?![^" WS "])"
#define SPACES S "+" NOT_BLACK "|" S "+"
#define SHORT "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
#define GPT2 "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^" WS "\\p{L}\\p{N}]+|" SPACES
#define WORDS(shorts, word, digits, symbols, tail) \
    shorts word "|" digits "| ?" symbols tail "|" S "*[\\r\\n]+|" SPACES
#define WORD "[^\\r\\n\\p{L}\\p{N}]?\\p{L}+"
#define SYMBOLS "[^" WS "\\p{L}\\p{N}]+"
#define CASED(up, low, end) "[^\\r\\n\\p{L}\\p{N}]?" up "*" low "+" end "|[^\\r\\n\\p{L}\\p{N}]?" up "+" low "*" end
#define UP "[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}]"
#define LOW "[\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}]"
#define NO_HAN_UP "(?:(?!\\p{sc:Han})" UP ")"
#define NO_HAN_LOW "(?:(?!\\p{sc:Han})" LOW ")"
#define V3 "[!\"#$%&'()*+,\\-./:;<=>?@\\[\\\\\\]^_`{|}~][A-Za-z]+|[^\\r\\n\\p{L}\\p{P}\\p{S}]?[\\p{L}\\p{M}]+| ?[\\p{P}\\p{S}]+"
#define HAN_KANA "[\\x{4e00}-\\x{9fa5}\\x{3040}-\\x{30ff}]+"
#define DS_SCRIPTS "[\\x{800}-\\x{9fa5}\\x{ac00}-\\x{d7ff}]+"

static const struct {
    const char *name, *pass[7];
} ORACLES[] = {
    {"gpt-2", {GPT2}},
    {"mpt", {GPT2}},
    {"smollm", {"\\p{N}", GPT2}},
    {"llama-bpe", {WORDS(SHORT "|", WORD, "\\p{N}{1,3}", SYMBOLS, "[\\r\\n]*")}},
    {"dbrx", {WORDS(SHORT "|", WORD, "\\p{N}{1,3}", SYMBOLS, "[\\r\\n]*")}},
    {"glm4", {WORDS(SHORT "|", WORD, "\\p{N}{1,3}", SYMBOLS, "[\\r\\n]*")}},
    {"qwen2", {WORDS(SHORT "|", WORD, "\\p{N}", SYMBOLS, "[\\r\\n]*")}},
    {"qwen35", {WORDS(SHORT "|", "[^\\r\\n\\p{L}\\p{N}]?[\\p{L}\\p{M}]+", "\\p{N}", "[^" WS "\\p{L}\\p{M}\\p{N}]+", "[\\r\\n]*")}},
    {"bailingmoe", {"'(?i:[sdmt]|ll|ve|re)|" WORD "|\\p{N}| ?" SYMBOLS "[\\r\\n]*|" S "*[\\r\\n]|" SPACES}},
    {"seed-coder", {SHORT "|" WORD "|\\p{N}| ?[^" WS "\\p{L}\\p{N}\\r\\n]+|" S "*[\\r\\n]+|" SPACES}},
    {"ufakzeka", {WORDS("", WORD, "\\p{N}", SYMBOLS, "[\\r\\n]*")}},
    {"minicpm5", {"\\p{N}{1,3}", WORDS(SHORT "|", WORD, "\\p{N}+", SYMBOLS, "[\\r\\n]*")}},
    {"laguna", {"[^\\n]+|[\\n]+", WORDS(SHORT "|", WORD, "\\p{N}", SYMBOLS, "[\\r\\n]*")}},
    {"exaone-moe", {SHORT "|[^\\r\\n\\p{L}\\p{N}]?(?:\\p{L}\\p{M}*(?: \\p{L}\\p{M}*)*)+|\\p{N}| ?" SYMBOLS "[\\r\\n/]?|" S "*[\\r\\n]|" SPACES}},
    {"jais-2", {SHORT "|" WORD "|\\p{N}{1,3}| ?" SYMBOLS "[\\r\\n]*|" S "*[\\r\\n]+|" S "{512}" NOT_BLACK "|" S "{256}" NOT_BLACK "|" S
                "{128}" NOT_BLACK "|" S "{64}" NOT_BLACK "|" S "{32}" NOT_BLACK "|" S "{16}" NOT_BLACK "|" S "{8}" NOT_BLACK "|" S
                "{4}" NOT_BLACK "|" S "{1,2}" NOT_BLACK "|" S}},
    {"gpt-4o", {WORDS("", CASED(UP, LOW, SHORT "?"), "\\p{N}{1,3}", SYMBOLS, "[\\r\\n/]*")}},
    {"tekken", {WORDS("", CASED(UP, LOW, ""), "\\p{N}", SYMBOLS, "[\\r\\n/]*")}},
    {"kimi-k2", {WORDS("[\\p{sc:Han}]+|", CASED(NO_HAN_UP, NO_HAN_LOW, SHORT "?"), "\\p{N}{1,3}", SYMBOLS, "[\\r\\n]*")}},
    {"deepseek-coder", {"[\\r\\n]", S "?\\p{L}+", S "?\\p{P}+", DS_SCRIPTS, "\\p{N}"}},
    {"deepseek-v3", {"\\p{N}{1,3}", HAN_KANA, V3 "[\\r\\n]*|" S "*[\\r\\n]+|" SPACES}},
    {"spark2_5", {"\\p{N}{1,3}", HAN_KANA, V3 "|[\\r\\n]|" SPACES, "\\p{N}"}},
    {"falcon", {"[\\p{P}\\$\\+<=>\\^~\\|`]+", GPT2, "[0-9][0-9][0-9]"}},
    {"default", {"[\\p{P}\\$\\+<=>\\^~\\|]+", GPT2, "\\p{N}+", "[0-9][0-9][0-9]"}},
    {"bloom", {" ?[^(" WS "|.,!?\\x{2026}\\x{3002}\\x{ff0c}\\x{3001}\\x{964}\\x{6d4}\\x{60c})]+"}},
    {"viking", {" ?[^(" WS "|.,!?\\x{2026}\\x{3002}\\x{ff0c}\\x{3001}\\x{964}\\x{6d4}\\x{60c})]+", "\\p{N}"}},
    {"youtu", {"[\\x{ac00}-\\x{d7a3}\\x{3131}-\\x{318e}]+|[\\x{ff01}\\x{2026}\\x{201c}\\x{201d}\\x{2018}\\x{2019}\\x{2014}\\x{ff1a}\\x{ff1b}"
               "\\x{ff0c}\\x{3001}-\\x{303f}\\x{fe30}-\\x{fe4f}]+|[\\x{3105}-\\x{312f}]+|" HAN_KANA,
               WORDS("", CASED(UP, LOW, SHORT "?"), "\\p{N}", SYMBOLS, "[\\r\\n/]*")}},
    {"gemma4", {"[^\\n]+|[\\n]+"}}};

enum { MAX_TEXT = 400 };

typedef struct oracle {
    pcre2_code *code[8];
    pcre2_match_data *match;
} oracle;

static void compile(oracle *o, const char *const *pass)
{
    *o = (oracle){.match = pcre2_match_data_create(8, NULL)};
    for (int i = 0; i < 7 && pass[i]; i++) {
        int code;
        PCRE2_SIZE at;
        o->code[i] = pcre2_compile((PCRE2_SPTR)pass[i], PCRE2_ZERO_TERMINATED, PCRE2_UTF | PCRE2_UCP, &code, &at, NULL);
        if (!o->code[i])
            fail_msg("%s: error %d at %zu", pass[i], code, (size_t)at);
        pcre2_jit_compile(o->code[i], PCRE2_JIT_COMPLETE);
    }
}

static void release(oracle *o)
{
    for (int k = 0; o->code[k]; k++)
        pcre2_code_free(o->code[k]);
    pcre2_match_data_free(o->match);
}

/* Sets cut[i] where a piece of this pass begins, inside the pieces of the passes before. */
static void split(const oracle *o, int pass, const char *s, size_t at, size_t end, bool *cut)
{
    for (size_t i = at; i < end;) {
        if (pcre2_match(o->code[pass], (PCRE2_SPTR)s + at, end - at, i - at, PCRE2_NO_UTF_CHECK, o->match, NULL) < 1)
            break;
        const PCRE2_SIZE *v = pcre2_get_ovector_pointer(o->match);
        assert_true(v[1] > v[0]);
        cut[at + v[0]] = true;
        i = at + v[1];
        cut[i] = true;
    }
}

static void split_all(const oracle *o, const char *s, size_t n, bool *cut)
{
    memset(cut, 0, n + 1);
    cut[0] = cut[n] = true;
    for (int pass = 0; o->code[pass]; pass++) {
        bool before[MAX_TEXT + 1];
        memcpy(before, cut, n + 1);
        for (size_t at = 0, end; at < n; at = end) {
            for (end = at + 1; !before[end]; end++)
                ;
            split(o, pass, s, at, end, cut);
        }
    }
}

/* PCRE2 10.42 knows Unicode 14, utf8proc 2.8 Unicode 15: only what both have assigned is compared. */
static bool is_assigned(const oracle *any, const char *s, size_t n, uint32_t cp)
{
    return utf8proc_category((utf8proc_int32_t)cp) != UTF8PROC_CATEGORY_CN &&
           pcre2_match(any->code[0], (PCRE2_SPTR)s, n, 0, PCRE2_NO_UTF_CHECK, any->match, NULL) == 1;
}

/* Short runs out of a few alphabets, or any code point. */
static size_t random_text(char *s, uint64_t *seed, const oracle *any)
{
    static const char *const piece[] = {
        " ", " ", "  ", "\n", "\r\n", "\t", "a", "B", "'s", "'LL", "'\xc5\xbf", "'", "1", "23", "\xd9\xa3", "!", "/", "$", "`", "(", "\xe4\xb8\xad",
        "\xe3\x81\x82", "\xed\x95\x9c", "\xe3\x80\x85", "\xe3\x80\x87", "\xe2\xba\x80", "\xc3\xa9", "\xc3\x89", "\xc7\x85", "\xcc\x81", "\xe2\x80\x8d",
        "\xf0\x9f\x99\x82", "\xe3\x80\x80", "\xc2\xa0", "\xc2\x85", "\xe2\x80\xa6", "\xef\xbc\x8c", "\x01", "\xca\xb0", "\xd7\x90", "\xe0\xa4\x95\xe0\xa4\xbe"};
    size_t n = 0, want = 1 + test_rand(seed) % 24;
    for (size_t i = 0; i < want && n + 8 < MAX_TEXT; i++) {
        if (test_rand(seed) % 4) {
            const char *p = piece[test_rand(seed) % (sizeof piece / sizeof piece[0])];
            memcpy(s + n, p, strlen(p));
            n += strlen(p);
            continue;
        }
        uint32_t cp = 1 + test_rand(seed) % (test_rand(seed) % 2 ? 0x3000 : 0x30000);
        if (cp >= 0xd800 && cp < 0xe000)
            continue;
        size_t step = sp_utf8_encode(s + n, cp);
        n += is_assigned(any, s + n, step, cp) ? step : 0;
    }
    return n;
}

static void compare(const sp_pretok *kind, const oracle *o, const char *s, size_t n)
{
    bool cut[MAX_TEXT + 1];
    size_t at = 0, len;
    sp_pretok_cut c;
    split_all(o, s, n, cut);
    sp_pretok_start(&c, kind, s, n);
    while ((len = sp_pretok_next(&c)) != 0) {
        for (size_t i = at + 1; i <= at + len; i++)
            if (cut[i] != (i == at + len))
                fail_msg("%s: word at %zu of %zu bytes, the pattern cuts at %zu: <%.*s>", kind->name, at, len, i, (int)n, s);
        at += len;
    }
    assert_int_equal(at, n);
}

static void test_scanners_equal_pcre2(void **state)
{
    (void)state;
    const char *env = getenv("SPARING_PRETOK_TEXTS");
    long n_text = env ? atol(env) : 20000;
    static const char *const ANY[2] = {"\\P{Cn}"};
    oracle any;
    compile(&any, ANY);
    for (size_t i = 0; i < sizeof ORACLES / sizeof ORACLES[0]; i++) {
        const sp_pretok *kind = sp_pretok_find(ORACLES[i].name, strlen(ORACLES[i].name));
        uint64_t seed = 77 + i;
        oracle o;
        assert_non_null(kind);
        compile(&o, ORACLES[i].pass);
        for (long k = 0; k < n_text; k++) {
            char s[MAX_TEXT];
            size_t n = random_text(s, &seed, &any);
            compare(kind, &o, s, n);
        }
        release(&o);
    }
    release(&any);
}

/* Every row shares its passes with a row that is compared, but for those named here. */
static void test_every_row_is_compared(void **state)
{
    static const char *const other[] = {"deepseek-llm", "afmoe", "tiny_aya", "cohere2moe"};
    (void)state;
    for (size_t r = 0; sp_pretok_at(r); r++) {
        bool seen = false;
        for (size_t i = 0; i < sizeof ORACLES / sizeof ORACLES[0]; i++)
            seen |= sp_pretok_find(ORACLES[i].name, strlen(ORACLES[i].name))->pass == sp_pretok_at(r)->pass;
        for (size_t i = 0; i < sizeof other / sizeof other[0]; i++)
            seen |= strcmp(other[i], sp_pretok_at(r)->name) == 0;
        if (!seen)
            fail_msg("%s is compared with nothing", sp_pretok_at(r)->name);
    }
}

int test_pretok_main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_scanners_equal_pcre2), cmocka_unit_test(test_every_row_is_compared)};
    return cmocka_run_group_tests_name("pretok", tests, NULL, NULL);
}
