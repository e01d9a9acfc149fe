/*
 * ./workshop plan's program: memory and bytes to the byte as runs of this build report them, memory to the
 * MiB and times nearly as measured on GPUs, which rows fit a card, rates from a file of bench, and its one
 * line where something is wrong. Needs the dry build beside this one (./workshop test makes both).
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/file.h"
#include "common/base/json.h"
#include "common/comm/comm.h"
#include "tests/support/check.h"
#include "tests/support/command.h"
#include "tests/support/temporary.h"
#include "tests/support/training.h"

static char *folder;

#define PROGRAMS "--programs " BUILD_DIR "/../dry "

static struct command_result plan(const char *arguments) {
    return command_run(60, "cd %s && " BUILD_DIR "/tools/plan %s", folder, arguments);
}

/* What it writes as JSON: a new reference. */
static json_t *plan_document(const char *arguments) {
    char *all = xformat("%s --json", arguments);
    struct command_result result = plan(all);
    struct error error;
    if (result.exit_code != 0 || result.err_size > 0) fail_msg("plan %s: %s", all, result.err);
    json_t *document = json_read_bytes(result.out, result.out_size, "plan", &error);
    if (!document) fail_msg("%s", error.text);
    command_free(&result);
    free(all);
    return document;
}

static const json_t *row_at(const json_t *document, size_t index) {
    const json_t *row = json_array_get(json_object_get(document, "rows"), index);
    assert_non_null(row);
    return row;
}

/* ---- beside runs of this build ---- */

static void check_same(const char *what, const json_t *planned, const json_t *measured) {
    if (!json_equal(planned, measured))
        fail_msg("%s: plan %s, run %s", what, json_dumps(planned, JSON_SORT_KEYS),
                 json_dumps(measured, JSON_SORT_KEYS));
}

/* But for rows of the look-up: which of them other ranks ask for is not known to the dry backend. */
static void check_sent(const char *what, const json_t *row, const json_t *communication) {
    double updates = training_number(communication, "updates");
    for (int c = 0; c < COLLECTIVES; c++) {
        const char *name = collective_name((enum collective)c);
        const json_t *ours = json_object_get(json_object_get(row, "sent"), name);
        const json_t *theirs = json_object_get(communication, name);
        double bytes = theirs ? training_number(theirs, "bytes") / updates : 0;
        double planned =
            ours ? training_number(ours, "inside_bytes") + training_number(ours, "across_bytes") : 0;
        if (c != ALL_TO_ALL && fabs(bytes - planned) > 0.5)
            fail_msg("%s: %s: plan %.1f bytes an update, run %.1f", what, name, planned, bytes);
    }
}

#define TINY                                                                                                 \
    "--model_name_or_path random:tiny --max_seq_length 32 --per_device_train_batch_size 2 "                  \
    "--gradient_accumulation_steps 2 --max_steps 2 --train_file synthetic:30x20-32 --eval_strategy no "

/* To the byte on the CPU backend. On a GPU the libraries' workspaces are the dry backend's guess: 5%. */
static void check_memory(const char *what, const json_t *row, const json_t *memory) {
    if (!strcmp(device_backend(), "cpu")) {
        check_same(what, json_object_get(row, "device_memory"), json_object_get(memory, "device"));
        check_same(what, json_object_get(row, "host_memory"), json_object_get(memory, "host"));
        return;
    }
    double planned = training_number(row, "device_memory.total.peak_bytes");
    double measured = training_number(memory, "device.total.peak_bytes");
    if (fabs(planned / measured - 1) > 0.05)
        fail_msg("%s: plan %.0f bytes of device memory, run %.0f", what, planned, measured);
}

