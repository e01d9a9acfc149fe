#include "common/text/lines.h"

#include <limits.h>
#include <stdlib.h>
#include <string.h>

bool lines_are_in(const char *path) {
    size_t length = strlen(path);
    return length > 4 && !strcmp(path + length - 4, ".txt");
}

static bool is_blank(const char *data, size_t bytes) {
    for (size_t i = 0; i < bytes; i++)
        if (data[i] != ' ' && data[i] != '\t') return false;
    return true;
}

bool lines_load(struct lines *lines, const char *path, int limit, struct error *error) {
    *lines = (struct lines){0};
    if (!file_map(&lines->map, path, error)) return false;
    if (!limit) limit = INT_MAX;
    const char *data = lines->map.data, *end = data + lines->map.size;
    int room = 0;
    while (data < end && lines->count < limit) {
        const char *feed = memchr(data, '\n', (size_t)(end - data));
        const char *next = feed ? feed + 1 : end;
        size_t bytes = (size_t)((feed ? feed : end) - data);
        if (feed && bytes && data[bytes - 1] == '\r') bytes--;
        if (!is_blank(data, bytes)) {
            if (lines->count == room) {
                room = room < INT_MAX / 2 ? 2 * room + 64 : INT_MAX;
                lines->lines = xrealloc(lines->lines, (size_t)room * sizeof *lines->lines);
            }
            lines->lines[lines->count++] = (struct line){data, bytes};
        }
        data = next;
    }
    return true;
}

void lines_free(struct lines *lines) {
    free(lines->lines);
    file_unmap(&lines->map);
    *lines = (struct lines){0};
}
