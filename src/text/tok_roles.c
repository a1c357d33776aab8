/* Roles of tokens: ids that the file names, tokens whose names give them a role whatever the file's
 * type says, and what may stand beside a special token.
 * Source: llama.cpp's llama-vocab.cpp, whose lists of names these are. */
#include "base/mem.h"
#include "text/tok_int.h"

#include <ctype.h>
#include <stdlib.h>
#include <string.h>

/* Tokens that end an answer. */
static const char *const ENDS[] = {
    "<|eot_id|>", "<|im_end|>", "<|end|>", "<|return|>", "<|call|>", "<|flush|>", "<|calls|>", "<end_of_turn>", "<|endoftext|>",
    "</s>", "<|eom_id|>", "<EOT>", "_<EOT>", "[EOT]", "[EOS]", "<|end_of_text|>", "<end_of_utterance>", "<eos>", "<turn|>",
    "<|tool_response>", "<｜end▁of▁sentence｜>", "[e~["};
/* Of each list the first token that is there ends an answer too, unless the file gives its id. */
static const char *const PADS[] = {"<|fim_pad|>", "<fim-pad>", "<fim_pad>", "<PAD>", "[PAD]"};
static const char *const REPOS[] = {"<|fim_repo|>", "<|repo_name|>", "<fim-repo>", "<REPO>",
                                    "<reponame>"};
static const char *const FILES[] = {"<|file_sep|>"};
/* Control tokens that end nothing. The first three times FIM_NAMES are the marks of filling in. */
enum { FIM_NAMES = 8 };
static const char *const CONTROLS[] = {
    "<|fim_prefix|>", "<fim-prefix>", "<fim_prefix>", "<｜fim▁begin｜>", "<PRE>", "▁<PRE>", "<|code_prefix|>", "<|prefix|>",
    "<|fim_suffix|>", "<fim-suffix>", "<fim_suffix>", "<｜fim▁hole｜>", "<SUF>", "▁<SUF>", "<|code_suffix|>", "<|suffix|>",
    "<|fim_middle|>", "<fim-middle>", "<fim_middle>", "<｜fim▁end｜>", "<MID>", "▁<MID>", "<|code_middle|>", "<|middle|>",
    "<|channel|>", "<|message|>", "<|start|>", "<|constrain|>"};

#define COUNT(a) (sizeof(a) / sizeof *(a))

static bool is_one(sp_str s, const char *const *names, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (strlen(names[i]) == s.n && memcmp(names[i], s.p, s.n) == 0)
            return true;
    return false;
}

static uint32_t named(const sp_tok *t, const char *name)
{
    for (uint32_t i = 0; i < t->n_vocab; i++)
        if (t->text[i].n == strlen(name) && memcmp(t->text[i].p, name, t->text[i].n) == 0)
            return i;
    return SP_TOK_NONE;
}

static sp_err read_id(uint32_t *out, const sp_tok *t, const sp_gguf *g, const char *key, sp_diag *d)
{
    uint64_t v;
    sp_err err = sp_gguf_u64(&v, g, key, 0, t->n_vocab - 1, d);
    if (err == SP_OK)
        *out = (uint32_t)v;
    return err == SP_NOTFOUND ? SP_OK : err;
}

/* Marks the token that `key` gives, else the first of the names that is there, as an end. */
static sp_err mark_end(sp_tok *t, const sp_gguf *g, const char *key, const char *const *names,
                       size_t n, sp_diag *d)
{
    uint32_t id = SP_TOK_NONE;
    SP_TRY(read_id(&id, t, g, key, d));
    for (size_t i = 0; i < n && id == SP_TOK_NONE; i++) {
        id = named(t, names[i]);
        if (id != SP_TOK_NONE)
            t->type[id] = SP_TOK_CONTROL;
    }
    if (id != SP_TOK_NONE)
        t->is_end[id] = true;
    return SP_OK;
}

/* Two families where a name of the list does not end an answer. */
static void mend_ends(sp_tok *t)
{
    bool calls = named(t, "<|call|>") != SP_TOK_NONE || named(t, "<|calls|>") != SP_TOK_NONE;
    bool more = named(t, "<|return|>") != SP_TOK_NONE || named(t, "<|flush|>") != SP_TOK_NONE;
    uint32_t end = named(t, "<|end|>"), s = named(t, "</s>");
    if (calls && more && end != SP_TOK_NONE) /* gpt-oss and Solar go on after it */
        t->is_end[end] = false;
    /* Gemma 4: HTML */
    if (named(t, "<|tool_response>") != SP_TOK_NONE && s != SP_TOK_NONE && s != t->eos) {
        t->is_end[s] = false;
        t->type[s] = SP_TOK_NORMAL;
    }
}

/* The marks of filling in: all three, by id or else by name. */
static sp_err read_fim(sp_tok *t, const sp_gguf *g, sp_diag *d)
{
    static const char *const keys[] = {"tokenizer.ggml.fim_pre_token_id",
                                       "tokenizer.ggml.fim_suf_token_id",
                                       "tokenizer.ggml.fim_mid_token_id"};
    bool whole = true;
    for (size_t i = 0; i < 3; i++) {
        t->fim[i] = SP_TOK_NONE;
        SP_TRY(read_id(&t->fim[i], t, g, keys[i], d));
        for (size_t k = 0; k < FIM_NAMES && t->fim[i] == SP_TOK_NONE; k++)
            t->fim[i] = named(t, CONTROLS[i * FIM_NAMES + k]);
        whole = whole && t->fim[i] != SP_TOK_NONE;
    }
    t->fim[2] = whole ? t->fim[2] : SP_TOK_NONE;
    return SP_OK;
}

