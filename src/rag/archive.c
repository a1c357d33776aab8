/* Only names that a reader asks for are unpacked; the others cost a header each. */
#include "rag/archive.h"

#include "base/mem.h"

#include <archive.h>
#include <archive_entry.h>
#include <locale.h>
#include <stdlib.h>
#include <string.h>

static bool is_digit(char c)
{
    return c >= '0' && c <= '9';
}

/* By bytes, but a run of digits by its length first. */
static int by_name(const void *a, const void *b)
{
    const char *x = ((const sp_rag_member *)a)->name, *y = ((const sp_rag_member *)b)->name;
    for (; *x && *y; x++, y++) {
        if (is_digit(*x) && is_digit(*y)) {
            size_t n = strspn(x, "0123456789"), m = strspn(y, "0123456789");
            if (n != m)
                return n < m ? -1 : 1;
        }
        if (*x != *y)
            return (unsigned char)*x < (unsigned char)*y ? -1 : 1;
    }
    return *x ? 1 : *y ? -1 : 0;
}

static sp_err add(sp_rag_archive *out, sp_rag_reading *r, const char *name)
{
    if (!sp_mem_has_room(&out->at, &out->cap, out->n, sizeof *out->at))
        return SP_FAIL(r->d, SP_NOMEM, "document");
    out->at[out->n] = (sp_rag_member){.name = sp_mem_strdup(name)};
    if (!out->at[out->n].name)
        return SP_FAIL(r->d, SP_NOMEM, "document");
    out->n++;
    return SP_OK;
}

static const char *why(struct archive *a)
{
    const char *text = archive_error_string(a);
    return text ? text : "it ends too early";
}

/* UTF-8 where the archive says so, else the bytes that stand there. */
static const char *name_of(struct archive_entry *e)
{
    const char *name = archive_entry_pathname_utf8(e);
    return name ? name : archive_entry_pathname(e);
}

static sp_err unpack(sp_buf *to, sp_rag_reading *r, struct archive *a, size_t *left)
{
    char block[65536];
    la_ssize_t k;
    while ((k = archive_read_data(a, block, sizeof block)) > 0) {
        if ((size_t)k > *left)
            return SP_FAIL(r->d, SP_LIMIT, "its archive unpacks to more than %zu bytes",
                           r->text_bytes * SP_RAG_ARCHIVE_FACTOR);
        *left -= (size_t)k;
        sp_buf_put(to, block, (size_t)k);
        sp_err err = sp_rag_on_time(r);
        if (err != SP_OK)
            return err;
    }
    if (to->failed)
        return SP_FAIL(r->d, SP_NOMEM, "document");
    return k == 0 ? SP_OK : SP_FAIL(r->d, SP_FORMAT, "its archive is damaged: %.100s", why(a));
}

static sp_err take_all(sp_rag_archive *out, sp_rag_reading *r, struct archive *a,
                       bool (*wanted)(const char *name))
{
    size_t left = r->text_bytes * SP_RAG_ARCHIVE_FACTOR, n = 0;
    struct archive_entry *e;
    for (int rc; (rc = archive_read_next_header(a, &e)) != ARCHIVE_EOF;) {
        if (rc < ARCHIVE_WARN)
            return SP_FAIL(r->d, SP_FORMAT, "its archive is damaged: %.100s", why(a));
        if (++n > SP_RAG_ARCHIVE_MEMBERS)
            return SP_FAIL(r->d, SP_LIMIT, "its archive has more than %d members",
                           SP_RAG_ARCHIVE_MEMBERS);
        const char *name = name_of(e);
        SP_TRY(sp_rag_on_time(r));
        if (!name || !wanted(name))
            continue;
        if (archive_entry_is_data_encrypted(e))
            return SP_FAIL(r->d, SP_UNSUP, "it is encrypted and opens only with a password");
        SP_TRY(add(out, r, name));
        SP_TRY(unpack(&out->at[out->n - 1].data, r, a, &left));
    }
    return SP_OK;
}

static sp_err read_zip(sp_rag_archive *out, sp_rag_reading *r, bool (*wanted)(const char *name),
                       const char *p, size_t n)
{
    struct archive *a = archive_read_new();
    if (!a)
        return SP_FAIL(r->d, SP_NOMEM, "document");
    archive_read_support_format_zip(a);
    sp_err err = archive_read_open_memory(a, p, n) == ARCHIVE_OK
                     ? take_all(out, r, a, wanted)
                     : SP_FAIL(r->d, SP_FORMAT, "it is not the zip archive that its name says");
    archive_read_free(a);
    return err;
}

sp_err sp_rag_archive_open(sp_rag_archive *out, sp_rag_reading *r, bool (*wanted)(const char *name),
                           const char *p, size_t n)
{
    static const unsigned char ole[] = {0xd0, 0xcf, 0x11, 0xe0};
    *out = (sp_rag_archive){0};
    if (n >= 4 && memcmp(p, ole, 4) == 0)
        return SP_FAIL(r->d, SP_UNSUP,
                       "it is encrypted with a password, or of Office's format before 2007");
    /* libarchive drops names that the thread's locale cannot write, and a program starts in one
     * that has ASCII only. */
    locale_t utf8 = newlocale(LC_CTYPE_MASK, "C.UTF-8", (locale_t)0),
             before = utf8 ? uselocale(utf8) : (locale_t)0;
    sp_err err = read_zip(out, r, wanted, p, n);
    if (utf8) {
        uselocale(before);
        freelocale(utf8);
    }
    if (out->n)
        qsort(out->at, out->n, sizeof *out->at, by_name);
    return err;
}

void sp_rag_archive_fini(sp_rag_archive *a)
{
    for (size_t i = 0; i < a->n; i++) {
        sp_mem_free(a->at[i].name);
        sp_buf_fini(&a->at[i].data);
    }
    sp_mem_free(a->at);
    *a = (sp_rag_archive){0};
}

const sp_rag_member *sp_rag_archive_find(const sp_rag_archive *a, const char *name)
{
    const sp_rag_member key = {.name = (char *)(uintptr_t)name};
    return a->n ? bsearch(&key, a->at, a->n, sizeof *a->at, by_name) : NULL;
}
