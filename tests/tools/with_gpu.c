/*
 * with_gpu PROGRAM [ARGUMENTS]: how CTest runs the tests of the cuda build. Where no GPU is visible it says
 * so and exits with the code that CTest takes for "skipped"; else it becomes PROGRAM.
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "common/base/error.h"
#include "common/device/device.h"

enum { SKIPPED = 77 };

int main(int argc, char **argv) {
    if (argc < 2) fail("usage: with_gpu PROGRAM [ARGUMENTS]");
    if (device_count() == 0) {
        printf("skipped: no GPU is visible (see nvidia-smi)\n");
        return SKIPPED;
    }
    execv(argv[1], argv + 1);
    fail("%s: %s", argv[1], strerror(errno));
}
