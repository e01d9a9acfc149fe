/* How a node's cores are dealt to ranks, and what control groups allow. */
#include <math.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "common/base/file.h"
#include "common/device/cgroup.h"
#include "common/device/cores.h"
#include "common/device/device.h"
#include "tests/support/check.h"

static void test_shares(void **state) {
    (void)state;
    struct core_range range = cores_share(16, 1, 2);
    assert_int_equal(range.first, 8);
    assert_int_equal(range.count, 8);
    range = cores_share(7, 1, 3); /* 2, 2 and 3 */
    assert_int_equal(range.first, 2);
    assert_int_equal(range.count, 2);
    range = cores_share(2, 3, 4);
    assert_int_equal(range.first, 1);
    assert_int_equal(range.count, 1);
}

/* Every core has a rank, shares differ by one core at most; with more ranks than cores, every core has as
 * many ranks as any other, but for one. */
static void test_shares_are_even(void **state) {
    (void)state;
    for (int cores = 1; cores <= 40; cores++) {
        for (int ranks = 1; ranks <= 50; ranks++) {
            int users[40] = {0}, most = 0, fewest = ranks;
            for (int rank = 0; rank < ranks; rank++) {
                struct core_range range = cores_share(cores, rank, ranks);
                assert_true(range.count >= 1 && range.first >= 0 && range.first + range.count <= cores);
                assert_true(range.count >= cores / ranks && range.count <= cores / ranks + 1);
                for (int core = range.first; core < range.first + range.count; core++) users[core]++;
            }
            for (int core = 0; core < cores; core++) {
                if (users[core] > most) most = users[core];
                if (users[core] < fewest) fewest = users[core];
            }
            if (ranks <= cores) assert_true(fewest == 1 && most == 1);
            assert_true(fewest >= 1 && most - fewest <= 1);
        }
    }
}

/* "0011": core c belongs to rank 0011[c]; near: for each rank a row of 0 and 1. */
static void check_deal(int ranks, const char *near, const char *expected) {
    int cores = (int)strlen(expected), owners[32];
    bool flags[32 * 8] = {0};
    assert_int_equal((int)strlen(near), ranks * cores);
    for (int i = 0; i < ranks * cores; i++) flags[i] = near[i] == '1';
    cores_deal(cores, ranks, flags, owners);
    for (int c = 0; c < cores; c++)
        if (owners[c] != expected[c] - '0')
            fail_msg("core %d goes to %d, not to %c", c, owners[c], expected[c]);
}

static void test_dealing(void **state) {
    (void)state;
    check_deal(2, "00000000", "0011");             /* nothing is known */
    check_deal(2, "11111111", "0011");             /* all are near all */
    check_deal(2, "11000011", "0011");             /* a socket each */
    check_deal(2, "00111100", "1100");             /* and the other way round */
    check_deal(1, "0011", "0000");                 /* alone: all, near or not */
    check_deal(2, "0011110000111100", "00001111"); /* both want the same: half each, and of the rest */
    check_deal(4,
               "00001111"
               "11110000"
               "00001111"
               "11110000",
               "11330022");
    check_deal(3,
               "1100000"
               "0000011"
               "0000011",
               "0012212");
}

static void test_lists(void **state) {
    (void)state;
    bool members[16];
    assert_true(cores_read_list("0-2,5,14-20\n", members, 16));
    for (int i = 0; i < 16; i++) assert_int_equal(members[i], i <= 2 || i == 5 || i >= 14);
    assert_true(cores_read_list("\n", members, 16) && cores_read_list("", members, 16));
    assert_false(members[0]);
    static const char *const bad[] = {"a", "1-", "-1", "3-1", "1;2", "1 2", "1-2-3"};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        if (cores_read_list(bad[i], members, 16)) fail_msg("'%s' is taken for a list", bad[i]);
}

/* NULL: no warning. */
static void check_warning(struct core_limits limits, const char *says) {
    char *warning = cores_warning(&limits);
    if (!says && warning) fail_msg("a warning: %s", warning);
    if (says && (!warning || !strstr(warning, says))) fail_msg("'%s' does not say '%s'", warning, says);
    free(warning);
}

