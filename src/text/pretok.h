/* Pre-tokenizers: split text into words that BPE never merges across. Hand-written scanners for the
 * published patterns, one pass, no backtracking. Pure. */
#ifndef SP_TEXT_PRETOK_H
#define SP_TEXT_PRETOK_H

#include <stddef.h>

typedef enum sp_pretok { SP_PRETOK_GPT2, SP_PRETOK_SMOLLM, SP_PRETOK_LLAMA3, SP_PRETOK_KINDS } sp_pretok;

/* Bytes of the word that starts at s; 1..n for n > 0. Bytes that are not UTF-8 count as symbols. */
size_t sp_pretok_word(sp_pretok kind, const char *s, size_t n);
/* Kind of a GGUF tokenizer.ggml.pre value; SP_PRETOK_KINDS when it is unknown. */
sp_pretok sp_pretok_find(const char *name, size_t n);

#endif
