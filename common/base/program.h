/*
 * Running another program and waiting for it: what it prints goes into files, and where it fails, its one
 * line of error is found there.
 *
 *   struct program program = {0};
 *   program_add(&program, "%s/train", folder);
 *   program_add(&program, "--help");
 *   if (!program_run(&program, temporary_folder, &error)) …
 *   program_free(&program);
 */
#ifndef COMMON_BASE_PROGRAM_H
#define COMMON_BASE_PROGRAM_H

#include <stdbool.h>

#include "common/base/error.h"

/* A command line. {0} is an empty one. */
struct program {
    char **words; /* [count], and a NULL */
    int count;
};

/* Adds a word. */
void program_add(struct program *program, const char *format, ...) __attribute__((format(printf, 2, 3)));
void program_free(struct program *program);

/* Runs it, found in PATH, with nothing on standard input; what it prints replaces FOLDER/out, its errors
 * FOLDER/err. False where its exit code is not 0, with the line that says why in `error`. */
bool program_run(const struct program *program, const char *folder, struct error *error);

#endif
