/* The rows: which pattern belongs to which name, with the flags that llama.cpp gives the name. */
#include "text/pretok.h"

#include "base/utf8.h"
#include "text/pretok_scan.h"

#include <string.h>

#define COUNT(a) (sizeof(a) / sizeof *(a))
#define SET(name) .range = name, .n_range = COUNT(name)

enum { L = SP_CLASS_L, M = SP_CLASS_M, N = SP_CLASS_N };

static const sp_pretok_range NEWLINE[] = {{'\n', '\n'}, {'\r', '\r'}};
/* \p{P} and the ASCII symbols, with and without ` */
static const sp_pretok_range SYMBOLS[] = {{'$', '$'}, {'+', '+'}, {'<', '>'}, {'^', '^'},
                                          {'`', '`'}, {'|', '|'}, {'~', '~'}};
static const sp_pretok_range SYMBOLS_OLD[] = {{'$', '$'}, {'+', '+'}, {'<', '>'},
                                              {'^', '^'}, {'|', '|'}, {'~', '~'}};
static const sp_pretok_range DS_PUNCT[] = {{'!', '/'},       {':', '~'},       {0x2018, 0x201f},
                                           {0x3000, 0x3002}, {0xff01, 0xff0f}, {0xff1a, 0xff5e}};
static const sp_pretok_range DS_SCRIPTS[] = {{0x800, 0x9fa5}, {0xac00, 0xd7ff}};
static const sp_pretok_range HAN_KANA[] = {{0x3040, 0x30ff}, {0x4e00, 0x9fa5}};
static const sp_pretok_range HANGUL[] = {{0x3131, 0x318e}, {0xac00, 0xd7a3}};
static const sp_pretok_range WIDE_PUNCT[] = {
    {0x2014, 0x2014}, {0x2018, 0x2019}, {0x201c, 0x201d}, {0x2026, 0x2026}, {0x3001, 0x303f},
    {0xfe30, 0xfe4f},
    {0xff01, 0xff01}, {0xff0c, 0xff0c}, {0xff1a, 0xff1b}};
static const sp_pretok_range BOPOMOFO[] = {{0x3105, 0x312f}};
static const sp_pretok_range AFMOE[] = {
    {0xe40, 0xeff}, {0x1000, 0x109f}, {0x1100, 0x11ff}, {0x1780, 0x17ff}, {0x2f00, 0x2fdf},
    {0x3040, 0x30ff}, {0x3400, 0x4dbf},
    {0x4e00, 0x9fff}, {0xa9e0, 0xa9ff}, {0xaa60, 0xaa7f}, {0xac00, 0xd7af}, {0xf900, 0xfaff},
    {0xff65, 0xff9f}};

static const sp_pretok_set one_newline = {SET(NEWLINE), .max = 1};
static const sp_pretok_set digit = {.classes = N, .max = 1}, digits = {.classes = N},
                           digits3 = {.classes = N, .max = 3};
static const sp_pretok_set symbols = {.classes = SP_CLASS_P, SET(SYMBOLS)},
                           symbols_old = {.classes = SP_CLASS_P, SET(SYMBOLS_OLD)};
static const sp_pretok_set ds_cased = {
    .range = sp_pretok_cased, .n_range = SP_PRETOK_N_CASED, .after_space = true};
static const sp_pretok_set ds_punct = {SET(DS_PUNCT), .after_space = true},
                           ds_scripts = {SET(DS_SCRIPTS)};
static const sp_pretok_set ds_letters = {.classes = L, .after_space = true},
                           ds_marks = {.classes = SP_CLASS_P, .after_space = true};
static const sp_pretok_set han_kana = {SET(HAN_KANA)}, hangul = {SET(HANGUL)},
                           wide_punct = {SET(WIDE_PUNCT)};
static const sp_pretok_set bopomofo = {SET(BOPOMOFO)}, afmoe_scripts = {SET(AFMOE)};

