/*
 * The hands-on tasks: for each of the four stages the skeleton builds and breaks a promise with a helpful
 * word, the stage itself keeps all, and plausible mistakes, made in a copy of the stage, are named for what
 * they are.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/file.h"
#include "common/device/device.h"
#include "tests/support/check.h"
#include "tests/support/command.h"
#include "tests/support/temporary.h"

#define TASK BUILD_DIR "/tools/task"
#define LAUNCHER "mpirun -n @ --oversubscribe --bind-to none"

static char *folder;

/* A change in one file, and what is said of it. */
struct mistake {
    const char *name;
    const char *file, *from, *to;
    const char *trial; /* that it shows in first */
    const char *found, *hint;
};

static struct command_result lay(const char *stage, const char *name) {
    return command_run(20, TASK " lay %s --root " SOURCE_DIR " --output %s/%s", stage, folder, name);
}

static struct command_result check(const char *stage, const char *name, int seconds) {
    char *given = name ? xformat("--folder %s/%s", folder, name) : xstrdup("");
    struct command_result result = command_run(600,
                                               TASK " check %s --root " SOURCE_DIR " --build " BUILD_DIR
                                                    " --launcher '" LAUNCHER "' --time_limit %d %s",
                                               stage, seconds, given);
    free(given);
    return result;
}

/* Paragraphs in one line each. */
static void unwrap(char *text) {
    char *out = text;
    for (const char *at = text; *at; at++) {
        bool wrapped = !strncmp(at, "\n    ", 5);
        *out++ = wrapped ? ' ' : *at;
        if (wrapped) at += 4;
    }
    *out = '\0';
}

/* Fails unless the check says all of this, in this order, and ends with `code`. */
static void check_says(const char *what, struct command_result result, int code, int count,
                       const char *const *parts) {
    unwrap(result.out);
    const char *at = result.out;
    for (int i = 0; i < count; i++) {
        at = strstr(at, parts[i]);
        if (!at) fail_msg("%s: nothing of '%s' in: %s%s", what, parts[i], result.out, result.err);
        at += strlen(parts[i]);
    }
    if (result.exit_code != code)
        fail_msg("%s: exit code %d: %s%s", what, result.exit_code, result.out, result.err);
    command_free(&result);
}
#define SAYS(what, result, code, ...)                                                                        \
    check_says((what), (result), (code), (int)(sizeof(const char *[]){__VA_ARGS__} / sizeof(const char *)),  \
               (const char *const[]){__VA_ARGS__})

static char *read_text(const char *path) {
    struct file_map map;
    struct error error;
    if (!file_map(&map, path, &error)) fail_msg("%s", error.text);
    char *text = xformat("%.*s", (int)map.size, map.data);
    file_unmap(&map);
    return text;
}

/* The stage's own file, with the one place changed, into the laid-out folder. */
static void put_changed(const char *stage, const char *name, const struct mistake *mistake) {
    char *path = xformat(SOURCE_DIR "/%s/%s", stage, mistake->file), *text = read_text(path);
    const char *place = strstr(text, mistake->from);
    if (!place || strstr(place + 1, mistake->from))
        fail_msg("%s: '%s' is not there once: what is the mistake '%s' now?", path, mistake->from,
                 mistake->name);
    char *changed =
        xformat("%.*s%s%s", (int)(place - text), text, mistake->to, place + strlen(mistake->from));
    char *inside = xformat("%s/%s", name, mistake->file);
    temporary_write_text(folder, inside, changed);
    free(inside);
    free(changed);
    free(text);
    free(path);
}

static void copy_stage(const char *stage, const char *name) {
    struct command_result result = command_run(20, "mkdir -p %s/%s && cp " SOURCE_DIR "/%s/*.[ch] %s/%s",
                                               folder, name, stage, folder, name);
    assert_int_equal(result.exit_code, 0);
    command_free(&result);
}

static void check_mistakes(const char *stage, const struct mistake *mistakes, int count) {
    copy_stage(stage, stage);
    for (int i = 0; i < count; i++) {
        const struct mistake *m = &mistakes[i];
        put_changed(stage, stage, m);
        char *broken = xformat("%s: BROKEN", m->trial);
        struct command_result result = check(stage, stage, 60);
        print_message("%s, %s: %.1f s\n", stage, m->name, result.seconds);
        SAYS(m->name, result, 1, broken, m->found, m->hint);
        free(broken);
        put_changed(stage, stage, &(struct mistake){.file = m->file, .from = m->from, .to = m->from});
    }
}

static int count_of(const char *text, const char *part) {
    int count = 0;
    for (; (text = strstr(text, part)); text += strlen(part)) count++;
    return count;
}