static void like_runs(void **state) {
    (void)state;
    if (!training_has_dry()) skip();
    static const struct {
        const char *stage, *settings;
        int ranks;
    } cases[] = {
        {"01-baseline", TINY "--fp16 false --gradient_checkpointing true", 1},
        {"02-zero1", TINY "--fp16 false", 2},
        {"03-zero2", TINY "--bf16 true --fp16 false", 2},
        {"04-zero3", TINY "--fp16 true --stage3_prefetch 2", 3},
        {"05-offload", TINY "--fp16 false --zero_stage 2 --offload_optimizer cpu --offload_gradients true",
         2},
        {"05-offload",
         TINY
         "--fp16 true --zero_stage 3 --offload_optimizer cpu --offload_gradients true --offload_param cpu",
         1},
        {"06-multinode", TINY "--fp16 true --zero_stage 3", 2},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        if (command_sharing(cases[i].ranks)[0]) continue; /* too few GPUs */
        const char *device = strcmp(device_backend(), "cpu") ? "gpu" : "cpu";
        char *arguments = xformat("%s " PROGRAMS "--device %s --ranks %d --nodes 1 %s", cases[i].stage,
                                  device, cases[i].ranks, cases[i].settings);
        struct training run = training_run(
            cases[i].stage, cases[i].ranks,
            "%s --save_strategy no --save_model false --memory_sample_interval 0", cases[i].settings);
        json_t *document = plan_document(arguments);
        const json_t *row = row_at(document, 0), *memory = training_event(&run, "memory", -1);
        check_memory(arguments, row, memory);
        check_sent(arguments, row, training_event(&run, "communication", -1));
        json_decref(document);
        training_free(&run);
        free(arguments);
    }
}

/* Ranks whose packs are of other lengths: in each of the UPDATES the one with the most products counts. */
static void waiting_for_the_busiest(void **state) {
    enum { RANKS = 3, UPDATES = 4 };
    (void)state;
    if (!training_has_dry()) skip();
    const char *settings = "--model_name_or_path random:tiny --max_seq_length 128 --train_file "
                           "synthetic:60x20-128 --per_device_train_batch_size 1 "
                           "--gradient_accumulation_steps 2 --max_steps 4 --eval_strategy no --fp16 false";
    double first = 0, largest[UPDATES] = {0}, sum = 0;
    for (int rank = 0; rank < RANKS; rank++) {
        struct training run = training_run_dry("02-zero1", rank, RANKS, settings);
        const json_t *work = json_object_get(training_event(&run, "summary", -1), "update_work");
        assert_int_equal(json_array_size(work), UPDATES);
        for (size_t u = 0; u < UPDATES; u++) {
            double flops = json_number_value(json_array_get(json_array_get(work, u), 0));
            if (rank == 0) first += flops;
            if (flops > largest[u]) largest[u] = flops;
        }
        training_free(&run);
    }
    for (int u = 0; u < UPDATES; u++) sum += largest[u];
    char *arguments = xformat("02-zero1 " PROGRAMS "--device cpu --ranks %d --nodes 1 %s", RANKS, settings);
    json_t *document = plan_document(arguments);
    double planned = training_number(row_at(document, 0), "work.product_flops");
    if (fabs(planned * UPDATES / sum - 1) > 1e-9 || sum <= 1.02 * first)
        fail_msg("plan %.0f, the busiest %.0f, rank 0 %.0f", planned * UPDATES, sum, first);
    json_decref(document);
    free(arguments);
}

/* ---- beside what was measured on GPUs ---- */

#define ON_HOST "--zero_stage 3 --offload_optimizer cpu --offload_param cpu --pin_memory "
#define LARGE                                                                                                \
    ON_HOST "--offload_gradients --per_device_train_batch_size 1 --gradient_accumulation_steps 1 "           \
            "--gradient_checkpointing --model_name_or_path random:"

#define BY_NCCL "--ranks 2 --peer_copies false --rate inside=177,hidden=0.7"

/* H200s, fp16, 4 x 512 tokens, accumulation 4: peaks of the ledger in MiB, as the READMEs have them, and
 * examples a second. */
