/*
 * plan: what runs would need and how long they would take, on devices that nobody here has. Its pieces:
 *
 *   plan.c          what is asked for: arguments, and which rows these make
 *   plan_cases.c    the rows of each stage: what it can put where
 *   plan_dry.c      memory, bytes and work of a row: runs of the stage program on the dry backend
 *   plan_rates.c    how fast a device and its links are: measured, of a card, or given
 *   plan_time.c     the time of an update from these two
 *   plan_output.c   tables for people, and the file for machines
 *
 * Nothing that the dry backend counts is worked out a second time here. Only time is a model, and a simple
 * one: plan_time.c explains it.
 *
 * The file for machines (--json, --output) is one JSON object. Its keys stay what they are:
 *
 *   format              1
 *   model, parameters   the model's name; Ψ
 *   precision, device   "fp16"; "gpu" or "cpu", whose memory is booked
 *   micro_batch, accumulation, sequence_length, gradient_checkpointing
 *   given               [the words of settings that the user gave]
 *   card                {"name", "memory_bytes"} or null
 *   host_memory_bytes   of a node, as given, or null
 *   rates               {RATE: {"value", "unit", "source"}}: enum plan_rate has the names
 *   rows                [ROW, …] in the order of the table
 *
 * A ROW (bytes; "a rank" is a device; "an update" is a mean over the updates that were played):
 *
 *   stage, variant      "05-offload"; "z2 opt", "" where a stage has but one
 *   settings            "--zero_stage 2 …": what was added for the variant
 *   ranks, nodes, examples_per_update, packs
 *   device_memory       as a run's memory event: {HEADING: {predicted_bytes, bytes, peak_bytes}, …, total}
 *   host_memory         likewise, of one rank
 *   outside_bytes       allowed for what is outside the ledger: context, libraries
 *   needed_bytes        peak of the device's total, and outside_bytes
 *   host_node_bytes     peak of the host's total, times the ranks of a node
 *   sent                {COLLECTIVE: {"inside_bytes", "across_bytes"}, …, "total"}: by a rank in an update
 *   leaves_node_bytes   in an update, all its ranks
 *   work                {"product_flops", "bytes", "copied_bytes"}: in an update, of the busiest rank
 *   seconds             {"compute", "communication", "hidden", "exposed", "link", "host", "update"}
 *   examples_per_second of all ranks
 *   fits                true or false with a card (device and, where given, host memory), else null
 *   headroom_bytes      with a card what is left of it, negative where it is too small; else null
 *   fastest             true for one row of those for as many ranks that fit
 */
#ifndef COMMON_TOOLS_PLAN_H
#define COMMON_TOOLS_PLAN_H

#include <jansson.h>
#include <stdbool.h>

#include "common/base/error.h"
#include "common/comm/comm.h"

/* ---- rates ---- */

enum plan_rate {
    RATE_PRODUCTS,  /* FLOP/s of matrix products */
    RATE_MEMORY,    /* bytes/s of device memory, read and written */
    RATE_INSIDE,    /* bytes/s that a rank sends to others of its node */
    RATE_ACROSS,    /* bytes/s that leave a node, all its ranks together */
    RATE_LINK,      /* bytes/s between a device and its host from pinned memory, each way */
    RATE_PAGEABLE,  /* likewise from pageable memory, mean of both ways */
    RATE_HOST_RANK, /* bytes/s that AdamW on one rank's cores moves through host memory */
    RATE_HOST,      /* likewise all ranks of a node together */
    RATE_HIDDEN,    /* seconds that a second of communication behind computation costs that computation */
    RATES
};

struct plan_rates {
    double values[RATES];
    char *sources[RATES]; /* for people: where it is from */
};

/* "products", …: in JSON, and for --rate. Its unit for people, and how many of ours that is. */
const char *plan_rate_name(enum plan_rate rate);
const char *plan_rate_unit(enum plan_rate rate);
double plan_rate_scale(enum plan_rate rate);

