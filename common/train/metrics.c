#include "common/train/metrics.h"

#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/base/error.h"

struct metrics {
    char *path;
    int file; /* -1 on ranks that do not write */
    long long size;
    bool bar;       /* standard output is a terminal that wants a progress bar */
    bool bar_shown; /* and one stands on its last line */
};

/* Whether a person watches. Open MPI gives every rank a pseudo-terminal for its standard output: there,
 * mpirun's own output counts, our parent's. */
static bool on_a_terminal(void) {
    if (!isatty(STDOUT_FILENO) || !getenv("OMPI_COMM_WORLD_SIZE")) return isatty(STDOUT_FILENO);
    char *path = xformat("/proc/%d/fd/1", (int)getppid());
    int parent = open(path, O_WRONLY | O_NOCTTY | O_NONBLOCK | O_CLOEXEC);
    free(path);
    if (parent < 0) return false;
    bool terminal = isatty(parent);
    close(parent);
    return terminal;
}

struct metrics *metrics_open(const char *output_dir, bool leader, long long keep, bool progress_bar) {
    struct metrics *m = xcalloc(1, sizeof *m);
    m->path = xformat("%s/metrics.jsonl", output_dir);
    m->file = -1;
    m->bar = leader && progress_bar && on_a_terminal();
    if (!leader) return m;
    m->file = open(m->path, O_WRONLY | O_CREAT | O_CLOEXEC, 0666);
    struct stat status;
    if (m->file < 0 || fstat(m->file, &status) != 0)
        fail("%s: cannot be written: %s", m->path, strerror(errno));
    if (status.st_size < keep) {
        warn("%s: is shorter than it was when the checkpoint was saved: what is missing stays missing",
             m->path);
        keep = status.st_size;
    }
    if (ftruncate(m->file, keep) != 0 || lseek(m->file, keep, SEEK_SET) != keep)
        fail("%s: cannot be cut back to the checkpoint: %s", m->path, strerror(errno));
    m->size = keep;
    return m;
}

static void clear_bar(struct metrics *m) {
    if (m->bar_shown) fputs("\r\033[K", stdout);
    m->bar_shown = false;
}

void metrics_close(struct metrics *m) {
    if (!m) return;
    clear_bar(m);
    fflush(stdout);
    if (m->file >= 0) close(m->file);
    free(m->path);
    free(m);
}

void metrics_write(struct metrics *m, const char *event, json_t *object) {
    if (m->file >= 0) {
        json_t *line = json_object();
        json_object_set_new(line, "event", json_string(event));
        json_object_update(line, object);
        char *text = json_dumps(line, JSON_COMPACT | JSON_REAL_PRECISION(17));
        if (!text) fail("%s: the event %s cannot be written as JSON; please report this", m->path, event);
        size_t length = strlen(text);
        text[length] = '\n'; /* in place of the final NUL */
        /* One write a line: a run that is killed leaves whole lines. */
        ssize_t written = write(m->file, text, length + 1);
        if (written != (ssize_t)length + 1)
            fail("%s: cannot be written: %s", m->path, strerror(written < 0 ? errno : ENOSPC));
        m->size += (long long)length + 1;
        free(text);
        json_decref(line);
    }
    json_decref(object);
}

long long metrics_size(const struct metrics *m) {
    return m->size;
}

void metrics_sync(struct metrics *m) {
    if (m->file >= 0 && fsync(m->file) != 0) fail("%s: cannot be synced: %s", m->path, strerror(errno));
}

void metrics_line(struct metrics *m, const char *format, ...) {
    if (m->file < 0) return;
    clear_bar(m);
    va_list arguments;
    va_start(arguments, format);
    vprintf(format, arguments);
    va_end(arguments);
    putchar('\n');
    fflush(stdout);
}

/* "1:02:03" or "2:03". */
static void clock_text(char text[32], double seconds) {
    long long s = seconds > 0 && seconds < 1e9 ? (long long)seconds : 0;
    if (s >= 3600)
        snprintf(text, 32, "%lld:%02lld:%02lld", s / 3600, s / 60 % 60, s % 60);
    else
        snprintf(text, 32, "%lld:%02lld", s / 60, s % 60);
}

void metrics_progress(struct metrics *m, long long done, long long total, long long done_here, double loss,
                      double examples, double seconds) {
    if (!m->bar) return;
    enum { WIDTH = 30 };
    char bar[WIDTH + 1], left[32] = "?";
    int full = total > 0 ? (int)(WIDTH * done / total) : WIDTH;
    for (int i = 0; i < WIDTH; i++) bar[i] = i < full ? '#' : '.';
    bar[WIDTH] = '\0';
    double rate = seconds > 0 ? examples / seconds : 0;
    if (rate > 0) clock_text(left, seconds / (double)done_here * (double)(total - done));
    printf("\r\033[K[%s] update %lld of %lld, loss %.4f, %.2f examples/s, %s left", bar, done, total, loss,
           rate, left);
    fflush(stdout);
    m->bar_shown = true;
}
