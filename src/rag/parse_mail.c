/* Mail: .eml through GMime. The subject is the title; who wrote to whom and when is a part;
 * attachments of known formats are read below their names. */
#include "rag/parse_int.h"

#include <gmime/gmime.h>
#include <pthread.h>
#include <string.h>

enum { MAX_DEPTH = 2 }; /* a mail in a mail */

static void start_gmime(void)
{
    g_mime_init();
}

static void put_line(sp_buf *out, const char *name, const char *value)
{
    if (value && *value)
        sp_buf_printf(out, "%s%s: %s", out->len ? "\n" : "", name, value);
}

static void put_people(sp_buf *out, const char *name, InternetAddressList *list)
{
    char *text = list ? internet_address_list_to_string(list, NULL, FALSE) : NULL;
    put_line(out, name, text);
    g_free(text);
}

static sp_err give_head(sp_rag_reading *r, GMimeMessage *m)
{
    sp_buf b = {0};
    const char *subject = g_mime_message_get_subject(m);
    GDateTime *date = g_mime_message_get_date(m);
    char *when = date ? g_date_time_format_iso8601(date) : NULL;
    put_people(&b, "From", g_mime_message_get_from(m));
    put_people(&b, "To", g_mime_message_get_to(m));
    put_people(&b, "Cc", g_mime_message_get_cc(m));
    put_line(&b, "Date", when);
    g_free(when);
    sp_err err = b.failed ? SP_FAIL(r->d, SP_NOMEM, "document") : SP_OK;
    if (err == SP_OK && !b.len && !subject)
        err = SP_FAIL(r->d, SP_FORMAT, "it has none of a mail's headers");
    if (err == SP_OK && subject)
        err = sp_rag_give(r, SP_RAG_TITLE, 0, subject, strlen(subject), false);
    r->titled = true;
    if (err == SP_OK)
        err = sp_rag_give(r, SP_RAG_TEXT, 0, sp_buf_str(&b), b.len, true);
    sp_buf_fini(&b);
    return err;
}

typedef struct walk {
    sp_rag_reading *r;
    /* the last set of versions of one text that has a plain one, or NULL */
    GMimeMultipart *versions;
} walk;

static bool is_type(GMimeObject *part, const char *type, const char *subtype)
{
    return g_mime_content_type_is_type(g_mime_object_get_content_type(part), type, subtype);
}

static bool has_plain_version(GMimeMultipart *m)
{
    for (int i = 0; i < g_mime_multipart_get_count(m); i++)
        if (is_type(g_mime_multipart_get_part(m, i), "text", "plain"))
            return true;
    return false;
}

/* HTML that says what plain text beside it says; or beside the set that holds the HTML with its
 * pictures. */
static bool is_second_version(const walk *w, GMimeObject *part, GMimeObject *parent)
{
    return w->versions && is_type(part, "text", "html") &&
           (g_mime_multipart_index_of(w->versions, part) >= 0 ||
            (parent && g_mime_multipart_index_of(w->versions, parent) >= 0));
}

/* Its bytes, decoded. */
static GByteArray *content_of(GMimePart *part)
{
    GMimeStream *to = g_mime_stream_mem_new();
    GByteArray *bytes = g_byte_array_new();
    GMimeDataWrapper *content = g_mime_part_get_content(part);
    g_mime_stream_mem_set_byte_array(GMIME_STREAM_MEM(to), bytes);
    if (content)
        g_mime_data_wrapper_write_to_stream(content, to);
    g_object_unref(to);
    return bytes;
}

