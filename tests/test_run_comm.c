/* Communicators. This program starts itself under mpirun: `test_run_comm rank ROLE …` is one rank,
 * `test_run_comm share ROLE …` one of those that share a device. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <errno.h>
#include <math.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>
#ifdef __linux__
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#endif

#undef fail /* cmocka's; here it is the one of error.h */
#include "common/base/error.h"
#include "common/comm/comm.h"
#include "common/device/kernels.h"
#include "tests/support/comm_cases.h"
#include "tests/support/comm_extras.h"
#include "tests/support/comm_script.h"
#include "tests/support/command.h"
#include "tests/support/training.h"

/* ---- what a rank does ---- */

static bool share_device, no_peer_copies;

/* NCCL adds in an order of its own; that of two ranks makes no difference. */
static bool by_nccl(void) {
    return strcmp(device_backend(), "cuda") == 0 && !share_device;
}

static struct rank rank_open(double timeout) {
    struct rank r;
    r.comm = comm_open_world(&(struct comm_options){
        .timeout = timeout, .share_device = share_device, .no_peer_copies = no_peer_copies});
    r.device = device_open(&(struct device_options){.rank = comm_rank(r.comm),
                                                    .world_size = comm_size(r.comm),
                                                    .node_rank = comm_node_rank(r.comm),
                                                    .node_size = comm_node_size(r.comm),
                                                    .threads = 1,
                                                    .dtype = FP32,
                                                    .share_device = share_device});
    r.stream = stream_open(r.device, "test");
    comm_attach(r.comm, r.device);
    return r;
}

static void rank_close(struct rank *r) {
    stream_close(r->stream);
    comm_close(r->comm);
    if (device_ledger(r->device)->total.bytes)
        fail("%zu bytes are still booked", device_ledger(r->device)->total.bytes);
    if (host_ledger(r->device)->total.bytes)
        fail("%zu bytes are still booked on the host", host_ledger(r->device)->total.bytes);
    device_close(r->device);
}

static void run_case(const struct rank *r, enum collective collective, enum dtype dtype, size_t count,
                     bool in_place, int root) {
    static unsigned salt;
    struct comm_case c = {.comm = r->comm,
                          .stream = r->stream,
                          .collective = collective,
                          .dtype = dtype,
                          .count = count,
                          .salt = salt++,
                          .root = root,
                          .in_place = in_place,
                          .any_order = by_nccl()};
    case_start(&c);
    case_finish(&c);
}

/* Every collective, element type and kind of size, one at a time. 3 million doubles take several messages, as
 * no other type would. */
static void role_blocking(void) {
    struct rank r = rank_open(60);
    int size = comm_size(r.comm);
    const size_t counts[] = {0, 1, 2, 3, 5, 1000, 4099, 100003};
    for (int dtype = FP32; dtype <= INT32; dtype++)
        for (int collective = 0; collective < COLLECTIVES; collective++) {
            for (size_t n = 0; n < sizeof counts / sizeof *counts; n++)
                for (int in_place = 0; in_place < 2; in_place++)
                    run_case(&r, (enum collective)collective, (enum dtype)dtype, counts[n], in_place,
                             (int)n % size);
            bool total = collective == ALL_REDUCE || collective == BROADCAST;
            if (dtype == FP64)
                run_case(&r, (enum collective)collective, FP64, 3000000 / (size_t)(total ? 1 : size), false,
                         size - 1);
        }
    /* The sum of a few half-precision numbers is exact in fp32, in any order; these are not. */
    if (size > 2 && (!case_order_matters(FP32, 1000, size, 1) || !case_order_matters(FP64, 1000, size, 1)))
        fail("the order of the sums does not show in this data");
    rank_close(&r);
    printf("done\n");
}

