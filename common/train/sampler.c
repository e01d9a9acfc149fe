#include "common/train/sampler.h"

#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "common/base/error.h"

struct sample {
    double seconds;
    double device; /* MiB in use on this rank's device */
    double node;   /* MiB resident of all ranks of this node; kept by the node's first rank */
};

struct sampler {
    struct comm *comm;
    struct device *device;
    long long interval; /* milliseconds */
    pid_t *processes;   /* of this node's ranks; NULL on all but its first rank */
    int process_count;
    struct sample *samples;
    size_t count, capacity;
    double start;
    pthread_t thread;
    bool running;
    atomic_bool stop;
};

static double seconds_now(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

/* Resident memory of a process in bytes; 0 once it has ended. */
static double resident_bytes(pid_t process) {
    char path[64];
    snprintf(path, sizeof path, "/proc/%d/statm", (int)process);
    FILE *file = fopen(path, "r");
    if (!file) return 0;
    long long pages = 0;
    if (fscanf(file, "%*s %lld", &pages) != 1) pages = 0;
    fclose(file);
    return (double)pages * (double)sysconf(_SC_PAGESIZE);
}

static void take_sample(struct sampler *s) {
    if (s->count == s->capacity) {
        s->capacity = s->capacity ? 2 * s->capacity : 1024;
        s->samples = xrealloc(s->samples, s->capacity * sizeof *s->samples);
    }
    struct sample *sample = &s->samples[s->count++];
    sample->seconds = seconds_now() - s->start;
    sample->device = (double)device_bytes_in_use(s->device) / (1 << 20);
    sample->node = 0;
    for (int p = 0; p < s->process_count; p++) sample->node += resident_bytes(s->processes[p]) / (1 << 20);
}

static void *sample_until_stopped(void *self) {
    struct sampler *s = self;
    while (!atomic_load(&s->stop)) {
        take_sample(s);
        struct timespec pause = {.tv_sec = s->interval / 1000, .tv_nsec = s->interval % 1000 * 1000000};
        nanosleep(&pause, NULL);
    }
    return NULL;
}

/* The node's first rank watches all processes of its node. */
static void find_processes(struct sampler *s) {
    int ranks = comm_size(s->comm);
    pid_t mine = getpid();
    pid_t *all = xcalloc((size_t)ranks, sizeof *all);
    comm_host_gather(s->comm, all, &mine, sizeof mine);
    if (comm_node_rank(s->comm) == 0) {
        s->processes = xcalloc((size_t)ranks, sizeof *s->processes);
        for (int r = 0; r < ranks; r++)
            /* The dry backend plays one rank of many: only this process is there. */
            if (r == comm_rank(s->comm) || (device_computes() && comm_same_node(s->comm, r)))
                s->processes[s->process_count++] = r == comm_rank(s->comm) ? mine : all[r];
    }
    free(all);
}

struct sampler *sampler_start(struct comm *comm, struct device *device, long long interval) {
    struct sampler *s = xcalloc(1, sizeof *s);
    s->comm = comm;
    s->device = device;
    s->interval = interval;
    s->start = seconds_now();
    find_processes(s);
    if (interval > 0) {
        int failed = pthread_create(&s->thread, NULL, sample_until_stopped, s);
        if (failed) fail("the memory sampler's thread cannot be started: %s", strerror(failed));
        s->running = true;
    }
    return s;
}

static int by_size(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* The most frequent whole MiB; the smallest of those where several are. Sorts `values`. */
static double mode(double *values, size_t count) {
    qsort(values, count, sizeof *values, by_size);
    double best = 0;
    size_t most = 0;
    for (size_t i = 0; i < count;) {
        size_t next = i;
        while (next < count && (long long)values[next] == (long long)values[i]) next++;
        if (next - i > most) {
            most = next - i;
            best = (double)(long long)values[i];
        }
        i = next;
    }
    return best;
}

static json_t *statistics(double *values, size_t count) {
    double peak = 0, sum = 0;
    for (size_t i = 0; i < count; i++) {
        sum += values[i];
        if (values[i] > peak) peak = values[i];
    }
    json_t *object = json_object();
    json_object_set_new(object, "peak", json_real(peak));
    json_object_set_new(object, "average", json_real(count ? sum / (double)count : 0));
    json_object_set_new(object, "mode", json_real(mode(values, count)));
    return object;
}

/* All ranks' series, [ranks][length] samples; those that ended earlier repeat their last sample. */
static struct sample *gather_series(struct sampler *s, size_t *length) {
    double longest = (double)s->count;
    comm_host_max(s->comm, &longest, 1);
    *length = (size_t)longest;
    struct sample *mine = xcalloc(*length, sizeof *mine);
    for (size_t i = 0; i < *length && s->count; i++) mine[i] = s->samples[i < s->count ? i : s->count - 1];
    struct sample *all = xcalloc((size_t)comm_size(s->comm) * *length, sizeof *all);
    comm_host_gather(s->comm, all, mine, *length * sizeof *mine);
    free(mine);
    return all;
}

/* memory.csv: a line a sample, a column a device, then one a node. */
static void write_series(const char *output_dir, const struct sample *all, size_t length, const int *leaders,
                         int nodes, int ranks) {
    char *path = xformat("%s/memory.csv", output_dir);
    FILE *file = fopen(path, "w");
    if (!file) fail("%s: cannot be written: %s", path, strerror(errno));
    fprintf(file, "seconds");
    for (int r = 0; r < ranks; r++) fprintf(file, ",device%d_mib", r);
    for (int n = 0; n < nodes; n++) fprintf(file, ",node%d_mib", n);
    fputc('\n', file);
    for (size_t i = 0; i < length; i++) {
        fprintf(file, "%.3f", all[i].seconds);
        for (int r = 0; r < ranks; r++) fprintf(file, ",%.1f", all[(size_t)r * length + i].device);
        for (int n = 0; n < nodes; n++) fprintf(file, ",%.1f", all[(size_t)leaders[n] * length + i].node);
        fputc('\n', file);
    }
    bool failed = ferror(file);
    if (fclose(file) != 0 || failed) fail("%s: cannot be written: %s", path, strerror(errno));
    free(path);
}

/* Ranks that are the first of their node, in order. */
static int find_leaders(struct sampler *s, int *leaders) {
    int ranks = comm_size(s->comm), nodes = 0;
    int first = comm_node_rank(s->comm) == 0;
    int *all = xcalloc((size_t)ranks, sizeof *all);
    comm_host_gather(s->comm, all, &first, sizeof first);
    for (int r = 0; r < ranks; r++)
        if (all[r]) leaders[nodes++] = r;
    free(all);
    return nodes;
}

json_t *sampler_stop(struct sampler *s, const char *output_dir) {
    if (s->running) {
        atomic_store(&s->stop, true);
        pthread_join(s->thread, NULL);
        take_sample(s);
    }
    int ranks = comm_size(s->comm);
    int *leaders = xcalloc((size_t)ranks, sizeof *leaders);
    int nodes = find_leaders(s, leaders);
    size_t length;
    struct sample *all = gather_series(s, &length);
    json_t *event = NULL;
    if (comm_is_leader(s->comm) && length > 0) {
        write_series(output_dir, all, length, leaders, nodes, ranks);
        double *values = xcalloc(length, sizeof *values);
        json_t *devices = json_array(), *node_list = json_array();
        for (int r = 0; r < ranks; r++) {
            for (size_t i = 0; i < length; i++) values[i] = all[(size_t)r * length + i].device;
            json_array_append_new(devices, statistics(values, length));
        }
        for (int n = 0; n < nodes; n++) {
            for (size_t i = 0; i < length; i++) values[i] = all[(size_t)leaders[n] * length + i].node;
            json_array_append_new(node_list, statistics(values, length));
        }
        free(values);
        event = json_object();
        json_object_set_new(event, "device", devices);
        json_object_set_new(event, "node", node_list);
    }
    free(all);
    free(leaders);
    free(s->samples);
    free(s->processes);
    free(s);
    return event;
}
