/*
 * task: hands-on tasks, in which a participant writes what a stage adds. Its pieces:
 *
 *   task.c            arguments
 *   task_markers.c    which functions a task leaves out: read from the stage's own sources
 *   task_lay.c        the participant's folder: the sources without these functions, and TASK.md
 *   task_stages.c     what each stage promises, and hints for promises that are broken
 *   task_check.c      builds a participant's folder, runs it and stage 01 beside it, names the first broken
 *                     promise
 *   task_judge.c      compares the two runs
 *   task_model.c      the small model that these runs train
 *   task_process.c    programs with a time limit
 *
 * A function is part of a task where the comment right above its definition, at the beginning of a line,
 * starts with "Task: " and goes on with what has to be written. There is no other copy of a task: its
 * skeleton is the stage without the bodies of these functions, and the stage itself is the solution.
 */
#ifndef COMMON_TOOLS_TASK_H
#define COMMON_TOOLS_TASK_H

#include <stdio.h>

#include "common/base/error.h"
#include "common/base/program.h"
#include "common/bloom/config.h"
#include "common/comm/comm.h"
#include "common/device/ledger.h"

/* ---- task_markers.c ---- */

/* A function to be written. */
struct task_function {
    char *name;
    char *words;   /* what its comment says after "Task: ", in one line */
    char *promise; /* what the stage's headers say above its declaration, likewise; NULL for a static one */
    char *body;    /* the real one's, to see what it calls */
    size_t begin, end; /* of the body in its file: from behind '{' to the '}' that ends it */
    char *nothing;     /* the statement that a body without effect needs: "return NULL;" or "" */
};

/* A source file of a stage. */
struct task_file {
    char *name;                      /* without its folder */
    char *text;                      /* all of it */
    struct task_function *functions; /* [count], in the file's order; none in a header */
    size_t count;
};

struct task {
    const char *stage;       /* "02-zero1" */
    struct task_file *files; /* [count] .c and .h, by name */
    size_t count;
};

/* Reads ROOT/STAGE. False where a marker is not above a function, "PATH:LINE: reason", or where there is none
 * at all. The caller frees with task_free, in any case. */
bool task_read(struct task *task, const char *root, const char *stage, struct error *error);
void task_free(struct task *task);

/* What stands in a body that is still to be written. */
#define TASK_PLACE "/* Your turn. */"
/* Whether a source defines the function, with another body than that. */
bool task_is_written(const char *text, const char *name);

/* A whole text file as a string that the caller frees; NULL with `error` set. */
char *task_text(const char *path, struct error *error);

/* ---- task_lay.c ---- */

/* Writes the participant's folder. False where it exists and is not empty, or cannot be written. */
bool task_lay(const struct task *task, const char *root, const char *folder, struct error *error);

/* ---- task_stages.c ---- */

enum { TASK_TRIALS = 5, TASK_UPDATES = 4 };

/* A run that is checked. */
struct trial {
    const char *name;  /* of its folder: "2-ranks" */
    const char *title; /* for people */
    int ranks;
    int packs;    /* of an update on each rank */
    bool half;    /* fp16, else fp32 */
    bool resumes; /* goes on from the second trial's first checkpoint: no other settings */
    const char *settings;
};
extern const struct trial trials[TASK_TRIALS];

/* What a stage does in a trial. */
struct variant {
    int zero; /* which stage of ZeRO */
    bool host_optimizer, host_parameters;
    const char *settings;
};

/* What a run is held to, in the order in which it is looked at. */
enum promise {
    ENDS,       /* by itself, and well */
    MEMORY,     /* of a heading, by the formula */
    FEW_UNITS,  /* of few units */
    SENT,       /* by a collective, by the formula */
    START,      /* the evaluation before training is stage 01's */
    FIRST_LOSS, /* so is the loss of update 1 */
    FIRST_NORM, /* so is the norm of its gradient */
    SKIPS,      /* the updates that overflow are stage 01's */
    LOSSES,     /* so are losses and norms of the updates that follow */
    EVALUATION, /* so is the evaluation at the end */
    PROMISES
};

/* How what was found differs from what was promised. */
enum difference { ANY, NOTHING, LESS, MORE, LITTLE };

/* A broken promise. */
struct broken {
    enum promise promise;
    int detail; /* MEMORY: the heading; SENT: the collective */
    enum difference
        difference; /* NOTHING: 0 or no number; LITTLE: by less than one in a thousand; else LESS, MORE */
    char *text;     /* what was found, and what was promised: one line */
};

struct stage_task {
    const char *stage;
    const char *capability;         /* what the participant writes, in words */
    const struct variant *variants; /* [TASK_TRIALS] */
    const struct hint *hints;       /* ends with one without a text */
};
/* NULL where the stage has no task. */
const struct stage_task *stage_task(const char *stage);
/* What may be the reason; never NULL. */
const char *task_hint(const struct stage_task *task, const struct broken *broken, const struct trial *trial);
/* The promises, for TASK.md. */
void task_write_promises(FILE *out, const struct stage_task *task);

/* ---- task_check.c ---- */

struct check {
    const char *root;   /* of the kit's sources */
    const char *build;  /* build folder of the cpu backend */
    const char *folder; /* the participant's; NULL: the stage itself */
    const char
        *launcher; /* words before the program where there are several ranks; "@" stands for their number */
    int seconds;   /* that a run may take */
};

/* Checks all promises, with a report on standard output. False where one is broken. */
bool task_check(const struct task *task, const struct check *check);

/* ---- task_judge.c ---- */

/* Folders of the run and of stage 01's. True where nothing is broken; else the caller frees broken->text. */
bool task_judge(const struct trial *trial, const struct variant *variant, const struct bloom_config *config,
                const char *run, const char *reference, struct broken *broken);

/* ---- task_model.c ---- */

/* The model's shape: eleven units that 3 and 4 ranks cannot share without padding. */
struct bloom_config task_model_shape(void);
/* Writes it, with random weights that are always the same, into `folder`, if it is not there. */
bool task_model_write(const char *folder, struct error *error);

/* ---- task_process.c ---- */

struct process_end {
    bool in_time;
    int code; /* exit code; 128 + signal */
};
/* Runs a program with standard output and error in the file `output`. After the time limit it, and what it
 * started, are ended. */
struct process_end process_run(const struct program *program, const char *output, int seconds);

#endif