static sp_err give_attachment(sp_rag_reading *r, GMimePart *part, const char *name)
{
    if (!sp_rag_can_parse(name) || r->depth >= MAX_DEPTH) {
        sp_rag_remark(r, "attachment %.100s is not read: %s", name,
                      r->depth >= MAX_DEPTH ? "too deep" : "not a format that is read");
        return sp_rag_on_time(r);
    }
    GByteArray *bytes = content_of(part);
    sp_err err = sp_rag_give(r, SP_RAG_HEADING, 1, name, strlen(name), false);
    if (err == SP_OK)
        err = sp_rag_parse_within(r, name, (const char *)bytes->data, bytes->len);
    if (err == SP_FORMAT || err == SP_UNSUP) {
        sp_rag_bad(r, "attachment %.80s: %.120s", name, r->d->msg);
        err = SP_OK;
    }
    g_byte_array_unref(bytes);
    return err;
}

static sp_err give_text(sp_rag_reading *r, GMimeObject *part)
{
    bool html = is_type(part, "text", "html");
    const char *charset = g_mime_object_get_content_type_parameter(part, "charset");
    GByteArray *bytes = content_of(GMIME_PART(part));
    sp_buf text = {0};
    sp_err err = bytes->len
                     ? sp_rag_decode(&text, r, html, charset, (const char *)bytes->data, bytes->len)
                     : SP_OK;
    if (err == SP_OK && text.len)
        err = html ? sp_rag_parse_html(r, sp_buf_str(&text), text.len)
                   : sp_rag_parse_text(r, sp_buf_str(&text), text.len);
    sp_buf_fini(&text);
    g_byte_array_unref(bytes);
    if (err == SP_FORMAT) {
        sp_rag_bad(r, "its text: %.160s", r->d->msg);
        err = SP_OK;
    }
    return err;
}

static sp_err give_part(walk *w, GMimeObject *part, GMimeObject *parent)
{
    if (GMIME_IS_MULTIPART(part) && is_type(part, "multipart", "alternative") &&
        has_plain_version(GMIME_MULTIPART(part)))
        w->versions = GMIME_MULTIPART(part);
    if (GMIME_IS_MESSAGE_PART(part) && g_mime_message_part_get_message(GMIME_MESSAGE_PART(part)))
        return give_head(w->r, g_mime_message_part_get_message(GMIME_MESSAGE_PART(part)));
    if (!GMIME_IS_PART(part))
        return SP_OK;
    const char *name = g_mime_part_get_filename(GMIME_PART(part)),
               *how = g_mime_object_get_disposition(part);
    if (name || (how && g_ascii_strcasecmp(how, "attachment") == 0))
        return give_attachment(w->r, GMIME_PART(part), name ? name : "without a name");
    if (!GMIME_IS_TEXT_PART(part) || is_second_version(w, part, parent))
        return sp_rag_on_time(w->r); /* pictures within the text */
    return give_text(w->r, part);
}

static sp_err give_parts(sp_rag_reading *r, GMimeMessage *m)
{
    walk w = {r, NULL};
    sp_err err = SP_OK;
    GMimePartIter *at = g_mime_part_iter_new(GMIME_OBJECT(m));
    if (g_mime_part_iter_is_valid(at))
        do {
            GMimeObject *part = g_mime_part_iter_get_current(at);
            err = part ? give_part(&w, part, g_mime_part_iter_get_parent(at)) : SP_OK;
        } while (err == SP_OK && g_mime_part_iter_next(at));
    g_mime_part_iter_free(at);
    return err;
}

sp_err sp_rag_parse_mail(sp_rag_reading *r, const char *p, size_t n)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, start_gmime);
    GMimeStream *in = g_mime_stream_mem_new_with_buffer(p, n);
    GMimeParser *parser = g_mime_parser_new_with_stream(in);
    GMimeMessage *m = g_mime_parser_construct_message(parser, NULL);
    sp_err err = m ? give_head(r, m)
                   : SP_FAIL(r->d, SP_FORMAT, "it is not a mail: it does not begin with headers");
    if (err == SP_OK && g_mime_message_get_mime_part(m))
        err = give_parts(r, m);
    if (m)
        g_object_unref(m);
    g_object_unref(parser);
    g_object_unref(in);
    return err;
}
