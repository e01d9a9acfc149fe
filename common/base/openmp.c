#include "common/base/openmp.h"

#include <stdlib.h>
#include <unistd.h>

/* About 0.1 ms: each turn has a pause instruction, of 40 to 140 cycles on today's processors. */
#define SPINS "5000"

void openmp_wait_briefly(char **arguments) {
    if (getenv("GOMP_SPINCOUNT") || getenv("OMP_WAIT_POLICY")) return;
    if (setenv("GOMP_SPINCOUNT", SPINS, 1) == 0) execv("/proc/self/exe", arguments);
}
