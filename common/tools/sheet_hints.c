/* What may have happened where an entry does not agree: factors that mistakes make, and other numbers of the
 * same run, or of the cells beside it, that the entry is. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/tools/sheet.h"

/* Of two numbers that should be the same but for rounding to what people write. */
static bool near(double a, double b) {
    return b != 0 && fabs(a / b - 1) < 0.004;
}

/* ---- wrong by a factor ---- */

struct factor {
    unsigned kinds; /* bits of enum number_kind */
    double factor;  /* entry ÷ number */
    const char *text;
};

#define MEMORY (1u << NUMBER_MEMORY | 1u << NUMBER_BYTES)
#define SPEED (1u << NUMBER_SPEED)

static const struct factor unit_factors[] = {
    {MEMORY, 1.048576, "that is in MB of 1,000,000 bytes; a MiB has 1,048,576"},
    {MEMORY, 1.073741824, "that is in GB of 1,000-based bytes; a GiB has 1,073,741,824"},
    {MEMORY, 1024, "1,024 times: KiB, where the sheet has MiB?"},
    {MEMORY, 1000, "1,000 times: a unit of another size?"},
    {MEMORY, 1.0 / 1024, "a 1,024th: GiB, where the sheet has MiB? Then write the unit"},
    {MEMORY, 1.0 / 1000, "a 1,000th: GB, where the sheet has MiB? Then write the unit"},
    {MEMORY, 1048576, "1,048,576 times: bytes, where the sheet has MiB? Then write the unit"},
    {MEMORY, 1.0 / 1048576, "a 1,048,576th: MiB, where the sheet has bytes? Then write the unit"},
    {SPEED, 1000, "1,000 times: milliseconds, where the sheet has seconds?"},
    {SPEED, 1.0 / 1000, "a 1,000th: seconds, where the sheet has milliseconds?"},
};

static const char *find_factor(const struct factor *factors, size_t count, const struct odd_entry *odd) {
    for (size_t i = 0; i < count; i++)
        if (factors[i].kinds & 1u << odd->part->number->kind &&
            near(odd->entry / odd->value, factors[i].factor))
            return factors[i].text;
    return NULL;
}

/* With what the run itself decides: its ranks, its updates. The caller frees the text. */
static char *run_factor(const struct odd_entry *odd) {
    const struct run_metrics *m = &odd->run->metrics;
    double ranks = run_metrics_number(m->run, "world_size"), factor = odd->entry / odd->value;
    double updates = run_metrics_number(m->communication, "updates");
    bool bytes = odd->part->number->kind == NUMBER_BYTES, many = ranks > 1;
    bool node = !strncmp(odd->part->number->name, "node_", 5);
    if (bytes && updates > 1 && near(factor, updates))
        return xformat("that is what the run's %.0f updates send together; the sheet asks for one", updates);
    if (!(MEMORY & 1u << odd->part->number->kind) || !many) return NULL;
    if (near(factor, ranks) && !node)
        return ranks == 2 ? xstrdup("twice: of both ranks together? The sheet asks for one rank")
                          : xformat("%.0f times: of all %.0f ranks together? The sheet asks for one rank",
                                    ranks, ranks);
    if (near(factor, 1 / ranks))
        return node ? xformat("a %.0fth: of one rank? The sheet asks for the node", ranks)
                    : xformat("a %.0fth: divided by the number of ranks once too often?", ranks);
    if (bytes && near(factor, ranks / (ranks - 1)))
        return xformat(
            "without the factor (N − 1)/N: a rank has its own part already, and %.0f of %.0f parts "
            "are sent",
            ranks - 1, ranks);
    return NULL;
}

/* Twice and half: how many bytes a number has. */
static const char *precision_factor(const struct odd_entry *odd) {
    bool half = strcmp(run_metrics_text(odd->run->metrics.run, "precision"), "fp32") != 0;
    if (!(MEMORY & 1u << odd->part->number->kind)) return NULL;
    if (near(odd->entry / odd->value, 2))
        return half ? "twice: this run is in half precision, 2 bytes a number, not fp32's 4"
                    : "twice: counted both ways, or something twice?";
    if (near(odd->entry / odd->value, 0.5))
        return half ? "half: counted one way only, or a heading left out?"
                    : "half: this run is in fp32, 4 bytes a number, not half precision's 2";
    return NULL;
}

/* ---- another number ---- */