static void test_warnings(void **state) {
    (void)state;
    const struct core_mask whole = {.at_start = 64, .usable = 64, .ranks = 4};
    struct core_limits fine = {.mask = whole, .online = 64, .share = 16, .threads = 16, .limit = HUGE_VAL};
    check_warning(fine, NULL);
    struct core_limits l = fine;
    l.from_user = true;
    l.threads = 1;
    check_warning(l, "OMP_NUM_THREADS leaves a rank 1 thread of its 16 cores");
    l = fine;
    l.limit = 8;
    l.threads = 2;
    check_warning(l, "a rank has 2 threads, though the node has 64 cores for 4 ranks; the control group");
    l = fine;
    l.mask = (struct core_mask){.at_start = 1, .usable = 64, .ranks = 4, .from_slurm = true};
    l.share = l.threads = 1;
    check_warning(l, "--cpus-per-task, and give that to srun");
    l.mask.from_slurm = false;
    l.mask.ranks = 1;
    check_warning(l, "taskset");
    l.mask = (struct core_mask){.at_start = 2, .usable = 2, .ranks = 1};
    l.share = l.threads = 2;
    check_warning(l, "the job may use no others");
    l = fine;
    l.mask.at_start = 1;
    l.mask.from_mpirun = l.bound_by_openmp = true;
    check_warning(l, "OMP_PROC_BIND or OMP_PLACES keeps 16 threads of a rank on the 1 core that");
    /* As many ranks as cores, and small machines: nothing to be done. */
    check_warning((struct core_limits){.mask = {.at_start = 64, .usable = 64, .ranks = 64},
                                       .online = 64,
                                       .share = 1,
                                       .threads = 1,
                                       .limit = HUGE_VAL},
                  NULL);
    check_warning((struct core_limits){.mask = {.at_start = 2, .usable = 2, .ranks = 1},
                                       .online = 2,
                                       .share = 2,
                                       .threads = 2,
                                       .limit = HUGE_VAL},
                  NULL);
}

static void test_threads(void **state) {
    (void)state;
    assert_int_equal(cores_threads(8, HUGE_VAL, 2), 8);
    assert_int_equal(cores_threads(8, 16, 2), 8);
    assert_int_equal(cores_threads(8, 6, 2), 3);
    assert_int_equal(cores_threads(8, 1.5, 1), 1);
    assert_int_equal(cores_threads(8, 0.5, 4), 1);
}

static void test_whose_mask(void **state) {
    (void)state;
    struct core_mask everything = {.at_start = 8, .usable = 8, .ranks = 2, .from_slurm = true};
    assert_false(cores_mask_is_chosen(&everything));
    struct core_mask mpirun = {.at_start = 1, .usable = 8, .ranks = 2, .from_mpirun = true};
    assert_false(cores_mask_is_chosen(&mpirun));
    mpirun.from_slurm = true; /* mpirun inside a batch job */
    assert_false(cores_mask_is_chosen(&mpirun));
    struct core_mask srun = {.at_start = 1, .usable = 8, .ranks = 8, .from_slurm = true};
    assert_true(cores_mask_is_chosen(&srun));
    struct core_mask taskset = {.at_start = 3, .usable = 8, .ranks = 1};
    assert_true(cores_mask_is_chosen(&taskset));
    taskset.at_start = 1;
    assert_true(cores_mask_is_chosen(&taskset));
    struct core_mask launcher = {.at_start = 1, .usable = 8, .ranks = 4};
    assert_false(cores_mask_is_chosen(&launcher));
}

/* ---- control groups, in a file tree made for the test ---- */

static char root[] = "/tmp/test_cores.XXXXXX";

static void put(const char *path, const char *text) {
    struct error error;
    char *full = xformat("%s/%s", root, path), *folder = xstrdup(full);
    *strrchr(folder, '/') = '\0';
    assert_true(directory_create(folder, &error));
    assert_true(file_write(full, text, strlen(text), &error));
    free(full);
    free(folder);
}

static int make_root(void **state) {
    (void)state;
    memcpy(root, "/tmp/test_cores.XXXXXX", sizeof root);
    return mkdtemp(root) ? 0 : -1;
}

static int remove_root(void **state) {
    (void)state;
    return directory_remove(root, NULL) ? 0 : -1;
}

static void test_no_control_groups(void **state) {
    (void)state;
    assert_true(cgroup_memory_limit(root) == HUGE_VAL);
    assert_true(cgroup_cpu_limit(root) == HUGE_VAL);
}

static void test_control_groups_version_2(void **state) {
    (void)state;
    put("proc/self/cgroup", "0::/job.slice/step\n");
    put("sys/fs/cgroup/job.slice/step/memory.max", "max\n");
    put("sys/fs/cgroup/job.slice/memory.max", "4000000000\n");
    put("sys/fs/cgroup/job.slice/step/cpu.max", "250000 100000\n");
    put("sys/fs/cgroup/job.slice/cpu.max", "max 100000\n");
    assert_true(cgroup_memory_limit(root) == 4e9);
    assert_true(cgroup_cpu_limit(root) == 2.5);
    put("sys/fs/cgroup/job.slice/step/memory.max", "5000000000\n");
    assert_true(cgroup_memory_limit(root) == 4e9);
    put("sys/fs/cgroup/cpu.max", "50000 100000\n");
    assert_true(cgroup_cpu_limit(root) == 0.5);
}

/* A container: the path is the host's, the files are at the top. */
static void test_control_groups_version_1(void **state) {
    (void)state;
    put("proc/self/cgroup",
        "5:cpu,cpuacct:/docker/0123\n4:memory:/docker/0123\n3:cpuset:/docker\n1:name=systemd:/\n");
    put("sys/fs/cgroup/memory/memory.limit_in_bytes", "1073741824\n");
    put("sys/fs/cgroup/cpu/cpu.cfs_quota_us", "-1\n");
    put("sys/fs/cgroup/cpu/cpu.cfs_period_us", "100000\n");
    assert_true(cgroup_memory_limit(root) == 1073741824);
    assert_true(cgroup_cpu_limit(root) == HUGE_VAL);
    put("sys/fs/cgroup/cpu/docker/0123/cpu.cfs_quota_us", "300000\n");
    put("sys/fs/cgroup/cpu/docker/0123/cpu.cfs_period_us", "100000\n");
    assert_true(cgroup_cpu_limit(root) == 3);
}

