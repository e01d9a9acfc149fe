#include "common/train/output.h"

#include <dirent.h>
#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "common/base/file.h"
#include "common/train/checkpoint.h"

/* Makes runs/STAGE-<next number>; mkdir decides between two runs that start at once. */
static char *new_run_folder(const char *stage) {
    struct error error;
    if (!directory_create("runs", &error)) fail("%s", error.text);
    for (int number = 1;; number++) {
        char *path = xformat("runs/%s-%d", stage, number);
        if (mkdir(path, 0777) == 0) return path;
        if (errno != EEXIST) fail("%s: folder cannot be created: %s", path, strerror(errno));
        free(path);
    }
}

/* A folder holds a run where one of these is. */
static bool marks_a_run(const char *name) {
    return !strcmp(name, "metrics.jsonl") || !strncmp(name, "checkpoint-", 11);
}

/* What a run leaves beside them; removed only with a run, as such files may also be somebody's model. */
static bool left_by_a_run(const char *name) {
    static const char *const names[] = {"memory.csv",
                                        "model.safetensors",
                                        "config.json",
                                        "tokenizer.json",
                                        "tokenizer_config.json",
                                        "special_tokens_map.json",
                                        "generation_config.json"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        if (!strcmp(name, names[i])) return true;
    return marks_a_run(name);
}

static bool holds_a_run(const char *path) {
    DIR *folder = opendir(path);
    bool found = false;
    for (struct dirent *entry; folder && !found && (entry = readdir(folder));)
        found = marks_a_run(entry->d_name);
    if (folder) closedir(folder);
    return found;
}

static void remove_run(const char *path) {
    DIR *folder = opendir(path);
    if (!folder) fail("%s: cannot be opened: %s", path, strerror(errno));
    for (struct dirent *entry; (entry = readdir(folder));) {
        if (!left_by_a_run(entry->d_name)) continue;
        struct error error;
        char *inside = xformat("%s/%s", path, entry->d_name);
        if (directory_exists(inside)) {
            if (!directory_remove(inside, &error)) fail("%s", error.text);
        } else if (remove(inside) != 0) {
            fail("%s: cannot be removed: %s", inside, strerror(errno));
        }
        free(inside);
    }
    closedir(folder);
}

/* Rank 0's part of output_open. */
static void open_folder(const struct settings *settings, const char *stage, char **output_dir,
                        char **resume) {
    struct error error;
    const char *wanted = settings->resume_from_checkpoint;
    bool resumes = wanted[0] && strcmp(wanted, "false") != 0, last = !strcmp(wanted, "true");
    *output_dir = settings->output_dir[0] ? xstrdup(settings->output_dir) : new_run_folder(stage);
    if (!directory_create(*output_dir, &error)) fail("%s", error.text);
    *resume = NULL;
    if (resumes && !last) *resume = xstrdup(wanted);
    if (last) *resume = checkpoint_last(*output_dir);
    if (last && !*resume)
        warn("%s: no whole checkpoint to resume from; the run starts from the beginning", *output_dir);
    bool replaces = !*resume && holds_a_run(*output_dir);
    if (replaces && !settings->overwrite_output_dir && !last)
        fail("%s already holds a run: choose another output_dir, or add --resume_from_checkpoint true or "
             "--overwrite_output_dir",
             *output_dir);
    if (replaces) remove_run(*output_dir);
    char *probe = xformat("%s/.writable", *output_dir);
    if (!file_write(probe, "", 0, &error)) fail("%s", error.text);
    remove(probe);
    free(probe);
}

char *output_open(const struct settings *settings, const char *stage, struct comm *comm, char **resume) {
    char paths[2][PATH_MAX] = {"", ""};
    if (comm_is_leader(comm)) {
        char *output_dir, *from;
        open_folder(settings, stage, &output_dir, &from);
        if (strlen(output_dir) >= PATH_MAX || (from && strlen(from) >= PATH_MAX))
            fail("output_dir or resume_from_checkpoint: the path is too long");
        strcpy(paths[0], output_dir);
        if (from) strcpy(paths[1], from);
        free(output_dir);
        free(from);
    }
    comm_host_broadcast(comm, paths, sizeof paths, 0);
    *resume = paths[1][0] ? xstrdup(paths[1]) : NULL;
    return xstrdup(paths[0]);
}

void output_check_space(const char *output_dir, const struct settings *settings, const struct layout *layout,
                        enum dtype dtype, long long checkpoints, struct comm *comm) {
    if (comm_is_leader(comm)) {
        /* A new checkpoint is whole before an old one goes. */
        if (settings->save_total_limit && checkpoints > settings->save_total_limit + 1)
            checkpoints = settings->save_total_limit + 1;
        double needed = (double)checkpoints * (double)checkpoint_bytes(layout, dtype);
        if (settings->save_model) needed += (double)checkpoint_model_bytes(layout, dtype);
        double free_bytes = (double)file_space(output_dir);
        if (free_bytes >= 0 && needed > free_bytes)
            fail("%s: the run will write %.1f GiB (%lld checkpoints at once, the final model) but the disk "
                 "has %.1f GiB "
                 "left: lower save_total_limit, set save_strategy or save_model to no, or use another "
                 "output_dir",
                 output_dir, needed / (1 << 30), checkpoints, free_bytes / (1 << 30));
    }
    comm_barrier(comm);
}