/* Adding a sum on its way gives the bits of adding it afterwards. */
static void role_adding(void) {
    struct rank r = rank_open(60);
    const size_t counts[] = {1, 2, 5, 1000, 4099, 100003};
    for (int dtype = FP32; dtype <= FP16 && comm_adds(r.comm); dtype++)
        for (size_t n = 0; n < sizeof counts / sizeof *counts; n++)
            comm_check_adding(&r, (enum dtype)dtype, counts[n]);
    if (comm_adds(r.comm) != (by_nccl() && comm_size(r.comm) > 1))
        fail("adds where it should not, or does not");
    rank_close(&r);
    printf("done\n");
}

static void role_sharing(void) {
    struct rank r = rank_open(60);
    comm_check_sharing(&r, false);
    comm_check_sharing(&r, true);
    comm_check_shared_sums(&r);
    rank_close(&r);
    printf("done\n");
}

static unsigned next(unsigned *state, unsigned below) {
    *state = *state * 1664525u + 1013904223u;
    return (*state >> 8) % below;
}

/* One and the same random program on all ranks: collectives on three communicators, up to three started
 * before the first is waited for (so that the third completes the first), some waited for out of order. */
static void role_flight(void) {
    struct rank r = rank_open(60);
    int size = comm_size(r.comm);
    int *colours = xmalloc((size_t)size * sizeof *colours);
    for (int i = 0; i < size; i++) colours[i] = -7 - i / 2;
    struct comm *pairs = comm_split(r.comm, colours);
    for (int i = 0; i < size; i++) colours[i] = i % 2;
    struct comm *evens = comm_split(r.comm, colours);
    free(colours);
    struct comm *comms[] = {r.comm, pairs, evens};
    unsigned state = 5;
    for (int round = 0; round < 150; round++) {
        struct comm_case cases[3];
        unsigned flying = 1 + next(&state, 3);
        for (unsigned i = 0; i < flying; i++) {
            cases[i] = (struct comm_case){.comm = comms[next(&state, 3)], .stream = r.stream};
            cases[i].collective = (enum collective)next(&state, COLLECTIVES);
            cases[i].dtype = (enum dtype)next(&state, 5);
            cases[i].count = next(&state, round % 10 ? 3000 : 300000);
            cases[i].salt = 1000 + (unsigned)round * 3 + i;
            cases[i].in_place = next(&state, 2);
            cases[i].any_order = by_nccl();
            case_start(&cases[i]);
            for (unsigned k = next(&state, 4); k > 0; k--) comm_progress(cases[i].comm);
            if (next(&state, 8) == 0) comm_barrier(r.comm);
        }
        bool backwards = next(&state, 2);
        for (unsigned i = 0; i < flying; i++) case_finish(&cases[backwards ? flying - 1 - i : i]);
    }
    comm_close(pairs);
    comm_close(evens);
    rank_close(&r);
    printf("done\n");
}

static void role_host(void) {
    struct rank r = rank_open(60);
    int rank = comm_rank(r.comm), size = comm_size(r.comm);
    /* 1e16 + 1 − 1e16 …: the order shows */
    double values[3] = {rank % 2 ? -1e16 : 1e16, rank + 0.5, rank == size - 1 ? NAN : 1};
    double expected = 1e16;
    for (int i = 1; i < size; i++) expected += i % 2 ? -1e16 : 1e16;
    comm_host_sum(r.comm, values, 2);
    if (values[0] != expected || values[1] != size * (size - 1) / 2.0 + size * 0.5) fail("wrong sum");
    values[1] = -rank;
    values[0] = rank;
    comm_host_max(r.comm, values, 3);
    if (values[0] != size - 1 || values[1] != 0 || !isnan(values[2])) fail("wrong maximum");
    for (int root = 0; root < size; root++) {
        size_t bytes = root ? 20000001 : 3; /* more than one message */
        char *data = xmalloc(bytes);
        memset(data, rank == root ? 'a' + root : 0, bytes);
        comm_host_broadcast(r.comm, data, bytes, root);
        for (size_t i = 0; i < bytes; i++)
            if (data[i] != 'a' + root) fail("wrong broadcast");
        free(data);
    }
    int mine[2] = {rank, rank * rank}, *all = xcalloc((size_t)size, sizeof mine);
    comm_host_gather(r.comm, all, mine, sizeof mine);
    for (int i = 0; i < size; i++)
        if (all[2 * i] != i || all[2 * i + 1] != i * i) fail("wrong gather");
    free(all);
    for (int i = 0; i < 1000; i++) comm_barrier(r.comm);
    struct comm_bytes bytes[COLLECTIVES];
    comm_bytes_sent(r.comm, bytes);
    for (int c = 0; c < COLLECTIVES; c++)
        if (bytes[c].bytes > 0 || bytes[c].calls) fail("exchanges between hosts were counted");
    rank_close(&r);
    printf("done\n");
}

