#include <ctype.h>
#include <glob.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/file.h"
#include "common/tools/task.h"

#define MARK "/* Task: "

char *task_text(const char *path, struct error *error) {
    struct file_map map;
    if (!file_map(&map, path, error)) return NULL;
    char *text = xformat("%.*s", (int)map.size, map.data);
    file_unmap(&map);
    return text;
}

/* ---- comments ---- */

/* The words of a comment's inside in one line, without the stars at the beginnings of its lines. */
static char *comment_words(const char *begin, const char *end) {
    char *words = xmalloc((size_t)(end - begin) + 1), *out = words;
    bool line_begins = false;
    for (const char *at = begin; at < end; at++) {
        if (line_begins && *at == '*') continue;
        if (isspace((unsigned char)*at)) {
            line_begins |= *at == '\n';
            if (out > words && out[-1] != ' ') *out++ = ' ';
        } else {
            line_begins = false;
            *out++ = *at;
        }
    }
    while (out > words && out[-1] == ' ') out--;
    *out = '\0';
    return words;
}

/* The comment that ends right above `line`, without its signs; NULL where there is none. */
static char *comment_above(const char *text, const char *line) {
    if (line - text < 3 || strncmp(line - 3, "*/\n", 3) != 0) return NULL;
    const char *begin = line - 3;
    while (begin > text && strncmp(begin, "/*", 2) != 0) begin--;
    return comment_words(begin + 2, line - 3);
}

/* What the stage's headers promise of a function: the comment above its declaration. */
static char *promise_of(const struct task *task, const char *name) {
    for (size_t f = 0; f < task->count; f++) {
        const char *text = task->files[f].text;
        if (!strstr(task->files[f].name, ".h")) continue;
        for (const char *line = text; line; line = strchr(line, '\n') ? strchr(line, '\n') + 1 : NULL) {
            size_t length = strcspn(line, "(\n"), long_name = strlen(name);
            if (!isalpha((unsigned char)line[0]) || line[length] != '(' || length <= long_name) continue;
            const char *called = line + length - long_name;
            if (strncmp(called, name, long_name) != 0 || isalnum((unsigned char)called[-1]) ||
                called[-1] == '_')
                continue;
            return comment_above(text, line);
        }
    }
    return NULL;
}

/* ---- functions ---- */

static void free_function(struct task_function *function) {
    free(function->name);
    free(function->words);
    free(function->promise);
    free(function->body);
    free(function->nothing);
}

static int line_number(const char *text, const char *at) {
    int number = 1;
    for (; text < at; text++) number += *text == '\n';
    return number;
}

/* The statement with which a function of this type can do nothing: `type` is what stands before its name. */
static char *nothing_of(const char *type) {
    if (!strncmp(type, "static ", 7)) type += 7;
    if (strchr(type, '*')) return xstrdup("return NULL;");
    if (!strncmp(type, "struct ", 7))
        return xformat("return (%.*s){0};", (int)strcspn(type + 7, " ") + 7, type);
    return xstrdup(strncmp(type, "void ", 5) ? "return 0;" : "");
}

/* The definition that begins at `at`; false where there is none. */
static bool read_definition(struct task_function *function, const char *text, const char *at) {
    const char *parenthesis = strchr(at, '('), *brace = strstr(at, "{\n");
    if (!isalpha((unsigned char)at[0]) || !parenthesis || !brace || parenthesis > brace) return false;
    if (memchr(at, ';', (size_t)(brace - at)) || memchr(at, '=', (size_t)(brace - at))) return false;
    const char *end = strstr(brace, "\n}\n"), *name = parenthesis;
    if (!end) return false;
    while (name > at && (isalnum((unsigned char)name[-1]) || name[-1] == '_')) name--;
    char *type = xformat("%.*s", (int)(name - at), at);
    function->name = xformat("%.*s", (int)(parenthesis - name), name);
    function->nothing = nothing_of(type);
    function->begin = (size_t)(brace + 1 - text);
    function->end = (size_t)(end + 1 - text);
    function->body = xformat("%.*s", (int)(end - brace), brace + 1);
    free(type);
    return true;
}

bool task_is_written(const char *text, const char *name) {
    for (const char *line = text; line; line = strchr(line, '\n') ? strchr(line, '\n') + 1 : NULL) {
        struct task_function function = {0};
        bool defines = read_definition(&function, text, line) && !strcmp(function.name, name);
        bool written = defines && !strstr(function.body, TASK_PLACE);
        free_function(&function);
        if (defines) return written;
    }
    return false;
}

static bool read_functions(struct task_file *file, const char *path, struct error *error) {
    const char *text = file->text;
    for (const char *mark = text; (mark = strstr(mark, MARK)); mark += strlen(MARK)) {
        if (mark > text && mark[-1] != '\n')
            continue; /* not at the beginning of a line: a word in a comment */
        const char *end = strstr(mark, "*/\n");
        struct task_function function = {0};
        if (!end || !read_definition(&function, text, end + 3))
            return error_set(error, "%s:%d: a task's comment must be right above a function's definition",
                             path, line_number(text, mark));
        function.words = comment_words(mark + strlen(MARK), end);
        file->functions = xrealloc(file->functions, (file->count + 1) * sizeof *file->functions);
        file->functions[file->count++] = function;
    }
    return true;
}

/* ---- a stage ---- */

static bool add_file(struct task *task, const char *path, struct error *error) {
    struct task_file file = {.name = xstrdup(strrchr(path, '/') + 1), .text = task_text(path, error)};
    task->files = xrealloc(task->files, (task->count + 1) * sizeof *task->files);
    bool read = file.text && (strstr(file.name, ".h") || read_functions(&file, path, error));
    task->files[task->count++] = file;
    return read;
}

bool task_read(struct task *task, const char *root, const char *stage, struct error *error) {
    *task = (struct task){.stage = stage};
    char *pattern = xformat("%s/%s/*.[ch]", root, stage);
    glob_t found;
    bool read = glob(pattern, 0, NULL, &found) == 0;
    if (!read) error_set(error, "%s: no sources there", pattern);
    for (size_t i = 0; read && i < found.gl_pathc; i++) read = add_file(task, found.gl_pathv[i], error);
    if (read) globfree(&found);
    free(pattern);
    size_t functions = 0;
    for (size_t f = 0; read && f < task->count; f++)
        for (size_t i = 0; i < task->files[f].count; i++, functions++)
            task->files[f].functions[i].promise = promise_of(task, task->files[f].functions[i].name);
    if (read && !functions) return error_set(error, "%s has no task: 02, 03, 04 and 05 have one", stage);
    return read;
}

void task_free(struct task *task) {
    for (size_t f = 0; f < task->count; f++) {
        struct task_file *file = &task->files[f];
        for (size_t i = 0; i < file->count; i++) free_function(&file->functions[i]);
        free(file->functions);
        free(file->text);
        free(file->name);
    }
    free(task->files);
    *task = (struct task){0};
}
