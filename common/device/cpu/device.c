#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/utsname.h>

#include "common/base/error.h"
#include "common/device/cgroup.h"
#include "common/device/cores.h"
#include "common/device/cpu/cpu.h"

bool device_computes(void) {
    return true;
}

/* ---- opening ---- */

/* The processor's model as /proc/cpuinfo has it, or where it has none (ARM) the architecture. malloc()ed. */
static char *processor_name(void) {
    FILE *file = fopen("/proc/cpuinfo", "re");
    char line[512];
    while (file && fgets(line, sizeof line, file)) {
        char *colon = strchr(line, ':');
        if (strncmp(line, "model name", 10) != 0 || !colon) continue;
        fclose(file);
        line[strcspn(line, "\n")] = '\0';
        return xstrdup(colon + 1 + strspn(colon + 1, " "));
    }
    if (file) fclose(file);
    struct utsname system;
    return xformat("%s processor", uname(&system) == 0 ? system.machine : "unknown");
}

void immediate_open(struct device *device) {
    const struct device_options *options = &device->options;
    device->cores = cores_open(options->node_rank, options->node_size, options->threads, NULL);
    device->name = processor_name();
    /* Host memory is the same memory: where a stage uses it, each of the two may fill the share. */
    size_t share = memory_share(options->node_size);
    blocks_open(&device->memory, "device", options->memory_limit ? options->memory_limit : share);
    blocks_open(&device->host, "host", share);
}

/* ---- memory ---- */

enum { HUGE_PAGE = 2 << 20 };

/* Large blocks are aligned to huge pages and ask for them: the first touch of a gigabyte then takes 512 page
 * faults instead of 262,144, and products miss the translation buffer less. */
void *immediate_get(struct device *device, size_t bytes) {
    (void)device;
    bool large = bytes >= 2 * HUGE_PAGE;
    void *pointer;
    if (posix_memalign(&pointer, large ? HUGE_PAGE : DEVICE_ALIGNMENT, bytes ? bytes : 1) != 0) return NULL;
    /* A system without huge pages refuses; nothing depends on them but speed. */
    if (large) (void)madvise(pointer, bytes - bytes % HUGE_PAGE, MADV_HUGEPAGE);
    return pointer;
}

void immediate_release(void *pointer) {
    free(pointer);
}

/* ---- copies ---- */

/* One core does not use up a node's memory bandwidth: large blocks are cut for all threads. */
enum { PIECE = 1 << 20 };

static void copy_bytes(char *to, const char *from, size_t bytes) {
#pragma omp parallel for schedule(static) if (bytes >= 4 * PIECE)
    for (size_t at = 0; at < bytes; at += PIECE)
        memcpy(to + at, from + at, bytes - at < PIECE ? bytes - at : PIECE);
}

void copy_to_device(struct stream *stream, void *device, const void *host, size_t bytes) {
    work_copy_host(stream, bytes);
    copy_bytes(device, host, bytes);
}

void copy_to_host(struct stream *stream, void *host, const void *device, size_t bytes) {
    work_copy_host(stream, bytes);
    copy_bytes(host, device, bytes);
}

void copy_on_device(struct stream *stream, void *to, const void *from, size_t bytes) {
    work_copy_device(stream, bytes);
    copy_bytes(to, from, bytes);
}

void fill_zero(struct stream *stream, void *device, size_t bytes) {
    work_fill_zero(stream, bytes);
    char *to = device;
#pragma omp parallel for schedule(static) if (bytes >= 4 * PIECE)
    for (size_t at = 0; at < bytes; at += PIECE) memset(to + at, 0, bytes - at < PIECE ? bytes - at : PIECE);
}

/* ---- workspace ---- */

float *cpu_workspace(struct stream *stream, size_t *bytes) {
    *bytes = stream->device->workspace ? CPU_WORKSPACE_BYTES : 0;
    return stream->device->workspace;
}