static void role_script(void) {
    struct rank r = rank_open(60);
    comm_script_run(r.comm, r.device);
    int rank = comm_rank(r.comm), size = comm_size(r.comm);
    size_t staging = 0;
    if (strcmp(device_backend(), "cpu") == 0 && !share_device) staging = comm_script_staging(rank, size);
    /* Whether GPUs reach each other is the machine's affair. */
    if (by_nccl() && device_ledger(r.device)->lines[BUFFERS].bytes) staging = comm_script_places(size);
    comm_script_check(r.comm, r.device, staging);
    rank_close(&r);
    printf("done\n");
}

static void sleep_ms(long milliseconds) {
    struct timespec time = {.tv_sec = milliseconds / 1000, .tv_nsec = milliseconds % 1000 * 1000000};
    nanosleep(&time, NULL);
}

/* Rank `lost` goes in the third of five all-reduces, in the way that `how` says. */
static void role_lost(const char *how, int lost) {
    struct rank r = rank_open(2);
    float *buffer = device_alloc(r.device, GRADIENTS, 4000000, "test");
    fill_zero(r.stream, buffer, 4000000);
    for (int i = 0; i < 5; i++) {
        size_t count = 1000000;
        if (i == 2 && comm_rank(r.comm) == lost) {
            if (strcmp(how, "sleep") == 0) sleep_ms(20000);
            if (strcmp(how, "kill") == 0) raise(SIGKILL);
            if (strcmp(how, "exit") == 0) exit(0);
            if (strcmp(how, "fail") == 0) fail("weights.bin: cannot be read: test");
            if (strcmp(how, "differ") == 0) count -= 8;
        }
        if (i == 2 && strcmp(how, "all") == 0) fail("weights.bin: cannot be read: test");
        if (i == 2 && strcmp(how, "barrier") == 0 && comm_rank(r.comm) != lost) comm_barrier(r.comm);
        if (i == 2 && strcmp(how, "barrier") == 0 && comm_rank(r.comm) == lost) sleep_ms(20000);
        comm_all_reduce(r.comm, r.stream, buffer, count, FP32);
    }
    device_free(r.device, buffer);
    rank_close(&r);
}

/* Ranks that may not read each other's memory, as in some containers. */
static void role_confined(void) {
#ifdef __linux__
    struct sock_filter rules[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_process_vm_readv, 0, 1),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EPERM),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    };
    struct sock_fprog filter = {.len = sizeof rules / sizeof *rules, .filter = rules};
    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) || prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &filter))
        fail("no filter of system calls: %s", strerror(errno));
#endif
    struct rank r = rank_open(60);
    for (int collective = 0; collective < COLLECTIVES; collective++)
        run_case(&r, (enum collective)collective, FP32, 1000000, false, 0);
    rank_close(&r);
    printf("done\n");
}

/* A slow peer that shows progress is not given up: three times 0.9 s with a time-out of 2 s. */
static void role_slow(void) {
    struct rank r = rank_open(2);
    for (int i = 0; i < 3; i++) {
        if (comm_rank(r.comm) == 0) sleep_ms(900);
        run_case(&r, ALL_REDUCE, FP32, 100, false, 0);
    }
    comm_set_timeout(r.comm, 0);
    if (comm_rank(r.comm) == 0) sleep_ms(2500);
    comm_barrier(r.comm);
    rank_close(&r);
    printf("done\n");
}