static const sp_pretok_words llama3_words = {
    .letters = L, .max_digits = 3, .begins_short = true, .tail = "\r\n"};
static const sp_pretok_words jais2_words = {
    .letters = L, .max_digits = 3, .begins_short = true, .tail = "\r\n", .halving_spaces = true};
static const sp_pretok_words qwen2_words = {
    .letters = L, .max_digits = 1, .begins_short = true, .tail = "\r\n"};
static const sp_pretok_words qwen35_words = {
    .letters = L | M, .max_digits = 1, .begins_short = true, .tail = "\r\n"};
static const sp_pretok_words minicpm_words = {.letters = L, .begins_short = true, .tail = "\r\n"};
static const sp_pretok_words seed_words = {
    .letters = L, .max_digits = 1, .begins_short = true, .tail = ""};
static const sp_pretok_words ufak_words = {.letters = L, .max_digits = 1, .tail = "\r\n"};
static const sp_pretok_words exaone_words = {.letters = L,
                                             .max_digits = 1,
                                             .begins_short = true,
                                             .spaced = true,
                                             .tail = "\r\n/",
                                             .one_tail = true};
static const sp_pretok_words o200k_words = {
    .cased = true, .max_digits = 3, .ends_short = true, .tail = "\r\n/"};
static const sp_pretok_words youtu_words = {
    .cased = true, .max_digits = 1, .ends_short = true, .tail = "\r\n/"};
static const sp_pretok_words tekken_words = {.cased = true, .max_digits = 1, .tail = "\r\n/"};
static const sp_pretok_words kimi_words = {
    .cased = true, .max_digits = 3, .ends_short = true, .no_han = true, .tail = "\r\n"};
static const sp_pretok_words v3_words = {.tail = "\r\n"}, spark_words = {.tail = ""};

#define SETS(x) {sp_pretok_set_run, &(x)}
#define WORDS(x) {sp_pretok_scan_words, &(x)}
#define GPT2 {sp_pretok_gpt2, NULL}
#define THREE {sp_pretok_three_digits, NULL}
#define LINES {sp_pretok_lines, NULL}
#define END {NULL, NULL}

static const sp_pretok_pass gpt2[] = {GPT2, END};
static const sp_pretok_pass digit_gpt2[] = {SETS(digit), GPT2, END};
static const sp_pretok_pass falcon[] = {SETS(symbols), GPT2, THREE, END};
static const sp_pretok_pass old_default[] = {SETS(symbols_old), GPT2, SETS(digits), THREE, END};
static const sp_pretok_pass llama3[] = {WORDS(llama3_words), END};
static const sp_pretok_pass jais2[] = {WORDS(jais2_words), END};
static const sp_pretok_pass qwen2[] = {WORDS(qwen2_words), END};
static const sp_pretok_pass qwen35[] = {WORDS(qwen35_words), END};
static const sp_pretok_pass minicpm5[] = {SETS(digits3), WORDS(minicpm_words), END};
static const sp_pretok_pass seed[] = {WORDS(seed_words), END};
static const sp_pretok_pass ufakzeka[] = {WORDS(ufak_words), END};
static const sp_pretok_pass exaone_moe[] = {WORDS(exaone_words), END};
static const sp_pretok_pass o200k[] = {WORDS(o200k_words), END};
static const sp_pretok_pass tiny_aya[] = {
    {sp_pretok_digits_from_right, NULL}, WORDS(o200k_words), END};
static const sp_pretok_pass tekken[] = {WORDS(tekken_words), END};
static const sp_pretok_pass kimi[] = {WORDS(kimi_words), END};
static const sp_pretok_pass youtu[] = {SETS(hangul),   SETS(wide_punct),   SETS(bopomofo),
                                       SETS(han_kana), WORDS(youtu_words), END};
static const sp_pretok_pass ds_llm[] = {SETS(one_newline),
                                        SETS(ds_cased),
                                        SETS(ds_punct),
                                        {sp_pretok_last_spaces, NULL},
                                        SETS(ds_scripts),
                                        SETS(digits),
                                        END};
