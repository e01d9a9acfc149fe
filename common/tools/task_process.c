#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "common/tools/task.h"

static double now(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (double)time.tv_sec + 1e-9 * (double)time.tv_nsec;
}

static _Noreturn void become(const struct program *program, const char *output) {
    setpgid(0, 0);
    int nothing = open("/dev/null", O_RDONLY), said = open(output, O_WRONLY | O_CREAT | O_TRUNC, 0666);
    if (nothing < 0 || said < 0 || dup2(nothing, STDIN_FILENO) < 0 || dup2(said, STDOUT_FILENO) < 0 ||
        dup2(said, STDERR_FILENO) < 0)
        _exit(126);
    if (geteuid() == 0) { /* Open MPI wants to be asked twice */
        setenv("OMPI_ALLOW_RUN_AS_ROOT", "1", 1);
        setenv("OMPI_ALLOW_RUN_AS_ROOT_CONFIRM", "1", 1);
    }
    execvp(program->words[0], program->words);
    dprintf(STDERR_FILENO, "error: %s: %s\n", program->words[0], strerror(errno));
    _exit(127);
}

struct process_end process_run(const struct program *program, const char *output, int seconds) {
    fflush(NULL);
    pid_t child = fork();
    if (child < 0) fail("no process: %s", strerror(errno));
    if (child == 0) become(program, output);
    struct process_end end = {.in_time = true};
    double deadline = now() + seconds;
    int status = 0;
    pid_t ended;
    while ((ended = waitpid(child, &status, WNOHANG)) != child) {
        if (ended < 0 && errno != EINTR) fail("a process is lost: %s", strerror(errno));
        if (now() > deadline) { /* mpirun ends its ranks; then all that is left */
            kill(end.in_time ? child : -child, end.in_time ? SIGTERM : SIGKILL);
            end.in_time = false;
            deadline = now() + 3;
        }
        nanosleep(&(struct timespec){.tv_nsec = 5000000}, NULL);
    }
    if (!end.in_time) kill(-child, SIGKILL);
    end.code = WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status);
    return end;
}
