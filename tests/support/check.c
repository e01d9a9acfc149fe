#include "tests/support/check.h"

#include <string.h>

void check_error_says(const struct error *error, int count, const char *const *parts) {
    if (!error->text[0]) fail_msg("no error text");
    if (strchr(error->text, '\n')) fail_msg("more than one line: %s", error->text);
    for (int i = 0; i < count; i++)
        if (!strstr(error->text, parts[i])) fail_msg("'%s' does not say '%s'", error->text, parts[i]);
}

char *source_path(const char *path) {
    return xformat("%s/%s", SOURCE_DIR, path);
}