/* Rates of all-reduce, for people: `test_run_comm rank speed` under mpirun. */
static void role_speed(void) {
    struct rank r = rank_open(60);
    const size_t count = 12600000;
    for (int d = 0; d < 2; d++) {
        enum dtype dtype = d ? BF16 : FP32;
        size_t bytes = count * dtype_size(dtype);
        void *buffer = device_alloc(r.device, GRADIENTS, bytes, "test");
        fill_zero(r.stream, buffer, bytes);
        double best = 1e9;
        for (int i = 0; i < 12; i++) {
            struct timespec from, to;
            comm_barrier(r.comm);
            clock_gettime(CLOCK_MONOTONIC, &from);
            comm_all_reduce(r.comm, r.stream, buffer, count, dtype);
            stream_synchronize(r.stream);
            comm_barrier(r.comm);
            clock_gettime(CLOCK_MONOTONIC, &to);
            best = fmin(best, (double)(to.tv_sec - from.tv_sec) + 1e-9 * (double)(to.tv_nsec - from.tv_nsec));
        }
        double n = comm_size(r.comm);
        if (comm_rank(r.comm) == 0)
            printf("%s, %zu elements, %d ranks: %.1f ms, %.2f GB/s, bus %.2f GB/s\n", dtype_name(dtype),
                   count, comm_size(r.comm), 1e3 * best, 1e-9 * (double)bytes / best,
                   1e-9 * (double)bytes / best * 2 * (n - 1) / n);
        device_free(r.device, buffer);
    }
    rank_close(&r);
}

static int run_role(int count, char **arguments) {
    const char *role = arguments[0];
    if (strcmp(role, "blocking") == 0) role_blocking();
    if (strcmp(role, "flight") == 0) role_flight();
    if (strcmp(role, "adding") == 0) role_adding();
    if (strcmp(role, "sharing") == 0) role_sharing();
    if (strcmp(role, "host") == 0) role_host();
    if (strcmp(role, "script") == 0) role_script();
    if (strcmp(role, "confined") == 0) role_confined();
    if (strcmp(role, "slow") == 0) role_slow();
    if (strcmp(role, "speed") == 0) role_speed();
    if (strcmp(role, "lost") == 0 && count == 3) role_lost(arguments[1], atoi(arguments[2]));
    return 0;
}

/* ---- starting the ranks ---- */

static char program[4096];

/* A test's state: "rank", each with a device of its own (on the CPU: its share), "nccl", the same without
 * copies between GPUs, or "share". */
static const char *mode_of(void **state) {
    return *state;
}

/* Can there be so many? */
static bool enough(const char *mode, int size) {
    return strcmp(mode, "share") == 0 ? device_count() > 0 : device_count() >= size;
}

static void skip_unless(const char *mode, int size) {
    if (enough(mode, size)) return;
    print_message("skipped: %d ranks need more GPUs than the %d that are visible\n", size, device_count());
    skip();
}

/* The sanitizers need not wait twice: what follows is seen where ranks do not share. */
static void skip_where_brief(const char *mode) {
    if (training_is_brief() && strcmp(mode, "share") == 0) skip();
}

/* A GPU takes seconds to be opened. */
static double patience(void) {
    return strcmp(device_backend(), "cuda") == 0 ? 20 : 0;
}

/* `size` 0: without mpirun. All ranks must say that they are done, and nothing else. */
static void run_ranks(const char *mode, const char *role, int size) {
    struct command_result result =
        size ? command_run(240, COMMAND_MPIRUN "%s %s %s", size, program, mode, role)
             : command_run(60, "%s %s %s", program, mode, role);
    assert_string_equal(result.err, "");
    assert_int_equal(result.exit_code, 0);
    assert_int_equal(lines_with(result.out, "done"), size ? size : 1);
    command_free(&result);
}

