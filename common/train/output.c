#include "common/train/output.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <time.h>

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

/* Two runs that write into one folder, perhaps the old one still dying, would spoil each other's files. The
 * lock goes with the process, however that ends; file systems without locks do without. */
static void lock_folder(const char *path) {
    enum { TRIES = 50 };
    int folder = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC); /* stays open until the process ends */
    if (folder < 0) fail("%s: cannot be opened: %s", path, strerror(errno));
    for (int i = 0; flock(folder, LOCK_EX | LOCK_NB) != 0 && errno == EWOULDBLOCK; i++) {
        if (i == TRIES)
            fail("%s: another run is writing there: wait for its end, or choose another output_dir", path);
        nanosleep(&(struct timespec){.tv_nsec = 100000000}, NULL);
    }
}

/* The checkpoint to go on from, or NULL. */
static char *find_resume(const char *wanted, const char *output_dir) {
    if (!wanted[0] || !strcmp(wanted, "false")) return NULL;
    if (strcmp(wanted, "true") != 0) return xstrdup(wanted);
    checkpoint_clean(output_dir);
    char *last = checkpoint_last(output_dir);
    if (!last) warn("%s: no whole checkpoint to resume from; the run starts from the beginning", output_dir);
    return last;
}

/* The folder that holds `path`, which the caller frees; NULL where there is no such path. */
static char *parent_of(const char *path) {
    char real[PATH_MAX];
    if (!realpath(path, real)) return NULL;
    char *slash = strrchr(real, '/');
    slash[slash == real] = '\0';
    return xstrdup(real);
}

/* Starts output_dir/metrics.jsonl with what the run in folder `from` had written when it saved the
 * checkpoint. */
static void copy_metrics(const char *from, const char *output_dir, size_t bytes) {
    struct error error;
    struct file_map map;
    char *old = xformat("%s/metrics.jsonl", from), *path = xformat("%s/metrics.jsonl", output_dir);
    if (file_exists(old)) {
        if (!file_map(&map, old, &error)) fail("%s", error.text);
        if (!file_write(path, map.data, map.size < bytes ? map.size : bytes, &error)) fail("%s", error.text);
        file_unmap(&map);
    }
    free(old);
    free(path);
}

static void check_writable(const char *output_dir) {
    struct error error;
    char *probe = xformat("%s/.writable", output_dir);
    if (!file_write(probe, "", 0, &error)) fail("%s", error.text);
    remove(probe);
    free(probe);
}

/* The model may be what an earlier run wrote: it, or a checkpoint of it, must not be what this run replaces.
 */
static void spare_model(const char *model, const char *output_dir) {
    char from[PATH_MAX], to[PATH_MAX];
    if (!model || !realpath(model, from) || !realpath(output_dir, to)) return;
    size_t length = strlen(to);
    if (!strncmp(from, to, length) && (!from[length] || !strncmp(from + length, "/checkpoint-", 12)))
        fail("%s: output_dir is the folder of the model itself, which the run would replace: choose another",
             output_dir);
}

/* Rank 0's part of output_open. */
static void open_folder(const struct settings *settings, const char *stage, const char *model,
                        char **output_dir, char **resume) {
    struct error error;
    const char *wanted = settings->resume_from_checkpoint;
    *output_dir = settings->output_dir[0] ? xstrdup(settings->output_dir) : new_run_folder(stage);
    if (!directory_create(*output_dir, &error)) fail("%s", error.text);
    lock_folder(*output_dir);
    check_writable(*output_dir);
    spare_model(model, *output_dir);
    *resume = find_resume(wanted, *output_dir);
    json_t *state = *resume ? checkpoint_state(*resume, &error) : NULL;
    if (*resume && !state) fail("%s", error.text);
    char here[PATH_MAX], *parent = *resume ? parent_of(*resume) : NULL;
    bool goes_on = parent && realpath(*output_dir, here) && !strcmp(parent, here);
    bool replaces = !goes_on && holds_a_run(*output_dir);
    if (replaces && !settings->overwrite_output_dir && strcmp(wanted, "true") != 0)
        fail("%s already holds a run: choose another output_dir, or add --resume_from_checkpoint true or "
             "--overwrite_output_dir",
             *output_dir);
    if (replaces) remove_run(*output_dir);
    if (goes_on) checkpoint_clean(*output_dir);
    if (parent && !goes_on)
        copy_metrics(parent, *output_dir,
                     (size_t)json_integer_value(json_object_get(state, "metrics_bytes")));
    free(parent);
    json_decref(state);
}

char *output_open(const struct settings *settings, const char *stage, const char *model, struct comm *comm,
                  char **resume) {
    char paths[2][PATH_MAX] = {"", ""};
    if (comm_is_leader(comm)) {
        char *output_dir, *from;
        open_folder(settings, stage, model, &output_dir, &from);
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
                        enum dtype dtype, const struct model_sources *sources, long long checkpoints,
                        struct comm *comm) {
    if (comm_is_leader(comm)) {
        /* A new checkpoint is whole before an old one goes. */
        if (settings->save_total_limit && checkpoints > settings->save_total_limit + 1)
            checkpoints = settings->save_total_limit + 1;
        double needed = (double)checkpoints * (double)checkpoint_bytes(layout, dtype, sources);
        if (settings->save_model) needed += (double)checkpoint_model_bytes(layout, dtype, sources);
        double free_bytes = (double)file_space(output_dir);
        bool large = needed >= 1 << 30;
        double unit = large ? 1 << 30 : 1 << 20;
        if (free_bytes >= 0 && needed > free_bytes)
            fail("%s: the run will write %.1f %s (%lld checkpoint%s at once%s) but the disk has %.1f %s "
                 "left: set a "
                 "(lower) save_total_limit or save_strategy no, or use another output_dir",
                 output_dir, needed / unit, large ? "GiB" : "MiB", checkpoints, checkpoints == 1 ? "" : "s",
                 settings->save_model ? " and the final model" : "", free_bytes / unit,
                 large ? "GiB" : "MiB");
    }
    comm_barrier(comm);
}
