/* The safetensors format: good files, every way to be bad, and writing. */
#include "tests/support/check.h"

#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#include "common/base/file.h"
#include "common/bloom/safetensors.h"
#include "tests/support/temporary.h"

/* A file of this header and `body` bytes of data (each byte its place's number), in memory of its very size,
 * so that a sanitizer sees a read beyond it. The caller frees. */
static unsigned char *make(const char *header, size_t body, size_t *size) {
    size_t length = strlen(header);
    *size = 8 + length + body;
    unsigned char *bytes = xmalloc(*size);
    for (int i = 0; i < 8; i++) bytes[i] = (unsigned char)((uint64_t)length >> 8 * i);
    memcpy(bytes + 8, header, length);
    for (size_t i = 0; i < body; i++) bytes[8 + length + i] = (unsigned char)i;
    return bytes;
}

/* ---- reading ---- */

static void test_good(void **state) {
    (void)state;
    /* Out of order, of several types, with an empty tensor, a scalar, metadata and unknown members; data
     * unaligned. */
    size_t size;
    unsigned char *bytes =
        make("{\"b\": {\"dtype\": \"F16\", \"shape\": [2, 3], \"data_offsets\": [5, 17], \"more\": 1},"
             " \"a\": {\"dtype\": \"F32\", \"shape\": [], \"data_offsets\": [1, 5]},"
             " \"__metadata__\": {\"format\": \"pt\"},"
             " \"e\": {\"dtype\": \"BF16\", \"shape\": [4, 0], \"data_offsets\": [5, 5]},"
             " \"c\": {\"dtype\": \"U8\", \"shape\": [1], \"data_offsets\": [0, 1]}}   ",
             17, &size);
    struct error error = {""};
    struct safetensors *file = safetensors_parse(bytes, size, "good", &error);
    if (!file) fail_msg("%s", error.text);
    assert_int_equal(safetensors_count(file), 4);
    assert_string_equal(safetensors_path(file), "good");
    static const char *const names[] = {"a", "b", "c", "e"};
    for (size_t i = 0; i < 4; i++) assert_string_equal(safetensors_at(file, i)->name, names[i]);
    assert_null(safetensors_find(file, "d"));
    assert_null(safetensors_find(file, "__metadata__"));

    const struct safetensors_entry *b = safetensors_find(file, "b");
    assert_int_equal(b->dtype, FP16);
    assert_true(b->readable && b->dimensions == 2 && b->shape[0] == 2 && b->shape[1] == 3);
    assert_int_equal(b->count, 6);
    assert_int_equal(b->size, 12);
    assert_int_equal(*(const unsigned char *)b->data, 5);
    assert_string_equal(safetensors_describe(b).text, "F16 [2, 3]");
    const struct safetensors_entry *a = safetensors_find(file, "a");
    assert_true(a->count == 1 && a->dimensions == 0 && a->dtype == FP32);
    assert_string_equal(safetensors_describe(a).text, "F32 []");
    assert_int_equal(safetensors_find(file, "e")->count, 0);
    assert_false(safetensors_find(file, "c")->readable);
    safetensors_close(file);
    free(bytes);
}

static void test_empty(void **state) {
    (void)state;
    size_t size;
    unsigned char *bytes = make("{}", 0, &size);
    struct safetensors *file = safetensors_parse(bytes, size, "empty", NULL);
    assert_non_null(file);
    assert_int_equal(safetensors_count(file), 0);
    assert_null(safetensors_find(file, "a"));
    safetensors_close(file);
    free(bytes);
}

/* `header` with `body` bytes of data is refused, and the error says so. */
struct bad {
    const char *header;
    size_t body;
    const char *says;
};

#define ENTRY(type, shape, offsets)                                                                          \
    "{\"dtype\": " type ", \"shape\": " shape ", \"data_offsets\": " offsets "}"

