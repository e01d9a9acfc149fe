/*
 * cmocka, in the one order in which it and our headers go together: cmocka defines a macro fail() that takes
 * no arguments, so error.h, whose fail() does, comes first. A test says fail_msg("…").
 */
#ifndef TESTS_SUPPORT_CHECK_H
#define TESTS_SUPPORT_CHECK_H

#include "common/base/error.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "tests/support/command.h"

/* Fails the test unless the error's text contains all of `parts` (count strings), is one line and not empty.
 */
void check_error_says(const struct error *error, int count, const char *const *parts);
#define CHECK_ERROR(error, ...)                                                                              \
    check_error_says((error), (int)(sizeof(const char *[]){__VA_ARGS__} / sizeof(const char *)),             \
                     (const char *const[]){__VA_ARGS__})

/* Fails the test unless the program refused these arguments: it ended with exit code 1, one line of error
 * that has this part, and nothing else. Frees the result. */
void check_program_refuses(struct command_result result, const char *arguments, const char *part);

/* The path of a file of the repository, given from its root: tests may be started anywhere. The caller frees.
 */
char *source_path(const char *path);

#endif
