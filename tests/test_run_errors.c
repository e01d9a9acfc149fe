/*
 * Whatever is wrong, a run says so in one line on standard error and ends with an exit code, on one rank and
 * on two, at once. `test_run_errors -v` shows all the lines.
 */
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <unistd.h>

#include "common/base/file.h"
#include "tests/support/bad_files.h"
#include "tests/support/check.h"
#include "tests/support/command.h"
#include "tests/support/temporary.h"

enum { MOST_SECONDS = 60, MOST_AT_ONCE = 12 };

/* A run with something wrong: settings that come after the sound ones, and what the error must say. */
struct bad {
    const char *settings;
    const char *says[3];
};

static char *folder; /* the current folder of all runs here */
static bool verbose;

#define MODEL(name) "--model_name_or_path models/" name
#define TEXT(name) "--train_file text/" name ".json"
#define SAVED(name) "--output_dir runs/" name " --resume_from_checkpoint runs/" name "/checkpoint-2"

static const struct bad models[] = {
    {"--model_name_or_path nowhere", {"nowhere: no such folder"}},
    {MODEL("nowhere"), {"models/nowhere", "neither a folder nor in the Hugging Face cache"}},
    {"--model_name_or_path bigscience/bloom-560m", {"bigscience/bloom-560m", "cache"}},
    {"--model_name_or_path random:bloom-2b", {"bloom-2b", "bloom-560m"}},
    {MODEL("no-config"), {"models/no-config"}},
    {MODEL("cut-config"), {"models/cut-config/config.json:"}},
    {MODEL("malformed-config"), {"models/malformed-config/config.json:16:11"}},
    {MODEL("other-type"), {"models/other-type/config.json", "gpt2"}},
    {MODEL("uneven-heads"), {"models/uneven-heads/config.json", "heads"}},
    {MODEL("text-for-number"), {"models/text-for-number/config.json", "n_layer"}},
    {MODEL("no-layers"), {"models/no-layers/config.json", "n_layer"}},
    {MODEL("no-vocabulary"), {"models/no-vocabulary/config.json", "vocab_size"}},
    {MODEL("dropout"), {"models/dropout/config.json", "hidden_dropout"}},
    {MODEL("another-layer"), {"models/another-layer/model.safetensors", "h.2."}},
    {MODEL("no-weights"), {"models/no-weights", "model.safetensors"}},
    {MODEL("cut-weights"), {"models/cut-weights/model.safetensors"}},
    {MODEL("cut-header"), {"models/cut-header/model.safetensors"}},
    {MODEL("empty-weights"), {"models/empty-weights/model.safetensors"}},
    {MODEL("malformed-header"), {"models/malformed-header/model.safetensors"}},
    {MODEL("wrong-shape"), {"wrong-shape/model.safetensors", "word_embeddings.weight", "[64, 906]"}},
    {MODEL("wrong-type"), {"wrong-type/model.safetensors", "ln_f.bias", "I32"}},
    {MODEL("absent-tensor"), {"absent-tensor/model.safetensors", "ln_f.bias"}},
    {MODEL("overlapping"), {"overlapping/model.safetensors"}},
    {MODEL("long-header"), {"long-header/model.safetensors"}},
    {MODEL("no-shard") " --train_file synthetic:8x16 --validation_file synthetic:2x16",
     {"no-shard/model-00003-of-00004.safetensors"}},
    {MODEL("malformed-index") " --train_file synthetic:8x16 --validation_file synthetic:2x16",
     {"malformed-index/model.safetensors.index.json:"}},
    {MODEL("wrong-shard") " --train_file synthetic:8x16 --validation_file synthetic:2x16",
     {"wrong-shard", "input_layernorm.bias"}},
    {MODEL("escaping-shard") " --train_file synthetic:8x16 --validation_file synthetic:2x16",
     {"escaping-shard/model.safetensors.index.json"}},
};

