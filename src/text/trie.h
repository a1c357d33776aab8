/* Prefix tree over byte strings: the longest key at a place of a text, or all keys there.
 * Children of a node lie beside each other in the order of their bytes.
 * Owner:   the tree owns its nodes; keys are not kept.
 * Threads: immutable after init.
 * Cost:    12 bytes for each distinct prefix; a step is a binary search among the children. */
#ifndef SP_TEXT_TRIE_H
#define SP_TEXT_TRIE_H

#include "base/err.h"
#include "fmt/gguf.h"

#include <stddef.h>
#include <stdint.h>

#define SP_TRIE_NONE UINT32_MAX

typedef struct sp_trie_key {
    sp_str text;
    uint32_t id;
} sp_trie_key;

typedef struct sp_trie_node {
    uint32_t child; /* first child */
    uint32_t id;    /* SP_TRIE_NONE: no key ends here */
    uint16_t n_child;
    unsigned char byte;
} sp_trie_node;

typedef struct sp_trie {
    sp_trie_node *node; /* node[0] is the root; NULL: no keys */
    size_t n;
    uint32_t first[256]; /* child of the root for each byte; SP_TRIE_NONE: none */
} sp_trie;

/* Sorts key in place. Of equal keys the one with the highest id counts. Empty keys are ignored.
 * Errors: SP_NOMEM, SP_LIMIT for 4 GiB of prefixes. */
SP_MUST sp_err sp_trie_init(sp_trie *t, sp_trie_key *key, size_t n);
void sp_trie_fini(sp_trie *t);
/* The node one byte below `at`; the root is 0. SP_TRIE_NONE: no key goes on so. */
uint32_t sp_trie_step(const sp_trie *t, uint32_t at, unsigned char byte);

#endif
