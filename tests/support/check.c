#include "tests/support/check.h"

#include <string.h>

void check_error_says(const struct error *error, int count, const char *const *parts) {
    if (!error->text[0]) fail_msg("no error text");
    if (strchr(error->text, '\n')) fail_msg("more than one line: %s", error->text);
    for (int i = 0; i < count; i++)
        if (!strstr(error->text, parts[i])) fail_msg("'%s' does not say '%s'", error->text, parts[i]);
}

void check_program_refuses(struct command_result result, const char *arguments, const char *part) {
    if (result.exit_code != 1 || strncmp(result.err, "error: ", 7) != 0 || !strstr(result.err, part) ||
        strchr(result.err, '\n') != result.err + strlen(result.err) - 1 || result.out_size > 0)
        fail_msg("'%s': exit code %d, rather than one line of error with '%s': %s%s", arguments,
                 result.exit_code, part, result.out, result.err);
    command_free(&result);
}

char *source_path(const char *path) {
    return xformat("%s/%s", SOURCE_DIR, path);
}
