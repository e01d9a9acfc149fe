#include "tests/support/check.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/base/file.h"
#include "tests/support/temporary.h"

char *temporary_folder(void) {
    const char *parent = getenv("TMPDIR");
    char *folder = xformat("%s/workshop-test-XXXXXX", parent && *parent ? parent : "/tmp");
    if (!mkdtemp(folder)) fail_msg("%s cannot be created", folder);
    return folder;
}

void temporary_remove(char *folder) {
    struct error error = {""};
    if (!directory_remove(folder, &error)) fail_msg("%s", error.text);
    free(folder);
}

void temporary_write(const char *folder, const char *name, const void *data, size_t size) {
    struct error error = {""};
    char *path = xformat("%s/%s", folder, name);
    char *parent = xstrdup(path);
    *strrchr(parent, '/') = '\0';
    if (!directory_create(parent, &error) || !file_write(path, data, size, &error))
        fail_msg("%s", error.text);
    free(parent);
    free(path);
}

void temporary_write_text(const char *folder, const char *name, const char *text) {
    temporary_write(folder, name, text, strlen(text));
}
