/*
 * What control groups (Linux; versions 1 and 2) leave to this process: containers and batch systems limit its
 * memory and its processor time in this way, and the node's own numbers then say too much.
 *
 * A limit holds for a group and all below it, so each function gives the lowest of this process's group and
 * the groups above it, as far as they can be seen from here. `root` is put before /proc and /sys: "" but in
 * tests.
 */
#ifndef COMMON_DEVICE_CGROUP_H
#define COMMON_DEVICE_CGROUP_H

#include <stddef.h>

/* Bytes that each of this node's `ranks` may use if all use the same: of what the node, or the group, has; 0
 * where that is not known. */
size_t memory_share(int ranks);

/* Bytes of memory; HUGE_VAL where nothing limits it. */
double cgroup_memory_limit(const char *root);
/* Processors' worth of time (quota / period, 1.5 is one and a half); HUGE_VAL where nothing limits it. */
double cgroup_cpu_limit(const char *root);

#endif
