/*
 * Programs that a test starts in the background and kills: by itself, under mpirun, or one rank of it.
 *
 *   struct killable run = killable_start(folder, 2, "PROGRAM --setting value");
 *   …
 *   killable_kill(&run, 1, 20);
 */
#ifndef TESTS_SUPPORT_KILLING_H
#define TESTS_SUPPORT_KILLING_H

#include <stdbool.h>
#include <sys/types.h>

struct killable {
    pid_t process; /* mpirun, or the program itself */
    char *ranks;   /* folder in which every rank leaves its process number */
    bool ended;    /* and has been waited for */
    int exit_code; /* then; 128 + signal where a signal ended it */
};

/* Runs a shell command with `ranks` ranks (0: without mpirun), its output thrown away. `folder`: where files
 * of this function may lie. */
struct killable killable_start(const char *folder, int ranks, const char *command);
/* Whether it still runs. */
bool killable_runs(struct killable *run);
enum { KILL_ALL = -1, KILL_LAUNCHER = -2 };
/* SIGKILL for one rank (in the order in which they started), for mpirun alone, or for all. Comes
 * back when
 * all of its processes are gone, which is given `seconds`; fail_msg() after that; with 0
 * seconds when the one that was started is gone, whatever its ranks do. */
void killable_kill(struct killable *run, int rank, double seconds);

#endif
