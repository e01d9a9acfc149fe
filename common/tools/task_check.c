#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/base/file.h"
#include "common/tools/task.h"

enum { MOST_ERRORS = 12, BUILD_SECONDS = 1800 };

/* A check that goes on. Folders in the build folder:
 *   tasks/model                the small model
 *   tasks/reference/TRIAL      stage 01's runs, kept for the next check
 *   tasks/STAGE/STAGE          the participant's sources, from which tasks/STAGE/train is built
 *   tasks/STAGE/TRIAL          the last runs of that program, with what they printed */
struct checking {
    const struct task *task;
    const struct check *check;
    const struct stage_task *about;
    char *tasks, *model, *work;
};

/* ---- folders and files ---- */

static void make_folder(const char *path) {
    struct error error;
    if (!directory_create(path, &error)) fail("%s", error.text);
}

static void remove_folder(const char *path) {
    struct error error;
    if (!directory_remove(path, &error)) fail("%s", error.text);
}

/* One at a time from here on, until the file is closed, or the process ends. */
static int lock(const char *folder) {
    char *path = xformat("%s/.lock", folder);
    int file = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0666);
    if (file < 0 || flock(file, LOCK_EX) != 0) fail("%s: %s", path, strerror(errno));
    free(path);
    return file;
}

/* Brings a source file to where it is built, if it is another one than there: so only what has changed is
 * compiled. */
static void take_file(const struct checking *c, const char *name, const char *from) {
    struct error error;
    char *source = xformat("%s/%s", from, name), *place = xformat("%s/%s", c->work, name);
    if (!file_exists(source)) fail("%s is not there: ./workshop task %s lays it out", source, c->task->stage);
    char *text = task_text(source, &error), *old = task_text(place, NULL);
    if (!text) fail("%s", error.text);
    if ((!old || strcmp(old, text) != 0) && !file_write(place, text, strlen(text), &error))
        fail("%s", error.text);
    free(text);
    free(old);
    free(source);
    free(place);
}

static char *sources_of(const struct checking *c) {
    return c->check->folder ? xstrdup(c->check->folder) : xformat("%s/%s", c->check->root, c->task->stage);
}

static void take_sources(const struct checking *c) {
    char *from = sources_of(c);
    if (!directory_exists(from))
        fail("%s is not there: ./workshop task %s lays it out", from, c->task->stage);
    make_folder(c->work);
    for (size_t f = 0; f < c->task->count; f++) take_file(c, c->task->files[f].name, from);
    free(from);
}

/* ---- building ---- */

/* A line of the compiler's with the paths that the participant knows. */
static void print_line(const struct checking *c, const char *line) {
    char *from = sources_of(c);
    printf("    ");
    for (const char *at; (at = strstr(line, c->work)); line = at + strlen(c->work))
        printf("%.*s%s", (int)(at - line), line, from);
    printf("%s", line);
    free(from);
}

/* Errors of the compiler and the linker, each with what follows it. */
static void print_errors(const struct checking *c, const char *log) {
    char line[4096];
    FILE *file = fopen(log, "re");
    int after = 0, errors = 0;
    while (file && fgets(line, sizeof line, file)) {
        if (strstr(line, "error:") || strstr(line, "undefined reference") ||
            strstr(line, "multiple definition")) {
            if (++errors > MOST_ERRORS) break;
            after = 3; /* the line of the source, and where in it */
        }
        if (after-- > 0) print_line(c, line);
    }
    if (file) fclose(file);
    if (!errors) printf("    all that was said: %s\n", log);
}

static bool build(const struct checking *c) {
    char *log = xformat("%s/build.log", c->work);
    struct program program = {0};
    program_add(&program, "cmake");
    program_add(&program, "--build");
    program_add(&program, "%s", c->check->build);
    program_add(&program, "--parallel");
    program_add(&program, "%ld", sysconf(_SC_NPROCESSORS_ONLN));
    program_add(&program, "--target");
    program_add(&program, "task-%s", c->task->stage);
    printf("%s: ", c->check->folder ? c->check->folder : c->task->stage);
    int builds = lock(c->check->build); /* ./workshop takes the same one */
    struct process_end end = process_run(&program, log, BUILD_SECONDS);
    close(builds);
    bool built = end.in_time && end.code == 0;
    printf("%s\n", built ? "it builds" : "BROKEN: it does not build");
    if (!built) print_errors(c, log);
    free(log);
    program_free(&program);
    return built;
}

