/* gRPC. First byte even: bytes of a connection, sent to a listening server on loopback, behind the preface and settings of a client if bit 1
 * is set. Odd: a message of each type, read within its budget. */
#include "fuzz.h"

#include "api/services_int.h"

#include <arpa/inet.h>
#include <grpc/health/v1/health.pb-c.h>
#include <grpc/reflection/v1/reflection.pb-c.h>
#include <sparing/v1/sparing.pb-c.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

static sp_grpc *server;

static void take(void *app, sp_grpc_call *c, const uint8_t *p, size_t n)
{
    ProtobufCMessage *m = sp_service_read(&sparing__v1__generate_request__descriptor, p, n);
    (void)app;
    if (m)
        sp_service_send(c, m);
    sp_service_free(m);
    sp_grpc_finish(c, m ? SP_GRPC_OK : SP_GRPC_INVALID_ARGUMENT, m ? NULL : "no message \n", 5);
}

static bool gate(void *app, sp_grpc_call *c, const sp_grpc_method *m, char who[64])
{
    (void)app, (void)c, (void)m;
    who[0] = 0;
    return true;
}

static bool start(void)
{
    static const sp_grpc_method method[] = {{"/a/b", 4096, false, true, take}, {"/a/c", 4096, true, true, take}};
    const sp_grpc_cfg cfg = {.host = "127.0.0.1", .method = method, .n_method = 2, .max_message = 4096, .max_bytes = 65536, .max_conn = 64, .max_calls = 64, .gate = gate};
    return sp_grpc_new(&server, &cfg, NULL) == SP_OK;
}

static void connection(const uint8_t *p, size_t n, bool begun)
{
    static const char preface[] = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\4\0\0\0\0\0";
    struct sockaddr_in at = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK), .sin_port = htons(sp_grpc_port(server))};
    struct timeval wait = {.tv_usec = 2000};
    char reply[4096];
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &wait, sizeof wait);
    if (fd >= 0 && connect(fd, (struct sockaddr *)&at, sizeof at) == 0) {
        bool fine = !begun || send(fd, preface, sizeof preface - 1, MSG_NOSIGNAL) > 0;
        fine = fine && (n == 0 || send(fd, p, n, MSG_NOSIGNAL) > 0);
        while (fine && recv(fd, reply, sizeof reply, 0) > 0) {
        }
    }
    if (fd >= 0)
        close(fd);
}

int LLVMFuzzerTestOneInput(const uint8_t *p, size_t n)
{
    static const ProtobufCMessageDescriptor *const types[] = {&sparing__v1__generate_request__descriptor, &sparing__v1__retrieve_request__descriptor,
                                                              &grpc__health__v1__health_check_request__descriptor,
                                                              &grpc__reflection__v1__server_reflection_request__descriptor};
    static bool ready;
    if (!ready && !(ready = start()))
        abort();
    if (n == 0)
        return 0;
    if (p[0] % 2 == 0)
        connection(p + 1, n - 1, p[0] & 2);
    for (size_t i = 0; p[0] % 2 && i < sizeof types / sizeof types[0]; i++)
        sp_service_free(sp_service_read(types[i], p + 1, n - 1));
    return 0;
}
