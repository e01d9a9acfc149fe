#include <ctype.h>
#include <dirent.h>
#include <glob.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/file.h"
#include "common/tools/task.h"

/* ---- the sources ---- */

/* A source file without the bodies of its task's functions; the caller frees. */
static char *skeleton(const struct task_file *file) {
    char *text = NULL;
    size_t size, at = 0;
    FILE *out = open_memstream(&text, &size);
    if (!out) fail("out of memory");
    for (size_t i = 0; i < file->count; i++) {
        const struct task_function *function = &file->functions[i];
        fwrite(file->text + at, 1, function->begin - at, out);
        fprintf(out, "\n    %s\n", TASK_PLACE);
        if (function->nothing[0]) fprintf(out, "    %s\n", function->nothing);
        at = function->end;
    }
    fputs(file->text + at, out);
    if (fclose(out) != 0) fail("out of memory");
    return text;
}

/* ---- what may be used ---- */

/* A header that declares a function: a line that begins with its type and goes on with its name. */
static bool declares(const char *text, const char *name) {
    size_t length = strlen(name);
    for (const char *at = text; (at = strstr(at, name)); at += length) {
        const char *line = at;
        while (line > text && line[-1] != '\n') line--;
        bool whole = at[length] == '(' && at > line && !isalnum((unsigned char)at[-1]) && at[-1] != '_';
        if (whole && isalpha((unsigned char)line[0]) && !memchr(line, '(', (size_t)(at - line))) return true;
    }
    return false;
}

static bool calls(const struct task *task, const char *name) {
    size_t length = strlen(name);
    for (size_t f = 0; f < task->count; f++)
        for (size_t i = 0; i < task->files[f].count; i++)
            for (const char *at = task->files[f].functions[i].body; (at = strstr(at, name)); at += length)
                if (at[length] == '(' && !isalnum((unsigned char)at[-1]) && at[-1] != '_') return true;
    return false;
}

/* The functions that a header declares and the real bodies call, each once. */
static void write_used(FILE *out, const struct task *task, const char *path, const char *text) {
    bool any = false;
    for (const char *line = text; *line; line += strcspn(line, "\n") + (strchr(line, '\n') != NULL)) {
        size_t end = strcspn(line, "(\n"), begin = end;
        if (!isalpha((unsigned char)line[0]) || line[end] != '(') continue;
        while (begin > 0 && (isalnum((unsigned char)line[begin - 1]) || line[begin - 1] == '_')) begin--;
        char *name = xformat("%.*s", (int)(end - begin), line + begin);
        if (begin > 0 && end > begin && calls(task, name) && declares(text, name)) {
            fprintf(out, "%s`%s`", any ? ", " : "- ", name);
            any = true;
        }
        free(name);
    }
    if (any) fprintf(out, " · `%s`\n", path);
}

static void write_all_used(FILE *out, const struct task *task, const char *root) {
    static const char *const folders[] = {"common/comm", "common/bloom", "common/device", "0[0-9]-*"};
    for (size_t i = 0; i < sizeof folders / sizeof *folders; i++) {
        char *pattern = xformat("%s/%s/*.h", root, folders[i]);
        glob_t found;
        bool there = glob(pattern, 0, NULL, &found) == 0;
        for (size_t p = 0; there && p < found.gl_pathc; p++) {
            struct error error;
            char *text = task_text(found.gl_pathv[p], &error);
            const char *path = found.gl_pathv[p] + strlen(root) + 1;
            if (text && strncmp(path, task->stage, strlen(task->stage)) != 0)
                write_used(out, task, path, text);
            free(text);
        }
        if (there) globfree(&found);
        free(pattern);
    }
}

/* ---- TASK.md ---- */