static const struct bad texts[] = {
    {MODEL("no-tokenizer"), {"models/no-tokenizer/tokenizer.json"}},
    {MODEL("cut-tokenizer"), {"models/cut-tokenizer/tokenizer.json:"}},
    {MODEL("malformed-tokenizer"), {"models/malformed-tokenizer/tokenizer.json:3:16"}},
    {MODEL("other-tokenizer"), {"models/other-tokenizer/tokenizer.json", "BPE"}},
    {MODEL("larger-tokenizer"), {"good/train.json: question", "token id", "vocabulary has only 906"}},
    {"--train_file nowhere.json", {"nowhere.json", "No such file"}},
    {"--train_file good", {"good: not a regular file"}},
    {TEXT("empty"), {"text/empty.json"}},
    {TEXT("no-data"), {"text/no-data.json", "data"}},
    {TEXT("array"), {"text/array.json:1:1"}},
    {TEXT("no-questions"), {"text/no-questions.json", "no example left"}},
    {TEXT("no-answers"), {"text/no-answers.json", "answers"}},
    {TEXT("number-for-context"), {"text/number-for-context.json:1:"}},
    {TEXT("not-utf8"), {"text/not-utf8.json:1:", "UTF-8"}},
    {TEXT("cut"), {"text/cut.json:"}},
    {TEXT("malformed"), {"text/malformed.json:2:"}},
    {"--validation_file nowhere.json", {"nowhere.json"}},
    {"--validation_file text/no-questions.json", {"no-questions.json", "no example left"}},
    {"--validation_file text/malformed.json", {"text/malformed.json:2:"}},
    {"--validation_file=", {"validation_file"}},
    {"--train_file synthetic:tenxten", {"synthetic:tenxten"}},
    {"--train_file synthetic:0x10", {"synthetic:0x10"}},
    {"--train_file synthetic:8x200 --max_seq_length 100", {"200", "max_seq_length"}},
    {"--model_name_or_path random:bloom-560m", {"tokenizer", "good/train.json"}},
};

static const struct bad settings[] = {
    {"--learning_rat 1", {"learning_rat", "did you mean 'learning_rate'"}},
    {"--per-device-train-batch-size 1", {"did you mean 'per_device_train_batch_size'"}},
    {"--config settings/unknown.json", {"settings/unknown.json", "did you mean 'learning_rate'"}},
    {"--config settings/malformed.json", {"settings/malformed.json:3:"}},
    {"--config settings/array.json", {"settings/array.json", "object"}},
    {"--config settings/wrong-type.json", {"settings/wrong-type.json", "max_steps", "integer"}},
    {"--config settings/real-for-integer.json", {"settings/real-for-integer.json", "max_steps"}},
    {"--config settings/twice.json", {"settings/twice.json", "max_steps"}},
    {"--config settings/out-of-bounds.json", {"warmup_ratio", "1.5", "between 0 and 1"}},
    {"--config nowhere.json", {"nowhere.json"}},
    {"--config", {"--config needs a value"}},
    {"--bf16 yes", {"bf16", "'yes' is neither true nor false"}},
    {"--max_steps many", {"max_steps", "'many' is not an integer"}},
    {"--max_steps 2.5", {"max_steps", "not an integer"}},
    {"--max_steps 99999999999999999999", {"max_steps", "not an integer"}},
    {"--max_steps 2000000000", {"max_steps", "between -1 and 10000000"}},
    {"--per_device_train_batch_size 0", {"per_device_train_batch_size", "0 is not between 1 and"}},
    {"--learning_rate=-1e-3", {"learning_rate", "not between 0 and"}},
    {"--learning_rate nan", {"learning_rate", "'nan' is not a number"}},
    {"--learning_rate 1e-3x", {"learning_rate", "'1e-3x' is not a number"}},
    {"--lr_scheduler_type polynomial", {"polynomial", "linear, cosine, constant"}},
    {"--save_strategy best", {"best", "no, steps, epoch"}},
    {"--seed 4294967296", {"seed", "4294967296 is not between"}},
    {"--output_dir", {"--output_dir needs a value"}},
    {"fast", {"'fast'", "--name value"}},
    {"--fp16 --bf16", {"bf16 and fp16 exclude each other"}},
    {"--label_padding --append_eos", {"label_padding", "--append_eos false"}},
    {"--warmup_steps 2 --warmup_ratio 0.1", {"warmup_steps and warmup_ratio"}},
    {"--samples_per_device 8 --subset_size 8", {"samples_per_device", "subset_size"}},
    {"--num_train_epochs 0 --max_steps -1", {"num_train_epochs", "max_steps"}},
    {"--num_train_epochs 1e6 --max_steps -1 --gradient_accumulation_steps 1 --per_device_train_batch_size 1",
     {"num_train_epochs 1e+06", "updates, more than the 10000000"}},
    {"--per_device_train_batch_size 65536 --max_seq_length 65536", {"65536", "max_seq_length"}},
};

