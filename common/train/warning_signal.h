/*
 * The batch system's warning: a signal that it sends some time before it ends a job (Slurm's --signal), so
 * that the run can write a checkpoint and leave. The handler only notes that the signal came; the session
 * looks for it between two updates, where all ranks agree on what to do (session_update_done).
 */
#ifndef COMMON_TRAIN_WARNING_SIGNAL_H
#define COMMON_TRAIN_WARNING_SIGNAL_H

#include <stdbool.h>

#include "common/train/settings.h"

/* What a program returns that left for a warning: EX_TEMPFAIL of sysexits.h, "try again later". The jobs in
 * slurm/ turn it into a requeue. */
enum { WARNING_EXIT_CODE = 75 };

/* From now on this process notes the signal instead of being ended by it; WARNING_NONE leaves all signals as
 * they are. Fails the job where the system refuses. */
void warning_signal_catch(enum warning_signal which);

/* Whether it came to this process, in any thread, since it was first caught. */
bool warning_signal_came(void);

#endif
