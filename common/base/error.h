/*
 * Errors, in two forms.
 *
 * Code that reads what people give us (files, settings) reports through `struct error`: the function returns
 * false or NULL, the text says what is wrong, where, and what to do. Such code never exits, so it can be
 * tested and fuzzed in-process.
 *
 * Code that cannot go on calls fail(): one line on standard error, and the whole job ends at once with a
 * non-zero exit code. comm.h registers how the other ranks are ended; without it the process just exits.
 */
#ifndef COMMON_BASE_ERROR_H
#define COMMON_BASE_ERROR_H

#include <stdbool.h>

struct error {
    char text[1024]; /* one line, no newline; empty while nothing went wrong */
};

/* Formats the text (cut to fit, newlines and control bytes replaced by spaces). Always returns false, so that
 * a parser can write `return error_set(error, …)`. `error` may be NULL. */
bool error_set(struct error *error, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* Prints "error: TEXT" as one line on standard error and ends the job on every rank with exit code 1. Ranks
 * above 0 first wait a moment: where every rank meets the same error, only rank 0 gets to say it. */
_Noreturn void fail(const char *format, ...) __attribute__((format(printf, 1, 2)));

/* The same on any rank without the wait, for what only this rank knows. */
_Noreturn void fail_at_once(const char *format, ...) __attribute__((format(printf, 1, 2)));

/* Prints "warning: TEXT" on standard error, on rank 0 only. */
void warn(const char *format, ...) __attribute__((format(printf, 1, 2)));

/* Tells fail() and warn() which rank this is, and how to end the other ranks: `end_job(code)` must not
 * return. NULL stands for a world of one. */
void error_set_world(int rank, void (*end_job)(int code));

/* malloc and friends that fail() instead of returning NULL; the caller frees with free(). Sizes in bytes. */
void *xmalloc(unsigned long bytes);
void *xcalloc(unsigned long count, unsigned long bytes);
void *xrealloc(void *pointer, unsigned long bytes);
char *xstrdup(const char *text);
/* printf into a new string, which the caller frees. */
char *xformat(const char *format, ...) __attribute__((format(printf, 1, 2), nonnull(1)));

#endif
