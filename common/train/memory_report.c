#include "common/train/memory_report.h"

#include <stdio.h>
#include <stdlib.h>

#include "common/base/error.h"

struct memory_prediction memory_prediction_none(void) {
    struct memory_prediction prediction;
    for (int h = 0; h < HEADINGS; h++) prediction.device[h] = prediction.host[h] = PREDICTION_NONE;
    return prediction;
}

/* One place's part of the event. `values` holds bytes and peaks by heading, then of the total. */
static json_t *place_event(const double *values, const double *predicted) {
    json_t *place = json_object();
    for (int h = 0; h <= HEADINGS; h++) {
        json_t *line = json_object();
        if (h < HEADINGS && predicted[h] >= 0)
            json_object_set_new(line, "predicted_bytes", json_integer((json_int_t)predicted[h]));
        json_object_set_new(line, "bytes", json_integer((json_int_t)values[2 * h]));
        json_object_set_new(line, "peak_bytes", json_integer((json_int_t)values[2 * h + 1]));
        json_object_set_new(place, h < HEADINGS ? heading_name((enum heading)h) : "total", line);
    }
    return place;
}

static void read_ledger(const struct ledger *ledger, double *values) {
    for (int h = 0; h <= HEADINGS; h++) {
        const struct ledger_line *line = h < HEADINGS ? &ledger->lines[h] : &ledger->total;
        values[2 * h] = (double)line->bytes;
        values[2 * h + 1] = (double)line->peak_bytes;
    }
}

json_t *memory_event(struct comm *comm, const struct device *device,
                     const struct memory_prediction *prediction) {
    enum { PLACE = 2 * (HEADINGS + 1) };
    double values[2 * PLACE + 1];
    read_ledger(device_ledger(device), values);
    read_ledger(host_ledger(device), values + PLACE);
    values[2 * PLACE] = (double)device_bytes_outside_ledger(device);
    comm_host_max(comm, values, 2 * PLACE + 1);
    json_t *event = json_object();
    json_t *on_device = place_event(values, prediction->device);
    json_object_set_new(on_device, "outside_ledger", json_integer((json_int_t)values[2 * PLACE]));
    json_object_set_new(event, "device", on_device);
    json_object_set_new(event, "host", place_event(values + PLACE, prediction->host));
    return event;
}

/* A number of MiB in a column, or a dash. */
static void column(char text[24], const json_t *line, const char *key) {
    const json_t *value = json_object_get(line, key);
    if (value)
        snprintf(text, 24, "%12.1f", json_number_value(value) / (1 << 20));
    else
        snprintf(text, 24, "%12s", "-");
}

static char *add_place(char *table, const char *title, const json_t *place) {
    char *longer = xformat("%s%-22s%12s%12s%12s\n", table, title, "predicted", "now", "peak");
    free(table);
    for (int h = 0; h <= HEADINGS; h++) {
        const char *name = h < HEADINGS ? heading_name((enum heading)h) : "total";
        const json_t *line = json_object_get(place, name);
        char predicted[24], now[24], peak[24];
        column(predicted, line, "predicted_bytes");
        column(now, line, "bytes");
        column(peak, line, "peak_bytes");
        table = longer;
        longer = xformat("%s  %-20s%s%s%s\n", table, name, predicted, now, peak);
        free(table);
    }
    return longer;
}

char *memory_table(const json_t *event) {
    const json_t *device = json_object_get(event, "device");
    char *table = add_place(xstrdup(""), "device memory, MiB", device);
    table = add_place(table, "host memory, MiB", json_object_get(event, "host"));
    double outside = json_number_value(json_object_get(device, "outside_ledger"));
    char *whole = xformat("%sthe largest over the ranks; the total's peak is the peak of the sum\n"
                          "device memory outside the ledger (context, libraries): %.1f MiB",
                          table, outside / (1 << 20));
    free(table);
    return whole;
}
