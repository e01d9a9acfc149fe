#include "common/train/warning_signal.h"

#include <signal.h>
#include <string.h>

#include "common/base/error.h"

/* Signals are one a process. */
static int awaited; /* 0: none */

void warning_signal_await(enum warning_signal which) {
    static const int numbers[] = {
        [WARNING_USR1] = SIGUSR1, [WARNING_USR2] = SIGUSR2, [WARNING_TERM] = SIGTERM};
    if (which == WARNING_NONE) return;
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, numbers[which]);
    int failed = pthread_sigmask(SIG_BLOCK, &set, NULL);
    if (failed) fail("save_on_signal: the signal cannot be held back: %s", strerror(failed));
    awaited = numbers[which];
}

bool warning_signal_came(void) {
    sigset_t pending;
    sigemptyset(&pending);
    sigpending(&pending);
    return awaited && sigismember(&pending, awaited) == 1;
}
