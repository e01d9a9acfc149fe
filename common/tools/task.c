/*
 * task lay STAGE --root DIR --output DIR
 * task check STAGE --root DIR --build DIR --launcher WORDS [--folder DIR] [--time_limit SECONDS]
 *
 * Hands-on tasks: see task.h. Started by ./workshop task and ./workshop check, whose help explains them.
 */
#include "common/tools/task.h"

#include <stdlib.h>
#include <string.h>

struct arguments {
    const char *command, *stage, *root, *output, *build, *launcher, *folder, *time_limit;
};

static struct arguments read_arguments(int count, char **words) {
    struct arguments a = {.time_limit = "60"};
    const struct {
        const char *name;
        const char **value;
    } options[] = {{"--root", &a.root},     {"--output", &a.output},     {"--build", &a.build},
                   {"--folder", &a.folder}, {"--launcher", &a.launcher}, {"--time_limit", &a.time_limit}};
    const size_t known = sizeof options / sizeof *options;
    if (count < 3) fail("usage: task lay|check STAGE --NAME VALUE …");
    a.command = words[1];
    a.stage = words[2];
    for (int i = 3; i < count; i += 2) {
        size_t o = 0;
        while (o < known && strcmp(words[i], options[o].name) != 0) o++;
        if (o == known) fail("%s has no option '%s': ./workshop %s --help", a.command, words[i], a.command);
        if (i + 1 == count || !words[i + 1][0])
            fail("%s needs a value: ./workshop %s --help", words[i], a.command);
        *options[o].value = words[i + 1];
    }
    if (!a.root) fail("--root is missing");
    return a;
}

static void lay(const struct arguments *a, const struct task *task) {
    struct error error;
    if (!a->output) fail("--output is missing");
    if (!task_lay(task, a->root, a->output, &error)) fail("%s", error.text);
    printf("%s: the sources of %s without %s.\n", a->output, task->stage,
           stage_task(task->stage)->capability);
    printf("Read %s/TASK.md, write the functions that it names, then: ./workshop check %s %s\n", a->output,
           task->stage, a->output);
}

static bool check(const struct arguments *a, const struct task *task) {
    char *end;
    long seconds = strtol(a->time_limit, &end, 10);
    if (*end || seconds < 1 || seconds > 86400)
        fail("--time_limit %s: not a number of seconds", a->time_limit);
    if (!a->build || !a->launcher) fail("--build or --launcher is missing");
    return task_check(task, &(struct check){.root = a->root,
                                            .build = a->build,
                                            .folder = a->folder,
                                            .launcher = a->launcher,
                                            .seconds = (int)seconds});
}

int main(int argc, char **argv) {
    struct arguments a = read_arguments(argc, argv);
    struct task task;
    struct error error;
    bool good = true;
    if (!stage_task(a.stage))
        fail("%s has no task: 02-zero1, 03-zero2, 04-zero3 and 05-offload have one", a.stage);
    if (!task_read(&task, a.root, a.stage, &error)) fail("%s", error.text);
    if (!strcmp(a.command, "lay"))
        lay(&a, &task);
    else if (!strcmp(a.command, "check"))
        good = check(&a, &task);
    else
        fail("task has no command '%s': lay, check", a.command);
    task_free(&task);
    return good ? 0 : 1;
}