/* Part of a lesson, its links made to lead to the kit from anywhere. */
static void write_linked(FILE *out, const char *root, const char *stage, const char *text, const char *end) {
    while (text < end) {
        if (strncmp(text, "](", 2) != 0 || !strncmp(text + 2, "http", 4)) {
            fputc(*text++, out);
            continue;
        }
        fprintf(out, "](%s/%s/%s", root, stage, text[2] == '#' ? "README.md" : "");
        text += 2;
    }
}

/* The lesson's first section. */
static void write_idea(FILE *out, const char *root, const char *stage) {
    struct error error;
    char *path = xformat("%s/%s/README.md", root, stage), *text = task_text(path, &error);
    const char *begin = text ? strstr(text, "\n## The idea\n") : NULL;
    const char *end = begin ? strstr(begin + 4, "\n## ") : NULL;
    if (end) write_linked(out, root, stage, begin, end + 1);
    free(text);
    free(path);
}

static void write_functions(FILE *out, const struct task *task) {
    for (size_t f = 0; f < task->count; f++) {
        const struct task_file *file = &task->files[f];
        if (file->count) fprintf(out, "\n**In `%s`:**\n\n", file->name);
        for (size_t i = 0; i < file->count; i++) {
            fprintf(out, "- `%s`: %s\n", file->functions[i].name, file->functions[i].words);
            if (file->functions[i].promise)
                fprintf(out, "  The header promises: *%s*\n", file->functions[i].promise);
        }
    }
}

static char *instructions(const struct task *task, const char *root, const char *folder) {
    char *text = NULL;
    size_t size;
    FILE *out = open_memstream(&text, &size);
    if (!out) fail("out of memory");
    const struct stage_task *about = stage_task(task->stage);
    fprintf(
        out,
        "# Your turn: stage %s\n\n"
        "This folder has the sources of stage %s without %s. You write that: the functions below, whose "
        "bodies "
        "say `%s` here. Everything else is the kit's and stays as it is. You may change these files as you "
        "like, "
        "but the kit's other modules know only what their headers say.\n\n"
        "```\n./workshop check %s %s\n```\n\n"
        "builds this folder with the kit's libraries, trains a very small model on 1 to 4 ranks and compares "
        "it "
        "with stage 01, step by step. It names the first promise that is broken, and says where to look. The "
        "stage itself, `%s/%s`, is the solution: look there last.\n\n## What to write\n",
        task->stage, task->stage, about->capability, TASK_PLACE, task->stage, folder, root, task->stage);
    write_functions(out, task);
    fprintf(
        out,
        "\n## What you may use\n\nThe real ones call these functions, by the header that explains them:\n\n");
    write_all_used(out, task, root);
    fprintf(out, "\n## What is promised\n\n");
    task_write_promises(out, about);
    write_idea(out, root, task->stage);
    fprintf(out, "\nThe whole lesson is `%s/%s/README.md`.\n", root, task->stage);
    if (fclose(out) != 0) fail("out of memory");
    return text;
}

/* ---- the folder ---- */

static bool is_empty(const char *folder) {
    DIR *directory = opendir(folder);
    if (!directory) return !file_exists(folder);
    const struct dirent *entry;
    bool empty = true;
    while ((entry = readdir(directory))) empty &= !strcmp(entry->d_name, ".") || !strcmp(entry->d_name, "..");
    closedir(directory);
    return empty;
}

static bool write_into(const char *folder, const char *name, char *text, struct error *error) {
    char *path = xformat("%s/%s", folder, name);
    bool written = file_write(path, text, strlen(text), error);
    free(path);
    free(text);
    return written;
}

bool task_lay(const struct task *task, const char *root, const char *folder, struct error *error) {
    if (!is_empty(folder))
        return error_set(
            error,
            "%s is there already, and what you wrote in it stays: give --output another folder, or "
            "take this one away",
            folder);
    bool written = directory_create(folder, error);
    for (size_t f = 0; f < task->count && written; f++)
        written = write_into(folder, task->files[f].name, skeleton(&task->files[f]), error);
    return written && write_into(folder, "TASK.md", instructions(task, root, folder), error);
}
