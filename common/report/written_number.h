/*
 * Numbers as people write them into a sheet: "1,024", "1 024", "1024.0", "14,05", "1.0 GiB", "~12", "10 to
 * 12", "7.03 + 7.03", "4Ψ = 14.05 MiB", "70%", "12 (a guess)".
 */
#ifndef COMMON_REPORT_WRITTEN_NUMBER_H
#define COMMON_REPORT_WRITTEN_NUMBER_H

#include <stdbool.h>
#include <stddef.h>

/* What a unit measures; numbers of a unit of another kind are not compared. */
enum unit_kind { UNIT_NONE, UNIT_BYTES, UNIT_SECONDS, UNIT_PERCENT };

struct unit {
    const char *name; /* "MiB" */
    enum unit_kind kind;
    double size; /* in bytes or seconds; of a percent 0.01 */
};

/* The unit of that name (bytes with 1000-based and 1024-based prefixes, ms, s, min, h, %); NULL where it is
 * not known. "" is no unit. */
const struct unit *unit_find(const char *name, size_t length);

struct written_number {
    double low, high; /* the same but for a range */
    double step; /* one unit of the last digit written: 0.01 for "14.05", of the coarser end of a range */
    bool about;  /* "~12", "about 12", "12?" */
    const struct unit *unit; /* never NULL; its kind is UNIT_NONE where none was written */
};

/* Reads one number out of a text: after its last "=", if there is one. What stands behind it in other words
 * or in parentheses is taken for a remark. A comma is a decimal point where it cannot part thousands
 * ("14,05"), a point never parts thousands. False where there is no number. */
bool written_number_read(struct written_number *number, const char *text);

/* Cuts a text at "/", ";", and commas before a space, into `count` numbers; false where there are not so
 * many. */
bool written_numbers_read(struct written_number *numbers, size_t count, const char *text);

/* The number in another unit of the same kind; a bare number is in `unit` already. False where the kinds
 * differ. */
bool written_number_convert(struct written_number *number, const struct unit *unit);

/* Does it agree with `value`: to within this part of it, or to the digits written (which may have been
 * rounded, or, where there are three after the point or more, cut off)? With a tolerance of 0 only the very
 * number does. A range agrees where it holds the value; "about" is to within 10% at least. */
bool written_number_agrees(const struct written_number *number, double value, double tolerance);

#endif
