/*
 * Running a program from a test: a shell command with a time limit, its output and exit status caught.
 *
 *   struct command_result r = command_run(60, COMMAND_MPIRUN "%s --max_steps 2", 2, program);
 *   assert_int_equal(r.exit_code, 0);
 *   command_free(&r);
 */
#ifndef TESTS_SUPPORT_COMMAND_H
#define TESTS_SUPPORT_COMMAND_H

#include <stdbool.h>
#include <stddef.h>

struct command_result {
    int exit_code;   /* of the shell: 128 + signal where a signal ended the command */
    bool timed_out;  /* the time limit ended it */
    double seconds;  /* wall time */
    char *out, *err; /* standard output and error, NUL-terminated (a NUL in the output stays where it is) */
    size_t out_size, err_size;
};

/* Starts N ranks on this machine, whatever its number of cores; takes one int argument. */
#define COMMAND_MPIRUN "mpirun --oversubscribe --bind-to none -n %d "

/* "--share_device" where N ranks have fewer GPUs than that, which they then share (the same numbers, more
 * slowly); else "". */
const char *command_sharing(int ranks);

/* Runs `sh -c` with the formatted command and standard input from /dev/null. Open MPI is told that root may
 * start it. After the time limit the command gets SIGTERM, three seconds later its whole process group
 * SIGKILL. The caller frees the result. */
struct command_result command_run(double timeout_seconds, const char *format, ...)
    __attribute__((format(printf, 2, 3)));
/* Where a rank reads another's memory at the very moment in which that one is ended, Open MPI says so of its
 * own accord: "[host:1234] Read -1, expected 8192, errno = 3", and an empty line. Takes that out of err. */
void command_drop_reads_of_the_dead(struct command_result *result);
void command_free(struct command_result *result);

/* For a child process of a test's own: becomes `sh -c command` in a process group of its own, with standard
 * input from /dev/null and its output to the two descriptors. Does not return. */
_Noreturn void command_become(const char *command, int out, int err);

/* How many lines of `text` hold `part`. */
int lines_with(const char *text, const char *part);

#endif
