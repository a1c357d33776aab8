/* Any bytes sent to a listening server on loopback, in two pieces, then a hang-up. The head goes
 * through our gates: Host, Origin, keys, routes. */
#include "fuzz.h"

#include "api/gate.h"

#include <arpa/inet.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

static sp_app app;
static sp_http *http;

static bool start(void)
{
    static const char *const hosts[] = {"localhost", "127.0.0.1", NULL}, *const none[] = {NULL};
    app.hosts = hosts;
    app.origins = none;
    sp_http_cfg cfg = {.host = "127.0.0.1", .max_body = 4096, .max_bodies = 16384, .max_conn = 64, .gate = sp_api_gate, .handler = sp_api_handle,
                       .refuse = sp_api_refuse, .app = &app};
    return sp_auth_new(&app.auth, getenv("SPARING_FUZZ_KEYS"), NULL) == SP_OK && sp_metrics_new(&app.metrics) == SP_OK && sp_gate_new(&app.gate, app.metrics) == SP_OK &&
           sp_http_new(&http, &cfg, NULL) == SP_OK;
}

int LLVMFuzzerTestOneInput(const uint8_t *p, size_t n)
{
    static bool ready;
    struct sockaddr_in at = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    char reply[4096];
    struct timeval wait = {.tv_usec = 2000};
    if (!ready && !(ready = start()))
        abort();
    /* endpoints that need a model are not this target's: their paths would find no engine */
    if (memmem(p, n, "/v1", 3) || memmem(p, n, "metrics", 7) || memmem(p, n, "tokenize", 8))
        return 0;
    at.sin_port = htons(sp_http_port(http));
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &wait, sizeof wait);
    if (fd >= 0 && connect(fd, (struct sockaddr *)&at, sizeof at) == 0) {
        size_t half = n / 2;
        if (send(fd, p, half, MSG_NOSIGNAL) >= 0 && send(fd, p + half, n - half, MSG_NOSIGNAL) >= 0)
            (void)!recv(fd, reply, sizeof reply, 0);
    }
    if (fd >= 0)
        close(fd);
    return 0;
}
