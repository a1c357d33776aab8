/* Errors: one code type for the whole tree, and a caller-owned note that says what and where.
 *
 * Every function that can fail returns sp_err; SP_OK is 0 everywhere. Functions that can explain
 * take an sp_diag *, which may be NULL. Outputs are untouched on error unless a header says so.
 * Threads: pure; an sp_diag belongs to one thread at a time. */
#ifndef SP_BASE_ERR_H
#define SP_BASE_ERR_H

typedef enum sp_err {
    SP_OK = 0,
    SP_AGAIN,    /* not now; the same call may succeed later */
    SP_NOMEM,    /* allocation failed */
    SP_LIMIT,    /* a configured or built-in limit would be passed */
    SP_INVAL,    /* the caller's argument is wrong */
    SP_FORMAT,   /* bytes from outside do not parse */
    SP_IO,       /* the operating system refused; os_errno says why */
    SP_NET,
    SP_DEV,      /* a device (GPU) refused */
    SP_TIMEOUT,
    SP_CANCEL,
    SP_NOTFOUND,
    SP_UNSUP,    /* understood, and not supported here */
    SP_CORRUPT   /* stored data does not match its checksum or key */
} sp_err;

typedef struct sp_diag {
    sp_err code;
    char msg[200];
    const char *file; /* of the code that reported; static storage */
    int line;
    int os_errno; /* 0 when the system was not involved */
} sp_diag;

#define SP_MUST __attribute__((warn_unused_result))
#define SP_PRINTF(fmt_at, arg_at) __attribute__((format(printf, fmt_at, arg_at)))

/* Fills *d (if not NULL). SP_FAIL is an expression of value code, so that
 * `return SP_FAIL(d, SP_INVAL, "…")` reads well; it evaluates code twice. */
void sp_diag_set(sp_diag *d, sp_err code, const char *file, int line, const char *fmt, ...)
    SP_PRINTF(5, 6);
#define SP_FAIL(d, code, ...)                                                                      \
    (sp_diag_set((d), (code), __FILE__, __LINE__, __VA_ARGS__), (sp_err)(code))

/* Name of a code in lower case, static storage. */
const char *sp_err_name(sp_err code);

#define SP_TRY(x)                                                                                  \
    do {                                                                                           \
        sp_err sp_try_err_ = (x);                                                                  \
        if (sp_try_err_ != SP_OK)                                                                  \
            return sp_try_err_;                                                                    \
    } while (0)

/* For our own bugs, never for input. Kept in release builds; prints the place and aborts. */
_Noreturn void sp_assert_fail(const char *expr, const char *file, int line);
#define SP_ASSERT(x) ((x) ? (void)0 : sp_assert_fail(#x, __FILE__, __LINE__))
#ifdef SP_DEBUG
#define SP_DASSERT(x) SP_ASSERT(x)
#else
#define SP_DASSERT(x) ((void)sizeof(x))
#endif

#endif