static const struct bad bad_headers[] = {
    {"", 0, "malformed JSON"},
    {"{", 0, "malformed JSON"},
    {"{\"a\": 1,}", 0, "malformed JSON"},
    {"[]", 0, "header is no object"},
    {"7", 0, "malformed JSON"},
    {"{} x", 0, "malformed JSON"},
    {"{\"\xff\": 1}", 0, "malformed JSON"},
    {"{\"a\": 1}", 0, "'a': no object"},
    {"{\"a\": []}", 0, "'a': no object"},
    {"{\"a\": {}}", 0, "'a': no dtype"},
    {"{\"a\": " ENTRY("7", "[1]", "[0, 4]") "}", 4, "no dtype"},
    {"{\"a\": " ENTRY("\"F7\"", "[1]", "[0, 4]") "}", 4, "unknown dtype 'F7'"},
    {"{\"a\": " ENTRY("\"f32\"", "[1]", "[0, 4]") "}", 4, "unknown dtype"},
    {"{\"a\": {\"dtype\": \"F32\", \"data_offsets\": [0, 4]}}", 4, "shape is no list"},
    {"{\"a\": " ENTRY("\"F32\"", "1", "[0, 4]") "}", 4, "shape is no list"},
    {"{\"a\": " ENTRY("\"F32\"", "[-1]", "[0, 4]") "}", 4, "whole numbers"},
    {"{\"a\": " ENTRY("\"F32\"", "[1.0]", "[0, 4]") "}", 4, "whole numbers"},
    {"{\"a\": " ENTRY("\"F32\"", "[\"1\"]", "[0, 4]") "}", 4, "whole numbers"},
    {"{\"a\": " ENTRY("\"F32\"", "[1,1,1,1,1,1,1,1,1]", "[0, 4]") "}", 4, "more than 8 dimensions"},
    {"{\"a\": " ENTRY("\"F32\"", "[4294967296, 4294967296]", "[0, 4]") "}", 4, "more elements"},
    {"{\"a\": " ENTRY("\"F32\"", "[4611686018427387904]", "[0, 0]") "}", 0, "more bytes"},
    {"{\"a\": " ENTRY("\"F32\"", "[99999999999999999999]", "[0, 4]") "}", 4, "malformed JSON"},
    {"{\"a\": {\"dtype\": \"F32\", \"shape\": [1]}}", 4, "data_offsets"},
    {"{\"a\": " ENTRY("\"F32\"", "[1]", "[0]") "}", 4, "no pair"},
    {"{\"a\": " ENTRY("\"F32\"", "[1]", "[0, 4, 8]") "}", 8, "no pair"},
    {"{\"a\": " ENTRY("\"F32\"", "[1]", "[0, \"4\"]") "}", 4, "no pair"},
    {"{\"a\": " ENTRY("\"F32\"", "[1]", "[0.0, 4.0]") "}", 4, "no pair"},
    {"{\"a\": " ENTRY("\"F32\"", "[1]", "[-4, 0]") "}", 4, "do not ascend"},
    {"{\"a\": " ENTRY("\"F32\"", "[1]", "[4, 0]") "}", 4, "do not ascend"},
    {"{\"a\": " ENTRY("\"F32\"", "[1]", "[0, 4]") "}", 3, "truncated"},
    {"{\"a\": " ENTRY("\"F32\"", "[1]", "[9223372036854775803, 9223372036854775807]") "}", 4, "truncated"},
    {"{\"a\": " ENTRY("\"F32\"", "[2]", "[0, 4]") "}", 4, "needs 8 bytes, data_offsets give 4"},
    {"{\"a\": " ENTRY("\"F16\"", "[1]", "[0, 4]") "}", 4, "needs 2 bytes, data_offsets give 4"},
    {"{\"a\": " ENTRY("\"F32\"", "[0]", "[0, 4]") "}", 4, "needs 0 bytes, data_offsets give 4"},
    {"{\"a\": " ENTRY("\"F32\"", "[1]", "[0, 4]") "}", 5, "1 bytes follow the last tensor"},
    {"{}", 5, "5 bytes follow the last tensor"},
    {"{\"a\": " ENTRY("\"F32\"", "[1]", "[4, 8]") "}", 8, "gap"},
    {"{\"a\": " ENTRY("\"F32\"", "[1]", "[0, 4]") ", \"b\": " ENTRY("\"F32\"", "[1]", "[8, 12]") "}", 12,
     "'b': there is a gap"},
    {"{\"a\": " ENTRY("\"F32\"", "[1]", "[0, 4]") ", \"b\": " ENTRY("\"F32\"", "[1]", "[2, 6]") "}", 6,
     "'b': overlaps"},
    {"{\"a\": " ENTRY("\"F32\"", "[1]", "[0, 4]") ", \"b\": " ENTRY("\"F32\"", "[1]", "[0, 4]") "}", 4,
     "overlaps"},
    {"{\"a\": " ENTRY("\"F32\"", "[2]", "[0, 8]") ", \"b\": " ENTRY("\"U8\"", "[0]", "[4, 4]") "}", 8,
     "'b': overlaps"},
    {"{\"a\": " ENTRY("\"F32\"", "[1]", "[0, 4]") ", \"a\": " ENTRY("\"F32\"", "[1]", "[4, 8]") "}", 8,
     "duplicate"},
    {"{\"__metadata__\": 7}", 0, "__metadata__"},
    {"{\"__metadata__\": {\"format\": 7}}", 0, "__metadata__: 'format'"},
};

