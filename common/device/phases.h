/*
 * Where the time of an update goes: forward, backward, optimizer, and communication that nothing hides.
 *
 *   struct phases *phases = phases_open(stream, true);
 *   phases_begin(phases, false);      an update: its profile_push() and profile_pop() are noted on the stream
 *   …
 *   phases_end(phases);               all of it is queued
 *   …                                 the next one may be queued, too
 *   phases_read(phases, &times);      how long the first one took
 *
 * Nothing here waits inside an update: each change from one phase to the next is an event on the stream, and
 * the times between them are read when they have long been reached. A phase lasts from the push of its name
 * to the pop, less what lies inside a nested phase: the wait for a collective, pushed by comm.c, is taken
 * away from the phase that waits. Ranges of other names belong to the phase around them.
 */
#ifndef COMMON_DEVICE_PHASES_H
#define COMMON_DEVICE_PHASES_H

#include "common/device/device.h"

/* PHASE_OTHER is what lies outside all others: loss, copies of the input, gaps between updates. */
enum phase { PHASE_FORWARD, PHASE_BACKWARD, PHASE_COMMUNICATION, PHASE_OPTIMIZER, PHASE_OTHER, PHASES };
const char *phase_name(enum phase phase); /* "forward", … "communication_exposed", …: what is pushed */

/* One update's, in milliseconds. Without phases all of it is PHASE_OTHER's. */
struct phase_times {
    double total;
    double phase[PHASES];
};

/* Times updates on `stream`; one at a time in a process, as the ranges name no device. `by_phase`: inside an
 * update, too, at the price of two events for each range (on a GPU about 2 µs each). */
struct phases *phases_open(struct stream *stream, bool by_phase);
void phases_close(struct phases *phases);

/* An update begins. `continues`: it follows the last one at once, and what passed in between belongs to it.
 */
void phases_begin(struct phases *phases, bool continues);
/* All of its work has been queued. */
void phases_end(struct phases *phases);
/* The times of the oldest update that has ended and was not read; false where there is none. An update must
 * be read before the next but one begins. */
bool phases_read(struct phases *phases, struct phase_times *times);

#endif
