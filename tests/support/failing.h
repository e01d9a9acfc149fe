/*
 * Checking that a call ends the program as fail() does: one line on standard error and exit code 1.
 */
#ifndef TESTS_SUPPORT_FAILING_H
#define TESTS_SUPPORT_FAILING_H

/* Makes the call in a child process. Fails the test unless that ends with exit code 1 and exactly one line on
 * standard error, "error: …", which holds all of `parts` (count strings). The child must not use OpenMP's
 * threads. */
void check_call_fails(void (*call)(void *context), void *context, int count, const char *const *parts);
#define CHECK_FAILS(call, context, ...)                                                                      \
    check_call_fails((call), (context), (int)(sizeof(const char *[]){__VA_ARGS__} / sizeof(const char *)),   \
                     (const char *const[]){__VA_ARGS__})

#endif