static void like_gpus(void **state) {
    (void)state;
    if (!training_has_dry()) skip();
    static const struct {
        const char *arguments;
        double mib, examples;
    } measured[] = {
        {"01-baseline", 10625, 241},
        {"01-baseline --model_name_or_path random:bloom-1b1", 18869, 140.8},
        {"01-baseline --model_name_or_path random:bloom-1b7", 29418, 93.7},
        {"01-baseline --model_name_or_path random:bloom-3b", 50078, 53.4},
        {"01-baseline --model_name_or_path random:bloom-7b1", 114053, 24.75},
        {"01-baseline --ranks 2", 10673, 454},
        {"02-zero1 --ranks 2", 7473, 468},
        {"03-zero2 --ranks 2", 6988, 453},
        {"04-zero3 --ranks 2", 6503, 420},
        {"04-zero3 --ranks 2 --stage3_prefetch 2", 6527, 424},
        {"04-zero3 --ranks 2 --gradient_accumulation_steps 1", 6503, 388},
        {"02-zero1 " BY_NCCL, 7425, 447},
        {"03-zero2 " BY_NCCL, 6940, 407},
        {"04-zero3 " BY_NCCL, 6455, 339},
        {"04-zero3 --stage3_prefetch 2 " BY_NCCL, 6479, 352},
        {"05-offload --zero_stage 2 --offload_optimizer cpu --pin_memory", 4249, 82.1},
        {"05-offload --zero_stage 2 --offload_optimizer cpu", 4249, 38.9},
        {"05-offload " ON_HOST, 3231, 50.9},
        {"05-offload " ON_HOST "--offload_gradients", 2188, 45},
        {"05-offload " LARGE "bloom-3b", 1091, 1 / 0.91},
        {"05-offload " LARGE "bloom-7b1", 2118, 1 / 2.06},
    };
    for (size_t i = 0; i < sizeof measured / sizeof *measured; i++) {
        char *arguments = xformat("%s " PROGRAMS, measured[i].arguments);
        json_t *document = plan_document(arguments);
        const json_t *row = row_at(document, 0);
        double mib = training_number(row, "device_memory.total.peak_bytes") / (1 << 20);
        double examples = training_number(row, "examples_per_second");
        if (fabs(mib - measured[i].mib) > 0.6)
            fail_msg("plan %s: %.1f MiB, measured %.0f", arguments, mib, measured[i].mib);
        if (fabs(examples / measured[i].examples - 1) > 0.1)
            fail_msg("plan %s: %.2f examples/s, measured %.2f", arguments, examples, measured[i].examples);
        json_decref(document);
        free(arguments);
    }
}

/* ---- cards ---- */

static const char *const all_stages =
    "01-baseline 02-zero1 03-zero2 04-zero3 05-offload 06-multinode " PROGRAMS;

/* Each row has room if and only if it fits, and the fastest of those is said to be it. */
static void what_fits(void **state) {
    (void)state;
    if (!training_has_dry()) skip();
    char *arguments = xformat("%s --ranks 4,16 --card 6GiB", all_stages);
    json_t *document = plan_document(arguments), *rows = json_object_get(document, "rows"), *row;
    size_t index, fitting = 0, fastest = 0;
    double best[2] = {0, 0}, chosen[2] = {0, 0};
    json_array_foreach(rows, index, row) {
        int world = training_number(row, "ranks") > 4;
        double rate = training_number(row, "examples_per_second");
        bool fits = json_is_true(json_object_get(row, "fits"));
        double needed = training_number(row, "device_memory.total.peak_bytes") + (1 << 30);
        assert_true(needed == training_number(row, "needed_bytes"));
        assert_true(training_number(row, "headroom_bytes") == 6.0 * (1 << 30) - needed);
        assert_int_equal(fits, needed <= 6.0 * (1 << 30));
        fitting += fits;
        if (fits && rate > best[world]) best[world] = rate;
        if (!json_is_true(json_object_get(row, "fastest"))) continue;
        chosen[world] = rate;
        fastest++;
    }
    assert_int_equal(json_array_size(rows), 11 + 18); /* on two nodes stage 06 has eight rows */
    assert_true(fitting > 0 && fitting < json_array_size(rows));
    assert_int_equal(fastest, 2);
    assert_true(chosen[0] == best[0] && chosen[1] == best[1]);
    json_decref(document);
    free(arguments);
}

/* Two levels send as much, but a node's part of it across only once; and nothing fits a host without memory.
 */
