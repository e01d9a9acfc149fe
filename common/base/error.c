#include "common/base/error.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "common/base/leaks.h"

static int world_rank;
static void (*end_job)(int code);

void error_set_world(int rank, void (*end)(int code)) {
    world_rank = rank;
    end_job = end;
}

/* An error is one line: whatever a file put into a name must not break that. */
static void make_one_line(char *text) {
    for (char *c = text; *c; c++)
        if ((unsigned char)*c < 0x20 || *c == 0x7f) *c = ' ';
}

bool error_set(struct error *error, const char *format, ...) {
    if (!error) return false;
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(error->text, sizeof error->text, format, arguments);
    va_end(arguments);
    make_one_line(error->text);
    return false;
}

static void say(const char *kind, const char *format, va_list arguments) {
    char text[2048];
    int used = snprintf(text, sizeof text, "%s: ", kind);
    vsnprintf(text + used, sizeof text - (size_t)used - 1, format, arguments);
    make_one_line(text);
    strcat(text, "\n");
    /* One write, so that lines of several ranks do not mix. */
    size_t left = strlen(text);
    const char *from = text;
    while (left > 0) {
        ssize_t written = write(STDERR_FILENO, from, left);
        if (written <= 0) break;
        from += written;
        left -= (size_t)written;
    }
}

static _Noreturn void end(const char *format, va_list arguments) {
    fflush(stdout);
    say("error", format, arguments);
    if (end_job) end_job(1);
    leaks_ignore(); /* nothing was given back: the system takes it all */
    exit(1);
}

void fail(const char *format, ...) {
    if (world_rank > 0) {
        /* The lowest rank speaks and ends the others before they do: a busy machine needs a second for that.
         */
        long tenths = 15 + 2 * (world_rank < 20 ? world_rank : 20);
        struct timespec moment = {.tv_sec = tenths / 10, .tv_nsec = tenths % 10 * 100000000};
        nanosleep(&moment, NULL);
    }
    va_list arguments;
    va_start(arguments, format);
    end(format, arguments);
}

void fail_at_once(const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    end(format, arguments);
}

void warn(const char *format, ...) {
    if (world_rank > 0) return;
    va_list arguments;
    va_start(arguments, format);
    say("warning", format, arguments);
    va_end(arguments);
}

static void *checked(void *pointer, unsigned long bytes) {
    if (!pointer && bytes)
        fail("out of host memory: %lu bytes were refused; close other programs or use a smaller model",
             bytes);
    return pointer;
}

void *xmalloc(unsigned long bytes) {
    return checked(malloc(bytes ? bytes : 1), bytes);
}

void *xcalloc(unsigned long count, unsigned long bytes) {
    return checked(calloc(count ? count : 1, bytes ? bytes : 1), count * bytes);
}

void *xrealloc(void *pointer, unsigned long bytes) {
    return checked(realloc(pointer, bytes ? bytes : 1), bytes);
}

char *xstrdup(const char *text) {
    size_t bytes = strlen(text) + 1;
    return memcpy(xmalloc(bytes), text, bytes);
}

char *xformat(const char *format, ...) {
    va_list arguments, again;
    va_start(arguments, format);
    va_copy(again, arguments);
    int length = vsnprintf(NULL, 0, format, arguments);
    va_end(arguments);
    char *text = xmalloc((unsigned long)length + 1);
    vsnprintf(text, (size_t)length + 1, format, again);
    va_end(again);
    return text;
}