bool sp_tok_fim(const sp_tok *t, uint32_t mark[3])
{
    memcpy(mark, t->fim, sizeof t->fim);
    return t->fim[2] != SP_TOK_NONE;
}

sp_err sp_tok_read_roles(sp_tok *t, const sp_gguf *g, sp_diag *d)
{
    static const char PREFIX[] = "tokenizer.ggml.";
    struct { const char *key; uint32_t *id; } ids[] = {
        {"bos_token_id", &t->bos}, {"eos_token_id", &t->eos}, {"unknown_token_id", &t->unk},
        {"seperator_token_id", &t->sep}};
    for (size_t i = 0; i < COUNT(ids); i++) {
        char key[64] = "";
        strcat(strcpy(key, PREFIX), ids[i].key);
        if (*ids[i].id >= t->n_vocab)
            *ids[i].id = SP_TOK_NONE;
        SP_TRY(read_id(ids[i].id, t, g, key, d));
    }
    for (uint32_t i = 0; i < t->n_vocab; i++) {
        bool end = is_one(t->text[i], ENDS, COUNT(ENDS));
        t->is_end[i] = end;
        if (end || is_one(t->text[i], CONTROLS, COUNT(CONTROLS)))
            t->type[i] = SP_TOK_CONTROL;
    }
    SP_TRY(mark_end(t, g, "tokenizer.ggml.eot_token_id", NULL, 0, d));
    SP_TRY(mark_end(t, g, "tokenizer.ggml.eom_token_id", NULL, 0, d));
    SP_TRY(mark_end(t, g, "tokenizer.ggml.fim_pad_token_id", PADS, COUNT(PADS), d));
    SP_TRY(mark_end(t, g, "tokenizer.ggml.fim_rep_token_id", REPOS, COUNT(REPOS), d));
    SP_TRY(mark_end(t, g, "tokenizer.ggml.fim_sep_token_id", FILES, COUNT(FILES), d));
    mend_ends(t);
    SP_TRY(read_fim(t, g, d));
    if (t->eos != SP_TOK_NONE)
        t->is_end[t->eos] = true;
    return SP_OK;
}

static bool holds(sp_str s, const char *part)
{
    return s.n && memmem(s.p, s.n, part, strlen(part)) != NULL;
}

static void set_strip(sp_tok *t, const char *name, uint8_t strip)
{
    uint32_t id = named(t, name);
    if (id != SP_TOK_NONE)
        t->strip[id] = strip;
}

sp_err sp_tok_read_strips(sp_tok *t, const sp_gguf *g, sp_diag *d)
{
    static const char *const KEYS[] = {"tokenizer.ggml.pre", "general.architecture",
                                       "general.name"};
    sp_str v[3] = {{"", 0}, {"", 0}, {"", 0}};
    for (int i = 0; i < 3; i++) {
        sp_err err = sp_gguf_str(&v[i], g, KEYS[i], d);
        if (err != SP_OK && err != SP_NOTFOUND)
            return err;
    }
    char name[128];
    size_t n = v[2].n < sizeof name ? v[2].n : sizeof name;
    for (size_t i = 0; i < n; i++)
        name[i] = (char)tolower((unsigned char)v[2].p[i]);
    sp_str low = {name, n};
    if (holds(v[0], "jina-v2-de") || holds(v[0], "jina-v2-es") || holds(v[0], "jina-v2-code") ||
        holds(v[1], "nomic-bert-moe") || holds(v[1], "jina-bert-v3")) {
        set_strip(t, "<mask>", SP_TOK_LSTRIP);
    } else if (holds(low, "phi-3") || holds(low, "phi3")) {
        for (uint32_t i = 0; i < t->n_vocab; i++)
            if (t->type[i] == SP_TOK_CONTROL || t->type[i] == SP_TOK_USER ||
                t->type[i] == SP_TOK_UNKNOWN)
                t->strip[i] = SP_TOK_RSTRIP;
        set_strip(t, "<unk>", 0);
        set_strip(t, "<s>", 0);
        set_strip(t, "<|endoftext|>", 0);
    } else if (holds(low, "modern-bert")) {
        set_strip(t, "[MASK]", SP_TOK_LSTRIP);
    }
    return SP_OK;
}

uint32_t sp_tok_special_at(const sp_tok *t, const char *s, size_t at, size_t n, bool control,
                           size_t limit)
{
    uint32_t found = SP_TOK_NONE, node = 0;
    for (size_t i = at; i < n && t->special.node; i++) {
        node = sp_trie_step(&t->special, node, (unsigned char)s[i]);
        if (node == SP_TRIE_NONE)
            break;
        uint32_t id = t->special.node[node].id;
        if (id != SP_TRIE_NONE && (t->type[id] == SP_TOK_USER || (control && i < limit)))
            found = id;
    }
    return found;
}