static void test_bad_headers(void **state) {
    (void)state;
    for (size_t i = 0; i < sizeof bad_headers / sizeof *bad_headers; i++) {
        const struct bad *bad = &bad_headers[i];
        size_t size;
        unsigned char *bytes = make(bad->header, bad->body, &size);
        struct error error = {""};
        if (safetensors_parse(bytes, size, "bad.safetensors", &error)) fail_msg("accepted: %s", bad->header);
        CHECK_ERROR(&error, "bad.safetensors", bad->says);
        free(bytes);
    }
}

static void check_bytes_refused(const void *bytes, size_t size, const char *says) {
    struct error error = {""};
    void *exact = memcpy(xmalloc(size), bytes, size); /* of its very size */
    assert_null(safetensors_parse(exact, size, "bad.safetensors", &error));
    CHECK_ERROR(&error, "bad.safetensors", says);
    free(exact);
}

static void test_bad_lengths(void **state) {
    (void)state;
    check_bytes_refused("", 0, "no safetensors file");
    check_bytes_refused("\2\0\0\0\0\0\0", 7, "no safetensors file");
    check_bytes_refused("\2\0\0\0\0\0\0\0", 8, "truncated");
    check_bytes_refused("\3\0\0\0\0\0\0\0{}", 10, "truncated");
    check_bytes_refused("\377\377\377\377\377\377\377\377{}", 10, "no safetensors file");
    check_bytes_refused("\0\0\0\0\0\0\0\200{}", 10, "no safetensors file");
    check_bytes_refused("\0\0\0\0\0\0\0\0", 8, "malformed JSON");
    check_bytes_refused("<!DOCTYPE html>", 15, "no safetensors file");
    /* A download that broke off, at every length. */
    size_t size;
    unsigned char *bytes = make("{\"a\": " ENTRY("\"F32\"", "[2, 2]", "[0, 16]") "}", 16, &size);
    for (size_t shorter = 0; shorter < size; shorter++)
        check_bytes_refused(bytes, shorter, "bad.safetensors: ");
    free(bytes);
}

static void test_deep_header(void **state) {
    (void)state;
    size_t depth = 1 << 20, size;
    char *header = xmalloc(depth + 1);
    memset(header, '[', depth);
    header[depth] = '\0';
    unsigned char *bytes = make(header, 0, &size);
    check_bytes_refused(bytes, size, "malformed JSON");
    free(bytes);
    free(header);
}

static void test_no_file(void **state) {
    (void)state;
    struct error error = {""};
    assert_null(safetensors_open("no/such.safetensors", &error));
    CHECK_ERROR(&error, "no/such.safetensors", "No such file");
    char *folder = temporary_folder();
    assert_null(safetensors_open(folder, &error));
    CHECK_ERROR(&error, folder, "not a regular file");
    temporary_remove(folder);
}

/* ---- numbers ---- */

static uint32_t bits_of(float value) {
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    return bits;
}

/* All 65,536 values of a 16-bit type, read in pieces from an unaligned place, as `convert` has them. */
static void check_halves(const char *header, float (*convert)(uint16_t)) {
    size_t size;
    unsigned char *bytes = make(header, 1 + 131072, &size);
    for (size_t i = 0; i < 65536; i++) {
        uint16_t half = (uint16_t)i;
        memcpy(bytes + size - 131072 + 2 * i, &half, 2);
    }
    struct error error = {""};
    struct safetensors *file = safetensors_parse(bytes, size, "halves", &error);
    if (!file) fail_msg("%s", error.text);
    const struct safetensors_entry *entry = safetensors_find(file, "h");
    float *out = xmalloc(65536 * sizeof *out);
    for (size_t begin = 0, piece = 1; begin < 65536; begin += piece, piece = piece * 3 + 1) {
        if (piece > 65536 - begin) piece = 65536 - begin;
        safetensors_to_float(entry, begin, piece, out + begin);
    }
    for (size_t i = 0; i < 65536; i++) assert_int_equal(bits_of(out[i]), bits_of(convert((uint16_t)i)));
    safetensors_to_float(entry, 65536, 0, NULL);
    free(out);
    safetensors_close(file);
    free(bytes);
}

static char *halves_header(const char *type) {
    return xformat(
        "{\"b\": " ENTRY("\"U8\"", "[1]", "[0, 1]") ", \"h\": {\"dtype\": \"%s\", "
                                                    "\"shape\": [256, 256], \"data_offsets\": [1, 131073]}}",
        type);
}

