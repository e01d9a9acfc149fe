#include "tests/support/failing.h"

#include <stdio.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "tests/support/check.h"

/* What comes through the pipe until its writers are gone, as a string. */
static void read_all(int pipe_end, char *text, size_t size) {
    size_t used = 0;
    for (ssize_t got; used < size - 1 && (got = read(pipe_end, text + used, size - 1 - used)) > 0;)
        used += (size_t)got;
    text[used] = '\0';
}

void check_call_fails(void (*call)(void *context), void *context, int count, const char *const *parts) {
    int ends[2];
    assert_int_equal(pipe(ends), 0);
    fflush(NULL);
    pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        dup2(ends[1], STDERR_FILENO);
        close(ends[0]);
        close(ends[1]);
        /* No clean-up in the child: leak checkers misread what a fork leaves of a thread pool. */
        error_set_world(0, _exit);
        call(context);
        _exit(0);
    }
    close(ends[1]);
    char text[4096];
    read_all(ends[0], text, sizeof text);
    close(ends[0]);
    int status;
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_true(WIFEXITED(status));
    assert_int_equal(WEXITSTATUS(status), 1);
    if (strncmp(text, "error: ", 7) != 0 || strchr(text, '\n') != text + strlen(text) - 1)
        fail_msg("not one line that begins with 'error: ': %s", text);
    for (int i = 0; i < count; i++)
        if (!strstr(text, parts[i])) fail_msg("'%s' is not in: %s", parts[i], text);
}
