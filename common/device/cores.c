#include "common/device/cores.h"

#include <errno.h>
#include <math.h>
#include <omp.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/base/error.h"
#include "common/device/cgroup.h"

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

/* ---- dealing ---- */

bool cores_read_list(const char *list, bool *members, int most) {
    memset(members, 0, (size_t)most * sizeof *members);
    for (const char *at = list; *at && *at != '\n';) {
        char *end;
        long first = strtol(at, &end, 10), last = first;
        if (end == at || first < 0) return false;
        if (*end == '-') {
            at = end + 1;
            last = strtol(at, &end, 10);
            if (end == at || last < first) return false;
        }
        for (long i = first; i <= last && i < most; i++) members[i] = true;
        if (*end == ',')
            end++;
        else if (*end && *end != '\n')
            return false;
        at = end;
    }
    return true;
}

/* Gives `rank` up to `most` of the cores that are near it (NULL: any) and nobody's, of those the ones from
 * number `skip` on. How many it got. */
static int take(int cores, const bool *near, int skip, int most, int rank, int *owners) {
    int taken = 0;
    for (int c = 0; c < cores && taken < most; c++) {
        if (near && !near[c]) continue;
        if (skip-- > 0 || owners[c] >= 0) continue;
        owners[c] = rank;
        taken++;
    }
    return taken;
}

void cores_deal(int cores, int ranks, const bool *near, int *owners) {
    int *missing = xcalloc((size_t)ranks, sizeof *missing);
    for (int c = 0; c < cores; c++) owners[c] = -1;
    for (int rank = 0; rank < ranks; rank++) {
        const bool *mine = near + (size_t)rank * (size_t)cores;
        int number = 0, like_me = 0, before_me = 0;
        for (int c = 0; c < cores; c++) number += mine[c];
        for (int other = 0; other < ranks; other++) {
            bool same = !memcmp(mine, near + (size_t)other * (size_t)cores, (size_t)cores * sizeof *mine);
            like_me += same;
            before_me += same && other < rank;
        }
        missing[rank] = cores_share(cores, rank, ranks).count;
        int first = (int)((long long)before_me * number / like_me);
        int end = (int)((long long)(before_me + 1) * number / like_me);
        int most = end - first < missing[rank] ? end - first : missing[rank];
        missing[rank] -= take(cores, mine, first, most, rank, owners);
    }
    for (int rank = 0; rank < ranks; rank++) take(cores, NULL, 0, missing[rank], rank, owners);
    free(missing);
}

/* ---- this machine ---- */

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

/* near[rank · count + c] for cores_deal(); all false where a list is missing. */
static bool *near_devices(const struct core *cores, int count, int ranks, char *const near[]) {
    bool *members = xcalloc(MOST_CORES, sizeof *members);
    bool *all = xcalloc((size_t)ranks * (size_t)count, sizeof *all);
    bool known = near != NULL;
    for (int rank = 0; rank < ranks && known; rank++) {
        known = near[rank] && cores_read_list(near[rank], members, MOST_CORES);
        for (int c = 0; c < count && known; c++)
            all[(size_t)rank * (size_t)count + (size_t)c] = members[cores[c].number];
    }
    if (!known) memset(all, 0, (size_t)ranks * (size_t)count * sizeof *all);
    free(members);
    return all;
}

/* The rank's part of the usable cores, of which there are fewer than ranks or not. */
static void move_to_share(const struct mask *usable, int rank, int ranks, char *const near[]) {
    int count;
    struct core *cores = list_cores(usable, &count);
    int *owners = xcalloc((size_t)count, sizeof *owners);
    if (ranks <= count) {
        bool *all = near_devices(cores, count, ranks, near);
        cores_deal(count, ranks, all, owners);
        free(all);
    } else {
        for (int c = 0; c < count; c++) owners[c] = -1;
        owners[cores_share(count, rank, ranks).first] = rank;
    }
    struct mask mask;
    memset(&mask, 0, sizeof mask);
    for (int c = 0; c < count; c++)
        if (owners[c] == rank) CPU_SET_S((size_t)cores[c].number, sizeof mask, mask.sets);
    set_mask(&mask);
    free(owners);
    free(cores);
}

/* ---- what people are told ---- */

static bool in_mask(const struct mask *mask, int number) {
    return CPU_ISSET_S((size_t)number, sizeof *mask, mask->sets);
}

/* A list as Linux writes it; malloc()ed. */
static char *list_of(const struct mask *mask) {
    char *list = xstrdup("");
    for (int first = 0; first < MOST_CORES; first++) {
        if (!in_mask(mask, first)) continue;
        int last = first;
        while (last + 1 < MOST_CORES && in_mask(mask, last + 1)) last++;
        char *longer = first == last ? xformat("%s%s%d", list, list[0] ? "," : "", first)
                                     : xformat("%s%s%d-%d", list, list[0] ? "," : "", first, last);
        free(list);
        list = longer;
        first = last;
    }
    return list;
}

