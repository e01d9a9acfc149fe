/*
 * A watch over ranks on several nodes: each holds a TCP connection to rank 0, on which nothing is said.
 *
 * Launchers notice when a process ends, but not always when all that they have on a node does: srun goes on
 * waiting for a step whose daemon is gone, and mpirun asks a machine that has lost its power for minutes. MPI
 * itself waits for messages that never come. But a kernel closes the sockets of whoever ends, for whatever
 * reason, and a connection to a machine that is gone stops answering: so the others know at once, or within
 * WATCH_SECONDS. (Within a node, launchers do.)
 *
 * Who ends as it should says goodbye before, and who fails and has said why says that: the others have no
 * more to say then, but do not wait for ever to be ended by a launcher that may have lost its way to them. A
 * stopped process and a slow one are not lost: kernels answer for them, and comm_options.timeout has to end
 * such a job.
 *
 * IPv4. Where rank 0 cannot be reached (a firewall between nodes), a rank is not watched, and only the
 * time-out is left. Whoever knocks without the token of rank 0's invitation is turned away.
 */
#ifndef COMMON_COMM_WATCH_H
#define COMMON_COMM_WATCH_H

#include <stdbool.h>
#include <stdint.h>

enum { WATCH_SECONDS = 12, WATCH_LAUNCHER_SECONDS = 3, WATCH_ADDRESSES = 8, WATCH_NAME = 64 };

/* Where rank 0 can be reached, to be sent to the others as it is. count 0: nowhere. */
struct watch_invitation {
    uint64_t token;
    uint32_t addresses[WATCH_ADDRESSES]; /* IPv4, in network order, as is the port */
    int32_t count;
    uint16_t port;
    char node[WATCH_NAME]; /* the name of rank 0's node */
};

/* Called by the watch's thread when `rank`, on `node`, has ended: without a word, or having said that it
 * fails, and then WATCH_LAUNCHER_SECONDS later. Not called again. */
typedef void watch_lost(int rank, const char *node, bool failed);

struct watch;

/* Rank 0: starts to listen, on addresses of this network interface (NULL or "": of all), and fills the
 * invitation in. NULL where that is impossible: the invitation is empty then. `node` is the name of its node.
 */
struct watch *watch_listen(struct watch_invitation *invitation, const char *interface, const char *node,
                           watch_lost *lost);
/* Another rank: connects to rank 0. NULL where that is impossible. */
struct watch *watch_join(const struct watch_invitation *invitation, int rank, const char *node,
                         watch_lost *lost);
/* Says goodbye and ends the watch. The others must be about to do the same. NULL is fine. */
void watch_close(struct watch *watch);
/* This process is about to end the job, and says why: nobody has to miss it. May be called by any thread,
 * also from lost(). The watch stays as it is. NULL is fine. */
void watch_failing(struct watch *watch);

#endif
