#include "net/listen.h"

#include <errno.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <unistd.h>

enum { QUEUE = 512 };

sp_err sp_listen_open(sp_listen *l, const char *what, const char *host, uint16_t port, sp_diag *d)
{
    const struct addrinfo want = {.ai_socktype = SOCK_STREAM,
                                  .ai_flags = AI_PASSIVE | AI_NUMERICSERV};
    struct addrinfo *list = NULL;
    struct sockaddr_storage at = {0};
    socklen_t len = sizeof at;
    char service[8];
    int one = 1;
    *l = (sp_listen){.fd = -1, .epoll = -1};
    snprintf(service, sizeof service, "%u", port);
    int rc = getaddrinfo(host, service, &want, &list);
    if (rc != 0)
        return SP_FAIL(d, SP_NET, "%scannot listen on %.100s: %s", what, host, gai_strerror(rc));
    int fd = socket(list->ai_family, list->ai_socktype | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd >= 0)
        setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    bool fine = fd >= 0 && bind(fd, list->ai_addr, list->ai_addrlen) == 0 &&
                listen(fd, QUEUE) == 0 && getsockname(fd, (struct sockaddr *)&at, &len) == 0;
    int why = errno;
    freeaddrinfo(list);
    if (!fine && fd >= 0)
        close(fd);
    if (!fine)
        return SP_FAIL(d, SP_NET, "%scannot listen on %.100s port %u: %s", what, host, port,
                       strerror(why));
    l->fd = fd;
    l->port = ntohs(at.ss_family == AF_INET6 ? ((struct sockaddr_in6 *)&at)->sin6_port
                                             : ((struct sockaddr_in *)&at)->sin_port);
    return SP_OK;
}

void sp_listen_hear(sp_listen *l, bool on)
{
    struct epoll_event ev = {.events = EPOLLIN, .data.ptr = l};
    int what = on ? EPOLL_CTL_ADD : EPOLL_CTL_DEL;
    if (l->fd >= 0 && l->epoll >= 0 && l->hears != on && epoll_ctl(l->epoll, what, l->fd, &ev) == 0)
        l->hears = on;
}

sp_listen_got sp_listen_accept(const sp_listen *l, int *fd, struct sockaddr_storage *peer)
{
    const int one = 1;
    for (;;) {
        socklen_t n = sizeof *peer;
        memset(peer, 0, sizeof *peer);
        *fd = accept4(l->fd, (struct sockaddr *)peer, &n, SOCK_CLOEXEC | SOCK_NONBLOCK);
        if (*fd >= 0) {
            setsockopt(*fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
            setsockopt(*fd, SOL_SOCKET, SO_KEEPALIVE, &one, sizeof one);
            return SP_LISTEN_ONE;
        }
        if (errno == EAGAIN)
            return SP_LISTEN_NONE;
        /* These two took one off the queue. Whatever else it is may come again at once. */
        if (errno != EINTR && errno != ECONNABORTED)
            return SP_LISTEN_SHORT;
    }
}

void sp_listen_close(sp_listen *l)
{
    sp_listen_hear(l, false);
    if (l->fd >= 0)
        close(l->fd);
    l->fd = -1;
}
