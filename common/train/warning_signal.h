/*
 * The batch system's warning: a signal that it sends some time before it ends a job (Slurm's --signal), so
 * that the run can write a checkpoint and leave. The session looks for it between two updates, where all
 * ranks agree on what to do (session_update_done).
 *
 * There is no handler. One would run on the stack of whichever thread is interrupted, and generated code,
 * such as oneDNN's, may use that stack's register for something else: the handler's frame would then be
 * written into the program's data. So the signal is held back (blocked) in all threads, and stays pending
 * until the program asks.
 */
#ifndef COMMON_TRAIN_WARNING_SIGNAL_H
#define COMMON_TRAIN_WARNING_SIGNAL_H

#include <stdbool.h>

#include "common/train/settings.h"

/* What a program returns that left for a warning: EX_TEMPFAIL of sysexits.h, "try again later". The jobs in
 * slurm/ turn it into a requeue. */
enum { WARNING_EXIT_CODE = 75 };

/* From now on the signal waits in this thread, and in all that it will start, instead of ending the process:
 * call it before any other thread is started. WARNING_NONE leaves all signals as they are. Fails the job
 * where the system refuses. */
void warning_signal_await(enum warning_signal which);

/* Whether it was sent to this process since. */
bool warning_signal_came(void);

#endif