/* A card by name ("h100-80") or by its memory alone ("80GiB"). */
struct plan_card {
    char name[32];
    double memory;       /* bytes, as the driver tells them */
    bool known;          /* the rest is */
    double half, single; /* nominal peak of matrix products, FLOP/s; half 0: none */
    double bandwidth;    /* nominal, bytes/s */
    double peers, link;  /* nominal bytes/s to the other cards of its node, and to the host; one way */
    bool bf16;
};
bool plan_card_find(struct plan_card *card, const char *name, struct error *error);
/* "80GiB", "512 MiB", "1.5TB": bytes. False where it is no such size. */
bool plan_size(const char *text, double *bytes);

/* Those measured for this backend ("gpu": on an H200; "cpu": two cores). The caller frees. */
struct plan_rates plan_rates_default(const char *device);
void plan_rates_free(struct plan_rates *rates);
/* A card's: its nominal ones, times the share that was reached on the H200. */
void plan_rates_of_card(struct plan_rates *rates, const struct plan_card *card, bool half);
/* "inside=20,across=12.5", in the units of plan_rate_unit(). */
bool plan_rates_given(struct plan_rates *rates, const char *text, struct error *error);

/* ---- rows ---- */

/* What all rows have in common. */
struct plan_options {
    char *programs;     /* folder of the dry build: STAGE/train lies in it */
    char *folder;       /* a temporary one */
    const char *device; /* "gpu", "cpu" */
    json_t *settings;   /* words, the user's */
    bool own_text;      /* the user gave train_file: ranks may differ */
};

struct plan_case {
    const char *stage;
    const char *settings; /* added for the variant, words with spaces between */
    int ranks, nodes;
};

/* What the dry backend counted, of rank 0 in an update where nothing else is said. */
struct plan_counts {
    json_t *run, *memory; /* events; memory the largest over the ranks that were played */
    double packs, inside[COLLECTIVES], across[COLLECTIVES];
    double product_flops, bytes; /* of the rank that has the most products in an update */
    double copied_bytes;
};

/* Calls add() for each row of a stage, in order. `chosen`: the user's settings say what it is. */
void plan_cases_of(const char *stage, int ranks, int nodes, bool chosen,
                   void (*add)(void *to, struct plan_case row), void *to);
/* "z2 opt": from the settings of a run event. The caller frees. */
char *plan_variant(const char *stage, const json_t *settings);

/* Plays a row. False with `error` where the stage refuses it. The caller frees. */
bool plan_dry(struct plan_counts *counts, const struct plan_options *options, const struct plan_case *row,
              struct error *error);
void plan_counts_free(struct plan_counts *counts);
/* Work of a run of one rank with these arguments alone (strings), as bench's file has them, in a precision.
 */
bool plan_dry_work(struct plan_counts *counts, const struct plan_options *options, const char *stage,
                   const json_t *arguments, const char *precision, struct error *error);

/* ---- time ---- */

struct plan_times {
    double compute;       /* kernels */
    double communication; /* all collectives */
    double hidden;        /* of it, behind computation; … */
    double exposed;       /* … what waits */
    double link;          /* copies between device and host in forward and backward */
    double host;          /* AdamW on the CPU, with its copies */
    double update;        /* all of it */
};
struct plan_times plan_time(const struct plan_counts *counts, const struct plan_case *row,
                            const struct plan_rates *rates);
/* Sets the rate of products so that the model gives the times that a bench file measured on one rank. */
bool plan_rates_measured(struct plan_rates *rates, const struct plan_options *options, const char *path,
                         const json_t *document, const char *precision, struct error *error);

/* ---- output ---- */

/* A ROW's members, from the parts. */
json_t *plan_row(const struct plan_case *row, const struct plan_counts *counts,
                 const struct plan_times *times, double outside);
/* Adds fits, headroom_bytes and fastest. 0: none is given. */
void plan_judge(json_t *rows, double card_bytes, double host_bytes);
void plan_print(const json_t *document);

#endif