static const struct bad machines[] = {
    {"--device_memory_limit 1", {"out of device memory", "gradients asked for", "03 and 04"}},
    {"--device_memory_limit 2", {"out of device memory: optimizer asked for", "stage"}},
    {"--device_memory_limit 4 --per_device_train_batch_size 8",
     {"out of device memory: activations asked for", "gradient_checkpointing"}},
    {"--model_name_or_path random:bloom --train_file synthetic:8x16 --validation_file synthetic:2x16 "
     "--save_strategy no --save_model false",
     {"out of device memory: parameters asked for", "stage"}},
    {"--network_interface nowhere0", {"network_interface", "this machine has no 'nowhere0'; it has ", "lo"}},
    {"--output_dir file/below", {"file: folder cannot be created"}},
    {"--output_dir /proc/nowhere", {"/proc/nowhere"}},
    {"--output_dir /dev/null", {"/dev/null"}},
    {"--output_dir saved", {"saved already holds a run", "--overwrite_output_dir"}},
    {"--output_dir good/model", {"good/model", "the model itself"}},
    {"--model_name_or_path saved/checkpoint-2 --output_dir saved --overwrite_output_dir",
     {"saved", "the model itself"}},
    {"--output_dir locked", {"locked: another run is writing there"}},
    {"--output_dir "
     "a23456789a23456789a23456789a23456789a23456789a23456789a23456789a23456789a23456789a23456789a23456789"
     "a23456789a23456789a23456789a23456789a23456789a23456789a23456789a23456789a23456789a23456789a23456789"
     "a23456789a23456789a23456789a23456789a23456789a23456789a23456789a23456789a23456789a23456789a23456789",
     {"a23456789a23456789", "cannot be created"}},
};

static const struct bad checkpoints[] = {
    {"--resume_from_checkpoint nowhere", {"nowhere: no such folder"}},
    {"--resume_from_checkpoint file", {"file: no such folder"}},
    {"--resume_from_checkpoint good/model", {"good/model/manifest.json", "no whole checkpoint"}},
    {SAVED("no-manifest"), {"no-manifest/checkpoint-2/manifest.json: missing"}},
    {SAVED("malformed-manifest"), {"malformed-manifest/checkpoint-2/manifest.json:"}},
    {SAVED("empty-manifest"), {"empty-manifest/checkpoint-2/manifest.json", "damaged"}},
    {SAVED("cut-optimizer"), {"cut-optimizer/checkpoint-2/optimizer-00000-of-00001", "bytes", "another"}},
    {SAVED("no-state"), {"no-state/checkpoint-2/state.json: missing"}},
    {SAVED("wrong-pieces"), {"wrong-pieces/checkpoint-2/optimizer-", "block.0.0.q", "damaged"}},
    {SAVED("missing-pieces"), {"missing-pieces/checkpoint-2", "block.1", "not whole"}},
    {SAVED("malformed-state"), {"malformed-state/checkpoint-2/state.json:"}},
    {SAVED("wrong-step"), {"wrong-step/checkpoint-2/state.json: step:"}},
    {SAVED("text-for-step"), {"text-for-step/checkpoint-2/state.json: step:"}},
    {SAVED("no-losses"), {"no-losses/checkpoint-2/state.json: losses:"}},
    {SAVED("applied-too-many"), {"applied-too-many/checkpoint-2/state.json: applied:"}},
    {"--output_dir saved --resume_from_checkpoint true --bf16", {"saved/checkpoint-2", "fp32", "bf16"}},
    {"--output_dir saved --resume_from_checkpoint true --max_steps 1", {"update 2", "only 1", "max_steps"}},
    {MODEL("another-layer") " --output_dir saved --resume_from_checkpoint true",
     {"saved/checkpoint-2/config.json", "another model", "model_name_or_path"}},
    {"--train_file synthetic:8x16 --validation_file synthetic:2x16 --model_name_or_path good/sharded "
     "--output_dir saved --resume_from_checkpoint true",
     {"saved/checkpoint-2/config.json", "another model"}},
};

/* ---- running them ---- */

/* The command of a run, its settings sound but for what is added. */
static char *train_command(int ranks, const char *output_dir, const char *before, const char *added) {
    char *launcher = ranks > 1 ? xformat(COMMAND_MPIRUN, ranks) : xstrdup("");
    char *command =
        xformat("cd %s && HF_HOME=%s/cache && export HF_HOME && unset HF_HUB_CACHE && %s %s " BUILD_DIR
                "/01-baseline/train --model_name_or_path good/model --train_file good/train.json "
                "--validation_file good/dev.json --max_seq_length 96 --max_steps 2 --threads 1 "
                "--subset_size 0 --memory_sample_interval 0 --fp16 false --output_dir %s %s %s",
                folder, folder, launcher, before, output_dir, command_sharing(ranks), added);
    free(launcher);
    return command;
}