static const sp_pretok_pass ds_coder[] = {SETS(one_newline), SETS(ds_letters), SETS(ds_marks),
                                          SETS(ds_scripts),  SETS(digit),      END};
static const sp_pretok_pass ds_v3[] = {
    SETS(digits3), SETS(han_kana), {sp_pretok_scan_v3, &v3_words}, END};
static const sp_pretok_pass spark[] = {
    SETS(digits3), SETS(han_kana), {sp_pretok_scan_v3, &spark_words}, SETS(digit), END};
static const sp_pretok_pass afmoe[] = {
    {sp_pretok_digits_from_right, NULL}, SETS(afmoe_scripts), {sp_pretok_scan_v3, &v3_words}, END};
static const sp_pretok_pass laguna[] = {LINES, WORDS(qwen2_words), END};
static const sp_pretok_pass bloom[] = {{sp_pretok_bloom, NULL}, END};
static const sp_pretok_pass viking[] = {{sp_pretok_bloom, NULL}, SETS(digit), END};
static const sp_pretok_pass lines[] = {LINES, END};

enum {
    WHOLE = SP_PRETOK_WHOLE,
    BOS = SP_PRETOK_ADDS_BOS,
    NO_BOS = SP_PRETOK_NO_BOS,
    SEP = SP_PRETOK_ADDS_SEP,
    RAW = SP_PRETOK_RAW,
    RAW_LINES = SP_PRETOK_RAW | SP_PRETOK_LINES
};

static const sp_pretok ROWS[] = {
    {"default", 0, old_default},
    {"llama-bpe", WHOLE | BOS, llama3}, {"llama3", WHOLE | BOS, llama3},
    {"llama-v3", WHOLE | BOS, llama3},
    {"falcon3", WHOLE | BOS, llama3}, {"falcon-h1", WHOLE | BOS, llama3},
    {"pixtral", WHOLE | BOS, llama3},
    {"midm-2.0", WHOLE | BOS, llama3}, {"lfm2", WHOLE | BOS, llama3},
    {"jina-v5-nano", WHOLE | BOS, llama3},
    {"dbrx", 0, llama3}, {"smaug-bpe", 0, llama3}, {"chatglm-bpe", NO_BOS, llama3},
    {"glm4", NO_BOS | WHOLE, llama3}, {"glm5", NO_BOS | WHOLE, llama3}, {"jais-2", 0, jais2},
    {"qwen2", 0, qwen2}, {"deepseek-r1-qwen", 0, qwen2}, {"kormo", 0, qwen2}, {"f2llmv2", 0, qwen2},
    {"megrez", 0, qwen2},
    {"stablelm2", 0, qwen2}, {"hunyuan", 0, qwen2}, {"solar-open", 0, qwen2}, {"grok-2", 0, qwen2},
    {"bailingmoe", 0, qwen2},
    {"bailingmoe2", 0, qwen2}, {"llada-moe", 0, qwen2}, {"qwen35", 0, qwen35},
    {"ufakzeka", 0, ufakzeka},
    {"seed-coder", 0, seed}, {"laguna", 0, laguna}, {"exaone-moe", 0, exaone_moe},
    {"minicpm5", WHOLE, minicpm5},
    {"gpt-4o", 0, o200k}, {"llama4", 0, o200k}, {"kanana2", 0, o200k}, {"talkie", 0, o200k},
    {"minimax-m2", 0, o200k},
    {"granite-embed-multi-97m", WHOLE, o200k}, {"tiny_aya", 0, tiny_aya},
    {"cohere2moe", 0, tiny_aya},
    {"tekken", WHOLE | BOS, tekken}, {"kimi-k2", 0, kimi}, {"youtu", WHOLE, youtu},
    {"deepseek-llm", 0, ds_llm}, {"deepseek-coder", 0, ds_coder}, {"deepseek-v3", 0, ds_v3},
    {"hunyuan-dense", 0, ds_v3},
    {"joyai-llm", 0, ds_v3}, {"hy_v4", 0, ds_v3}, {"spark2_5", 0, spark}, {"afmoe", 0, afmoe},
    {"falcon", 0, falcon},
    {"smollm", 0, digit_gpt2}, {"starcoder", 0, digit_gpt2}, {"refact", 0, digit_gpt2},
    {"command-r", 0, digit_gpt2},
    {"codeshell", 0, digit_gpt2}, {"exaone", 0, digit_gpt2}, {"minerva-7b", 0, digit_gpt2},
    {"mellum2", 0, digit_gpt2},
    {"gpt-2", 0, gpt2}, {"gpt2", 0, gpt2}, {"phi-2", 0, gpt2}, {"mpt", 0, gpt2}, {"olmo", 0, gpt2},
    {"jais", 0, gpt2},
    {"trillion", 0, gpt2}, {"granite-docling", 0, gpt2}, {"exaone4", 0, gpt2},
    {"modern-bert", 0, gpt2}, {"gigachat", 0, gpt2},
    {"mellum", 0, gpt2}, {"a.x-4.0", 0, gpt2}, {"jina-es", 0, gpt2}, {"jina-de", 0, gpt2},
    {"jina-v2-es", 0, gpt2},
    {"jina-v2-de", 0, gpt2}, {"jina-v1-en", SEP, gpt2}, {"jina-v2-code", SEP, gpt2},
    {"roberta-bpe", SEP, gpt2},
    {"poro-chat", 0, bloom}, {"bloom", 0, bloom}, {"gpt3-finnish", 0, bloom}, {"viking", 0, viking},
    {"gemma4", RAW_LINES | BOS, lines}, {"granite-embed-multi-311m", RAW_LINES | BOS, lines},
    {"sarvam-moe", RAW, lines},
};

