/* What the parts of sp_arch_read share: the keys of a file, and a row of the table of
 * architectures. arch_key.c reads keys, arch_family.c has the table, arch_rope.c positions,
 * arch.c the rest. */
#ifndef SP_MODEL_ARCH_INT_H
#define SP_MODEL_ARCH_INT_H

#include "model/arch.h"

enum {
    MAX_EMBD = 1 << 16,
    MAX_HEAD = 1024,
    MAX_EXPERT = 1024,
    MAX_CTX = 1 << 24,
    MAX_FF = 1 << 20,
    MAX_TAP = 64,
    ALL_LAYERS = SP_MAX_LAYER + 1 /* a full_every that no layer reaches */
};

typedef struct sp_arch_reader {
    const sp_gguf *g;
    const char *arch;
    size_t n_block; /* of the file: the trunk's layers, then those that only guess tokens */
    unsigned asked; /* which of telling[] in arch_key.c were read */
    sp_diag *d;
    char key[128];
} sp_arch_reader;

typedef enum trait {
    HALVES = 1,       /* RoPE turns elements d_rot / 2 apart */
    POST_NORM = 2,    /* a norm before each addition to the stream */
    ONLY_POST = 4,    /* ... and none before the branch */
    EMBD_SQRT = 8,    /* embeddings times sqrt(n_embd) */
    /* layers with a window have a base of their own, 10000 where the file says nothing */
    OWN_ROPE = 16,
    PLAIN_ROPE = 32,  /* layers with a window do not stretch positions */
    EXPERTS = 64,     /* layers may have experts */
    AS_SCORED = 128,  /* weights of experts are not normed where the file does not say so */
    LATE_NAME = 256,  /* the norm before the feed-forward part is called post_attention_norm */
    SINKS = 512,
    SMOOTH_ROPE = 1024, /* YaRN's bounds are not rounded to whole pairs */
    BOTH_WAYS = 2048,   /* tokens see later ones where the file does not say */
    LAYER_NORM = 4096,  /* not RMS; the stream begins with one */
    SUM_NORM = 8192,    /* a norm after each addition to the stream, and none elsewhere */
    NO_GATE = 16384,    /* down(act(up)) */
    NO_ROPE = 32768,    /* positions are learned */
    FULL_FIRST = 65536, /* of full_every layers the first sees all, not the last */
    BARE_FIRST = 131072, /* the first layer's attention takes the stream without a norm */
    EMBD_NAME = 262144,  /* the final norm is called token_embd_norm */
    LATENT = 524288,     /* attention over latents */
    /* heads of layers with a window have other sizes, and layers other numbers of KV heads */
    OWN_HEADS = 1048576,
    SHARED_GATE = 2097152, /* the part beside experts has a gate */
    /* heads of values that share a head of keys are neighbours, and their numbers come out of
     * one matrix */
    NEIGHBOURS = 4194304,
    /* a layer either mixes tokens or is a feed-forward part: one that has the width of such a
     * part */
    ALONE = 8388608,
    NEXT = 16777216,      /* the blocks behind its layers that guess tokens are known */
} trait;

/* One architecture. */
typedef struct sp_family {
    const char *name;
    unsigned is; /* traits */
    sp_act act;
    sp_head_norm head_norm;
    sp_score score;  /* of experts, where the file does not say */
    sp_mix mix;      /* of layers that have no heads of keys */
    /* Where the file has a window: all layers but every full_every-th have it. 0: the family has
     * no windows. */
    size_t full_every;
    size_t window; /* where the file does not say */
    sp_err (*read)(sp_arch *a, sp_arch_reader *r); /* what only this family has; or NULL */
} sp_family;


/* The key of this architecture that ends so. Valid until the next call. */
const char *sp_arch_key(sp_arch_reader *r, const char *tail);
/* Values from min to max; a key that is absent is `fallback`, or an error where that is SIZE_MAX.
 * Errors of these: SP_FORMAT, SP_UNSUP. */
SP_MUST sp_err sp_arch_u(size_t *out, sp_arch_reader *r, const char *tail, uint64_t min,
                         uint64_t max, size_t fallback);
/* Of layer i, where the file may give a value for each. */
SP_MUST sp_err sp_arch_at(size_t *out, sp_arch_reader *r, const char *tail, size_t i, uint64_t min,
                      uint64_t max, size_t fallback);
/* The same value, from 1 on, for all layers of the trunk, however the file gives it. */
SP_MUST sp_err sp_arch_same(size_t *out, sp_arch_reader *r, const char *tail, const sp_arch *a,
                            uint64_t max, size_t fallback);
/* ... for those with attention, of which there is one. */
SP_MUST sp_err sp_arch_same_attending(size_t *out, sp_arch_reader *r, const char *tail,
                                      const sp_arch *a, uint64_t max, size_t fallback);
SP_MUST sp_err sp_arch_f(float *out, sp_arch_reader *r, const char *tail, float fallback);
/* A factor: absent or 0 is the fallback, as llama.cpp reads it. */
SP_MUST sp_err sp_arch_factor(float *out, sp_arch_reader *r, const char *tail, float fallback);
SP_MUST sp_err sp_arch_bool(bool *out, sp_arch_reader *r, const char *tail, bool fallback);
/* No key that changes the arithmetic was left unread. */
SP_MUST sp_err sp_arch_check_keys(sp_arch_reader *r);

/* The row of general.architecture. Errors: SP_FORMAT, SP_UNSUP with the names there are. */
SP_MUST sp_err sp_arch_find_family(const sp_family **out, const sp_gguf *g, sp_diag *d);
SP_MUST sp_err sp_arch_read_rope(sp_arch *a, const sp_family *f, sp_arch_reader *r);
/* Which layers have pages, and what heads are in them. The last n_shared layers attend what the
 * last layer of their kind before them has. */
SP_MUST sp_err sp_arch_lay_out_pages(sp_arch *a, size_t n_shared, sp_arch_reader *r);

#endif
