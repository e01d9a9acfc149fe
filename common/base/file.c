#include "common/base/file.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

bool file_map(struct file_map *map, const char *path, struct error *error) {
    *map = (struct file_map){.data = ""};
    int file = open(path, O_RDONLY | O_CLOEXEC);
    if (file < 0) return error_set(error, "%s: cannot be read: %s", path, strerror(errno));
    struct stat status;
    if (fstat(file, &status) != 0 || !S_ISREG(status.st_mode)) {
        close(file);
        return error_set(error, "%s: not a regular file", path);
    }
    if (status.st_size > 0) {
        void *data = mmap(NULL, (size_t)status.st_size, PROT_READ, MAP_PRIVATE, file, 0);
        if (data == MAP_FAILED) {
            close(file);
            return error_set(error, "%s: cannot be mapped: %s", path, strerror(errno));
        }
        map->data = data;
        map->size = (size_t)status.st_size;
    }
    close(file);
    return true;
}

void file_unmap(struct file_map *map) {
    if (map->size) munmap((void *)(size_t)map->data, map->size);
    *map = (struct file_map){.data = ""};
}

bool file_exists(const char *path) {
    struct stat status;
    return lstat(path, &status) == 0;
}

bool directory_exists(const char *path) {
    struct stat status;
    return stat(path, &status) == 0 && S_ISDIR(status.st_mode);
}

bool directory_create(const char *path, struct error *error) {
    char partial[PATH_MAX];
    size_t length = strlen(path);
    if (length == 0 || length >= sizeof partial)
        return error_set(error, "'%s': not a usable folder name", path);
    for (size_t end = 1; end <= length; end++) {
        if (path[end] != '/' && path[end] != '\0') continue;
        memcpy(partial, path, end);
        partial[end] = '\0';
        /* Where a parent may not be made because it is there (read-only file systems say EROFS first), go on.
         */
        if (mkdir(partial, 0777) != 0 && !directory_exists(partial))
            return error_set(error, "%s: folder cannot be created: %s", partial,
                             strerror(errno == EEXIST ? ENOTDIR : errno));
    }
    return true;
}

bool directory_remove(const char *path, struct error *error) {
    DIR *folder = opendir(path);
    if (!folder) {
        if (errno == ENOENT) return true;
        return error_set(error, "%s: cannot be opened: %s", path, strerror(errno));
    }
    bool ok = true;
    for (struct dirent *entry; ok && (entry = readdir(folder));) {
        if (!strcmp(entry->d_name, ".") || !strcmp(entry->d_name, "..")) continue;
        char *inside = xformat("%s/%s", path, entry->d_name);
        struct stat status;
        if (lstat(inside, &status) == 0 && S_ISDIR(status.st_mode))
            ok = directory_remove(inside, error);
        else if (unlink(inside) != 0 && errno != ENOENT)
            ok = error_set(error, "%s: cannot be removed: %s", inside, strerror(errno));
        free(inside);
    }
    closedir(folder);
    if (ok && rmdir(path) != 0 && errno != ENOENT)
        return error_set(error, "%s: cannot be removed: %s", path, strerror(errno));
    return ok;
}

bool directory_sync(const char *path, struct error *error) {
    int folder = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (folder < 0) return error_set(error, "%s: cannot be opened: %s", path, strerror(errno));
    /* Some network file systems refuse to sync a directory (EINVAL): they need no such call. */
    bool ok = fsync(folder) == 0 || errno == EINVAL;
    int reason = errno;
    close(folder);
    return ok || error_set(error, "%s: cannot be synced: %s", path, strerror(reason));
}

static bool write_all(int file, const char *data, size_t size) {
    while (size > 0) {
        ssize_t written = write(file, data, size < (1u << 30) ? size : (1u << 30));
        if (written < 0 && errno == EINTR) continue;
        if (written <= 0) return false;
        data += written;
        size -= (size_t)written;
    }
    return true;
}

bool file_write(const char *path, const void *data, size_t size, struct error *error) {
    char *part = xformat("%s.part", path);
    int file = open(part, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
    bool ok = file >= 0 && write_all(file, data, size) && fsync(file) == 0;
    int reason = errno;
    if (file >= 0 && close(file) != 0 && ok) {
        ok = false;
        reason = errno;
    }
    if (ok && rename(part, path) != 0) {
        ok = false;
        reason = errno;
    }
    if (!ok) {
        error_set(error, "%s: cannot be written: %s", path, strerror(reason));
        if (file >= 0) unlink(part);
    }
    free(part);
    return ok;
}

bool file_copy(const char *from, const char *to, struct error *error) {
    struct file_map map;
    if (!file_map(&map, from, error)) return false;
    bool ok = file_write(to, map.data, map.size, error);
    file_unmap(&map);
    return ok;
}

long long file_space(const char *path) {
    char *parent = xstrdup(path);
    struct statvfs status;
    while (statvfs(parent, &status) != 0) {
        char *slash = strrchr(parent, '/');
        if (errno != ENOENT || (slash == parent && !parent[1])) {
            free(parent);
            return -1;
        }
        if (!slash)
            strcpy(parent, ".");
        else if (slash == parent)
            parent[1] = '\0';
        else
            *slash = '\0';
    }
    free(parent);
    return (long long)status.f_bavail * (long long)status.f_frsize;
}
