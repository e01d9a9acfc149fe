/*
 * collect DIR… [--output DIR]
 *
 * One table of a whole class's runs: see collect.h. Started by ./workshop collect, whose help explains it.
 */
#include "common/tools/collect.h"

#include <stdlib.h>
#include <string.h>

#include "common/base/file.h"

struct options {
    const char **folders; /* [count] */
    size_t count;
    char *output; /* folder; NULL: a new one */
};

static void read_arguments(struct options *options, int count, char **arguments) {
    options->folders = xcalloc((size_t)count, sizeof *options->folders);
    for (int i = 1; i < count; i++) {
        bool equals = !strncmp(arguments[i], "--output=", 9);
        if (equals || !strcmp(arguments[i], "--output")) {
            const char *value = equals ? arguments[i] + 9 : i + 1 < count ? arguments[++i] : "";
            if (!value[0]) fail("--output needs a folder: ./workshop collect --help");
            free(options->output);
            options->output = xstrdup(value);
        } else if (!strncmp(arguments[i], "--", 2)) {
            fail("collect has no option '%s': ./workshop collect --help", arguments[i]);
        } else {
            options->folders[options->count++] = arguments[i];
        }
    }
    if (!options->count)
        fail("collect needs the folders of a class, for example: ./workshop collect /home/*/kit/runs");
}

static void add_broken(struct collection *collection, const char *text) {
    size_t count = collection->broken_count;
    collection->broken = xrealloc(collection->broken, (count + 1) * sizeof *collection->broken);
    collection->broken[collection->broken_count++].text = shown_text(text);
}

static void read_runs(struct collection *collection, const struct found_runs *found) {
    struct error error;
    collection->runs = xcalloc(found->count + 1, sizeof *collection->runs);
    for (size_t i = 0; i < found->count; i++) {
        struct collected *run = &collection->runs[collection->count];
        run->found = &found->runs[i];
        if (run_metrics_read(&run->metrics, run->found->path, &error))
            collection->count++;
        else
            add_broken(collection, error.text);
    }
    for (size_t i = 0; i < found->unreadable_count; i++) add_broken(collection, found->unreadable[i]);
}

static char *new_folder(void) {
    for (int number = 1;; number++) {
        char *folder = xformat("runs/collect-%d", number);
        if (!file_exists(folder)) return folder;
        free(folder);
    }
}

/* What one of the writers writes, as FOLDER/collect.KIND. */
static void write_file(const char *folder, const char *kind, const struct collection *collection,
                       void (*writer)(FILE *, const struct collection *)) {
    struct error error;
    char *text = NULL, *path = xformat("%s/collect.%s", folder, kind);
    size_t size;
    FILE *out = open_memstream(&text, &size);
    if (!out) fail("out of memory");
    writer(out, collection);
    if (fclose(out) != 0) fail("out of memory");
    if (!file_write(path, text, size, &error)) fail("%s", error.text);
    printf("written to %s\n", path);
    free(text);
    free(path);
}

static void print_line(FILE *out, const char *text) {
    fprintf(out, "%s\n", text);
}

static void print_tables(const struct collection *collection) {
    struct table runs = table_runs(collection), groups = table_groups(collection);
    table_print(&runs);
    printf("\nmedians of finished runs that did the same (smallest to largest)\n");
    table_print(&groups);
    printf("\n");
    write_remarks(stdout, collection, print_line);
    table_free(&runs);
    table_free(&groups);
}

static void free_all(struct collection *collection) {
    for (size_t i = 0; i < collection->count; i++) run_metrics_free(&collection->runs[i].metrics);
    for (size_t i = 0; i < collection->broken_count; i++) free(collection->broken[i].text);
    free(collection->runs);
    free(collection->groups);
    free(collection->broken);
}

int main(int argc, char **argv) {
    struct options options = {.count = 0};
    struct collection collection = {.count = 0};
    struct found_runs found;
    struct error error;
    read_arguments(&options, argc, argv);
    if (!find_runs(&found, options.folders, options.count, &error)) fail("%s", error.text);
    read_runs(&collection, &found);
    if (!collection.count)
        fail("%s%s: no run's metrics.jsonl below it%s%s", options.folders[0], options.count > 1 ? " …" : "",
             collection.broken_count ? " can be read: " : "",
             collection.broken_count ? collection.broken[0].text : "");
    collection_group(&collection);
    print_tables(&collection);
    if (!options.output) options.output = new_folder();
    if (!directory_create(options.output, &error)) fail("%s", error.text);
    write_file(options.output, "csv", &collection, write_csv);
    write_file(options.output, "html", &collection, write_page);
    free_all(&collection);
    found_runs_free(&found);
    free(options.folders);
    free(options.output);
    return 0;
}