/* What is not as it must be, for the caller to free; NULL where all is. */
static char *complaint(const struct command_result *result, const struct bad *bad) {
    if (result->timed_out) return xformat("hangs; so far it says: %s", result->err);
    if (result->exit_code < 1 || result->exit_code > 127)
        return xformat("ends with code %d and says: %s", result->exit_code, result->err);
    size_t line = strcspn(result->err, "\n");
    if (strncmp(result->err, "error: ", 7) != 0 || line + 1 != result->err_size)
        return xformat("says, rather than one line of error: %s", result->err);
    for (int i = 0; i < 3 && bad->says[i]; i++)
        if (!strstr(result->err, bad->says[i]))
            return xformat("does not say '%s' but: %s", bad->says[i], result->err);
    return NULL;
}

/* A table at work: its entries on one rank and on two, several at a time. */
struct work {
    const struct bad *bad;
    const char *name;
    int count, next, failed;
    double slowest;
    pthread_mutex_t lock;
};

static void run_bad(struct work *work, int number) {
    const struct bad *bad = &work->bad[number / 2];
    int ranks = 1 + number % 2;
    char *output_dir = xformat("out/%s-%d", work->name, number);
    char *command = train_command(ranks, output_dir, "", bad->settings);
    struct command_result result = command_run(MOST_SECONDS, "%s", command);
    char *wrong = complaint(&result, bad);
    pthread_mutex_lock(&work->lock);
    if (wrong) {
        work->failed++;
        print_error("%s, %d rank(s): %s\n", bad->settings, ranks, wrong);
    } else if (verbose && ranks == 1) {
        print_message("%s\n  %s", bad->settings, result.err);
    }
    if (result.seconds > work->slowest) work->slowest = result.seconds;
    pthread_mutex_unlock(&work->lock);
    free(wrong);
    command_free(&result);
    free(command);
    free(output_dir);
}

static void *worker(void *argument) {
    struct work *work = argument;
    for (;;) {
        pthread_mutex_lock(&work->lock);
        int number = work->next++;
        pthread_mutex_unlock(&work->lock);
        if (number >= 2 * work->count) return NULL;
        run_bad(work, number);
    }
}

static void run_table(const char *name, const struct bad *bad, int count) {
    struct work work = {.bad = bad, .name = name, .count = count, .lock = PTHREAD_MUTEX_INITIALIZER};
    pthread_t threads[MOST_AT_ONCE];
    int cores = (int)sysconf(_SC_NPROCESSORS_ONLN), at_once = cores < MOST_AT_ONCE ? cores + 1 : MOST_AT_ONCE;
    for (int i = 0; i < at_once; i++) assert_int_equal(pthread_create(&threads[i], NULL, worker, &work), 0);
    for (int i = 0; i < at_once; i++) pthread_join(threads[i], NULL);
    print_message("%d bad %s on 1 and on 2 ranks, the slowest took %.1f s\n", count, name, work.slowest);
    if (work.failed) fail_msg("%d of %d runs do not fail as they must", work.failed, 2 * count);
}
#define RUN_TABLE(table) run_table(#table, table, (int)(sizeof table / sizeof *table))

/* ---- tests ---- */

static void test_models(void **state) {
    (void)state;
    RUN_TABLE(models);
}

static void test_texts(void **state) {
    (void)state;
    RUN_TABLE(texts);
}

static void test_settings(void **state) {
    (void)state;
    RUN_TABLE(settings);
}

/* In `saved`: what the tables below resume from, must not overwrite, and so on. Their runs must leave it as
 * it is. */
static void save_a_run(void) {
    char *command =
        train_command(1, "saved", "", "--num_train_epochs 1 --save_strategy steps --save_steps 2");
    struct command_result result = command_run(MOST_SECONDS, "%s", command);
    if (result.exit_code != 0) fail_msg("%s", result.err);
    command_free(&result);
    free(command);
}

