/*
 * The lesson is the difference between neighbours: it stays readable, and all six train.c have the functions
 * that they share in the same order.
 */
#include "tests/support/check.h"

#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/support/command.h"

enum { STAGES = 6, MOST_CHANGED = 120, MOST_LINES = 400, MOST_FUNCTIONS = 64 };

static const char *const stages[STAGES] = {"01-baseline", "02-zero1",   "03-zero2",
                                           "04-zero3",    "05-offload", "06-multinode"};

static void few_lines_differ(void **state) {
    (void)state;
    for (int i = 1; i < STAGES; i++) {
        struct command_result r = command_run(
            20, "cd '" SOURCE_DIR "' && diff %s/train.c %s/train.c | grep '^[<>]'", stages[i - 1], stages[i]);
        int changed = lines_with(r.out, "");
        print_message("%s to %s: %d lines\n", stages[i - 1], stages[i], changed);
        assert_string_equal(r.err, "");
        if (changed < 1 || changed > MOST_CHANGED)
            fail_msg("%s and %s differ in %d lines of train.c; 1 to %d can be read on two screens",
                     stages[i - 1], stages[i], changed, MOST_CHANGED);
        command_free(&r);
    }
}

struct functions {
    int count, lines;
    char names[MOST_FUNCTIONS][64];
};

/* The name before the first '(' of a line that begins a definition. */
static void add_function(struct functions *functions, const char *line) {
    const char *end = strchr(line, '('), *begin = end;
    if (!end || isspace((unsigned char)line[0]) || !isalpha((unsigned char)line[0])) return;
    while (begin > line && (isalnum((unsigned char)begin[-1]) || begin[-1] == '_')) begin--;
    assert_true(functions->count < MOST_FUNCTIONS && end - begin < 64 && end > begin);
    snprintf(functions->names[functions->count++], 64, "%.*s", (int)(end - begin), begin);
}

static struct functions read_functions(const char *stage) {
    struct functions functions = {0};
    char *path = xformat(SOURCE_DIR "/%s/train.c", stage), line[512];
    FILE *file = fopen(path, "r");
    if (!file) fail_msg("%s: not there", path);
    for (; fgets(line, sizeof line, file); functions.lines++) add_function(&functions, line);
    fclose(file);
    free(path);
    return functions;
}

static int find(const struct functions *functions, const char *name) {
    int i = 0;
    while (i < functions->count && strcmp(functions->names[i], name) != 0) i++;
    return i < functions->count ? i : -1;
}

static void same_order(void **state) {
    (void)state;
    struct functions before = read_functions(stages[0]);
    assert_true(before.count > 15);
    for (int i = 1; i < STAGES; i++) {
        struct functions now = read_functions(stages[i]);
        int last = -1, shared = 0;
        assert_true(now.lines <= MOST_LINES);
        for (int f = 0; f < before.count; f++) {
            int place = find(&now, before.names[f]);
            if (place < 0) continue;
            if (place <= last) fail_msg("%s: %s() comes too early", stages[i], before.names[f]);
            last = place;
            shared++;
        }
        assert_true(shared > 15);
        before = now;
    }
}

/* Stage 06 changes what is called, not the walk: the functions are those of stage 05. */
static void same_functions(void **state) {
    (void)state;
    struct functions five = read_functions(stages[4]), six = read_functions(stages[5]);
    assert_int_equal(five.count, six.count);
    for (int f = 0; f < five.count; f++) assert_string_equal(five.names[f], six.names[f]);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(few_lines_differ), cmocka_unit_test(same_order),
                                       cmocka_unit_test(same_functions)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
