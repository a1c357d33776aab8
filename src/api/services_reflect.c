/* gRPC's server reflection: which services there are, and their descriptions as protoc wrote them.
 * The descriptions are read by a walk over their fields, because a description's own type holds
 * itself. */
#include "api/services_int.h"

#include "base/buf.h"

#include <grpc/reflection/v1/reflection.pb-c.h>
#include <stdio.h>
#include <string.h>

enum {
    MOST_FILES = 32,
    FILE_NAME = 1,
    FILE_PACKAGE = 2,
    FILE_DEPENDENCY = 3,
    FILE_MESSAGE = 4,
    FILE_ENUM = 5,
    FILE_SERVICE = 6,
    MEMBER_NAME = 1,
    SERVICE_METHOD = 2
};

typedef struct span {
    const uint8_t *p;
    size_t n;
} span;

/* A number of variable length off the front of *s. */
static bool read_varint(uint64_t *out, span *s)
{
    *out = 0;
    for (unsigned i = 0; i < 10 && i < s->n; i++) {
        *out |= (uint64_t)(s->p[i] & 0x7f) << (7 * i);
        if (!(s->p[i] & 0x80)) {
            s->p += i + 1;
            s->n -= i + 1;
            return true;
        }
    }
    return false;
}

/* The next field that holds bytes; others are passed over. false: there is none. */
static bool next_field(uint64_t *number, span *value, span *s)
{
    uint64_t key, n;
    while (s->n && read_varint(&key, s)) {
        *number = key >> 3;
        if ((key & 7) == 0 && read_varint(&n, s))
            continue;
        if ((key & 7) != 2 || !read_varint(&n, s) || n > s->n)
            return false;
        *value = (span){s->p, (size_t)n};
        s->p += n;
        s->n -= (size_t)n;
        return true;
    }
    return false;
}

static span field_of(span s, uint64_t which)
{
    uint64_t number;
    span v;
    while (next_field(&number, &v, &s))
        if (number == which)
            return v;
    return (span){NULL, 0};
}

static bool is_text(span s, const char *p, size_t n)
{
    return s.n == n && memcmp(s.p, p, n) == 0;
}

/* Is symbol the name of something that stands in the file, or of a method of a service in it? */
static bool defines(span file, const char *symbol)
{
    span package = field_of(file, FILE_PACKAGE), rest = file, v;
    uint64_t number;
    size_t n = strlen(symbol);
    if (n <= package.n + 1 || memcmp(symbol, package.p, package.n) != 0 || symbol[package.n] != '.')
        return false;
    const char *name = symbol + package.n + 1, *dot = strchr(name, '.');
    size_t n_name = dot ? (size_t)(dot - name) : strlen(name);
    while (next_field(&number, &v, &rest)) {
        if ((number != FILE_MESSAGE && number != FILE_ENUM && number != FILE_SERVICE) ||
            !is_text(field_of(v, MEMBER_NAME), name, n_name))
            continue;
        if (!dot || number == FILE_MESSAGE)
            return true;
        uint64_t what;
        span method, in = v;
        while (next_field(&what, &method, &in))
            if (what == SERVICE_METHOD &&
                is_text(field_of(method, MEMBER_NAME), dot + 1, strlen(dot + 1)))
                return true;
    }
    return false;
}

static size_t list_files(span out[MOST_FILES], const sp_services *s)
{
    span all = {s->files->p, s->files->n}, v;
    uint64_t number;
    size_t n = 0;
    while (n < MOST_FILES && next_field(&number, &v, &all))
        out[n++] = v;
    return n;
}

typedef Grpc__Reflection__V1__ServerReflectionResponse response;

static void send_error(sp_grpc_call *c, response *r, int code, const char *message)
{
    Grpc__Reflection__V1__ErrorResponse e = GRPC__REFLECTION__V1__ERROR_RESPONSE__INIT;
    e.error_code = code;
    e.error_message = (char *)(uintptr_t)message;
    r->message_response_case =
        GRPC__REFLECTION__V1__SERVER_REFLECTION_RESPONSE__MESSAGE_RESPONSE_ERROR_RESPONSE;
    r->error_response = &e;
    sp_service_send(c, &r->base);
}

