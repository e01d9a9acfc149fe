#include "06-multinode/start_report.h"

#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "common/base/error.h"
#include "common/base/json.h"

enum { MOST_LINES = 64 };

/* What a rank tells of itself. */
struct place {
    int rank, node;
    struct level_rates rates;
    char host[64], device[80], cores[96];
};

static struct place my_place(const struct session *s, const struct topology *t, struct level_rates rates) {
    struct place place = {.rank = s->rank, .node = t->node, .rates = rates};
    gethostname(place.host, sizeof place.host - 1);
    snprintf(place.device, sizeof place.device, "%s", device_name(s->device));
    snprintf(place.cores, sizeof place.cores, "%s", device_cores_text(s->device));
    return place;
}

/* "12.4", "0.0156", or "-". */
static const char *rate_text(double rate, char text[16]) {
    snprintf(text, 16, rate > 0 ? "%.3g" : "-", rate * 1e-9);
    return text;
}

static void report_line(struct session *s, const struct place *place) {
    char inside[16], across[16];
    metrics_line(s->metrics, "%4d %5d  %-12s %7s  %7s  %s, %s", place->rank, place->node, place->host,
                 rate_text(place->rates.inside, inside), rate_text(place->rates.across, across),
                 place->device, place->cores);
}

static json_t *text_json(const char *text) {
    json_t *string = json_string(text);
    return string ? string : json_string("?"); /* not UTF-8 */
}

static json_t *rate_json(double rate) {
    return rate > 0 ? json_number(rate) : json_null();
}

static json_t *place_json(const struct place *place) {
    json_t *object = json_object();
    json_object_set_new(object, "rank", json_integer(place->rank));
    json_object_set_new(object, "node", json_integer(place->node));
    json_object_set_new(object, "host", text_json(place->host));
    json_object_set_new(object, "device", text_json(place->device));
    json_object_set_new(object, "cores", text_json(place->cores));
    json_object_set_new(object, "inside_bytes_per_second", rate_json(place->rates.inside));
    json_object_set_new(object, "across_bytes_per_second", rate_json(place->rates.across));
    return object;
}

void start_report(struct session *session, const struct topology *topology, struct level_rates rates) {
    struct session *s = session;
    const struct topology *t = topology;
    struct place mine = my_place(s, t, rates), *all = xcalloc((size_t)s->world_size, sizeof *all);
    comm_host_gather(s->comm, all, &mine, sizeof mine);
    int told = device_computes() ? s->world_size : 1; /* dry: all places are this rank's */
    json_t *ranks = json_array(), *event = json_object();
    metrics_line(s->metrics, "%s", t->note);
    metrics_line(s->metrics, "rank  node  host          inside   across  (GB/s)  device and cores");
    for (int r = 0; r < told; r++) {
        if (r < MOST_LINES) report_line(s, &all[r]);
        json_array_append_new(ranks, place_json(&all[r]));
    }
    if (told > MOST_LINES) metrics_line(s->metrics, " …    all %d ranks are in metrics.jsonl", told);
    json_object_set_new(event, "nodes", json_integer(t->nodes));
    json_object_set_new(event, "ranks_per_node", json_integer(t->ranks_per_node));
    json_object_set_new(event, "levels", json_integer(t->two_levels ? 2 : 1));
    json_object_set_new(event, "ranks", ranks);
    metrics_write(s->metrics, "topology", event);
    free(all);
}
