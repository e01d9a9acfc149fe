#include "tests/support/command.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "common/base/error.h"
#include "common/device/device.h"

const char *command_sharing(int ranks) {
    return ranks > device_count() ? "--share_device" : "";
}

/* One of the command's two streams. */
struct caught {
    int descriptor; /* -1: closed */
    char *data;
    size_t size;
};

static double now(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (double)time.tv_sec + 1e-9 * (double)time.tv_nsec;
}

void command_become(const char *command, int out, int err) {
    setpgid(0, 0);
    int nothing = open("/dev/null", O_RDONLY);
    if (nothing < 0 || dup2(nothing, STDIN_FILENO) < 0 || dup2(out, STDOUT_FILENO) < 0 ||
        dup2(err, STDERR_FILENO) < 0)
        _exit(126);
    setenv("OMPI_ALLOW_RUN_AS_ROOT", "1", 1);
    setenv("OMPI_ALLOW_RUN_AS_ROOT_CONFIRM", "1", 1);
    execl("/bin/sh", "sh", "-c", command, (char *)NULL);
    _exit(127);
}

/* Reads what is there; closes the stream at its end. */
static void catch_some(struct caught *caught) {
    char block[65536];
    ssize_t got = read(caught->descriptor, block, sizeof block);
    if (got < 0 && errno == EINTR) return;
    if (got <= 0) {
        close(caught->descriptor);
        caught->descriptor = -1;
        return;
    }
    caught->data = xrealloc(caught->data, caught->size + (size_t)got + 1);
    memcpy(caught->data + caught->size, block, (size_t)got);
    caught->size += (size_t)got;
    caught->data[caught->size] = 0;
}

/* Reads both streams until the command is gone; ends it at the time limit. Returns its wait status. A child
 * that the command left behind may hold the streams open: what comes in the moment after the command's end
 * still counts. */
static int watch(pid_t process, struct caught *streams, double limit, bool *timed_out) {
    int status = 0;
    bool ended = false;
    double deadline = now() + limit, last = 0;
    while (!ended || streams[0].descriptor >= 0 || streams[1].descriptor >= 0) {
        struct pollfd polled[2];
        for (int i = 0; i < 2; i++)
            polled[i] = (struct pollfd){.fd = streams[i].descriptor, .events = POLLIN};
        if (poll(polled, 2, 20) > 0)
            for (int i = 0; i < 2; i++)
                if (streams[i].descriptor >= 0 && polled[i].revents) catch_some(&streams[i]);
        if (!ended && waitpid(process, &status, WNOHANG) == process) {
            ended = true;
            last = now() + 1;
        }
        if (ended && now() > last) break;
        if (!ended && now() > deadline) {
            kill(*timed_out ? -process : process, *timed_out ? SIGKILL : SIGTERM);
            *timed_out = true;
            deadline = now() + 3;
        }
    }
    for (int i = 0; i < 2; i++)
        if (streams[i].descriptor >= 0) close(streams[i].descriptor);
    if (*timed_out) kill(-process, SIGKILL);
    return status;
}

struct command_result command_run(double timeout_seconds, const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    char command[16384];
    int length = vsnprintf(command, sizeof command, format, arguments);
    va_end(arguments);
    if (length < 0 || (size_t)length >= sizeof command) fail("command_run: the command is too long");

    int out[2], err[2];
    if (pipe2(out, O_CLOEXEC) || pipe2(err, O_CLOEXEC)) fail("command_run: no pipe: %s", strerror(errno));
    double start = now();
    fflush(NULL);
    pid_t process = fork();
    if (process < 0) fail("command_run: no process: %s", strerror(errno));
    if (process == 0) command_become(command, out[1], err[1]);
    close(out[1]);
    close(err[1]);

    struct caught streams[2] = {{.descriptor = out[0], .data = xcalloc(1, 1)},
                                {.descriptor = err[0], .data = xcalloc(1, 1)}};
    struct command_result result = {0};
    int status = watch(process, streams, timeout_seconds, &result.timed_out);
    result.exit_code = WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status);
    result.seconds = now() - start;
    result.out = streams[0].data;
    result.out_size = streams[0].size;
    result.err = streams[1].data;
    result.err_size = streams[1].size;
    return result;
}

void command_free(struct command_result *result) {
    free(result->out);
    free(result->err);
    *result = (struct command_result){0};
}

int lines_with(const char *text, const char *part) {
    int count = 0;
    while (*text) {
        size_t length = strcspn(text, "\n");
        if (memmem(text, length, part, strlen(part))) count++;
        text += length + (text[length] == '\n');
    }
    return count;
}

void command_drop_reads_of_the_dead(struct command_result *result) {
    static const char said[] = "] Read -1, expected ";
    char *text = result->err;
    for (char *at; (at = strstr(text, said));) {
        char *line = at, *end = at + strcspn(at, "\n");
        while (line > text && line[-1] != '\n') line--;
        end += strspn(end, "\n");
        memmove(line, end, strlen(end) + 1);
    }
    result->err_size = strlen(text);
}