static void test_machines(void **state) {
    (void)state;
    char *locked = xformat("%s/locked", folder);
    struct error error;
    assert_true(directory_create(locked, &error));
    int lock = open(locked, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    assert_int_equal(flock(lock, LOCK_EX), 0);
    RUN_TABLE(machines);
    close(lock);
    free(locked);
}

static void test_checkpoints(void **state) {
    (void)state;
    bad_checkpoints_make(folder);
    RUN_TABLE(checkpoints);
}

/* One run that must fail, started by a command of the caller's. */
static void run_one(const char *command, const struct bad *bad) {
    struct command_result result = command_run(MOST_SECONDS, "%s", command);
    char *wrong = complaint(&result, bad);
    if (wrong) fail_msg("%s: %s", command, wrong);
    if (verbose) print_message("  %s", result.err);
    free(wrong);
    command_free(&result);
}

/* The user's limit on a file's size stands for a disk that fills up while the run writes. */
static void test_write_that_fails(void **state) {
    (void)state;
    static const struct bad bad[] = {
        {"", {"unwritten/checkpoint-2.part/model.safetensors", "cannot be written", "File too large"}},
        {"--max_steps 50 --save_strategy no --save_model false",
         {"unwritten/metrics.jsonl", "cannot be written"}}};
    const char *const limits[] = {"sh -c 'ulimit -f 500; exec \"$0\" \"$@\"'",
                                  "sh -c 'ulimit -f 8; exec \"$0\" \"$@\"'"};
    for (int i = 0; i < 2; i++) {
        char *added = xformat("--overwrite_output_dir %s", bad[i].settings);
        char *command = train_command(1, "unwritten", limits[i], added);
        run_one(command, &bad[i]);
        free(command);
        free(added);
    }
}

/* The start of a command that gives what follows a file system of its own, of some KiB, in small/; NULL where
 * the kernel lets users have none. The caller frees. */
static char *small_disk(int kib) {
    char *own = xformat("unshare -rm sh -c 'mkdir -p small && mount -t tmpfs -o size=%dk none small && "
                        "exec \"$0\" \"$@\"'",
                        kib);
    struct command_result result = command_run(MOST_SECONDS, "cd %s && %s true", folder, own);
    bool possible = result.exit_code == 0;
    command_free(&result);
    if (possible) return own;
    print_message("skipped: this system gives its users no file systems of their own\n");
    free(own);
    return NULL;
}

static void test_small_disk(void **state) {
    (void)state;
    static const struct bad bad = {
        "", {"small/run: the run will write 2.", "but the disk has 2.0 MiB", "save_strategy no"}};
    char *own = small_disk(2000);
    if (!own) skip();
    for (int ranks = 1; ranks <= 2; ranks++) {
        char *command = train_command(ranks, "small/run", own, "");
        run_one(command, &bad);
        free(command);
    }
    free(own);
}

/* Something else fills the disk while the run saves after each of its updates. */
static void test_disk_that_fills_up(void **state) {
    (void)state;
    static const struct bad bad = {"", {"small/run/", "No space left on device"}};
    static const char fill[] = "sh -c '(n=0; until test -e small/run/metrics.jsonl || test $n = 2000; do "
                               "sleep 0.01; n=$((n+1)); done; "
                               "head -c 10M /dev/zero >small/other) 2>&- & exec \"$0\" \"$@\"'";
    char *own = small_disk(8000);
    if (!own) skip();
    char *both = xformat("%s %s", own, fill);
    for (int ranks = 1; ranks <= 2; ranks++) {
        /* Both ranks must see the same disk: it is made around mpirun. */
        char *command =
            train_command(ranks, "small/run", "",
                          "--max_steps 2000 --save_strategy steps --save_steps 1 --save_total_limit 1");
        char *start = strstr(command, ranks > 1 ? "mpirun" : BUILD_DIR);
        char *whole = xformat("%.*s%s %s", (int)(start - command), command, both, start);
        run_one(whole, &bad);
        free(whole);
        free(command);
    }
    free(both);
    free(own);
}

static int set_up(void **state) {
    (void)state;
    folder = temporary_folder();
    bad_files_make(folder);
    save_a_run();
    return 0;
}

static int remove_all(void **state) {
    (void)state;
    temporary_remove(folder);
    return 0;
}

int main(int count, char **arguments) {
    verbose = count > 1 && strcmp(arguments[1], "-v") == 0;
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_models),      cmocka_unit_test(test_texts),
        cmocka_unit_test(test_settings),    cmocka_unit_test(test_machines),
        cmocka_unit_test(test_checkpoints), cmocka_unit_test(test_write_that_fails),
        cmocka_unit_test(test_small_disk),  cmocka_unit_test(test_disk_that_fills_up),
    };
    return cmocka_run_group_tests(tests, set_up, remove_all);
}
