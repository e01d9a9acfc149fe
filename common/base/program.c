#include "common/base/program.h"

#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

void program_add(struct program *program, const char *format, ...) {
    char *word;
    va_list values;
    va_start(values, format);
    int length = vasprintf(&word, format, values);
    va_end(values);
    if (length < 0) fail("no memory for a command line");
    program->words = xrealloc(program->words, ((size_t)program->count + 2) * sizeof *program->words);
    program->words[program->count++] = word;
    program->words[program->count] = NULL;
}

void program_free(struct program *program) {
    for (int i = 0; i < program->count; i++) free(program->words[i]);
    free(program->words);
    *program = (struct program){0};
}

static _Noreturn void become(const struct program *program, const char *folder) {
    char *out = xformat("%s/out", folder), *err = xformat("%s/err", folder);
    int nothing = open("/dev/null", O_RDONLY), printed = open(out, O_WRONLY | O_CREAT | O_TRUNC, 0666);
    int said = open(err, O_WRONLY | O_CREAT | O_TRUNC, 0666);
    if (nothing < 0 || printed < 0 || said < 0 || dup2(nothing, STDIN_FILENO) < 0 ||
        dup2(printed, STDOUT_FILENO) < 0 || dup2(said, STDERR_FILENO) < 0)
        _exit(126);
    execvp(program->words[0], program->words);
    fprintf(stderr, "error: %s: %s\n", program->words[0], strerror(errno));
    _exit(127);
}

static bool has_words(const char *line) {
    while (*line && !isalpha((unsigned char)*line)) line++;
    return *line;
}

/* The line that says what went wrong: the first of an error, else the last that has words in it. */
static void read_complaint(const char *folder, int status, struct error *error) {
    char *path = xformat("%s/err", folder), line[1024], last[1024] = "";
    FILE *file = fopen(path, "re");
    free(path);
    bool found = false;
    while (file && !found && fgets(line, sizeof line, file)) {
        line[strcspn(line, "\n")] = '\0';
        found = !strncmp(line, "error: ", 7);
        if (has_words(line)) memcpy(last, line, sizeof last);
    }
    if (file) fclose(file);
    if (found)
        error_set(error, "%s", last + 7);
    else if (WIFSIGNALED(status))
        error_set(error, "it was ended by signal %d: %s", WTERMSIG(status), last);
    else
        error_set(error, "it ended with code %d: %s", WEXITSTATUS(status), last);
}

bool program_run(const struct program *program, const char *folder, struct error *error) {
    fflush(NULL);
    pid_t child = fork();
    if (child < 0) fail("no process: %s", strerror(errno));
    if (child == 0) become(program, folder);
    int status = 0;
    while (waitpid(child, &status, 0) < 0)
        if (errno != EINTR) fail("a program's process is lost: %s", strerror(errno));
    if (status == 0) return true;
    read_complaint(folder, status, error);
    return false;
}