static void several_nodes(void **state) {
    (void)state;
    if (!training_has_dry()) skip();
    json_t *flat = plan_document("03-zero2 " PROGRAMS "--ranks 16 --nodes 2"), *pairs, *levels_of_pairs;
    pairs = plan_document("03-zero2 " PROGRAMS "--ranks 16 --nodes 2 --device cpu");
    levels_of_pairs =
        plan_document("06-multinode " PROGRAMS "--ranks 16 --nodes 2 --zero_stage 2 --device cpu");
    json_t *levels =
        plan_document("06-multinode " PROGRAMS "--ranks 16 --nodes 2 --zero_stage 2 --card h100-80 "
                      "--host_memory 1MiB");
    const json_t *one = row_at(flat, 0), *two = row_at(levels, 0);
    double ratio = training_number(one, "leaves_node_bytes") / training_number(two, "leaves_node_bytes");
    if (!(fabs(ratio - 8) < 0.01))
        fail_msg("%g times as much leaves a node in one level, not 8 times", ratio);
    /* NCCL's rings send 15/16 of the model across, two levels 1/2, pairwise exchanges 8 times that. */
    double ring = training_number(one, "seconds.communication");
    double split = training_number(two, "seconds.communication");
    double slow = training_number(row_at(pairs, 0), "seconds.communication");
    double fast = training_number(row_at(levels_of_pairs, 0), "seconds.communication");
    if (!(ring > split && ring < 15.0 / 8 * split)) fail_msg("rings take %g s, two levels %g s", ring, split);
    if (!(slow > 4 * fast)) fail_msg("exchanges take %g s, two levels %g s", slow, fast);
    assert_true(training_number(two, "headroom_bytes") > 0);
    assert_true(json_is_false(json_object_get(two, "fits")));
    assert_true(json_is_null(json_object_get(one, "fits")));
    json_decref(pairs);
    json_decref(levels_of_pairs);
    json_decref(flat);
    json_decref(levels);
}

static void tables(void **state) {
    (void)state;
    if (!training_has_dry()) skip();
    struct command_result result =
        plan("05-offload " PROGRAMS "--card h100-80 --model_name_or_path random:bloom-3b --output plan.json");
    assert_int_equal(result.exit_code, 0);
    assert_int_equal(lines_with(result.out, "05-offload z"), 6);
    assert_int_equal(lines_with(result.out, "fits: the fastest"), 1);
    assert_int_equal(lines_with(result.out, "on h100-80, 79.6 GiB"), 1);
    assert_int_equal(lines_with(result.out, "its nominal rate"), 4);
    assert_int_equal(lines_with(result.out, "written to plan.json"), 1);
    command_free(&result);
    result = plan("01-baseline " PROGRAMS "--rate inside=20,hidden=0");
    assert_int_equal(lines_with(result.out, "10624.9"), 1);
    assert_int_equal(lines_with(result.out, " given"), 2);
    command_free(&result);
    char *path = xformat("%s/plan.json", folder);
    assert_true(file_exists(path));
    free(path);
}

/* ---- rates of this machine ---- */

/* With the rate that bench's run of the same settings gives, plan's time is that run's. */
static void measured_rates(void **state) {
    (void)state;
    if (!training_has_dry() || strcmp(device_backend(), "cpu") != 0) skip();
    const char *settings =
        "--model_name_or_path random:tiny --max_seq_length 32 --per_device_train_batch_size 2 "
        "--max_steps 8";
    struct command_result result = command_run(
        60, "cd %s && " BUILD_DIR "/tools/bench 01-baseline --programs " BUILD_DIR " --output b.json %s",
        folder, settings);
    if (result.exit_code != 0) fail_msg("bench: %s", result.err);
    command_free(&result);
    struct error error;
    char *path = xformat("%s/b.json", folder);
    json_t *bench = json_read_file(path, &error);
    assert_non_null(bench);
    json_t *document =
        plan_document("01-baseline " PROGRAMS "--device cpu --rates b.json --max_seq_length 32 "
                      "--per_device_train_batch_size 2");
    double planned = training_number(row_at(document, 0), "examples_per_second");
    double measured = training_number(row_at(bench, 0), "examples_per_second.median");
    if (!(fabs(planned / measured - 1) < 0.01))
        fail_msg("planned %g examples/s, measured %g", planned, measured);
    json_decref(document);
    json_decref(bench);
    free(path);
}

/* A file from a GPU, where a run is in fp16 unless told otherwise: 66.39 ms make 241 examples a second. */
static void rates_of_a_gpu(void **state) {
    (void)state;
    if (!training_has_dry()) skip();
    temporary_write_text(
        folder, "gpu.json",
        "{\"backend\": \"cuda\", \"device\": \"H200\", \"rows\": [{\"stage\": \"01-baseline\", \"ranks\": 1, "
        "\"precision\": \"fp16\", \"settings\": {\"offload_optimizer\": \"none\"}, \"update_ms\": "
        "{\"median\": "
        "66.39}, \"arguments\": [\"--model_name_or_path\", \"random:bloom-560m\", \"--max_seq_length\", "
        "\"512\", "
        "\"--pad_to_max_length\", \"true\", \"--train_file\", \"synthetic:64x512\", \"--subset_size\", "
        "\"0\"]}]}");
    json_t *document = plan_document("01-baseline " PROGRAMS "--rates gpu.json --rate memory=4000");
    double rate = training_number(row_at(document, 0), "examples_per_second");
    double products = training_number(document, "rates.products.value");
    if (!(fabs(rate / 241 - 1) < 1e-3)) fail_msg("planned %g examples/s from a file that has 241", rate);
    if (!(fabs(products / 655 - 1) < 0.01)) fail_msg("products at %g TFLOP/s, not 655", products);
    assert_true(training_number(document, "rates.memory.value") == 4000);
    json_decref(document);
}

