#include <string.h>

#include "common/tools/task.h"

const struct trial trials[TASK_TRIALS] = {
    {"1-rank", "one rank, to which everything belongs", 1, 2, false, false, ""},
    {"2-ranks", "two ranks, two packs an update", 2, 2, false, false, "--save_strategy steps --save_steps 2"},
    {"resumed", "two ranks, going on from that run's checkpoint", 2, 2, false, true, ""},
    {"3-ranks", "three ranks, which cannot share units evenly", 3, 1, false, false, "--stage3_prefetch 2"},
    {"4-ranks-fp16", "four ranks in fp16, with updates that overflow", 4, 1, true, false, ""},
};

/* ---- hints ---- */

struct hint {
    enum promise promise;
    int detail; /* −1: any */
    enum difference difference;
    const char *text;
};

enum { EITHER = -1, HOST = HEADINGS };

static const struct hint zero1[] = {
    {MEMORY, OPTIMIZER, NOTHING,
     "m and v, and masters in half precision, are what optimizer_shard_open() books under the heading "
     "OPTIMIZER."},
    {MEMORY, OPTIMIZER, MORE,
     "A rank keeps the state of its slices alone: layout->sliced elements of each, not layout->padded; and "
     "masters "
     "only in half precision."},
    {MEMORY, OPTIMIZER, LESS,
     "It has one slice of every unit of m and of v, and in half precision of the masters, in fp32."},
    {SENT, ALL_GATHER, NOTHING,
     "Where is the all-gather? Each rank updates its own slices; the others' are old until gather_unit() "
     "starts one, "
     "for every unit."},
    {SENT, ALL_GATHER, LESS,
     "Is every unit gathered after its update, the small ones too, each its whole slice?"},
    {SENT, ALL_GATHER, MORE,
     "A unit is gathered once an update, with the elements of one slice as its count."},
    {SENT, REDUCE_SCATTER, NOTHING,
     "Where is the reduce-scatter? In the update's last pack reduce_unit() starts one, for every unit."},
    {SENT, REDUCE_SCATTER, MORE,
     "A unit is reduced once an update, in its last pack (last_pack), with the elements of one slice as its "
     "count."},
    {SENT, ALL_REDUCE, MORE,
     "Between ranks go the gradients' slices, reduce-scattered: what is all-reduced are two numbers, the "
     "losses' sum "
     "and the squares'."},
    {START, EITHER, ANY,
     "The parameters are not whole on every rank: load() has put my slice in its place, my_parameters(); "
     "gather_unit() "
     "has to bring all others to theirs, in r->model.parameters[u]."},
    {FIRST_LOSS, EITHER, ANY,
     "Is the sum of the losses taken over the ranks in optimize(), together with the squares'?"},
    {FIRST_NORM, EITHER, NOTHING,
     "sum_of_squares() of my slice of each unit, and update_prepare(), make the norm."},
    {FIRST_NORM, EITHER, LESS,
     "It is too small, on N ranks often by about the root of N: the norm of this rank's slices only? Sum "
     "square_sum over the ranks, as the losses' sum, which lies right before it."},
    {FIRST_NORM, EITHER, ANY,
     "The squares are not those of the summed gradient: does the reduce-scatter put my slice where "
     "my_gradients() looks "
     "for it, is it waited for, and are the squares those of my slice only?"},
    {LOSSES, EITHER, LITTLE,
     "Losses agree until then and drift: the update is nearly right. Which elements of my slice have weight "
     "decay "
     "(the unit's first `decayed`, counted from the slice's beginning)? Is each unit's slice of m and v its "
     "own?"},
    {LOSSES, EITHER, ANY,
     "Losses agree until then: the update is wrong, or does not reach everybody. Parameters, gradients, m "
     "and v must be "
     "of the same slice of the same unit; m and v lie at slice_offset. Then the unit's all-gather starts."},
    {ENDS, 0, ANY, NULL},
};

static const struct hint zero2[] = {
    {MEMORY, GRADIENTS, MORE, "A rank keeps one slice of every unit's gradient: layout->sliced elements."},
    {FEW_UNITS, EITHER, ANY, "Whole gradients take turns in the rotation: two units, no more."},
    {SENT, REDUCE_SCATTER, NOTHING,
     "Where is the reduce-scatter? gradient_shard_reduce() starts one for every unit."},
    {SENT, REDUCE_SCATTER, LESS,
     "A gradient cannot wait for the update's last pack: there is no room for it. Each pack's is reduced, "
     "every unit's, "
     "with the elements of one slice as the count."},
    {SENT, REDUCE_SCATTER, MORE,
     "A unit is reduced once in every pack, with the elements of one slice as the count."},
    {FIRST_NORM, EITHER, LESS,
     "Part of the gradient is missing. Is each pack's sum added to those before it (adds), and the first one "
     "not? Are the last "
     "units settled, "
     "too, before the norm (gradient_shard_finish())?"},
    {FIRST_NORM, EITHER, ANY,
     "My slices hold something else than the summed gradient. Is it my slice that is reduced and added, to "
     "its own "
     "unit? Is a buffer's last gradient settled before the next one is written into it? Does the first pack "
     "overwrite? "
     "Is a unit's padding zero?"},
    {LOSSES, EITHER, ANY,
     "Losses agree until then and drift: gradients of that update are not what they should be. Does an "
     "update's first "
     "pack overwrite the slices of the update before? Is the rotation settled before the update?"},
    {ENDS, 0, ANY, NULL},
};