static void test_to_float(void **state) {
    (void)state;
    char *f16 = halves_header("F16"), *bf16 = halves_header("BF16");
    check_halves(f16, fp16_to_float);
    check_halves(bf16, bf16_to_float);
    free(f16);
    free(bf16);
    /* Values that need no trust in dtype.h. */
    size_t size;
    unsigned char *bytes =
        make("{\"h\": " ENTRY("\"F16\"", "[3]", "[0, 6]") ", \"b\": " ENTRY(
                 "\"BF16\"", "[2]", "[6, 10]") ", \"f\": " ENTRY("\"F32\"", "[1]", "[10, 14]") "}",
             14, &size);
    const float value = -2.75f;
    memcpy(bytes + size - 14, (const uint16_t[]){0x3c00, 0xc180, 0x0001}, 6); /* 1, −2.75, 2⁻²⁴ */
    memcpy(bytes + size - 8, (const uint16_t[]){0x3f80, 0xc030}, 4);          /* 1, −2.75 */
    memcpy(bytes + size - 4, &value, 4);
    struct safetensors *file = safetensors_parse(bytes, size, "values", NULL);
    float out[6];
    safetensors_to_float(safetensors_find(file, "h"), 0, 3, out);
    safetensors_to_float(safetensors_find(file, "b"), 0, 2, out + 3);
    safetensors_to_float(safetensors_find(file, "f"), 0, 1, out + 5);
    assert_memory_equal(out, ((const float[]){1, -2.75f, 0x1p-24f, 1, -2.75f, -2.75f}), sizeof out);
    safetensors_close(file);
    free(bytes);
}

/* ---- writing ---- */

static void test_write(void **state) {
    (void)state;
    char *folder = temporary_folder(), *path = xformat("%s/w.safetensors", folder);
    float matrix[6] = {1, 2, 3, 4, 5, 6};
    uint16_t vector[3] = {7, 8, 9};
    int32_t scalar = -10;
    double large = 1e300;
    struct error error = {""};
    struct safetensors_writer *writer = safetensors_writer_open(path);
    safetensors_announce(writer, "m", FP32, 2, (const size_t[]){2, 3});
    safetensors_announce(writer, "v \"quoted\" \xc3\xa9", BF16, 1, (const size_t[]){3});
    safetensors_announce(writer, "s", INT32, 0, NULL);
    safetensors_announce(writer, "d", FP64, 1, (const size_t[]){1});
    safetensors_announce(writer, "nothing", FP16, 2, (const size_t[]){0, 5});
    size_t bytes = safetensors_writer_bytes(writer);
    assert_false(file_exists(path));
    assert_true(safetensors_begin(writer, &error));
    assert_true(safetensors_write(writer, 2, 0, 1, &scalar, &error)); /* in any order, in parts */
    assert_true(safetensors_write(writer, 0, 4, 2, matrix + 4, &error));
    assert_true(safetensors_write(writer, 1, 0, 3, vector, &error));
    assert_true(safetensors_write(writer, 0, 0, 4, matrix, &error));
    assert_true(safetensors_write(writer, 3, 0, 1, &large, &error));
    assert_false(file_exists(path));
    if (!safetensors_writer_finish(writer, &error)) fail_msg("%s", error.text);

    struct file_map map;
    assert_true(file_map(&map, path, NULL));
    assert_int_equal(map.size, bytes);
    assert_int_equal((8 + (size_t)(unsigned char)map.data[0] + 256 * (size_t)(unsigned char)map.data[1]) % 8,
                     0);
    file_unmap(&map);
    struct safetensors *file = safetensors_open(path, &error);
    if (!file) fail_msg("%s", error.text);
    assert_int_equal(safetensors_count(file), 5);
    assert_memory_equal(safetensors_find(file, "m")->data, matrix, sizeof matrix);
    assert_memory_equal(safetensors_find(file, "v \"quoted\" \xc3\xa9")->data, vector, sizeof vector);
    assert_memory_equal(safetensors_find(file, "s")->data, &scalar, sizeof scalar);
    assert_memory_equal(safetensors_find(file, "d")->data, &large, sizeof large);
    assert_string_equal(safetensors_describe(safetensors_find(file, "nothing")).text, "F16 [0, 5]");
    safetensors_close(file);
    free(path);
    temporary_remove(folder);
}

static bool folder_is_empty(const char *folder) {
    bool empty = rmdir(folder) == 0;
    struct error error;
    if (empty && !directory_create(folder, &error)) fail_msg("%s", error.text);
    return empty;
}

