/* What a service manager is told: one datagram to the socket that NOTIFY_SOCKET names, as
 * sd_notify(3) describes it. Without the variable, or if nobody listens, nothing happens.
 * Threads: any. */
#ifndef SP_CMD_NOTIFY_H
#define SP_CMD_NOTIFY_H

/* state: "READY=1", "STOPPING=1", lines of VARIABLE=VALUE. */
void sp_notify(const char *state);

#endif
