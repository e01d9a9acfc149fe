/*
 * The memory ledger: every block of device memory, and every large block of host memory, is booked under a
 * heading, so that a run can say where its bytes are and how many there were at most.
 *
 * Sizes are those asked for, not what an allocator rounds them to: a ledger can then be predicted by formula
 * and is the same on every backend.
 */
#ifndef COMMON_DEVICE_LEDGER_H
#define COMMON_DEVICE_LEDGER_H

#include <stddef.h>

enum heading { PARAMETERS, GRADIENTS, OPTIMIZER, ACTIVATIONS, BUFFERS, HEADINGS };

/* "parameters", …, as in metrics.jsonl. */
const char *heading_name(enum heading heading);

struct ledger_line {
    size_t bytes;      /* booked now */
    size_t peak_bytes; /* the most that was ever booked at once under this heading */
};

struct ledger {
    struct ledger_line lines[HEADINGS];
    struct ledger_line total; /* its peak is the peak of the sum, not the sum of peaks */
    size_t limit;             /* bytes; 0: none */
};

/* Books `bytes` more under a heading; takes them off again. */
void ledger_add(struct ledger *ledger, enum heading heading, size_t bytes);
void ledger_remove(struct ledger *ledger, enum heading heading, size_t bytes);
/* Forgets earlier peaks: they start again from what is booked now. */
void ledger_reset_peaks(struct ledger *ledger);

#endif
