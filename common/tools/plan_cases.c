/* The rows of each stage: what it can put where. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/device/dtype.h"
#include "common/tools/plan.h"

#define OPTIMIZER "--offload_optimizer cpu --pin_memory true"
#define ALL OPTIMIZER " --offload_gradients true --offload_param cpu"

static const char *const one_device[] = {
    "--zero_stage 1 " OPTIMIZER,
    "--zero_stage 2 " OPTIMIZER,
    "--zero_stage 2 " OPTIMIZER " --offload_gradients true",
    "--zero_stage 3 " OPTIMIZER,
    "--zero_stage 3 " OPTIMIZER " --offload_param cpu",
    "--zero_stage 3 " ALL,
    NULL,
};
/* Of stage 06; without levels it is stage 05. */
static const char *const several_nodes[] = {
    "--zero_stage 0",
    "--zero_stage 1",
    "--zero_stage 2",
    "--zero_stage 3",
    "--zero_stage 2 " OPTIMIZER,
    "--zero_stage 3 " OPTIMIZER " --offload_param cpu",
    "--zero_stage 3 " ALL,
    NULL,
};

static void add_rows(struct plan_case row, const char *const *variants,
                     void (*add)(void *to, struct plan_case row), void *to) {
    for (; *variants; variants++) {
        row.settings = *variants;
        add(to, row);
    }
}

/* Parameters kept twice, for nodes of so many ranks. */
static const char *secondary(int ranks_per_node) {
    static char texts[8][64]; /* of rows that live as long as the program */
    static int next;
    char *text = texts[next++ % 8];
    snprintf(text, sizeof texts[0], "--zero_stage 3 --zero_hpz_partition_size %d", ranks_per_node);
    return text;
}

void plan_cases_of(const char *stage, int ranks, int nodes, bool chosen,
                   void (*add)(void *to, struct plan_case row), void *to) {
    struct plan_case row = {.stage = stage, .settings = "", .ranks = ranks, .nodes = nodes};
    int number = atoi(stage);
    if (number < 5 || chosen || (number == 6 && (nodes == 1 || ranks == nodes))) {
        add(to, row);
    } else if (number == 5) {
        add_rows(row, one_device, add, to);
    } else {
        add_rows(row, several_nodes, add, to);
        row.settings = secondary(ranks / nodes);
        add(to, row);
    }
}

static bool is_text(const json_t *settings, const char *key, const char *text) {
    const char *value = json_string_value(json_object_get(settings, key));
    return value && !strcmp(value, text);
}

char *plan_variant(const char *stage, const json_t *settings) {
    long long zero = json_integer_value(json_object_get(settings, "zero_stage"));
    bool optimizer = is_text(settings, "offload_optimizer", "cpu");
    bool gradients = json_is_true(json_object_get(settings, "offload_gradients"));
    bool parameters = is_text(settings, "offload_param", "cpu");
    bool secondary_slices = json_integer_value(json_object_get(settings, "zero_hpz_partition_size")) > 1;
    if (atoi(stage) < 5) return xstrdup("");
    return xformat("z%lld%s%s%s%s%s", zero, optimizer ? " opt" : "", gradients ? "+grad" : "",
                   parameters ? "+param" : "", secondary_slices ? " hpz" : "",
                   optimizer && !json_is_true(json_object_get(settings, "pin_memory")) ? " pageable" : "");
}