/* ---- running ---- */

/* The words of a text. "@" becomes the number of ranks. */
static void add_words(struct program *program, const char *text, int ranks) {
    char *copy = xstrdup(text), *state;
    for (char *word = strtok_r(copy, " ", &state); word; word = strtok_r(NULL, " ", &state)) {
        if (strcmp(word, "@"))
            program_add(program, "%s", word);
        else
            program_add(program, "%d", ranks);
    }
    free(copy);
}

static struct program command_of(const struct checking *c, const struct trial *trial, const char *path,
                                 const char *settings, const char *output) {
    struct program program = {0};
    if (trial->ranks > 1) add_words(&program, c->check->launcher, trial->ranks);
    program_add(&program, "%s", path);
    add_words(
        &program,
        "--train_file synthetic:96x12-16 --max_seq_length 16 --pad_to_max_length true --eval_strategy steps "
        "--eval_subset_size 8 --learning_rate 1e-3 --weight_decay 1 --save_model false --save_strategy no "
        "--memory_sample_interval 0 --threads 1 --per_device_train_batch_size 2",
        0);
    program_add(&program, "--model_name_or_path=%s", c->model);
    program_add(&program, "--max_steps=%d", TASK_UPDATES);
    program_add(&program, "--eval_steps=%d", TASK_UPDATES);
    program_add(&program, "--gradient_accumulation_steps=%d", trial->packs);
    program_add(&program, "--fp16=%s", trial->half ? "true" : "false");
    program_add(&program, "--communication_timeout=%d", (c->check->seconds + 1) / 2);
    add_words(&program, trial->settings, 0);
    if (settings) add_words(&program, settings, 0);
    if (trial->resumes)
        program_add(&program, "--resume_from_checkpoint=%s/%s/%s/run/checkpoint-2", c->tasks, c->task->stage,
                    trials[1].name);
    program_add(&program, "--output_dir=%s/run", output);
    return program;
}

/* The first line of an error that a run printed; "" where there is none. */
static char *complaint(const char *log) {
    char line[1024], *found = NULL;
    FILE *file = fopen(log, "re");
    while (file && !found && fgets(line, sizeof line, file))
        if (!strncmp(line, "error: ", 7)) found = xformat(": %.*s", (int)strcspn(line + 7, "\n"), line + 7);
    if (file) fclose(file);
    return found ? found : xstrdup("");
}

/* Runs a program; false, with `broken`, where it does not come to a good end. */
static bool run(const struct checking *c, const struct trial *trial, const char *path, const char *settings,
                const char *output, struct broken *broken) {
    struct program program = command_of(c, trial, path, settings, output);
    char *log = xformat("%s/output", output);
    remove_folder(output);
    make_folder(output);
    struct process_end end = process_run(&program, log, c->check->seconds);
    char *said = complaint(log);
    *broken = (struct broken){.promise = ENDS};
    if (!end.in_time) {
        broken->difference = NOTHING;
        broken->text =
            xformat("it did not come to its end in %d s, and was stopped%s", c->check->seconds, said);
    } else if (end.code > 128) {
        broken->difference = LESS;
        broken->text =
            xformat("it crashed: signal %d (%s)%s", end.code - 128, strsignal(end.code - 128), said);
    } else if (end.code) {
        broken->difference = MORE;
        broken->text = xformat("it ended with an error%s", said[0] ? said : ", and said nothing");
    }
    free(said);
    free(log);
    program_free(&program);
    return !broken->text;
}

/* ---- stage 01's runs ---- */

static long long modified(const char *path) {
    struct stat status;
    return stat(path, &status) == 0 ? (long long)status.st_mtim.tv_sec * 1000000000 + status.st_mtim.tv_nsec
                                    : 0;
}