static const struct hint zero3[] = {
    {ENDS, EITHER, MORE,
     "That is what a rank said first. Where no buffer is free: is a unit gathered although a buffer holds "
     "it, or does free_buffer() spare more than the units that come next? Else: all ranks have to start the "
     "same collectives, in the same order."},
    {MEMORY, PARAMETERS, MORE, "A rank keeps one slice of every unit's parameters: layout->sliced elements."},
    {FEW_UNITS, EITHER, ANY,
     "Whole units take turns in the rotation, depth of them, and two units' whole gradients."},
    {SENT, ALL_GATHER, NOTHING,
     "Where is the all-gather? gather() starts one for a unit that no buffer holds."},
    {SENT, ALL_GATHER, LESS,
     "Units are not gathered that are no more what they were: after the update what buffers hold is old "
     "(parameter_shard_forget()). And what the look-up has overwritten is no unit any more "
     "(parameter_shard_buffer())."},
    {SENT, ALL_GATHER, MORE,
     "Units are gathered that are there: where the walk turns round, the last ones of the forward still are. "
     "Does "
     "gather() look for them, and does free_buffer() spare the units that come next, in the direction of the "
     "walk?"},
    {START, EITHER, ANY,
     "The forward does not compute with the loaded parameters. Is it my slice of the same unit that is "
     "gathered, into a "
     "buffer that no unit needs now? Is it waited for before its use?"},
    {FIRST_LOSS, EITHER, ANY, "Are buffers gathered into while a unit in them is still needed?"},
    {FIRST_NORM, EITHER, ANY,
     "The loss is right and the gradient is not: in the backward, going down, a unit is computed with other "
     "parameters "
     "than its own. Does free_buffer() know the direction of the walk?"},
    {LOSSES, EITHER, ANY,
     "Losses agree until then and drift: some parameters are those of the update before. What buffers hold "
     "is old then: "
     "parameter_shard_forget()."},
    {ENDS, 0, ANY, NULL},
};

static const struct hint offload[] = {
    {MEMORY, OPTIMIZER, MORE, "Masters and moments belong in host memory: host_alloc()."},
    {MEMORY, HOST + OPTIMIZER, ANY,
     "Masters, m and v of my slices are in host memory: three times layout->sliced elements of fp32."},
    {FIRST_NORM, EITHER, ANY, "The norm is found on the device, before this module has anything to do."},
    {SKIPS, EITHER, ANY,
     "Whether an update is skipped is in the update's state: host_optimizer_begin() brings it to the host, "
     "and the next "
     "update needs "
     "it unchanged."},
    {LOSSES, EITHER, NOTHING,
     "A loss is no number: were gradients and state really there when host_adamw() read them, and had it "
     "written what went up? Of a skipped update nothing is read, and nothing sent (host_optimizer_begin())."},
    {LOSSES, EITHER, LITTLE,
     "Losses agree until then and drift a little: the update is nearly right. Which elements of my slice "
     "have weight "
     "decay (the unit's first `decayed`, counted from the slice's beginning)? Is each unit's gradient its "
     "own: are they "
     "taken in the order in which they were brought?"},
    {LOSSES, EITHER, ANY,
     "Losses agree until then: the update is wrong, or does not reach the device. Masters, m and v lie at "
     "slice_offset; "
     "gradients come in the order in which they were brought, each lane's two slices taking turns; new "
     "parameters have "
     "to be sent, all of the slice."},
    {ENDS, 0, ANY, NULL},
};

/* What holds for any stage. */
static const struct hint common[] = {
    {ENDS, EITHER, NOTHING,
     "All ranks have to start the same collectives in the same order, and each loop has to come to its end."},
    {ENDS, EITHER, LESS,
     "A signal 11 or 7 is a pointer that is NULL, old or past its memory's end; 6 and 4 are what a library "
     "found wrong."},
    {ENDS, EITHER, ANY,
     "That is what a rank said first. Where one is silent, or collectives differ: all ranks have to start "
     "the same ones, with the same counts, in the same order."},
    {MEMORY, EITHER, ANY, "How many elements does a rank keep: all (padded), or its slices (sliced)?"},
    {SENT, EITHER, ANY, "Which collective has to run, how often, and with how many elements?"},
    {SKIPS, EITHER, ANY,
     "An update is skipped where the sum of squares, over all ranks, is not a finite number."},
    {LOSSES, EITHER, ANY,
     "Losses agree until then: what has the update before it changed, and what should it have?"},
    {EVALUATION, EITHER, ANY,
     "The last update is not seen by the evaluation: have all ranks the new parameters?"},
    {PROMISES, EITHER, ANY, "Compare what is computed on each rank with the lesson's pictures."},
};