static void test_incomplete(void **state) {
    (void)state;
    char *folder = temporary_folder(), *path = xformat("%s/w.safetensors", folder);
    struct error error = {""};
    const float values[4] = {0};
    struct safetensors_writer *writer = safetensors_writer_open(path);
    safetensors_announce(writer, "m", FP32, 1, (const size_t[]){4});
    assert_false(safetensors_write(writer, 0, 0, 4, values, &error)); /* not begun */
    assert_true(safetensors_begin(writer, &error));
    assert_false(safetensors_write(writer, 1, 0, 1, values, &error));
    CHECK_ERROR(&error, path, "number 1 was not announced");
    assert_false(safetensors_write(writer, 0, 3, 2, values, &error));
    CHECK_ERROR(&error, path, "number 0", "beyond its end");
    assert_true(safetensors_write(writer, 0, 0, 3, values, &error));
    assert_false(safetensors_write(writer, 0, 0, 2, values, &error));
    CHECK_ERROR(&error, path, "twice");
    assert_false(safetensors_writer_finish(writer, &error));
    CHECK_ERROR(&error, path, "only 3 of 4 elements");
    assert_true(folder_is_empty(folder));

    writer = safetensors_writer_open(path);
    safetensors_announce(writer, "m", FP32, 1, (const size_t[]){4});
    assert_true(safetensors_begin(writer, &error));
    assert_false(folder_is_empty(folder));
    safetensors_writer_abandon(writer);
    assert_true(folder_is_empty(folder));
    safetensors_writer_abandon(NULL);
    free(path);
    temporary_remove(folder);
}

static void test_cannot_write(void **state) {
    (void)state;
    struct error error = {""};
    struct safetensors_writer *writer = safetensors_writer_open("/no/such/folder/w.safetensors");
    assert_false(safetensors_begin(writer, &error));
    CHECK_ERROR(&error, "/no/such/folder/w.safetensors", "cannot be written", "No such file");
    safetensors_writer_abandon(writer);

    /* More than any file may have here: noticed before anything is computed for it. */
    struct rlimit before, small = {1 << 20, 1 << 20};
    assert_int_equal(getrlimit(RLIMIT_FSIZE, &before), 0);
    small.rlim_max = before.rlim_max;
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &small), 0);
    void (*handler)(int) = signal(SIGXFSZ, SIG_IGN);
    char *folder = temporary_folder(), *path = xformat("%s/w.safetensors", folder);
    writer = safetensors_writer_open(path);
    safetensors_announce(writer, "m", FP32, 1, (const size_t[]){1 << 20});
    assert_false(safetensors_begin(writer, &error));
    CHECK_ERROR(&error, path, "cannot be written", "File too large");
    safetensors_writer_abandon(writer);
    assert_true(folder_is_empty(folder));
    signal(SIGXFSZ, handler);
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &before), 0);
    free(path);
    temporary_remove(folder);
}

static void test_many_tensors(void **state) {
    (void)state;
    char *folder = temporary_folder(), *path = xformat("%s/w.safetensors", folder);
    enum { COUNT = 5000 };
    struct error error = {""};
    struct safetensors_writer *writer = safetensors_writer_open(path);
    for (int i = 0; i < COUNT; i++) {
        char *name = xformat("tensor %d", i);
        safetensors_announce(writer, name, INT32, 1, (const size_t[]){1});
        free(name);
    }
    assert_true(safetensors_begin(writer, &error));
    for (int32_t i = 0; i < COUNT; i++) assert_true(safetensors_write(writer, (size_t)i, 0, 1, &i, &error));
    if (!safetensors_writer_finish(writer, &error)) fail_msg("%s", error.text);
    struct safetensors *file = safetensors_open(path, &error);
    if (!file) fail_msg("%s", error.text);
    for (int32_t i = 0; i < COUNT; i++) {
        char *name = xformat("tensor %d", i);
        const struct safetensors_entry *entry = safetensors_find(file, name);
        assert_true(entry && !memcmp(entry->data, &i, sizeof i));
        free(name);
    }
    safetensors_close(file);
    free(path);
    temporary_remove(folder);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_good),         cmocka_unit_test(test_empty),
        cmocka_unit_test(test_bad_headers),  cmocka_unit_test(test_bad_lengths),
        cmocka_unit_test(test_deep_header),  cmocka_unit_test(test_no_file),
        cmocka_unit_test(test_to_float),     cmocka_unit_test(test_write),
        cmocka_unit_test(test_incomplete),   cmocka_unit_test(test_cannot_write),
        cmocka_unit_test(test_many_tensors),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
