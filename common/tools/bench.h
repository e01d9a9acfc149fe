/*
 * bench: how fast the stages are on this machine. Its pieces:
 *
 *   bench.c         what is asked for: arguments, which runs make a table
 *   bench_run.c     one run of a stage program, and the row that its metrics.jsonl gives
 *   bench_peak.c    what this machine has, and the rate of its matrix products
 *   bench_table.c   the table for people
 *
 * The file for machines is one JSON object:
 *
 *   {"device", "backend", "devices", "peaks": {PRECISION: FLOP/s}, "rows": [ROW, …]}
 *
 * A ROW has "stage", "ranks", "arguments" (of the stage program: with the first two they say which run it is)
 * and what bench_run.c lists. It is written anew after each run; a run whose row is in it is not made again.
 */
#ifndef COMMON_TOOLS_BENCH_H
#define COMMON_TOOLS_BENCH_H

#include <jansson.h>
#include <stdbool.h>

#include "common/train/settings.h"

/* One run that is asked for. */
struct bench_run {
    const char *stage; /* "01-baseline" */
    int ranks;
    json_t *arguments;        /* ["--max_steps", "23", …]: settings, without output_dir */
    json_t *given;            /* those of them that the user gave */
    struct settings settings; /* all, read */
};

/* How stage programs are started. */
struct bench_programs {
    char *folder;   /* STAGE/train lies in it */
    char *launcher; /* words before the program where there are ranks; @ stands for their number */
};

/* What is in this machine; measured in a process of its own, so that this one never holds a device. */
struct bench_machine {
    char device[256];
    int devices;       /* that ranks may have for themselves; on a CPU 1 */
    int cores;         /* threads of one rank */
    double peak_flops; /* of one device's large square matrix products in this precision, FLOP/s */
    int matrix;        /* rows of the matrices */
};
/* False where the device cannot be opened, which has been said then. */
bool bench_measure(struct bench_machine *machine, enum dtype dtype);

/* Makes the run. Its row, a new reference; NULL with `error` set where the program fails:
 *   model, precision, settings      as its run event has them
 *   given                           the words that the user added to the defaults
 *   accumulation, micro_batch       gradient_accumulation_steps and per_device_train_batch_size
 *   examples_per_second             {median, lower_quartile, upper_quartile}, of all ranks together
 *   tokens_per_second               likewise, padding not counted
 *   share_of_peak                   operations that the model needs ÷ what the devices' products would do
 *   update_ms, phase_ms             as its summary has them
 *   eval_samples_per_second         where it evaluated
 *   device_memory, host_memory      bytes by heading, as its memory event has them
 *   communication                   as its event has it: bytes sent by one rank, predicted and measured
 *   losses                          of the first ten updates
 */
json_t *bench_row(const struct bench_run *run, const struct bench_programs *programs,
                  const struct bench_machine *machine, struct error *error);

/* A row's ratio to the same run on one rank; 0 where `rows` has none. */
double bench_ratio(const json_t *rows, const json_t *row);
/* The largest relative difference of its first losses from those of another run, of any stage, that makes the
 * same updates on one rank, with as much more accumulation; −1 where `rows` has none. */
double bench_losses_off(const json_t *rows, const json_t *row);
/* Prints the rows: speed, time by phase, memory. `machine` is described above them. `all`: where runs on one
 * rank may be found. */
void bench_print(const json_t *rows, const json_t *all, const struct bench_machine *machine);

/* A number in a row, by a path of keys ("phase_ms.forward"); 0 where there is none. */
double bench_number(const json_t *row, const char *path);

#endif
