#include "common/train/warning_signal.h"

#include <errno.h>
#include <signal.h>
#include <string.h>

#include "common/base/error.h"

/* A handler has no other way to say anything. */
static volatile sig_atomic_t came;

static void note(int number) {
    (void)number;
    came = 1;
}

void warning_signal_catch(enum warning_signal which) {
    static const int numbers[] = {
        [WARNING_USR1] = SIGUSR1, [WARNING_USR2] = SIGUSR2, [WARNING_TERM] = SIGTERM};
    if (which == WARNING_NONE) return;
    struct sigaction action = {.sa_handler = note, .sa_flags = SA_RESTART};
    sigemptyset(&action.sa_mask);
    if (sigaction(numbers[which], &action, NULL) != 0)
        fail("save_on_signal: the signal cannot be caught: %s", strerror(errno));
}

bool warning_signal_came(void) {
    return came != 0;
}
