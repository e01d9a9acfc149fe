/* What people filled in, row by row, beside what their runs have. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/report/table.h"
#include "common/tools/sheet.h"

enum outcome { AGREES, WRONG, OPEN, WITHOUT_RUN, WORDS, PREDICTED_WELL, PREDICTED_OTHERWISE, OUTCOMES };

struct checking {
    const struct sheet *sheet;
    struct missing_list missing;
    size_t counts[OUTCOMES];
    char *lines; /* of the row: what there is to say of its cells that do not agree */
    char *notes; /* of the row: of those that do */
};

/* What a cell came to, for the row's line. */
struct row_cells {
    char *agreeing, *open; /* names of columns; "" for none */
};

static void append(char **text, char *more) {
    char *longer = xformat("%s%s", *text, more);
    free(*text);
    free(more);
    *text = longer;
}

static void add_name(char **names, const char *name) {
    append(names, xformat("%s%s", (*names)[0] ? ", " : "", name));
}

/* ---- one number ---- */

static struct run_number ratio_number = {
    .name = "ratio", .kind = NUMBER_RATIO, .digits = 2, .unit = "", .what = "one number by another"};

static const struct run_number *kind_of(const struct cell_part *part) {
    return part->combination == OVER || part->combination == DIVIDING ? &ratio_number : part->number;
}

static const struct unit *unit_of(const struct run_number *number) {
    const struct unit *unit = unit_find(number->unit, strlen(number->unit));
    return unit ? unit : unit_find("", 0);
}

/* Within how much of the number a prediction is a good one: what has a formula should meet it. */
static double prediction_tolerance(const struct run_number *number) {
    return number->kind == NUMBER_COUNT   ? 0
           : number->kind == NUMBER_LOSS  ? 0.02
           : number->kind == NUMBER_SPEED ? 0.3
                                          : 0.02;
}

/* "14.05 MiB". */
static char *with_unit(const struct run_number *number, double value) {
    char *text = run_number_text(number, value),
         *whole = xformat("%s%s%s", text, number->unit[0] ? " " : "", number->unit);
    free(text);
    return whole;
}

struct place {
    const struct cells_table *table;
    const struct cell *cell;
    size_t row, column;
    const char *text; /* what people wrote */
};

static bool agrees(const struct cell_part *part, const struct written_number *written,
                   const struct part_value *value, double tolerance) {
    if (written_number_agrees(written, value->value, tolerance)) return true;
    return part->alternative && part->combination == ALONE &&
           written_number_agrees(written, part_other_value(part, value->run, part->alternative, 0),
                                 tolerance);
}

/* What is said of a number that does not agree. */
static void explain(struct checking *c, const struct place *place, const struct cell_part *part,
                    const struct written_number *written, const struct part_value *value) {
    const struct run_number *number = kind_of(part);
    double entry = (written->low + written->high) / 2;
    struct odd_entry odd = {c->sheet,   place->table, place->row, place->column, part,
                            value->run, entry,        written,    value->value,  value->predicted};
    bool prediction = place->cell->kind == CELL_PREDICTED;
    double reference = prediction && isfinite(value->predicted) ? value->predicted : value->value;
    odd.value = reference;
    if (prediction) odd.predicted = NAN;
    char *has = with_unit(number, reference), *hint = hint_text(&odd), *where = where_text(part->number);
    char *shown = shown_text(place->text);
    append(&c->lines, xformat("           %s: you have %s, %s %s %s\n           %s\n",
                              place->table->columns[place->column], shown, value->run->folder,
                              prediction && isfinite(value->predicted) ? "predicts" : "has", has, hint));
    if (!prediction) append(&c->lines, xformat("           (%s)\n", where));
    free(has);
    free(hint);
    free(where);
    free(shown);
}

