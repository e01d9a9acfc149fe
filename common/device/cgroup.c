#include "common/device/cgroup.h"

#include <math.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/base/error.h"

/* Reads up to two numbers from folder/name: how many there were. "max" and a missing file are none. */
static int read_numbers(const char *folder, const char *name, double numbers[2]) {
    char *path = xformat("%s/%s", folder, name);
    FILE *file = fopen(path, "re");
    free(path);
    if (!file) return 0;
    int found = fscanf(file, "%lf %lf", &numbers[0], &numbers[1]);
    fclose(file);
    return found < 0 ? 0 : found;
}

static double memory_of(const char *folder) {
    double limit[2];
    if (read_numbers(folder, "memory.max", limit) >= 1) return limit[0];            /* v2 */
    if (read_numbers(folder, "memory.limit_in_bytes", limit) >= 1) return limit[0]; /* v1 */
    return HUGE_VAL;
}

static double cpu_of(const char *folder) {
    double quota[2], period[2];
    if (read_numbers(folder, "cpu.max", quota) == 2 && quota[1] > 0) return quota[0] / quota[1]; /* v2 */
    if (read_numbers(folder, "cpu.cfs_quota_us", quota) >= 1 && quota[0] > 0 && /* v1: −1 is none */
        read_numbers(folder, "cpu.cfs_period_us", period) >= 1 && period[0] > 0)
        return quota[0] / period[0];
    return HUGE_VAL;
}

/* The lowest limit of a group and those above it. A container may see only its own part of the tree, under a
 * path that is not there: what cannot be read limits nothing, and the top is always looked at. */
static double lowest_on_path(const char *mount, const char *group, double (*limit_of)(const char *folder)) {
    char *folder = xformat("%s%s", mount, group);
    double lowest = HUGE_VAL;
    for (;;) {
        lowest = fmin(lowest, limit_of(folder));
        char *end = strrchr(folder + strlen(mount), '/');
        if (!end) break;
        *end = '\0';
    }
    free(folder);
    return lowest;
}

/* Is `name` one of the comma-separated controllers? */
static bool lists(const char *controllers, const char *name) {
    size_t length = strlen(name);
    for (const char *at = controllers; (at = strstr(at, name)); at += length)
        if ((at == controllers || at[-1] == ',') && (at[length] == ',' || at[length] == '\0')) return true;
    return false;
}

/* /proc/self/cgroup has lines "number:controllers:path"; version 2 is the one without controllers. */
static double lowest_limit(const char *root, const char *controller, double (*limit_of)(const char *folder)) {
    char *path = xformat("%s/proc/self/cgroup", root);
    FILE *file = fopen(path, "re");
    free(path);
    double lowest = HUGE_VAL;
    char line[4096];
    while (file && fgets(line, sizeof line, file)) {
        line[strcspn(line, "\n")] = '\0';
        char *controllers = strchr(line, ':');
        char *group = controllers ? strchr(controllers + 1, ':') : NULL;
        if (!group) continue;
        controllers++;
        *group++ = '\0';
        bool version2 = !*controllers;
        if (!version2 && !lists(controllers, controller)) continue;
        char *mount = xformat("%s/sys/fs/cgroup%s%s", root, version2 ? "" : "/", version2 ? "" : controller);
        lowest = fmin(lowest, lowest_on_path(mount, group, limit_of));
        free(mount);
    }
    if (file) fclose(file);
    return lowest;
}

double cgroup_memory_limit(const char *root) {
    return lowest_limit(root, "memory", memory_of);
}

double cgroup_cpu_limit(const char *root) {
    return lowest_limit(root, "cpu", cpu_of);
}

size_t memory_share(int ranks) {
    long pages = sysconf(_SC_PHYS_PAGES), page = sysconf(_SC_PAGESIZE);
    double node = pages > 0 && page > 0 ? (double)pages * (double)page : HUGE_VAL;
    double share = fmin(node, cgroup_memory_limit("")) / ranks;
    return share < (double)SIZE_MAX / 2 ? (size_t)share : 0;
}
