/* An answer's text taken apart as it comes: plain text, thoughts, and calls of tools in the model's
 * own format.
 *
 * A format is a row of data (calls_format.c): the marks around a call and how its arguments are
 * written. The chat template says which one a model writes (sp_chat_format). Every byte is looked
 * at once, in order, so that pieces of any size give the same events, but for where the texts of
 * neighbouring events are cut.
 *
 * A mark that no call follows is plain text. Of what breaks off, a name that has been reported ends
 * with ok false; anything before is plain text.
 *
 * Limits:  names of 256 bytes, 64 KiB from a call's mark to its name, 1 MiB a value that is held
 * back, nesting of 64, 128 calls. Owner:   sp_answer owns what it holds; formats are static. Texts
 * of events are borrowed for the call. Threads: one at a time. */
#ifndef SP_TEXT_CALLS_H
#define SP_TEXT_CALLS_H

#include "base/buf.h"
#include "fmt/gguf.h"

typedef enum sp_call_kind {
    SP_CALL_JSON,   /* objects {"name": …, "arguments": …}, or lists of them */
    SP_CALL_NAMED,  /* name, separator, arguments as a JSON object */
    SP_CALL_TAGGED, /* name, then each argument between marks */
    SP_CALL_PYTHON, /* name(key="text", …) */
    SP_CALL_GEMMA   /* name{key:<|"|>text<|"|>, …} */
} sp_call_kind;

/* Strings are NULL where a format has no such mark. Blanks between marks are skipped. */
typedef struct sp_call_format {
    const char *name;
    sp_call_kind kind;
    const char *section, *section_lead,
        *section_end; /* around all calls; lead: as the model writes it behind section */
    const char *begin,
        *end; /* around a call, or a list of them; end NULL: its own bracket ends it */
    const char
        *lead;       /* between begin and the name, as the model writes it; JSON: up to the quote */
    const char *sep; /* what ends the name; JSON: only written; TAGGED: NULL: the first key or the
                        end does */
    const char *after; /* behind the arguments, as the model writes it */
    const char
        *between;       /* NAMED: written between name and arguments, where that is more than sep */
    const char *id;     /* NAMED: after the name, before an id that sep ends */
    const char *id_end; /* NAMED: ends an id that stands before the name */
    const char *name_tail; /* TAGGED: skipped behind sep, up to and with it */
    const char *key, *key_end, *value, *value_end,
        *value_tail; /* TAGGED: around keys and values; value, value_tail may be NULL */
    const char *attr_end, *attr_text; /* TAGGED: after key_end an attribute; attr_text: the value is
                                         text, else JSON */
    const char *close_key;            /* TAGGED: the key that is none, but the end of the call */
    const char *turn, *head_end, *body_end[3]; /* an answer of several bodies, each behind a head */
    const char *head_call;                     /* of a head: the name of a function follows */
    const char *head_plain;                    /* the head of an answer that is plain text */
    const char *drop[5];                       /* marks that stand around plain text */
    bool is_nested;        /* TAGGED: values are elements between key and value_end, or text */
    bool is_bare;          /* JSON: an answer may be a call without a mark */
    bool is_keyed;         /* JSON: {"name": {arguments}} */
    bool is_trimmed;       /* TAGGED: values stand on lines of their own */
    bool is_named_by_head; /* the whole head, but for all, is the name of a function */
} sp_call_format;

/* The marks of a model's thoughts; NULL: it has none, or its heads say it. */
typedef struct sp_think_marks {
    const char *open, *close;
} sp_think_marks;

/* Where an answer begins, which the prompt's end says. */
typedef enum sp_answer_at { SP_ANSWER_TEXT, SP_ANSWER_THINK, SP_ANSWER_HEAD } sp_answer_at;

typedef enum sp_answer_kind {
    SP_ANSWER_SAYS,   /* plain text */
    SP_ANSWER_THINKS, /* thoughts */
    SP_ANSWER_OPEN,   /* a call's mark has come; if it turns out to be none, SP_ANSWER_SAYS gives it
                       */
    SP_ANSWER_CALL,   /* a call's name, and its id where the model writes one */
    SP_ANSWER_ARGS,   /* a piece of the arguments of the last call, as JSON */
    SP_ANSWER_END     /* the arguments are whole (ok), or broken off or no JSON */
} sp_answer_kind;

typedef struct sp_answer_event {
    sp_answer_kind kind;
    sp_str text; /* of SAYS, THINKS, ARGS; of CALL: the name */
    sp_str id;   /* of CALL; often empty */
    bool ok;     /* of END */
} sp_answer_event;

typedef struct sp_answer_cfg {
    const sp_call_format *format;
    bool has_tools; /* else calls are not looked for, and are plain text */
    bool is_either; /* the answer is a text or calls: in the text there are no marks */
    sp_think_marks think;
    sp_answer_at at;
    sp_str tools; /* JSON array, as sp_chat_ask.tools: which arguments are text; may be empty */
    void (*on)(void *arg, const sp_answer_event *e);
    void *arg;
} sp_answer_cfg;

typedef struct sp_answer sp_answer;

/* Errors: SP_NOMEM. Copies nothing of cfg but its pointers. */
SP_MUST sp_err sp_answer_new(sp_answer **out, const sp_answer_cfg *cfg, sp_diag *d);
void sp_answer_free(sp_answer *a);
/* The next bytes of the answer. is_control: they are a control token, which is dropped unless it is
 * a part of a mark. Errors: SP_NOMEM. */
SP_MUST sp_err sp_answer_feed(sp_answer *a, const char *p, size_t n, bool is_control);
/* The answer has ended: what is held back is given. */
SP_MUST sp_err sp_answer_finish(sp_answer *a);
/* Of a call whose mark has come (SP_ANSWER_OPEN) and whose name has not: its bytes so far, from the
 * mark on. */
sp_str sp_answer_raw(const sp_answer *a);

/* --- formats ---------------------------------------------------------------------------------- */

/* The rows, in the order in which they are tried; NULL behind the last one. */
const sp_call_format *sp_call_format_at(size_t i);
/* By name; NULL: there is none. */
const sp_call_format *sp_call_format_find(const char *name);
/* The pairs of marks of thoughts that are known; open is NULL behind the last one. */
sp_think_marks sp_think_marks_at(size_t i);

/* How calls are written, for a grammar: before NAME between ARGUMENTS after, then for each further
 * call again NAME between ARGUMENTS after, then close. */
typedef struct sp_call_frame {
    char trigger[64]; /* a text that contains this begins a call; empty: only the answer's first
                         byte does */
    char before[160], between[64], after[64];
    char again[160], close[64]; /* close: of a section that holds several calls; else empty */
    bool is_json; /* arguments are a JSON object; else they have marks of their own and only the
                     name can be forced */
} sp_call_frame;
void sp_call_frame_of(sp_call_frame *out, const sp_call_format *f);

#endif