/* ---- this machine ---- */

static int cores_now(void) {
    cpu_set_t set;
    return sched_getaffinity(0, sizeof set, &set) == 0 ? CPU_COUNT(&set) : -1;
}

/* In a child, as the mask of a process cannot be given back for sure. */
static void in_child(void (*call)(void)) {
    fflush(NULL);
    pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        unsetenv("OMPI_COMM_WORLD_RANK");
        unsetenv("SLURM_JOB_ID");
        unsetenv("OMP_NUM_THREADS");
        call();
        _exit(0);
    }
    int status;
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_true(WIFEXITED(status));
    assert_int_equal(WEXITSTATUS(status), 0);
}

static void require(bool holds) {
    if (!holds) _exit(1);
}

static void bind_to_first_core(void) {
    cpu_set_t all, one;
    require(sched_getaffinity(0, sizeof all, &all) == 0);
    CPU_ZERO(&one);
    for (int core = 0; core < CPU_SETSIZE && CPU_COUNT(&one) == 0; core++)
        if (CPU_ISSET(core, &all)) CPU_SET(core, &one);
    require(sched_setaffinity(0, sizeof one, &one) == 0);
}

/* As a rank of mpirun, bound to one core, which is alone on its node: gets all of them back. */
static int claim(int node_rank, int node_size, char *const near[]) {
    struct cores cores = cores_open(node_rank, node_size, 0, near);
    int threads = cores.threads;
    require(strstr(cores.text, " on core"));
    cores_free(&cores);
    return threads;
}

static void claim_after_mpirun(void) {
    setenv("OMPI_COMM_WORLD_RANK", "0", 1); /* from here on a mask is mpirun's, also the one that is there */
    claim(0, 1, NULL);
    int all = cores_now();
    bind_to_first_core();
    require(cores_now() == 1);
    int threads = claim(0, 1, NULL);
    require(cores_now() == all);
    require(threads >= 1 && threads <= all);
    /* The second of two ranks: its half. */
    claim(1, 2, NULL);
    require(cores_now() == (all > 1 ? all - all / 2 : 1));
    /* One of very many: a core. */
    require(claim(5, 100000, NULL) == 1);
    require(cores_now() == 1);
}

/* Two ranks whose devices are near the cores of the other's half: halves are exchanged. */
static void claim_near_device(void) {
    setenv("OMPI_COMM_WORLD_RANK", "0", 1);
    claim(0, 1, NULL);
    int all = cores_now();
    if (all < 2) return;
    int numbers[CPU_SETSIZE], count = 0;
    cpu_set_t set;
    require(sched_getaffinity(0, sizeof set, &set) == 0);
    for (int core = 0; core < CPU_SETSIZE; core++)
        if (CPU_ISSET(core, &set)) numbers[count++] = core;
    char *first = xformat("%d", numbers[0]), *last = xformat("%d\n", numbers[all - 1]);
    char *const near[] = {last, first};
    claim(0, 2, near);
    require(sched_getaffinity(0, sizeof set, &set) == 0 && CPU_ISSET(numbers[all - 1], &set));
    claim(1, 2, near);
    require(sched_getaffinity(0, sizeof set, &set) == 0 && CPU_ISSET(numbers[0], &set));
    free(first);
    free(last);
}

static void claim_after_taskset(void) {
    bind_to_first_core();
    require(claim(0, 1, NULL) == 1);
    require(cores_now() == 1);
}

static void open_with_threads(void) {
    struct device_options options = {
        .world_size = 1, .node_size = 100000, .dtype = FP32, .share_device = true};
    struct device *device = device_open(&options);
    require(device_cores(device) == 1);
    device_close(device);
    options.threads = 3;
    device = device_open(&options);
    require(device_cores(device) == 3);
    device_close(device);
}

static void test_claim(void **state) {
    (void)state;
    in_child(claim_after_mpirun);
    in_child(claim_near_device);
    in_child(claim_after_taskset);
    in_child(open_with_threads);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_shares),
        cmocka_unit_test(test_shares_are_even),
        cmocka_unit_test(test_dealing),
        cmocka_unit_test(test_lists),
        cmocka_unit_test(test_warnings),
        cmocka_unit_test(test_threads),
        cmocka_unit_test(test_whose_mask),
        cmocka_unit_test_setup_teardown(test_no_control_groups, make_root, remove_root),
        cmocka_unit_test_setup_teardown(test_control_groups_version_2, make_root, remove_root),
        cmocka_unit_test_setup_teardown(test_control_groups_version_1, make_root, remove_root),
        cmocka_unit_test(test_claim),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