/* A run that has another number than its own formula is worth a thought. */
static void note_formula(struct checking *c, const struct place *place, const struct cell_part *part,
                         const struct part_value *value) {
    double off = fabs(value->value - value->predicted);
    if (!(off > run_number_tolerance(part->number) * fabs(value->value)) || off < 0.005) return;
    char *formula = with_unit(part->number, value->predicted);
    append(&c->notes, xformat("           %s: the run's formula says %s: what is the difference?\n",
                              place->table->columns[place->column], formula));
    free(formula);
}

static enum outcome check_part(struct checking *c, const struct place *place, const struct cell_part *part,
                               struct written_number *written) {
    const struct run_number *number = kind_of(part);
    struct part_value value = part_value(c->sheet, part);
    bool prediction = place->cell->kind == CELL_PREDICTED;
    if (value.missing_count) {
        missing_add_all(&c->missing, c->sheet, &value, place->table->question);
        return WITHOUT_RUN;
    }
    if (!written_number_convert(written, unit_of(number))) {
        append(&c->lines, xformat("           %s: '%s' is no unit of this; the sheet has %s\n",
                                  place->table->columns[place->column], written->unit->name,
                                  number->unit[0] ? number->unit : "a plain number"));
        return prediction ? PREDICTED_OTHERWISE : WRONG;
    }
    double tolerance = prediction ? prediction_tolerance(number) : run_number_tolerance(number);
    if (number == &ratio_number) tolerance = fmax(tolerance, run_number_tolerance(part->number));
    struct part_value reference = value;
    if (prediction && isfinite(value.predicted)) reference.value = value.predicted;
    bool good = agrees(part, written, &reference, tolerance) ||
                (prediction && agrees(part, written, &value, tolerance));
    if (!good) explain(c, place, part, written, &value);
    if (good && !prediction) note_formula(c, place, part, &value);
    return prediction ? (good ? PREDICTED_WELL : PREDICTED_OTHERWISE) : good ? AGREES : WRONG;
}

/* ---- one cell ---- */

static enum outcome check_cell(struct checking *c, const struct place *place) {
    struct written_number written[CELL_PARTS];
    const struct cell *cell = place->cell;
    if (!markdown_is_filled(place->text)) return OPEN;
    if (!written_numbers_read(written, cell->count, place->text)) {
        bool words = !strpbrk(place->text, "0123456789");
        if (words) return WORDS;
        char *shown = shown_text(place->text);
        append(&c->lines,
               cell->count > 1
                   ? xformat("           %s: you have %s; the sheet asks for %zu numbers with / between\n",
                             place->table->columns[place->column], shown, cell->count)
                   : xformat("           %s: you have %s, which is no number that can be read\n",
                             place->table->columns[place->column], shown));
        free(shown);
        return cell->kind == CELL_PREDICTED ? PREDICTED_OTHERWISE : WRONG;
    }
    enum outcome worst = cell->kind == CELL_PREDICTED ? PREDICTED_WELL : AGREES;
    for (size_t p = 0; p < cell->count; p++) {
        enum outcome outcome = check_part(c, place, &cell->parts[p], &written[p]);
        if (worst == AGREES || worst == PREDICTED_WELL || outcome == WRONG) worst = outcome;
    }
    return worst;
}

/* ---- rows and tables ---- */

/* A dash of the kit's own says that nothing goes there. */
static bool nothing_goes_there(const struct place *place) {
    return place->text[0] && !markdown_is_filled(place->text) && place->text[0] != '(';
}

