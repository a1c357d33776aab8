#include "base/prio.h"

#include <fcntl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

enum { LEAST = 19, TRIES = 3, PAUSE_NS = 60000000 };

/* Linux keeps a nice value for each thread, and 0 means the calling one. */
void sp_prio_give_way(void)
{
    (void)syscall(SYS_setpriority, PRIO_PROCESS, 0, LEAST);
}

/* An ordinary user may change one session in 100 ms, over all users: the next try is likely to be
 * in time. */
void sp_prio_session_gives_way(void)
{
    static const char least[] = "19";
    const struct timespec pause = {0, PAUSE_NS};
    long fd = syscall(SYS_openat, AT_FDCWD, "/proc/self/autogroup", O_WRONLY | O_CLOEXEC, 0);
    sp_prio_give_way();
    for (int i = 0; fd >= 0 && i < TRIES && write((int)fd, least, sizeof least - 1) < 0; i++)
        (void)syscall(SYS_clock_nanosleep, CLOCK_MONOTONIC, 0, &pause, NULL);
    if (fd >= 0)
        (void)syscall(SYS_close, fd);
}
