#include "common/base/json.h"

#include <math.h>

#include "common/base/file.h"

/* jansson recurses: its own limit on depth (JSON_PARSER_MAX_DEPTH, 2048) keeps a hostile file off the stack.
 */
json_t *json_read_bytes(const char *data, size_t size, const char *name, struct error *error) {
    json_error_t reason;
    json_t *root = json_loadb(data, size, JSON_REJECT_DUPLICATES | JSON_ALLOW_NUL, &reason);
    if (!root)
        error_set(error, "%s:%d:%d: malformed JSON: %s", name, reason.line, reason.column, reason.text);
    return root;
}

json_t *json_read_file(const char *path, struct error *error) {
    struct file_map map;
    if (!file_map(&map, path, error)) return NULL;
    json_t *root = json_read_bytes(map.data, map.size, path, error);
    file_unmap(&map);
    return root;
}

/* The member, or NULL where it is absent or null. */
static const json_t *member(const json_t *object, const char *key) {
    const json_t *value = json_object_get(object, key);
    return json_is_null(value) ? NULL : value;
}

bool json_get_int(const json_t *object, const char *key, long long minimum, long long maximum,
                  long long *value, const char *path, struct error *error) {
    const json_t *found = member(object, key);
    if (!found) return true;
    if (!json_is_integer(found)) return error_set(error, "%s: %s: expected an integer", path, key);
    long long number = json_integer_value(found);
    if (number < minimum || number > maximum)
        return error_set(error, "%s: %s: %lld is not between %lld and %lld", path, key, number, minimum,
                         maximum);
    *value = number;
    return true;
}

bool json_get_double(const json_t *object, const char *key, double *value, const char *path,
                     struct error *error) {
    const json_t *found = member(object, key);
    if (!found) return true;
    if (!json_is_number(found)) return error_set(error, "%s: %s: expected a number", path, key);
    *value = json_number_value(found);
    return true;
}

bool json_get_bool(const json_t *object, const char *key, bool *value, const char *path,
                   struct error *error) {
    const json_t *found = member(object, key);
    if (!found) return true;
    if (!json_is_boolean(found)) return error_set(error, "%s: %s: expected true or false", path, key);
    *value = json_is_true(found);
    return true;
}

bool json_get_string(const json_t *object, const char *key, const char **value, const char *path,
                     struct error *error) {
    const json_t *found = member(object, key);
    if (!found) return true;
    if (!json_is_string(found)) return error_set(error, "%s: %s: expected a string", path, key);
    *value = json_string_value(found);
    return true;
}

json_t *json_number(double value) {
    return isfinite(value) ? json_real(value) : json_null();
}