/* What is left out is marked, and explained; the rest is the stage's. */
static void check_laid_out(const char *stage, const char *name) {
    struct command_result marked = command_run(20, "cat " SOURCE_DIR "/%s/*.c", stage);
    struct command_result left = command_run(20, "cat %s/%s/*.c", folder, name);
    char *path = xformat("%s/%s/TASK.md", folder, name), *text = read_text(path);
    int functions = count_of(marked.out, "\n/* Task: ");
    assert_true(functions >= 5);
    assert_int_equal(count_of(left.out, "{\n    /* Your turn. */\n"), functions);
    assert_int_equal(count_of(text, "\n- `") - count_of(text, "· `"), functions);
    assert_true(count_of(text, "· `common/") >= 2);
    assert_non_null(strstr(text, "\n## The idea\n"));
    free(text);
    free(path);
    command_free(&left);
    command_free(&marked);
}

/* Skeleton and solution. */
static void check_stage(const char *stage, const char *unwritten) {
    char *name = xformat("%s-skeleton", stage);
    SAYS(stage, lay(stage, name), 0, "TASK.md", "./workshop check");
    struct command_result again = lay(stage, name);
    assert_int_equal(again.exit_code, 1);
    assert_non_null(strstr(again.err, "is there already"));
    command_free(&again);
    check_laid_out(stage, name);
    SAYS(stage, check(stage, name, 60), 1, "it builds", "BROKEN", "Still to be written: ", unwritten);
    struct command_result solution = check(stage, NULL, 60);
    print_message("%s: %.1f s\n", stage, solution.seconds);
    SAYS(stage, solution, 0, "it builds", "one rank", "as promised", "All promises are kept");
    free(name);
}

#define TWO "two ranks, two packs an update"
#define ONE "one rank, to which everything belongs"
#define FOUR "four ranks in fp16, with updates that overflow"

static void zero1(void **state) {
    (void)state;
    static const struct mistake mistakes[] = {
        {"the all-gather is forgotten", "train.c",
         "    r->gathering[u] = all_gather_start(&r->collectives, s->stream, r->model.parameters[u],\n"
         "                                       my_parameters(r, u), r->layout->units[u].slice, "
         "s->dtype);\n",
         "", TWO, "all_gather: rank 0 has sent 0 bytes", "Where is the all-gather?"},
        {"the norm is of the slice only", "train.c", "&state->loss_sum, 2, FP64", "&state->loss_sum, 1, FP64",
         TWO, "grad_norm of update 1", "the norm of this rank's slices only"},
        {"gradients of another slice", "train.c", "my_parameters(r, u), my_gradients(r, u), state",
         "my_parameters(r, u), r->model.gradients[u], state", TWO, "loss of update 2", "of the same slice"},
        {"the state is whole", "optimizer_shard.c",
         "device_alloc(shard->device, OPTIMIZER, shard->layout->sliced * sizeof(float), what)",
         "device_alloc(shard->device, OPTIMIZER, shard->layout->padded * sizeof(float), what)", TWO,
         "device memory for optimizer", "not layout->padded"},
        {"decay counted from the unit's beginning", "optimizer_shard.c",
         "u->decayed > slice.begin ? u->decayed - slice.begin : 0", "u->decayed", TWO, "loss of update",
         "weight decay"},
    };
    check_stage("02-zero1", "optimizer_shard_open, optimizer_shard_at, optimizer_shard_adamw, gather_unit");
    check_mistakes("02-zero1", mistakes, sizeof mistakes / sizeof *mistakes);
}

static void zero2(void **state) {
    (void)state;
    static const struct mistake mistakes[] = {
        {"packs replace each other", "gradient_shard.c", "whole->adds = shard->accumulate;",
         "whole->adds = false;", ONE, "grad_norm of update 1", "Is each pack's sum added"},
        {"the last units are not settled", "gradient_shard.c",
         "    for (int i = 1; i <= shard->depth; i++) settle(shard, &shard->rotation[(shard->turn + i) % "
         "shard->depth]);\n",
         "", ONE, "grad_norm of update 1", "gradient_shard_finish()"},
        {"not my slice is added", "gradient_shard.c",
         "reduced(shard, whole), shard->layout->units[whole->unit].slice);",
         "whole->memory, shard->layout->units[whole->unit].slice);", TWO, "grad_norm of update 1",
         "my slice"},
        {"slices as large as the whole", "gradient_shard.c", "GRADIENTS, layout->sliced * size",
         "GRADIENTS, layout->padded * size", TWO, "device memory for gradients", "layout->sliced"},
    };
    check_stage("03-zero2", "reduced, add, settle, gradient_shard_whole");
    check_mistakes("03-zero2", mistakes, sizeof mistakes / sizeof *mistakes);
}

static void zero3(void **state) {
    (void)state;
    static const struct mistake mistakes[] = {
        {"nothing is forgotten", "parameter_shard.c",
         "    for (int i = 0; i < shard->depth; i++) shard->rotation[i].unit = -1;\n", "", TWO,
         "all_gather: rank 0", "parameter_shard_forget()"},
        {"another unit's slice", "parameter_shard.c", "parameter_shard_slice(shard, unit),",
         "parameter_shard_slice(shard, first),", TWO, "evaluation before training",
         "my slice of the same unit"},
        {"what is there is gathered again", "parameter_shard.c", " || find(shard, unit)) return;",
         ") return;", ONE, "no buffer is free", "although a buffer holds it"},
        {"slices as large as the whole", "parameter_shard.c", "PARAMETERS, layout->sliced * size",
         "PARAMETERS, layout->padded * size", TWO, "device memory for parameters", "layout->sliced"},
    };
    check_stage("04-zero3", "free_buffer, await, gather, parameter_shard_use");
    check_mistakes("04-zero3", mistakes, sizeof mistakes / sizeof *mistakes);
}

