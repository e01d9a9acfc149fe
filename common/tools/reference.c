/*
 * reference show FILE [--output MARKDOWN]
 * reference make FILE --programs DIR --launcher WORDS [--wrapper WORDS] [--commit NAME] [--only PREFIX]
 * reference take FILE ID RUN [--commit NAME]
 *
 * Results that are kept and shown: see reference.h. Started by ./workshop reference, whose help explains it.
 */
#include "common/tools/reference.h"

#include <stdlib.h>
#include <string.h>

#include "common/base/file.h"
#include "common/base/json.h"

enum { WRITE_FLAGS = JSON_ENCODE_ANY | JSON_REAL_PRECISION(15) };

struct options {
    const char *words[4]; /* what is to be done, FILE, ID, RUN */
    int count;
    struct reference_programs programs;
    const char *output, *only;
};

static void read_arguments(struct options *options, int count, char **arguments) {
    const struct {
        const char *name, **value;
    } known[] = {{"--programs", &options->programs.folder},
                 {"--launcher", &options->programs.launcher},
                 {"--wrapper", &options->programs.wrapper},
                 {"--commit", &options->programs.commit},
                 {"--output", &options->output},
                 {"--only", &options->only}};
    for (int i = 1; i < count; i++) {
        size_t k = 0;
        while (k < sizeof known / sizeof *known && strcmp(arguments[i], known[k].name) != 0) k++;
        if (k < sizeof known / sizeof *known) {
            if (i + 1 == count) fail("%s needs a value: ./workshop reference --help", arguments[i]);
            *known[k].value = arguments[++i];
        } else if (!strncmp(arguments[i], "--", 2)) {
            fail("reference has no option '%s': ./workshop reference --help", arguments[i]);
        } else if (options->count == 4) {
            fail("reference takes no '%s': ./workshop reference --help", arguments[i]);
        } else {
            options->words[options->count++] = arguments[i];
        }
    }
    if (options->count < 2) fail("reference needs a command and a file: ./workshop reference --help");
}

static json_t *open_document(const char *path) {
    struct error error;
    json_t *document = json_read_file(path, &error);
    if (!document) fail("%s", error.text);
    if (!json_is_object(json_object_get(document, "runs")))
        fail("%s: has no \"runs\": see common/tools/reference.h", path);
    return document;
}

static void write_text(const char *path, const char *text) {
    struct error error;
    if (!file_write(path, text, strlen(text), &error)) fail("%s", error.text);
}

/* The members of an object, or the elements of a list, each on a line of its own. */
static void write_lines(FILE *out, const char *name, const json_t *value) {
    bool list = json_is_array(value);
    size_t index, count = list ? json_array_size(value) : json_object_size(value), written = 0;
    const char *key;
    json_t *member;
    fprintf(out, " \"%s\": %s\n", name, list ? "[" : "{");
    if (list) json_array_foreach((json_t *)(size_t)value, index, member) {
            fprintf(out, "  ");
            json_dumpf(member, out, WRITE_FLAGS);
            fprintf(out, "%s\n", ++written < count ? "," : "");
        }
    else
        json_object_foreach((json_t *)(size_t)value, key, member) {
            fprintf(out, "  \"%s\": ", key);
            json_dumpf(member, out, WRITE_FLAGS);
            fprintf(out, "%s\n", ++written < count ? "," : "");
        }
    fprintf(out, " %s", list ? "]" : "}");
}

/* A line for each run and each table, so that a difference of two versions says which changed. */
static void write_document(const char *path, const json_t *document) {
    char *text = NULL;
    size_t size, written = 0;
    const char *key;
    json_t *value;
    FILE *out = open_memstream(&text, &size);
    if (!out) fail("out of memory");
    fprintf(out, "{\n");
    json_object_foreach((json_t *)(size_t)document, key, value) {
        if (json_is_object(value) || json_is_array(value)) {
            write_lines(out, key, value);
        } else {
            fprintf(out, " \"%s\": ", key);
            json_dumpf(value, out, WRITE_FLAGS);
        }
        fprintf(out, "%s\n", ++written < json_object_size(document) ? "," : "");
    }
    fprintf(out, "}\n");
    if (fclose(out) != 0) fail("out of memory");
    write_text(path, text);
    free(text);
}

/* ---- the three commands ---- */

static void show(const struct options *options, const json_t *document) {
    struct error error;
    char *text = NULL;
    size_t size;
    FILE *out = open_memstream(&text, &size);
    if (!out) fail("out of memory");
    bool shown = reference_show(out, document, options->words[1], &error);
    if (fclose(out) != 0) fail("out of memory");
    if (!shown) fail("%s", error.text);
    if (options->output)
        write_text(options->output, text);
    else
        fputs(text, stdout);
    free(text);
}

/* Whether this run is one to make: of this kit, asked for, and without results. */
static bool is_wanted(const struct options *options, const char *id, const json_t *run) {
    const char *backend = json_string_value(json_object_get(run, "backend"));
    if (!json_object_get(run, "stage") || json_object_get(run, "results")) return false;
    if (backend && !strcmp(backend, "cuda")) return false; /* taken from a machine that has GPUs */
    return !options->only || !strncmp(id, options->only, strlen(options->only));
}

static int make(const struct options *options, json_t *document) {
    const char *id;
    json_t *run;
    int failed = 0;
    if (!options->programs.folder || !options->programs.launcher)
        fail("reference make needs --programs and --launcher: start it by ./workshop reference");
    json_object_foreach(json_object_get(document, "runs"), id, run) {
        struct error error;
        if (!is_wanted(options, id, run)) continue;
        fprintf(stderr, "%s: ", id);
        json_t *results = reference_make(run, &options->programs, &error);
        fprintf(stderr, "%s\n", results ? "made" : error.text);
        failed += !results;
        if (!results) continue;
        json_object_set_new(run, "results", results);
        write_document(options->words[1], document);
    }
    return failed > 0;
}

static void take(const struct options *options, json_t *document) {
    struct error error;
    if (options->count != 4) fail("reference take needs FILE, the run's name in it, and a run's folder");
    json_t *run = json_object_get(json_object_get(document, "runs"), options->words[2]);
    if (!run) fail("%s: has no run '%s'", options->words[1], options->words[2]);
    json_t *results = reference_take(options->words[3], options->programs.commit, &error);
    if (!results) fail("%s", error.text);
    json_object_set_new(run, "results", results);
    write_document(options->words[1], document);
}

int main(int argc, char **argv) {
    struct options options = {.count = 0};
    read_arguments(&options, argc, argv);
    json_t *document = open_document(options.words[1]);
    int status = 0;
    if (!strcmp(options.words[0], "show"))
        show(&options, document);
    else if (!strcmp(options.words[0], "make"))
        status = make(&options, document);
    else if (!strcmp(options.words[0], "take"))
        take(&options, document);
    else
        fail("reference has no command '%s': show, make and take (./workshop reference --help)",
             options.words[0]);
    json_decref(document);
    return status;
}
