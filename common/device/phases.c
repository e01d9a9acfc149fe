#include "common/device/phases.h"

#include <stdlib.h>
#include <string.h>

#include "common/base/error.h"
#include "common/device/backend.h"

enum {
    NESTED = 16, /* ranges in one another */
    KEPT = 3,    /* updates: one that is queued, one to be read, and the one before, where that one began */
};

/* From this event on, the stream is in this phase. */
struct mark {
    struct event *event;
    enum phase phase;
};

/* An update's marks, from its first moment to its last. Events are kept for the next update in this place. */
struct marks {
    struct mark *marks;
    size_t count, opened, capacity;
    bool continues;
};

struct phases {
    struct stream *stream;
    bool by_phase;
    struct marks updates[KEPT];
    long long begun, ended, read; /* updates; number n has place n % KEPT */
    enum phase nested[NESTED];    /* of the ranges that are open, the innermost last */
    int depth;
};

/* The ranges of a program know no device: whoever times them has to be found without one. */
static struct phases *clock_of_process;

const char *phase_name(enum phase phase) {
    static const char *const names[PHASES] = {"forward", "backward", "communication_exposed", "optimizer",
                                              "other"};
    return names[phase];
}

struct phases *phases_open(struct stream *stream, bool by_phase) {
    struct phases *phases = xcalloc(1, sizeof *phases);
    phases->stream = stream;
    phases->by_phase = by_phase;
    clock_of_process = phases;
    return phases;
}

void phases_close(struct phases *phases) {
    if (!phases) return;
    for (int i = 0; i < KEPT; i++) {
        struct marks *update = &phases->updates[i];
        for (size_t m = 0; m < update->opened; m++) event_close(update->marks[m].event);
        free(update->marks);
    }
    free(phases);
    clock_of_process = NULL;
}

static void add_mark(struct phases *phases, enum phase phase) {
    struct marks *update = &phases->updates[phases->begun % KEPT];
    if (update->count == update->capacity) {
        update->capacity = update->capacity ? 2 * update->capacity : 16;
        update->marks = xrealloc(update->marks, update->capacity * sizeof *update->marks);
    }
    struct mark *mark = &update->marks[update->count];
    if (update->count == update->opened) {
        mark->event = event_open_timed(stream_device(phases->stream));
        update->opened++;
    }
    mark->phase = phase;
    event_record(mark->event, phases->stream);
    update->count++;
}

void phases_begin(struct phases *phases, bool continues) {
    if (phases->begun - phases->read == KEPT - 1)
        fail("the times of an update are overwritten before they are read: a mistake in this program");
    struct marks *update = &phases->updates[++phases->begun % KEPT];
    update->count = 0;
    update->continues = continues && phases->begun > 1;
    phases->depth = 0;
    add_mark(phases, PHASE_OTHER);
}

void phases_end(struct phases *phases) {
    add_mark(phases, PHASE_OTHER);
    phases->ended = phases->begun;
}

bool phases_read(struct phases *phases, struct phase_times *times) {
    if (phases->read == phases->ended) return false;
    long long number = ++phases->read;
    const struct marks *update = &phases->updates[number % KEPT];
    *times = (struct phase_times){0};
    if (update->continues) {
        const struct marks *last = &phases->updates[(number - 1) % KEPT];
        times->phase[PHASE_OTHER] =
            event_milliseconds(last->marks[last->count - 1].event, update->marks[0].event);
    }
    for (size_t m = 0; m + 1 < update->count; m++)
        times->phase[update->marks[m].phase] +=
            event_milliseconds(update->marks[m].event, update->marks[m + 1].event);
    for (int p = 0; p < PHASES; p++) times->total += times->phase[p];
    return true;
}

/* ---- ranges ---- */

static bool timing(const struct phases *phases) {
    return phases && phases->by_phase && phases->begun > phases->ended;
}

static enum phase innermost(const struct phases *phases) {
    return phases->depth > 0 ? phases->nested[phases->depth - 1] : PHASE_OTHER;
}

/* The phase of a range: that of its name, else the one that it lies in. */
static enum phase phase_of(const struct phases *phases, const char *name) {
    for (int p = 0; p < PHASES; p++)
        if (!strcmp(name, phase_name((enum phase)p))) return (enum phase)p;
    return innermost(phases);
}

void profile_push(const char *name) {
    struct phases *phases = clock_of_process;
    backend_range_push(name);
    if (!timing(phases)) return;
    if (phases->depth == NESTED) fail("the range %s lies in %d others: too many", name, NESTED);
    enum phase before = innermost(phases), phase = phase_of(phases, name);
    phases->nested[phases->depth++] = phase;
    if (phase != before) add_mark(phases, phase);
}

void profile_pop(void) {
    struct phases *phases = clock_of_process;
    backend_range_pop();
    if (!timing(phases) || phases->depth == 0) return;
    enum phase before = innermost(phases);
    phases->depth--;
    if (innermost(phases) != before) add_mark(phases, innermost(phases));
}