/* The first file, and behind it those that it needs. */
static void send_file(sp_grpc_call *c, response *r, const span *file, size_t n, size_t which)
{
    ProtobufCBinaryData out[MOST_FILES];
    bool in[MOST_FILES] = {false};
    Grpc__Reflection__V1__FileDescriptorResponse f =
        GRPC__REFLECTION__V1__FILE_DESCRIPTOR_RESPONSE__INIT;
    size_t n_out = 1;
    out[0] = (ProtobufCBinaryData){file[which].n, (uint8_t *)(uintptr_t)file[which].p};
    in[which] = true;
    for (size_t i = 0; i < n_out; i++) {
        span rest = {out[i].data, out[i].len}, v;
        uint64_t number;
        while (next_field(&number, &v, &rest))
            for (size_t k = 0; k < n && number == FILE_DEPENDENCY; k++) {
                span name = field_of(file[k], FILE_NAME);
                if (in[k] || !is_text(name, (const char *)v.p, v.n))
                    continue;
                in[k] = true;
                out[n_out++] = (ProtobufCBinaryData){file[k].n, (uint8_t *)(uintptr_t)file[k].p};
            }
    }
    f.n_file_descriptor_proto = n_out;
    f.file_descriptor_proto = out;
    r->message_response_case =
        GRPC__REFLECTION__V1__SERVER_REFLECTION_RESPONSE__MESSAGE_RESPONSE_FILE_DESCRIPTOR_RESPONSE;
    r->file_descriptor_response = &f;
    sp_service_send(c, &r->base);
}

static void send_services(sp_services *s, sp_grpc_call *c, response *r)
{
    Grpc__Reflection__V1__ServiceResponse service[sizeof s->method / sizeof s->method[0]],
        *at[sizeof s->method / sizeof s->method[0]];
    char name[sizeof s->method / sizeof s->method[0]][96];
    Grpc__Reflection__V1__ListServiceResponse list =
        GRPC__REFLECTION__V1__LIST_SERVICE_RESPONSE__INIT;
    size_t n = 0;
    for (size_t i = 0; i < s->n_method; i++) {
        const char *path = s->method[i].path + 1;
        int len = (int)strcspn(path, "/");
        if (n && (int)strlen(name[n - 1]) == len && strncmp(name[n - 1], path, (size_t)len) == 0)
            continue; /* methods of a service stand together */
        snprintf(name[n], sizeof name[n], "%.*s", len, path);
        grpc__reflection__v1__service_response__init(&service[n]);
        service[n].name = name[n];
        at[n] = &service[n];
        n++;
    }
    list.n_service = n;
    list.service = at;
    r->message_response_case =
        GRPC__REFLECTION__V1__SERVER_REFLECTION_RESPONSE__MESSAGE_RESPONSE_LIST_SERVICES_RESPONSE;
    r->list_services_response = &list;
    sp_service_send(c, &r->base);
}

static void answer(sp_services *s, sp_grpc_call *c,
                   Grpc__Reflection__V1__ServerReflectionRequest *q)
{
    span file[MOST_FILES];
    size_t n = list_files(file, s), which = n;
    response r = GRPC__REFLECTION__V1__SERVER_REFLECTION_RESPONSE__INIT;
    r.valid_host = q->host;
    r.original_request = q;
    switch (q->message_request_case) {
    case GRPC__REFLECTION__V1__SERVER_REFLECTION_REQUEST__MESSAGE_REQUEST_LIST_SERVICES:
        send_services(s, c, &r);
        return;
    case GRPC__REFLECTION__V1__SERVER_REFLECTION_REQUEST__MESSAGE_REQUEST_FILE_BY_FILENAME:
        for (size_t i = 0; i < n; i++)
            which = is_text(field_of(file[i], FILE_NAME), q->file_by_filename,
                            strlen(q->file_by_filename))
                        ? i
                        : which;
        break;
    case GRPC__REFLECTION__V1__SERVER_REFLECTION_REQUEST__MESSAGE_REQUEST_FILE_CONTAINING_SYMBOL:
        for (size_t i = 0; i < n; i++)
            which = defines(file[i], q->file_containing_symbol) ? i : which;
        break;
    case GRPC__REFLECTION__V1__SERVER_REFLECTION_REQUEST__MESSAGE_REQUEST_ALL_EXTENSION_NUMBERS_OF_TYPE:
    case GRPC__REFLECTION__V1__SERVER_REFLECTION_REQUEST__MESSAGE_REQUEST_FILE_CONTAINING_EXTENSION:
        send_error(c, &r, SP_GRPC_NOT_FOUND, "there are no extensions");
        return;
    default:
        send_error(c, &r, SP_GRPC_INVALID_ARGUMENT, "nothing is asked for");
        return;
    }
    if (which < n)
        send_file(c, &r, file, n, which);
    else
        send_error(c, &r, SP_GRPC_NOT_FOUND, "there is no such file or symbol");
}

void sp_service_reflect(void *app, sp_grpc_call *c, const uint8_t *p, size_t n)
{
    ProtobufCMessage *m =
        sp_service_read(&grpc__reflection__v1__server_reflection_request__descriptor, p, n);
    if (!m)
        sp_grpc_finish(c, SP_GRPC_INVALID_ARGUMENT, "the message cannot be read", 0);
    else if (!sp_grpc_room(c)) /* a client that asks and takes nothing */
        sp_grpc_finish(c, SP_GRPC_RESOURCE_EXHAUSTED, "too many answers wait to be taken", 1000);
    else
        answer(app, c, (Grpc__Reflection__V1__ServerReflectionRequest *)m);
    sp_service_free(m);
}
