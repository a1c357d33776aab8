/* Reference marks: spans of an answer that repeat a text which the client already has leave as
 * marks.
 *
 * A source is a text of the request (a message, a prompt) or the answer itself as far as it has
 * left. A span becomes a mark where it repeats at least SP_REFER_TOK tokens of one source, byte for
 * byte. A mark names source, offset, length and CRC-32; whoever puts the named bytes in its place
 * gets the answer back, byte for byte. Spans begin and end between characters.
 *
 * Two forms. Marks go beside the text (cfg.mark), or in it, for readers: `[§1]` stands for a span,
 * `[§§` for the two characters `[§` of the answer, and the end of the text lists the spans:
 *     "\n\n[§] repeated:" and for each span "\n- [§1] message 2, bytes 120-240, crc32 1a2b3c4d: …",
 * where … are its first and last words. Only texts of the request are named so.
 * clients/references.py and web/references.js expand both forms.
 *
 * Text is held back while it may become part of a span: up to 11 bytes where nothing repeats.
 *
 * Owner:   sp_refer owns what it holds and copies the sources; the tokenizer is borrowed.
 * Threads: one at a time.
 * Errors:  SP_NOMEM.
 * Cost:    8 bytes for each byte of sources and answer; of sources the first 4 MiB count.
 * Source:  Ziv and Lempel 1977 (LZ77), with a parse that takes the longest match at each place. */
#ifndef SP_PIPE_REFER_H
#define SP_PIPE_REFER_H

#include "gen/stage.h"

enum {
    SP_REFER_TOK = 8,     /* tokens of a span, at least */
    SP_REFER_ANSWER = -1, /* the source that is the answer itself */
    SP_REFER_SPAN = 256   /* bytes of a span of a stream, at most: text keeps coming */
};

typedef enum sp_refer_form { SP_REFER_NONE, SP_REFER_MARKS, SP_REFER_READABLE } sp_refer_form;

typedef struct sp_reference {
    size_t at;             /* bytes of the text given out before it */
    int source;            /* index of a source, or SP_REFER_ANSWER */
    size_t offset, length; /* bytes of the source */
    uint32_t crc32;        /* of the span: ISO 3309, as zlib has it */
} sp_reference;

/* What was saved. */
typedef struct sp_refer_stat {
    size_t n_mark;
    size_t n_tok, n_byte; /* of the spans that left as marks */
    size_t n_mark_byte;   /* of the marks, as they are written */
    size_t n_guessed;     /* of n_tok, guessed ahead: their steps were saved too */
} sp_refer_stat;

typedef struct sp_refer_cfg {
    /* [n_source] copied; empty: a source of this index that cannot be named */
    const sp_str *source;
    size_t n_source;
    const sp_tok *tok;  /* counts tokens */
    size_t least, most; /* bytes of a span, at least and at most; most 0: any number */
    bool has_at;        /* marks are written with their place in the text: bytes are counted so */
    bool readable;      /* the second form; mark is not called then */
    /* Text that leaves as it is, and spans that leave as marks, in the order of the answer. how
     * [text.n]: as it was fed; NULL: the text is not the answer's. Borrowed for the call. */
    void (*text)(void *arg, sp_str text, const char *how);
    void (*mark)(void *arg, const sp_reference *r);
    void *arg;
} sp_refer_cfg;

typedef struct sp_refer sp_refer;

SP_MUST sp_err sp_refer_new(sp_refer **out, const sp_refer_cfg *cfg);
void sp_refer_free(sp_refer *r);
/* More of the answer, whole characters as far as the model gave them. how: [text.n] as
 * sp_event.how; NULL: nobody knows. */
SP_MUST sp_err sp_refer_feed(sp_refer *r, sp_str text, const char *how);
/* What is held back leaves. More may follow. */
SP_MUST sp_err sp_refer_flush(sp_refer *r);
/* The answer has ended: what is held back leaves, and the list of readable marks. */
SP_MUST sp_err sp_refer_finish(sp_refer *r);
sp_refer_stat sp_refer_stat_of(const sp_refer *r);

/* {"at": …, "source": 2 or "answer", "offset": …, "length": …, "crc32": …}; has_at false: without
 * at. */
void sp_refer_write(sp_buf *out, const sp_reference *r, bool has_at);
uint32_t sp_refer_crc32(const char *p, size_t n);

#endif
