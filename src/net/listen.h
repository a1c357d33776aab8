/* The listening socket of a server with an epoll loop.
 *
 * A listening socket stays readable while somebody waits to be accepted. Where the server can take
 * nobody (it is full, or the system has no files or no memory for another) it stops watching the
 * socket, and watches it again with its next tick; the system's queue holds those who come.
 *
 * Owner: the caller's storage. Threads: the loop's. */
#ifndef SP_NET_LISTEN_H
#define SP_NET_LISTEN_H

#include "base/err.h"

#include <stdbool.h>
#include <stdint.h>
#include <sys/socket.h>

typedef struct sp_listen {
    int fd;        /* -1: closed */
    int epoll;     /* -1: it is not watched yet */
    uint16_t port; /* the one it got */
    bool hears;    /* it is being watched; its events have the sp_listen as data.ptr */
} sp_listen;

typedef enum sp_listen_got {
    SP_LISTEN_ONE,  /* a connection */
    SP_LISTEN_NONE, /* nobody waits */
    SP_LISTEN_SHORT /* no files or no memory: give up a connection, or hear no more */
} sp_listen_got;

/* what: who listens, for messages ("grpc: "). port 0: any free one. Errors: SP_NET with the
 * address. On errors too, *l is closed. */
SP_MUST sp_err sp_listen_open(sp_listen *l, const char *what, const char *host, uint16_t port,
                              sp_diag *d);
/* Sets whether it is watched. Does nothing to a closed one. */
void sp_listen_hear(sp_listen *l, bool on);
sp_listen_got sp_listen_accept(const sp_listen *l, int *fd, struct sockaddr_storage *peer);
void sp_listen_close(sp_listen *l);

#endif