/* ---- mistakes ---- */

static void check_error(const char *arguments, const char *part) {
    check_program_refuses(plan(arguments), arguments, part);
}

#define HERE "01-baseline " PROGRAMS

static void mistakes_are_one_line(void **state) {
    (void)state;
    if (!training_has_dry()) skip();
    check_error("01-baseline", "plan needs --programs");
    check_error(PROGRAMS, "plan needs a stage");
    check_error("09-none " PROGRAMS, "no stage '09-none' is built in ");
    check_error("../dry/01-baseline " PROGRAMS, "no stage '../dry/01-baseline' is built in ");
    check_error(HERE "--ranks", "--ranks needs a value");
    check_error(HERE "--ranks 0", "not numbers from 1 to 65536");
    check_error(HERE "--ranks 1,x", "not numbers from 1 to");
    check_error(HERE "--ranks 1:2", "not numbers of devices");
    check_error(HERE "--ranks 12 --nodes 5", "12 devices in 5 nodes: not equally many");
    check_error(HERE "--nodes 2x", "--nodes 2x: not a number of nodes");
    check_error(HERE "--card h300", "--card h300: give its memory, as 80GiB, or one of h200-141, ");
    check_error(HERE "--card -1GiB", "--card -1GiB: give its memory");
    check_error(HERE "--card v100-32 --bf16", "--card v100-32 has no bf16");
    check_error(HERE "--host_memory much", "--host_memory much: not a size");
    check_error(HERE "--device tpu", "--device tpu: memory is booked as on a gpu or a cpu");
    check_error(HERE "--rate speed=1", "--rate speed=1: give NAME=VALUE");
    check_error(HERE "--rate inside=-1", "--rate inside=-1: not a positive number of GB/s");
    check_error(HERE "--rate link=fast", "--rate link=fast: not a positive number");
    check_error(HERE "--rates nothing.json", "nothing.json: cannot be read");
    temporary_write_text(folder, "empty.json", "{}");
    check_error(HERE "--rates empty.json", "empty.json: no run of one rank in fp16");
    temporary_write_text(folder, "cpu.json", "{\"backend\": \"cpu\", \"rows\": []}");
    check_error(HERE "--rates cpu.json", "cpu.json: was measured by the cpu backend: give --device cpu");
    check_error(HERE "--config x.json", "plan takes no --config");
    check_error(HERE "--dry_rank 1", "plan takes no --dry_rank: give --ranks");
    check_error(HERE "--max_step 9", "did you mean 'max_steps'");
    check_error(HERE "--max_steps 0", "--max_steps 0: an update is needed");
    check_error(HERE "--bf16 --fp16", "exclude each other");
    check_error(HERE "--zero_stage 2", "01-baseline is zero_stage 0");
    check_error(HERE "--model_name_or_path random:bloom-9b", "no such shape");
    check_error(HERE "--ranks 65536 --per_device_train_batch_size 64", "examples on 65536 ranks");
    check_error(HERE "--output nowhere/plan.json", "nowhere/plan.json: cannot be written");
}

static int remove_all(void **state) {
    (void)state;
    temporary_remove(folder);
    return 0;
}

int main(void) {
    folder = temporary_folder();
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(mistakes_are_one_line),
        cmocka_unit_test(like_runs),
        cmocka_unit_test(waiting_for_the_busiest),
        cmocka_unit_test(like_gpus),
        cmocka_unit_test(what_fits),
        cmocka_unit_test(several_nodes),
        cmocka_unit_test(tables),
        cmocka_unit_test(measured_rates),
        cmocka_unit_test(rates_of_a_gpu),
    };
    return cmocka_run_group_tests(tests, NULL, remove_all);
}
