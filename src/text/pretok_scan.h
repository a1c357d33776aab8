/* The scanners behind the rows of pretok.c. Not for other folders. */
#ifndef SP_TEXT_PRETOK_SCAN_H
#define SP_TEXT_PRETOK_SCAN_H

#include "text/pretok.h"

#include <stdbool.h>
#include <stdint.h>

/* Classes of code points; every code point is in exactly one. SPACE is White_Space. */
enum {
    SP_CLASS_LU = 1,
    SP_CLASS_LL = 2,
    SP_CLASS_LT = 4,
    SP_CLASS_LM = 8,
    SP_CLASS_LO = 16,
    SP_CLASS_L = 31,
    SP_CLASS_M = 32,
    SP_CLASS_N = 64,
    SP_CLASS_SPACE = 128,
    SP_CLASS_P = 256,
    SP_CLASS_S = 512,
    SP_CLASS_OTHER = 1024
};

unsigned sp_pretok_class(uint32_t cp);

typedef struct sp_pretok_range {
    uint32_t first, last;
} sp_pretok_range;

/* A set of code points: classes, a table of ranges in ascending order, or both. */
typedef struct sp_pretok_set {
    unsigned classes;
    const sp_pretok_range *range;
    size_t n_range;
    unsigned max;     /* longest match in code points; 0: no limit */
    bool after_space; /* one white space before it belongs to the match */
} sp_pretok_set;

/* [set]{1,max}, with \s? before it when after_space. */
sp_pretok_match sp_pretok_set_run;
/* 's|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+ */
sp_pretok_match sp_pretok_gpt2;

/* Options of the patterns that came with Llama 3 and its successors. */
typedef struct sp_pretok_words {
    unsigned letters;      /* classes of a word; with `cased` unused */
    unsigned max_digits;   /* \p{N}{1,max}; 0: \p{N}+ */
    bool begins_short;     /* (?i:'s|'t|'re|'ve|'m|'ll|'d) stands first */
    bool ends_short;       /* the same may follow a word */
    bool cased;            /* capitals, then small letters (o200k, tekken) */
    bool no_han;           /* runs of Han stand alone (kimi-k2) */
    bool spaced;           /* single spaces join letters (exaone-moe) */
    const char *tail;      /* characters that may follow punctuation; "" for none */
    bool one_tail;         /* at most one of them */
    bool halving_spaces;   /* runs of spaces in powers of two (jais-2) */
} sp_pretok_words;

sp_pretok_match sp_pretok_scan_words;
/* DeepSeek V3's pattern; opt: sp_pretok_words, of which `tail` is read ("" also means that every
 * newline stands alone). */
sp_pretok_match sp_pretok_scan_v3;
/* \s+$ */
sp_pretok_match sp_pretok_last_spaces;
/* [0-9][0-9][0-9] */
sp_pretok_match sp_pretok_three_digits;
/* Digits in threes, counted from the right. */
sp_pretok_match sp_pretok_digits_from_right;
/* [^\n]+|\n+ */
sp_pretok_match sp_pretok_lines;
/* ' '?[^(\s|.,!?…。，、।۔،)]+ */
sp_pretok_match sp_pretok_bloom;

/* Code points with capitals and small letters as DeepSeek LLM's pattern lists them, and
 * Script=Han. */
enum { SP_PRETOK_N_CASED = 87, SP_PRETOK_N_HAN = 22 };
extern const sp_pretok_range sp_pretok_cased[SP_PRETOK_N_CASED], sp_pretok_han[SP_PRETOK_N_HAN];


#endif