/* In worlds of one, without mpirun and with it, and of more. Those that share a device have the same
 * exchanges behind other copies: two sizes are enough. */
static void run_sizes(const char *mode, const char *role, int most) {
    bool share = strcmp(mode, "share") == 0;
    skip_unless(mode, 1);
    for (int size = share ? 2 : 0; size <= (share ? 3 : most) && enough(mode, size); size++)
        run_ranks(mode, role, size);
}

static void test_blocking(void **state) {
    run_sizes(mode_of(state), "blocking", 4);
}

static void test_flight(void **state) {
    run_sizes(mode_of(state), "flight", 5);
}

static void test_adding(void **state) {
    run_sizes(mode_of(state), "adding", 4);
}

static void test_sharing(void **state) {
    run_sizes(mode_of(state), "sharing", 4);
}

/* GPUs that do not copy from each other: what goes between nodes. */
static void test_without_peer_copies(void **state) {
    (void)state;
    if (strcmp(device_backend(), "cuda") != 0) {
        print_message("skipped: only GPUs copy from each other\n");
        skip();
    }
    run_sizes("nccl", "blocking", 4);
    run_sizes("nccl", "flight", 4);
    run_sizes("nccl", "adding", 4);
    run_sizes("nccl", "sharing", 4);
}

static void test_host(void **state) {
    run_sizes(mode_of(state), "host", 4);
}

static void test_counts_and_bookings(void **state) {
    run_sizes(mode_of(state), "script", 4);
}

static void test_confined_ranks(void **state) {
    skip_unless(mode_of(state), 2);
    run_ranks(mode_of(state), "confined", 2);
}

static void test_slow_peer(void **state) {
    int size = enough(mode_of(state), 3) ? 3 : 2;
    skip_unless(mode_of(state), size);
    run_ranks(mode_of(state), "slow", size);
}

static struct command_result run_lost(const char *mode, const char *how, int size, int lost) {
    struct command_result result =
        command_run(60, COMMAND_MPIRUN "%s %s lost %s %d", size, program, mode, how, lost);
    assert_false(result.timed_out);
    assert_int_not_equal(result.exit_code, 0);
    assert_true(result.seconds < 12 + patience());
    return result;
}

/* One line, which says this. */
static void check_line(struct command_result *result, const char *expected) {
    command_drop_reads_of_the_dead(result);
    bool one = strcspn(result->err, "\n") + 1 == strlen(result->err), says = strstr(result->err, expected);
    if (!one || !says) print_error("expected one line with '%s', got:\n%s", expected, result->err);
    assert_true(one && says);
    command_free(result);
}

static void test_silent_peer(void **state) {
    const char *mode = mode_of(state);
    skip_unless(mode, 2);
    skip_where_brief(mode);
    struct command_result r = run_lost(mode, "sleep", 2, 1);
    check_line(&r, "error: rank 0: no answer from rank 1 in all_reduce number 3 for 2 s;");
    r = run_lost(mode, "barrier", 2, 1);
    check_line(&r, "error: rank 0: no answer from rank 1 in barrier number ");
    bool share = strcmp(mode, "share") == 0;
    if (share || !enough(mode, 4))
        return; /* who speaks is decided between hosts: the same where ranks share */
    r = run_lost(mode, "sleep", 4, 0);
    check_line(&r, "error: rank 1: no answer from rank 0 in all_reduce number 3 for 2 s;");
    r = run_lost(mode, "barrier", 4, 2);
    check_line(&r, "error: rank 0: no answer from rank 2 in barrier number ");
}

