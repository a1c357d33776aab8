/* Work that gives way: threads, and programs that this one runs, which take what others leave of
 * the cores.
 * Threads: any; both speak of the caller alone. What a system refuses is left as it is: the work is
 * then as urgent as any other. */
#ifndef SP_BASE_PRIO_H
#define SP_BASE_PRIO_H

/* The calling thread gives way to all others from now on, for good. */
void sp_prio_give_way(void);
/* The same for a process that began a session of its own. The kernel may give each session an equal
 * share of the cores (autogroups), so the session has to give way, too. System calls only: for a
 * child that shares its parent's memory. */
void sp_prio_session_gives_way(void);

#endif