static int nodes_cores(void) {
    long online = sysconf(_SC_NPROCESSORS_ONLN);
    return online > 0 ? (int)online : 1;
}

/* ", near its GPU", as far as that is known and so. */
static char *nearness(const struct mask *mask, const char *near) {
    bool *members = xcalloc(MOST_CORES, sizeof *members);
    int cores = CPU_COUNT_S(sizeof *mask, mask->sets), close = 0;
    if (near && cores_read_list(near, members, MOST_CORES))
        for (int i = 0; i < MOST_CORES; i++) close += members[i] && in_mask(mask, i);
    free(members);
    if (close == 0) return xstrdup("");
    return close == cores ? xstrdup(", near its GPU") : xformat(", %d of them near its GPU", close);
}

static char *describe(int threads, const struct mask *mask, const char *near) {
    char *list = list_of(mask), *where = nearness(mask, near);
    bool one = CPU_COUNT_S(sizeof *mask, mask->sets) == 1;
    char *text = xformat("%d thread%s on core%s %s of %d%s", threads, threads == 1 ? "" : "s", one ? "" : "s",
                         list, nodes_cores(), where);
    free(where);
    free(list);
    return text;
}

enum { FEW = 4 }; /* threads that use up a good part of a memory's bandwidth */

char *cores_warning(const struct core_limits *l) {
    int fair = l->online / l->mask.ranks;
    bool stays = l->bound_by_openmp && l->mask.at_start < FEW && l->mask.at_start < l->threads;
    if (fair < 2 || (!stays && (l->threads >= FEW || l->threads >= fair))) return NULL;
    const char *binds = "";
    if (stays)
        return xformat("OMP_PROC_BIND or OMP_PLACES keeps %d threads of a rank on the %d core%s that it was "
                       "started on: unset them, or start with mpirun --bind-to none",
                       l->threads, l->mask.at_start, l->mask.at_start == 1 ? "" : "s");
    if (l->from_user && l->threads < l->share)
        return xformat("OMP_NUM_THREADS leaves a rank %d thread%s of its %d cores: unset it", l->threads,
                       l->threads == 1 ? "" : "s", l->share);
    if (cores_mask_is_chosen(&l->mask)) {
        binds = l->mask.from_slurm ? "the batch system bound each rank to so many: ask for more with "
                                     "--cpus-per-task, and give that to srun as well as to sbatch"
                                   : "the process was bound to them when it was started (taskset, numactl)";
    } else if (l->threads < l->share) {
        binds = "the control group allows no more processor time: ask the batch system or the container's "
                "owner for more";
    } else if (l->mask.usable < l->online) {
        binds = "the job may use no others: ask the batch system (--cpus-per-task) or the container's owner "
                "for more";
    } else {
        return NULL; /* as many ranks as that */
    }
    return xformat("a rank has %d thread%s, though the node has %d cores for %d rank%s; %s", l->threads,
                   l->threads == 1 ? "" : "s", l->online, l->mask.ranks, l->mask.ranks == 1 ? "" : "s",
                   binds);
}

/* ---- opening ---- */

static struct core_mask how_started(const struct mask *at_start, const struct mask *usable, int ranks) {
    return (struct core_mask){
        .at_start = CPU_COUNT_S(sizeof *at_start, at_start->sets),
        .usable = CPU_COUNT_S(sizeof *usable, usable->sets),
        .from_mpirun = getenv("OMPI_COMM_WORLD_RANK"),
        .from_slurm = getenv("SLURM_JOB_ID") && (getenv("SLURM_CPUS_PER_TASK") || getenv("SLURM_CPU_BIND")),
        .ranks = ranks,
    };
}

struct cores cores_open(int node_rank, int node_size, int threads, char *const near[]) {
    struct mask at_start, usable, mine;
    get_mask(&at_start);
    widen_mask(&usable);
    struct core_limits limits = {
        .mask = how_started(&at_start, &usable, node_size),
        .online = nodes_cores(),
        .limit = cgroup_cpu_limit(""),
        .from_user = getenv("OMP_NUM_THREADS"),
        .bound_by_openmp = getenv("OMP_PROC_BIND") || getenv("OMP_PLACES"),
    };
    if (cores_mask_is_chosen(&limits.mask))
        set_mask(&at_start);
    else
        move_to_share(&usable, node_rank, node_size, near);
    get_mask(&mine);
    limits.share = CPU_COUNT_S(sizeof mine, mine.sets);
    limits.threads =
        limits.from_user ? omp_get_max_threads() : cores_threads(limits.share, limits.limit, node_size);
    if (threads > 0) limits.threads = threads;
    omp_set_num_threads(limits.threads);
    return (struct cores){
        .threads = limits.threads,
        .text = describe(limits.threads, &mine, near ? near[node_rank] : NULL),
        .warning = threads > 0 ? NULL : cores_warning(&limits),
    };
}

void cores_free(struct cores *cores) {
    free(cores->text);
    free(cores->warning);
}