static const char resumed[] = "The run itself is right: it is what goes into checkpoints, or comes back, "
                              "that is wrong. They ask for single "
                              "elements of masters and moments, by their number in the unit.";

static bool fits(const struct hint *hint, const struct broken *broken) {
    return hint->promise == broken->promise && (hint->detail == EITHER || hint->detail == broken->detail) &&
           (hint->difference == ANY || hint->difference == broken->difference);
}

const char *task_hint(const struct stage_task *task, const struct broken *broken, const struct trial *trial) {
    if (trial->resumes && broken->promise >= START) return resumed;
    for (const struct hint *hint = task->hints; hint->text; hint++)
        if (fits(hint, broken)) return hint->text;
    const struct hint *hint = common;
    while (hint->promise != PROMISES && !fits(hint, broken)) hint++;
    return hint->text;
}

/* ---- stages ---- */

static const struct variant plain1[TASK_TRIALS] = {
    {.zero = 1}, {.zero = 1}, {.zero = 1}, {.zero = 1}, {.zero = 1}};
static const struct variant plain2[TASK_TRIALS] = {
    {.zero = 2}, {.zero = 2}, {.zero = 2}, {.zero = 2}, {.zero = 2}};
static const struct variant plain3[TASK_TRIALS] = {
    {.zero = 3}, {.zero = 3}, {.zero = 3}, {.zero = 3}, {.zero = 3}};

#define CPU " --offload_optimizer cpu"
static const struct variant offloaded[TASK_TRIALS] = {
    {2, true, false, "--zero_stage 2" CPU}, {1, true, false, "--zero_stage 1" CPU},
    {1, true, false, "--zero_stage 1" CPU}, {3, true, true, "--zero_stage 3" CPU " --offload_param cpu"},
    {2, true, false, "--zero_stage 2" CPU},
};

static const struct stage_task stages[] = {
    {"02-zero1",
     "the cut of the optimizer's state: what a rank keeps, and how slices are reduced, updated and gathered",
     plain1, zero1},
    {"03-zero2", "the cut of the gradients: the rotation of whole gradients, and their way to slices", plain2,
     zero2},
    {"04-zero3",
     "the cut of the parameters: how units are gathered around their use, ahead of it, and forgotten", plain3,
     zero3},
    {"05-offload", "the optimizer on the host: gradients' way down, AdamW on the CPU, parameters' way up",
     offloaded, offload},
};

const struct stage_task *stage_task(const char *stage) {
    for (size_t i = 0; i < sizeof stages / sizeof *stages; i++)
        if (!strcmp(stages[i].stage, stage)) return &stages[i];
    return NULL;
}

/* ---- the promises in words ---- */

static void write_memory(FILE *out, const struct variant *variant) {
    fprintf(out, "parameters %s%s, gradients %s, the optimizer's state %s%s",
            variant->zero < 3 ? "whole" : "a slice", variant->host_parameters ? " in host memory" : "",
            variant->zero < 2 ? "whole" : "a slice", "a slice",
            variant->host_optimizer ? " in host memory" : "");
}

static void write_bytes(FILE *out, int zero) {
    static const char *const sent[] = {"", "a reduce-scatter and an all-gather an update",
                                       "a reduce-scatter a pack and an all-gather an update",
                                       "a reduce-scatter and nearly two all-gathers a pack"};
    fprintf(out, "; sent (N − 1)/N of the model's elements for each of %s", sent[zero]);
}

void task_write_promises(FILE *out, const struct stage_task *task) {
    fprintf(out,
            "A model of eleven units is trained for %d updates, by stage 01 and by your program: with "
            "clipping, weight "
            "decay, and evaluations before and after.\n\n",
            TASK_UPDATES);
    for (int t = 0; t < TASK_TRIALS; t++) {
        fprintf(out, "- %s", trials[t].title);
        bool same = t > 1 && task->variants[t].zero == task->variants[t - 1].zero;
        if (!same) {
            fprintf(out, ": ");
            write_memory(out, &task->variants[t]);
            if (trials[t].ranks > 1) write_bytes(out, task->variants[t].zero);
        }
        fprintf(out, "\n");
    }
    fprintf(
        out,
        "\nEverywhere: the run ends, evaluations, losses and gradient norms are stage 01's (in fp32 to six "
        "digits), and so are the updates that overflow and are skipped. Each heading of memory and each "
        "collective's bytes are held to the formula, to the byte; buffers to a few units.\n");
    if (task->variants[0].host_optimizer)
        fprintf(out, "\nThe checks run on the CPU backend, where a copy is done when its call returns: an "
                     "event that you "
                     "forget shows on a GPU only.\n");
}
