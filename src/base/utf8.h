/* UTF-8 and character classes as the tokenizers need them. Pure functions. */
#ifndef SP_BASE_UTF8_H
#define SP_BASE_UTF8_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Decodes one code point: bytes used (1..4), or 0 if s is not well-formed UTF-8 there
 * (overlong, surrogate, > U+10FFFF, cut short). */
size_t sp_utf8_decode(uint32_t *cp, const char *s, size_t n);
size_t sp_utf8_encode(char out[4], uint32_t cp); /* cp <= 0x10FFFF */
bool sp_utf8_is_valid(const char *s, size_t n);
/* Bytes at the end of s that begin a code point which may still be completed (0..3). */
size_t sp_utf8_tail(const char *s, size_t n);

bool sp_utf8_is_letter(uint32_t cp); /* \p{L} */
bool sp_utf8_is_number(uint32_t cp); /* \p{N} */
bool sp_utf8_is_space(uint32_t cp);  /* White_Space */
/* neither \p{C} nor \p{Z}, except the space: Python's str.isprintable */
bool sp_utf8_is_printable(uint32_t cp);
uint32_t sp_utf8_upper(uint32_t cp); /* simple case mappings */
uint32_t sp_utf8_lower(uint32_t cp);

#endif