static void offload(void **state) {
    (void)state;
    static const struct mistake mistakes[] = {
        {"the state is whole", "host_optimizer.c", "size_t count = optimizer->layout->sliced;",
         "size_t count = optimizer->layout->padded;", TWO, "host memory for optimizer",
         "three times layout->sliced"},
        {"nothing goes up", "host_optimizer.c",
         "    if (sends) send(&o->up, device, slice_bytes(o, unit));\n", "", ONE, "loss of update 2",
         "new parameters have to be sent"},
        {"always the same slice comes down", "host_optimizer.c", "unsigned turn = lane->taken++ % 2;",
         "unsigned turn = 0;", ONE, "loss of update 2", "in the order"},
        {"a skipped update is not skipped", "host_optimizer.c", "device_computes() && o->state->skip;",
         "false;", FOUR, "update", "host_optimizer_begin()"},
    };
    check_stage("05-offload", "host_optimizer_bring, host_optimizer_begin, arrived");
    check_mistakes("05-offload", mistakes, sizeof mistakes / sizeof *mistakes);
}

/* What does not compile, and what never ends. */
static void unfit_programs(void **state) {
    (void)state;
    static const struct mistake wrong = {
        "", "optimizer_shard.c", "shard->v = open_state", "shard->w = open_state", NULL, NULL, NULL};
    static const struct mistake endless = {
        "",
        "train.c",
        "        gather_unit(r, u);\n    }\n    profile_pop();",
        "        gather_unit(r, u);\n        i = 0;\n    }\n    profile_pop();",
        NULL,
        NULL,
        NULL};
    static const struct mistake alone = {"",
                                         "train.c",
                                         "    r->gathering[u] = all_gather_start(",
                                         "    if (r->session.rank == 0) r->gathering[u] = all_gather_start(",
                                         NULL,
                                         NULL,
                                         NULL};
    copy_stage("02-zero1", "unfit");
    put_changed("02-zero1", "unfit", &wrong);
    SAYS("does not compile", check("02-zero1", "unfit", 60), 1, "it does not build", folder,
         "unfit/optimizer_shard.c:", "error:", "shard->w");
    copy_stage("02-zero1", "unfit");
    put_changed("02-zero1", "unfit", &endless);
    SAYS("does not end", check("02-zero1", "unfit", 3), 1, ONE ": BROKEN", "did not come to its end in 3 s",
         "each loop has to come to its end");
    copy_stage("02-zero1", "unfit");
    put_changed("02-zero1", "unfit", &alone);
    SAYS("ranks differ", check("02-zero1", "unfit", 14), 1, TWO ": BROKEN",
         "all ranks have to start the same");
}

/* A marker that marks no function is a mistake of ours, and says where it is. */
static void misplaced_markers(void **state) {
    (void)state;
    static const char *const wrong[] = {
        "int a;\n\n/* Task: A number. */\nint b = 3;\n",
        "int a;\n\n/* Task: A promise. */\nint f(int x);\n\nint g(void) {\n}\n",
        "int a;\n\n/* Task: Above nothing. */\n\nint f(void) {\n}\n"};
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        temporary_write_text(folder, "root/02-zero1/bad.c", wrong[i]);
        struct command_result result =
            command_run(20, TASK " lay 02-zero1 --root %s/root --output %s/bad", folder, folder);
        assert_int_equal(result.exit_code, 1);
        assert_non_null(strstr(result.err, "02-zero1/bad.c:3: a task's comment must be right above"));
        command_free(&result);
    }
    temporary_write_text(folder, "root/02-zero1/bad.c", "int a; /* Task: in a line */\n");
    struct command_result result =
        command_run(20, TASK " lay 02-zero1 --root %s/root --output %s/bad", folder, folder);
    assert_int_equal(result.exit_code, 1);
    assert_non_null(strstr(result.err, "02-zero1 has no task"));
    command_free(&result);
}

static int set_up(void **state) {
    (void)state;
    folder = temporary_folder();
    return 0;
}

static int remove_all(void **state) {
    (void)state;
    temporary_remove(folder);
    return 0;
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(zero1),          cmocka_unit_test(zero2),
                                       cmocka_unit_test(zero3),          cmocka_unit_test(offload),
                                       cmocka_unit_test(unfit_programs), cmocka_unit_test(misplaced_markers)};
    if (strcmp(device_backend(), "cpu") != 0) {
        print_message("tasks are checked on the CPU backend\n");
        return 0;
    }
    return cmocka_run_group_tests(tests, set_up, remove_all);
}