/* The entry is another number of the same run; the caller frees the text. */
static char *other_number(const struct odd_entry *odd) {
    const struct run_number *own = odd->part->number;
    for (const struct run_number *n = run_numbers; n->name; n++) {
        if (n == own || n->kind != own->kind || strchr(n->name, '@')) continue;
        if (near(odd->entry, part_other_value(odd->part, odd->run, n, 0)))
            return xformat("that is %s", n->what);
    }
    if (own->kind != NUMBER_LOSS) return NULL;
    const struct run_metrics *m = &odd->run->metrics;
    for (size_t i = 0; i < m->evaluation_count; i++)
        if (written_number_agrees(odd->written, m->evaluations[i].loss, 1e-13))
            return xformat("that is eval_loss at epoch %.4g", m->evaluations[i].epoch);
    for (size_t i = 0; i < m->step_count; i++)
        if (written_number_agrees(odd->written, m->steps[i].loss, 1e-13))
            return xformat("that is the loss of update %.0f", m->steps[i].step);
    return NULL;
}

/* The entry is what another cell of the row, or of the column, should have; the caller frees the text. */
static char *other_cell(const struct odd_entry *odd) {
    const struct cells_table *table = odd->table;
    size_t count = table->row_count + table->column_count;
    for (size_t i = 0; i < count; i++) {
        bool in_row = i < table->column_count;
        size_t row = in_row ? odd->row : i - table->column_count, column = in_row ? i : odd->column;
        const struct cell *cell = &table->cells[row * table->column_count + column];
        if ((row == odd->row && column == odd->column) || cell->kind != CELL_MEASURED || cell->count != 1)
            continue;
        double value = part_value(odd->sheet, &cell->parts[0]).value;
        bool loss = cell->parts[0].number->kind == NUMBER_LOSS;
        if (loss ? written_number_agrees(odd->written, value, 1e-13) : near(odd->entry, value))
            return xformat("that belongs to '%s'", in_row ? table->columns[column] : table->rows[row]);
    }
    return NULL;
}

/* ---- where to look ---- */

char *where_text(const struct run_number *number) {
    if (number->get) return xstrdup(number->kind == NUMBER_LOSS ? "events step and eval" : number->what);
    switch (number->kind) {
    case NUMBER_MEMORY:
        return xformat("event memory, %s.peak_bytes ÷ 1,048,576", number->path);
    case NUMBER_BYTES:
        return xformat("event communication, %s.%s ÷ updates ÷ 1,048,576",
                       number->path ? number->path : "(all of them)", number->event);
    case NUMBER_SPEED:
        return xformat("event summary, %s", number->path);
    default:
        return xformat("event %s, %s", number->event, number->path);
    }
}

/* What to think of where nothing else is known. */
static const char *general(const struct odd_entry *odd) {
    switch (odd->part->number->kind) {
    case NUMBER_COUNT:
        return fabs(odd->entry - odd->value) < 1.5
                   ? "one more or less: an epoch's last update may be a smaller one, "
                     "and is one all the same"
                   : "a count should be the same number";
    case NUMBER_LOSS:
        return near(odd->entry, odd->value)
                   ? "near, but not its digits: a run with another number of threads or ranks, "
                     "or other settings?"
                   : "another run's, or another update's?";
    case NUMBER_SPEED:
        return "speeds are the machine's, at that moment: compare within one sitting";
    default:
        return odd->entry > odd->value ? "more than the run has: which heading, or which rank, is in it, too?"
                                       : "less than the run has: which heading is left out?";
    }
}

char *hint_text(const struct odd_entry *odd) {
    if (!isfinite(odd->entry / odd->value)) return xstrdup("the run has none");
    const char *text = find_factor(unit_factors, sizeof unit_factors / sizeof *unit_factors, odd);
    if (text) return xstrdup(text);
    if (near(odd->entry, odd->predicted))
        return xstrdup(
            "that is what the formula says; the run has another number, and the difference has a reason");
    char *first = other_number(odd), *second = run_factor(odd);
    if (!first) first = other_cell(odd);
    if (!second && precision_factor(odd)) second = xstrdup(precision_factor(odd));
    char *hint = first && second   ? xformat("%s; or %s", first, second)
                 : first || second ? xstrdup(first ? first : second)
                                   : xstrdup(general(odd));
    free(first);
    free(second);
    return hint;
}
