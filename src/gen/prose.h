/* Where in Markdown a text has come to: what rules on prose must leave alone.
 *
 * Protected are: fenced code, inline code, text between double quotes on one line, block quotes,
 * rows of tables, and an answer that begins with { or [, which is taken for JSON.
 *
 * Owner:   plain data. Threads: one. Cost: a few operations a byte. */
#ifndef SP_GEN_PROSE_H
#define SP_GEN_PROSE_H

#include <stdbool.h>
#include <stddef.h>

typedef struct sp_prose {
    bool has_begun, is_json;
    bool in_fence, in_code, in_quote, is_row; /* is_row: of a table or a block quote */
    char lang[16]; /* in_fence: the first word of its info string, in small letters; "": none */
    size_t n_line; /* bytes of this line */
    size_t n_mark; /* of them, ` at its beginning behind blanks */
    bool is_info;  /* behind the mark of a fence, on its line */
    bool has_lang; /* the first word of it is over */
    bool at_mark;  /* only blanks and ` so far */
} sp_prose;

/* Kinds of bytes; every byte of a character beyond ASCII is a letter's. */
static inline bool sp_prose_blank(char c)
{
    return c == ' ' || c == '\t' || c == '\r' || c == '\n';
}
static inline bool sp_prose_digit(char c)
{
    return c >= '0' && c <= '9';
}
static inline bool sp_prose_letter(char c)
{
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (unsigned char)c >= 0x80;
}

/* The next byte of the text. Zeroed is the beginning. */
void sp_prose_step(sp_prose *p, char c);
/* Is what comes now to be left alone? */
bool sp_prose_is_protected(const sp_prose *p);
/* Does the byte at p[i] of a sentence that begins at `begin` end it, if a blank follows? Not behind
 * a number that counts, or what is mostly an abbreviation. */
bool sp_prose_may_end(const char *p, size_t begin, size_t i);

#endif