static void test_failing_rank(void **state) {
    const char *mode = mode_of(state);
    int size = enough(mode, 3) ? 3 : 2;
    skip_unless(mode, size);
    skip_where_brief(mode);
    for (int lost = 0; lost < size; lost++) {
        struct command_result r = run_lost(mode, "fail", size, lost);
        assert_int_equal(r.exit_code, 1);
        assert_true(r.seconds < 8 + patience());
        check_line(&r, "error: weights.bin: cannot be read: test");
    }
    struct command_result r = run_lost(mode, "all", enough(mode, 4) ? 4 : 2, 0);
    assert_int_equal(r.exit_code, 1);
    check_line(&r, "error: weights.bin: cannot be read: test");
}

static void test_ranks_that_differ(void **state) {
    const char *mode = mode_of(state);
    if (strcmp(mode, "rank") == 0 && strcmp(device_backend(), "cuda") == 0) {
        print_message("skipped: NCCL does not tell other sizes\n");
        skip();
    }
    skip_unless(mode, 2);
    struct command_result r = run_lost(mode, "differ", 2, 1);
    check_line(&r, "error: rank 0: rank 1 sent fewer bytes than expected in all_reduce number 3;");
    r = run_lost(mode, "differ", 2, 0);
    check_line(&r, "error: rank 0: rank 1 sent more bytes than expected in all_reduce number 3;");
}

/* A rank that is killed says nothing. Here mpirun speaks, in its own lines: it knows first, and ends the
 * others (./workshop run silences it, and says in one line of its own what happened). With NCCL a rank that
 * is left may see its connections break at the same moment, and say so before it is ended. */
static void test_killed_rank(void **state) {
    const char *mode = mode_of(state);
    int size = enough(mode, 3) ? 3 : 2;
    skip_unless(mode, size);
    bool nccl = strcmp(mode, "rank") == 0 && strcmp(device_backend(), "cuda") == 0;
    struct command_result r = run_lost(mode, "kill", size, size - 1);
    assert_true(lines_with(r.err, "error:") <= (nccl ? 1 : 0));
    assert_true(lines_with(r.err, size == 3 ? "process rank 2" : "process rank 1") == 1);
    assert_true(r.seconds < 8 + patience());
    command_free(&r);
    r = run_lost(mode, "exit", size, 1);
    assert_int_equal(lines_with(r.err, "rank 1"), 1);
    command_free(&r);
}

int main(int count, char **arguments) {
    share_device = count > 2 && strcmp(arguments[1], "share") == 0;
    no_peer_copies = count > 2 && strcmp(arguments[1], "nccl") == 0;
    if (share_device || no_peer_copies || (count > 2 && strcmp(arguments[1], "rank") == 0))
        return run_role(count - 2, arguments + 2);
    ssize_t length = readlink("/proc/self/exe", program, sizeof program - 1);
    if (length < 0) fail("where am I? /proc/self/exe cannot be read");
    char own[] = "rank", shared[] = "share";
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_prestate(test_blocking, own),
        cmocka_unit_test_prestate(test_flight, own),
        cmocka_unit_test_prestate(test_adding, own),
        cmocka_unit_test_prestate(test_sharing, own),
        cmocka_unit_test(test_without_peer_copies),
        cmocka_unit_test_prestate(test_host, own),
        cmocka_unit_test_prestate(test_counts_and_bookings, own),
        cmocka_unit_test_prestate(test_confined_ranks, own),
        cmocka_unit_test_prestate(test_slow_peer, own),
        cmocka_unit_test_prestate(test_silent_peer, own),
        cmocka_unit_test_prestate(test_failing_rank, own),
        cmocka_unit_test_prestate(test_ranks_that_differ, own),
        cmocka_unit_test_prestate(test_killed_rank, own),
        cmocka_unit_test_prestate(test_blocking, shared),
        cmocka_unit_test_prestate(test_flight, shared),
        cmocka_unit_test_prestate(test_counts_and_bookings, shared),
        cmocka_unit_test_prestate(test_silent_peer, shared),
        cmocka_unit_test_prestate(test_failing_rank, shared),
        cmocka_unit_test_prestate(test_ranks_that_differ, shared),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
