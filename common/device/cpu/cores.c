#include "common/device/cpu/cores.h"

#include <errno.h>
#include <math.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/error.h"
#include "common/device/cpu/cgroup.h"

/* Linux has at most 8,192 processors; cpu_set_t holds 1,024. */
enum { MOST_CORES = 8192 };
struct mask {
    cpu_set_t sets[MOST_CORES / CPU_SETSIZE];
};

struct core_range cores_share(int cores, int rank, int ranks) {
    int first = (int)((long long)rank * cores / ranks);
    int end = (int)((long long)(rank + 1) * cores / ranks);
    return (struct core_range){.first = first, .count = end > first ? end - first : 1};
}

int cores_threads(int share, double limit, int ranks) {
    double most = floor(limit / ranks);
    if (most >= share) return share;
    return most > 1 ? (int)most : 1;
}

bool cores_mask_is_chosen(const struct core_mask *mask) {
    if (mask->at_start >= mask->usable || mask->from_mpirun) return false;
    /* One core for a rank of several, from no launcher we know, is a launcher's default rather than a choice.
     */
    return mask->from_slurm || mask->at_start > 1 || mask->ranks == 1;
}

struct core {
    int number;            /* as the system numbers its logical processors */
    int package, physical; /* where it sits; 0 where the system does not say */
};

static int topology_of(int number, const char *what) {
    char path[128];
    snprintf(path, sizeof path, "/sys/devices/system/cpu/cpu%d/topology/%s", number, what);
    FILE *file = fopen(path, "re");
    int value = 0;
    if (!file) return 0;
    if (fscanf(file, "%d", &value) != 1) value = 0;
    fclose(file);
    return value;
}

static int compare_cores(const void *left, const void *right) {
    const struct core *a = left, *b = right;
    if (a->package != b->package) return a->package < b->package ? -1 : 1;
    if (a->physical != b->physical) return a->physical < b->physical ? -1 : 1;
    return a->number < b->number ? -1 : a->number > b->number;
}

/* The cores of a mask in an order that keeps a socket's together, and the threads of one physical core. The
 * caller frees them. */
static struct core *list_cores(const struct mask *mask, int *count) {
    struct core *cores = xmalloc(MOST_CORES * sizeof *cores);
    *count = 0;
    for (int number = 0; number < MOST_CORES; number++) {
        if (!CPU_ISSET_S((size_t)number, sizeof *mask, mask->sets)) continue;
        cores[(*count)++] = (struct core){.number = number,
                                          .package = topology_of(number, "physical_package_id"),
                                          .physical = topology_of(number, "core_id")};
    }
    qsort(cores, (size_t)*count, sizeof *cores, compare_cores);
    return cores;
}

static void get_mask(struct mask *mask) {
    memset(mask, 0, sizeof *mask);
    if (sched_getaffinity(0, sizeof *mask, mask->sets) != 0)
        fail("this process's cores cannot be read: %s", strerror(errno));
}

/* Every core that the system lets this process use: it cuts what is asked for to the process's cpuset. */
static void widen_mask(struct mask *mask) {
    memset(mask, 0xff, sizeof *mask);
    /* Where a sandbox refuses, the mask stays as it was at start, and that is what there is. */
    (void)sched_setaffinity(0, sizeof *mask, mask->sets);
    get_mask(mask);
}

static void set_mask(const struct mask *mask) {
    if (sched_setaffinity(0, sizeof *mask, mask->sets) != 0)
        warn("this process cannot be moved to its share of the cores: %s", strerror(errno));
}

static void move_to(const struct core *cores, struct core_range range) {
    struct mask mask;
    memset(&mask, 0, sizeof mask);
    for (int i = 0; i < range.count; i++)
        CPU_SET_S((size_t)cores[range.first + i].number, sizeof mask, mask.sets);
    set_mask(&mask);
}

int cores_claim(int node_rank, int node_size) {
    struct mask at_start, usable;
    get_mask(&at_start);
    widen_mask(&usable);
    struct core_mask started = {
        .at_start = CPU_COUNT_S(sizeof at_start, at_start.sets),
        .usable = CPU_COUNT_S(sizeof usable, usable.sets),
        .from_mpirun = getenv("OMPI_COMM_WORLD_RANK"),
        .from_slurm = getenv("SLURM_JOB_ID") && (getenv("SLURM_CPUS_PER_TASK") || getenv("SLURM_CPU_BIND")),
        .ranks = node_size,
    };
    double limit = cgroup_cpu_limit("");
    if (cores_mask_is_chosen(&started)) {
        set_mask(&at_start);
        return cores_threads(started.at_start, limit, node_size);
    }
    int count;
    struct core *cores = list_cores(&usable, &count);
    struct core_range share = cores_share(count, node_rank, node_size);
    move_to(cores, share);
    free(cores);
    return cores_threads(share.count, limit, node_size);
}
