#include "common/device/ledger.h"

#include "common/base/error.h"

const char *heading_name(enum heading heading) {
    static const char *const names[HEADINGS] = {"parameters", "gradients", "optimizer", "activations",
                                                "buffers"};
    return names[heading];
}

static void line_add(struct ledger_line *line, size_t bytes) {
    line->bytes += bytes;
    if (line->peak_bytes < line->bytes) line->peak_bytes = line->bytes;
}

void ledger_add(struct ledger *ledger, enum heading heading, size_t bytes) {
    line_add(&ledger->lines[heading], bytes);
    line_add(&ledger->total, bytes);
}

void ledger_remove(struct ledger *ledger, enum heading heading, size_t bytes) {
    if (bytes > ledger->lines[heading].bytes)
        fail("memory ledger: %zu bytes taken off %s, which holds %zu: a mistake in this program", bytes,
             heading_name(heading), ledger->lines[heading].bytes);
    ledger->lines[heading].bytes -= bytes;
    ledger->total.bytes -= bytes;
}

void ledger_reset_peaks(struct ledger *ledger) {
    for (int heading = 0; heading < HEADINGS; heading++)
        ledger->lines[heading].peak_bytes = ledger->lines[heading].bytes;
    ledger->total.peak_bytes = ledger->total.bytes;
}