static void check_row(struct checking *c, const struct cells_table *table, size_t r,
                      const struct markdown_table *found, size_t row) {
    char *names[OUTCOMES];
    static const char *const words[OUTCOMES] = {"agrees",    "WRONG",      "open",      "no run",
                                                "no number", "good guess", "prediction"};
    for (int o = 0; o < OUTCOMES; o++) names[o] = xstrdup("");
    c->lines = xstrdup("");
    c->notes = xstrdup("");
    for (size_t col = 0; col < table->column_count; col++) {
        const struct cell *cell = &table->cells[r * table->column_count + col];
        char *text = markdown_text(&c->sheet->markdown, found, row, col + 1);
        struct place place = {table, cell, r, col, text};
        bool counts =
            (cell->kind == CELL_MEASURED || (cell->kind == CELL_PREDICTED && markdown_is_filled(text))) &&
            !nothing_goes_there(&place);
        if (counts) {
            enum outcome outcome = check_cell(c, &place);
            add_name(&names[outcome], table->columns[col]);
            c->counts[outcome]++;
        }
        free(text);
    }
    for (int o = 0; o < OUTCOMES; o++) {
        if (names[o][0] && o != OPEN) printf("  %-12s%s: %s\n", words[o], table->rows[r], names[o]);
        if (o == AGREES) printf("%s", c->notes);
        if (o == WRONG || (o == PREDICTED_OTHERWISE && !names[WRONG][0])) printf("%s", c->lines);
    }
    if (names[OPEN][0]) printf("  %-12s%s: %s\n", words[OPEN], table->rows[r], names[OPEN]);
    for (int o = 0; o < OUTCOMES; o++) free(names[o]);
    free(c->lines);
    free(c->notes);
}

/* Is anything filled in that could be checked? */
static bool is_begun(const struct sheet *sheet, const struct cells_table *table,
                     const struct markdown_table *found) {
    for (size_t r = 0; r < table->row_count; r++) {
        size_t row = cells_find_row(table, r, &sheet->markdown, found);
        for (size_t c = 0; row && c < table->column_count; c++) {
            enum cell_kind kind = table->cells[r * table->column_count + c].kind;
            char *text = markdown_text(&sheet->markdown, found, row, c + 1);
            bool filled = (kind == CELL_MEASURED || kind == CELL_PREDICTED) && markdown_is_filled(text);
            free(text);
            if (filled) return true;
        }
    }
    return false;
}

static void check_table(struct checking *c, const struct cells_table *table) {
    if (table->own) return;
    const struct markdown_table *found = cells_find_table(table, &c->sheet->markdown);
    if (!found) {
        printf("\nquestion %d: the table with the columns '%s', … is not in the sheet, or its titles were "
               "changed\n",
               table->question, table->columns[0]);
        return;
    }
    if (!is_begun(c->sheet, table, found)) {
        printf("\nquestion %d, line %ld: open\n", table->question, found->line);
        return;
    }
    printf("\nquestion %d, line %ld\n", table->question, found->line);
    for (size_t r = 0; r < table->row_count; r++) {
        size_t row = cells_find_row(table, r, &c->sheet->markdown, found);
        if (row)
            check_row(c, table, r, found, row);
        else
            printf("  not there   %s\n", table->rows[r]);
    }
}

int sheet_check(const struct sheet *sheet) {
    struct checking c = {.sheet = sheet};
    printf("%s beside %zu run%s\n", sheet->path, sheet->run_count, sheet->run_count == 1 ? "" : "s");
    for (size_t t = 0; t < sheet->cells.count; t++) check_table(&c, &sheet->cells.tables[t]);
    printf("\n%zu agree%s, %zu do%s not", c.counts[AGREES], c.counts[AGREES] == 1 ? "s" : "", c.counts[WRONG],
           c.counts[WRONG] == 1 ? "es" : "");
    if (c.counts[PREDICTED_WELL] + c.counts[PREDICTED_OTHERWISE])
        printf("; %zu of %zu predictions are right", c.counts[PREDICTED_WELL],
               c.counts[PREDICTED_WELL] + c.counts[PREDICTED_OTHERWISE]);
    if (c.counts[WITHOUT_RUN])
        printf("; %zu could not be checked, for want of these runs:", c.counts[WITHOUT_RUN]);
    printf("\n");
    missing_print(&c.missing);
    missing_free(&c.missing);
    return (int)c.counts[WRONG];
}
