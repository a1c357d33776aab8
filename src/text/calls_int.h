/* What the parsers of calls share; used by calls*.c only.
 *
 * A call goes through three hands: calls.c finds its mark, the parser of its kind takes each byte
 * of it, and reports through sp_call_named, sp_call_args and sp_call_end. A parser returns what it
 * made of a byte. */
#ifndef SP_TEXT_CALLS_INT_H
#define SP_TEXT_CALLS_INT_H

#include "base/mem.h"
#include "text/calls.h"
#include "text/jinja.h"

#include <string.h>

enum {
    SP_CALL_NAME = 256,
    SP_CALL_RAW = 64 << 10,
    SP_CALL_VALUE = 1 << 20,
    SP_CALL_MOST = 128,
    SP_CALL_DEPTH = 64,
    SP_MARK_BYTES = 64
};

typedef enum step {
    STEP_MORE,  /* the byte is taken */
    STEP_DONE,  /* it was the last one of the call */
    STEP_LEAVE, /* the call was over before the bytes in `loose`, which are text */
    STEP_BAD    /* this is no call */
} step;

/* Bytes that may become a mark. */
typedef struct sp_held {
    char p[SP_MARK_BYTES];
    size_t n;
} sp_held;

enum { SP_MARK_NONE = -1 };
/* Takes a byte; the index of the mark that it ends, or SP_MARK_NONE. Bytes that belong to none go
 * to loose. A mark may be NULL. */
int sp_mark_take(sp_held *h, char c, const char *const *mark, size_t n_mark, sp_buf *loose);

/* Where a JSON value ends. */
typedef struct sp_scan {
    uint64_t braces; /* a bit a level: { or [ */
    unsigned depth;
    bool in_string, is_escaped, is_scalar, has_begun;
} sp_scan;

typedef enum sp_scanned {
    SCAN_MORE,
    SCAN_END,
    SCAN_BEFORE,
    SCAN_BAD
} sp_scanned; /* BEFORE: the value had ended before this byte */
sp_scanned sp_scan_take(sp_scan *s, char c);

struct sp_answer {
    sp_answer_cfg cfg;
    sp_arena arena; /* of tools */
    sp_jval tools;  /* a list, or nothing */
    int state;      /* of calls.c */
    int sub;        /* of the parser of the call's kind */
    sp_buf out;     /* a piece of text that is not reported yet, of kind out_kind */
    sp_answer_kind out_kind;
    sp_held held;
    sp_buf loose; /* what a byte has set free */
    sp_buf blank; /* blanks that may stand before a call or at the end of thoughts */
    sp_buf raw;   /* since the mark, until the name is known */
    sp_buf head, name, id, key, value;
    sp_buf args; /* of the call, whole */
    sp_scan scan;
    size_t n_call, n_list;
    size_t n_arg;   /* since the mark: arguments, or objects of a list */
    int role, nest; /* of a JSON object */
    char quote;     /* of a literal */
    bool is_named, has_args, in_section, skip_blank, at_start, is_text;
    bool is_streamed; /* of a value in an object: it is reported as it comes */
};

/* The name (of a->name) and id (a->id) are known. false: no function is called so. */
bool sp_call_named(sp_answer *a);
/* More of the arguments. */
void sp_call_args(sp_answer *a, const char *p, size_t n);
/* The call is whole; its arguments are {} if none have come. */
void sp_call_end(sp_answer *a);

void sp_call_begin(sp_answer *a); /* a call, or a list of them, begins behind its mark */
step sp_call_json(sp_answer *a, char c);
step sp_call_tagged(sp_answer *a, char c);
step sp_call_named_args(sp_answer *a, char c);
step sp_call_literal(sp_answer *a, char c);
/* The parser of names and JSON arguments, at its arguments: a head has said the name. */
void sp_call_at_args(sp_answer *a);

/* Appends text to a buffer of at most `most` bytes. */
static inline bool sp_call_add(sp_buf *b, char c, size_t most)
{
    sp_buf_putc(b, c);
    return b->len <= most;
}

static inline bool sp_call_blank(char c)
{
    return c == ' ' || c == '\n' || c == '\t' || c == '\r';
}

/* A text as a value; false where it is no JSON. v lives in the arena. */
bool sp_call_parse(sp_jval *v, sp_arena *a, const char *p, size_t n);
/* Python's or Gemma's literal of a map's inside as a JSON object; false: it is none. */
bool sp_call_convert(sp_buf *out, const char *p, size_t n, bool is_gemma);
/* One literal of Python as JSON; false: it is none. */
bool sp_call_python(sp_buf *out, const char *p, size_t n);
/* Elements in elements, as MiniMax M3 writes arguments, as the inside of a JSON object's values. */
bool sp_call_nested(sp_buf *out, const char *p, size_t n, const sp_call_format *f);
/* Appends a value that stands between marks: JSON where it reads so, or as Python writes it; else a
 * text. */
void sp_call_guess(sp_buf *out, const char *p, size_t n);

#endif