/* The folder of stage 01's run, made anew where its program, or the check's, is newer. The caller frees. */
static char *reference(const struct checking *c, const struct trial *trial) {
    if (trial->resumes) trial = &trials[1]; /* which was not interrupted */
    struct broken broken;
    char *program = xformat("%s/01-baseline/train", c->check->build),
         *tool = xformat("%s/tools/task", c->check->build);
    char *folder = xformat("%s/reference/%s", c->tasks, trial->name), *done = xformat("%s/done", folder);
    if (modified(done) <= modified(program) || modified(done) <= modified(tool)) {
        if (!run(c, trial, program, NULL, folder, &broken))
            fail("stage 01 on %s: %s", trial->title, broken.text);
        struct error error;
        if (!file_write(done, "", 0, &error)) fail("%s", error.text);
    }
    free(done);
    free(tool);
    free(program);
    char *result = xformat("%s/run", folder);
    free(folder);
    return result;
}

/* ---- the report ---- */

/* A paragraph: indented, in lines of up to 110 characters. */
static void print_paragraph(const char *text) {
    enum { WIDTH = 106 };
    while (*text) {
        size_t length = strlen(text), line = length;
        if (length > WIDTH)
            for (line = WIDTH; line > 0 && text[line] != ' ';) line--;
        if (!line) line = strcspn(text, " "); /* one long word */
        printf("    %.*s\n", (int)line, text);
        text += line + strspn(text + line, " ");
    }
}

/* Names the functions whose bodies are as they were laid out; false where there is none. */
static bool print_unwritten(const struct checking *c) {
    char *names = xstrdup("");
    for (size_t f = 0; f < c->task->count; f++) {
        char *path = xformat("%s/%s", c->work, c->task->files[f].name), *text = task_text(path, NULL);
        for (size_t i = 0; text && i < c->task->files[f].count; i++) {
            const char *name = c->task->files[f].functions[i].name;
            if (task_is_written(text, name)) continue;
            char *more = xformat("%s%s%s", names, names[0] ? ", " : "", name);
            free(names);
            names = more;
        }
        free(text);
        free(path);
    }
    bool any = names[0];
    char *said = xformat(
        "Still to be written: %s. As long as these do nothing, that is no surprise: TASK.md says what "
        "they have to do.",
        names);
    if (any) print_paragraph(said);
    free(said);
    free(names);
    return any;
}

static void print_broken(const struct checking *c, const struct trial *trial, const struct broken *broken,
                         const char *output) {
    printf("BROKEN\n");
    print_paragraph(broken->text);
    if (!print_unwritten(c)) print_paragraph(task_hint(c->about, broken, trial));
    printf("    The run: %s\n", output);
}

static bool check_trial(const struct checking *c, int number) {
    const struct trial *trial = &trials[number];
    const struct variant *variant = &c->about->variants[number];
    struct bloom_config config = task_model_shape();
    struct broken broken;
    char *stage01 = reference(c, trial), *output = xformat("%s/%s/%s", c->tasks, c->task->stage, trial->name);
    char *program = xformat("%s/%s/train", c->tasks, c->task->stage), *metrics = xformat("%s/run", output);
    printf("%s: ", trial->title);
    fflush(stdout);
    bool kept = run(c, trial, program, variant->settings, output, &broken) &&
                task_judge(trial, variant, &config, metrics, stage01, &broken);
    if (kept)
        printf("as promised\n");
    else
        print_broken(c, trial, &broken, output);
    if (!kept) free(broken.text);
    free(metrics);
    free(program);
    free(output);
    free(stage01);
    return kept;
}

bool task_check(const struct task *task, const struct check *check) {
    struct error error;
    struct checking c = {.task = task, .check = check, .about = stage_task(task->stage)};
    c.tasks = xformat("%s/tasks", check->build);
    c.model = xformat("%s/model", c.tasks);
    c.work = xformat("%s/%s/%s", c.tasks, task->stage, task->stage);
    make_folder(c.tasks);
    int checks = lock(c.tasks); /* they share folders */
    if (!task_model_write(c.model, &error)) fail("%s", error.text);
    take_sources(&c);
    bool kept = build(&c);
    for (int t = 0; t < TASK_TRIALS && kept; t++) kept = check_trial(&c, t);
    if (kept)
        printf("All promises are kept. Compare yours with the kit's: %s/%s\n", check->root, task->stage);
    close(checks);
    free(c.work);
    free(c.model);
    free(c.tasks);
    return kept;
}