const sp_pretok *sp_pretok_at(size_t i)
{
    return i < COUNT(ROWS) ? &ROWS[i] : NULL;
}

const sp_pretok *sp_pretok_find(const char *name, size_t n)
{
    for (size_t i = 0; i < COUNT(ROWS); i++)
        if (strlen(ROWS[i].name) == n && memcmp(ROWS[i].name, name, n) == 0)
            return &ROWS[i];
    return NULL;
}

void sp_pretok_start(sp_pretok_cut *c, const sp_pretok *kind, const char *s, size_t n)
{
    *c = (sp_pretok_cut){.kind = kind, .s = s, .end = {n}};
}

/* End of the next piece of one pass inside [at, end): a match, or what lies before the next one,
 * which is kept so that no scanner sees the same place twice. */
static size_t piece_end(sp_pretok_cut *c, size_t level, size_t end)
{
    const sp_pretok_pass *p = &c->kind->pass[level];
    size_t to = c->at;
    if (c->found[level].at == to && c->found[level].end > to)
        return c->found[level].end;
    size_t match = p->match(c->s, to, end, p->opt, &c->memo[level]);
    if (match > to)
        return match;
    while (to < end) {
        uint32_t cp;
        size_t step = sp_utf8_decode(&cp, c->s + to, end - to);
        to += step ? step : 1;
        match = to < end ? p->match(c->s, to, end, p->opt, &c->memo[level]) : to;
        if (match > to) {
            c->found[level].at = to;
            c->found[level].end = match;
            break;
        }
    }
    return to;
}

size_t sp_pretok_next(sp_pretok_cut *c)
{
    size_t level = 0;
    if (c->at >= c->end[0])
        return 0;
    for (; c->kind->pass[level].match; level++)
        if (c->at >= c->end[level + 1])
            c->end[level + 1] = piece_end(c, level, c->end[level]);
    size_t n = c->end[level] - c->at;
    c->at = c->end[level];
    return n;
}
