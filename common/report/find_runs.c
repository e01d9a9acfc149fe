#include "common/report/find_runs.h"

#include <errno.h>
#include <fts.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "common/base/file.h"
#include "common/report/table.h"

static const char file_name[] = "metrics.jsonl";

/* ---- names ---- */

/* The last name of a path, which may end in slashes; the caller frees it. */
static char *last_name(const char *path) {
    size_t end = strlen(path);
    while (end > 1 && path[end - 1] == '/') end--;
    size_t start = end;
    while (start > 0 && path[start - 1] != '/') start--;
    return xformat("%.*s", (int)(end - start), path + start);
}

/* What of a path lies below a folder, without the file's name; the caller frees it. */
static char *below(const char *path, const char *folder) {
    size_t skip = strlen(folder), end = strlen(path) - strlen(file_name);
    while (path[skip] == '/') skip++;
    while (end > skip && path[end - 1] == '/') end--;
    return xformat("%.*s", end > skip ? (int)(end - skip) : 0, path + skip);
}

/* Owner and name of the run at a path that was found below a folder. */
static void name_run(struct found_run *run, const char *folder, bool folders_are_owners) {
    char *inner = below(run->path, folder), *own = last_name(folder), *rest = inner;
    char *slash = strchr(inner, '/');
    const char *owner = "";
    if (folders_are_owners) {
        owner = own;
    } else if (slash && strncmp(inner, "runs/", 5) != 0) {
        *slash = '\0';
        owner = inner;
        rest = slash + 1;
    }
    if (!strncmp(rest, "runs/", 5)) rest += 5;
    run->owner = shown_text(strcmp(owner, ".") ? owner : "");
    run->name = shown_text(rest[0] ? rest : own);
    free(inner);
    free(own);
}

/* ---- looking ---- */

/* Room doubles at powers of two. */
static void *grow(void *items, size_t count, size_t size) {
    return count & (count - 1) ? items : xrealloc(items, (count ? 2 * count : 1) * size);
}

static bool is_known(const struct found_runs *found, const struct stat *file) {
    for (size_t i = 0; i < found->count; i++)
        if (found->runs[i].device == file->st_dev && found->runs[i].node == file->st_ino) return true;
    return false;
}

static void add(struct found_runs *found, const char *path, const struct stat *file, const char *folder,
                bool folders_are_owners) {
    if (is_known(found, file)) return;
    found->runs = grow(found->runs, found->count, sizeof *found->runs);
    struct found_run *run = &found->runs[found->count++];
    *run = (struct found_run){
        .path = xstrdup(path), .written = file->st_mtim, .device = file->st_dev, .node = file->st_ino};
    name_run(run, folder, folders_are_owners);
}

static void add_unreadable(struct found_runs *found, const char *path, int reason) {
    found->unreadable = grow(found->unreadable, found->unreadable_count, sizeof *found->unreadable);
    char *shown = shown_text(path);
    found->unreadable[found->unreadable_count++] = xformat("%s: %s", shown, strerror(reason));
    free(shown);
}

static void look(struct found_runs *found, FTS *tree, const char *folder, bool folders_are_owners) {
    FTSENT *entry;
    while ((entry = fts_read(tree))) {
        if (entry->fts_info == FTS_D && entry->fts_level > 0 && entry->fts_name[0] == '.')
            fts_set(tree, entry, FTS_SKIP);
        else if (entry->fts_info == FTS_F && !strcmp(entry->fts_name, file_name))
            add(found, entry->fts_path, entry->fts_statp, folder, folders_are_owners);
        else if (entry->fts_info == FTS_DNR || entry->fts_info == FTS_ERR)
            add_unreadable(found, entry->fts_path, entry->fts_errno);
    }
}

static int by_path(const void *a, const void *b) {
    return strverscmp(((const struct found_run *)a)->path, ((const struct found_run *)b)->path);
}

bool find_runs(struct found_runs *found, const char *const *folders, size_t count, struct error *error) {
    *found = (struct found_runs){0};
    for (size_t i = 0; i < count; i++)
        if (!file_exists(folders[i])) {
            found_runs_free(found);
            return error_set(error, "%s: there is no such folder", folders[i]);
        }
    for (size_t i = 0; i < count; i++) {
        char *paths[] = {(char *)(size_t)folders[i], NULL}; /* fts leaves it as it is */
        FTS *tree = fts_open(paths, FTS_LOGICAL | FTS_NOCHDIR, NULL);
        if (!tree) fail("%s: cannot be looked through: %s", folders[i], strerror(errno));
        look(found, tree, folders[i], count > 1);
        if (fts_close(tree) != 0) fail("%s: cannot be looked through: %s", folders[i], strerror(errno));
    }
    if (found->count) qsort(found->runs, found->count, sizeof *found->runs, by_path);
    return true;
}

void found_runs_free(struct found_runs *found) {
    for (size_t i = 0; i < found->count; i++) {
        free(found->runs[i].path);
        free(found->runs[i].owner);
        free(found->runs[i].name);
    }
    for (size_t i = 0; i < found->unreadable_count; i++) free(found->unreadable[i]);
    free(found->runs);
    free(found->unreadable);
    *found = (struct found_runs){0};
}
