#include "common/report/written_number.h"

#include <ctype.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/error.h"

/* ---- units ---- */

static const struct unit units[] = {
    {"", UNIT_NONE, 1},          {"B", UNIT_BYTES, 1},         {"byte", UNIT_BYTES, 1},
    {"bytes", UNIT_BYTES, 1},    {"KiB", UNIT_BYTES, 0x1p10},  {"MiB", UNIT_BYTES, 0x1p20},
    {"GiB", UNIT_BYTES, 0x1p30}, {"TiB", UNIT_BYTES, 0x1p40},  {"kB", UNIT_BYTES, 1e3},
    {"MB", UNIT_BYTES, 1e6},     {"GB", UNIT_BYTES, 1e9},      {"TB", UNIT_BYTES, 1e12},
    {"ms", UNIT_SECONDS, 1e-3},  {"s", UNIT_SECONDS, 1},       {"sec", UNIT_SECONDS, 1},
    {"µs", UNIT_SECONDS, 1e-6},  {"seconds", UNIT_SECONDS, 1}, {"min", UNIT_SECONDS, 60},
    {"h", UNIT_SECONDS, 3600},   {"%", UNIT_PERCENT, 0.01},
};

const struct unit *unit_find(const char *name, size_t length) {
    for (size_t i = 0; i < sizeof units / sizeof *units; i++)
        if (strlen(units[i].name) == length && !strncasecmp(units[i].name, name, length)) return &units[i];
    return NULL;
}

/* ---- reading ---- */

/* Bytes of the space at `text`: also the narrow and the unbreakable ones of UTF-8. 0: there is none. */
static size_t space_at(const char *text) {
    static const char *const spaces[] = {" ", "\t", "\u00a0", "\u2009", "\u202f"};
    for (size_t i = 0; i < sizeof spaces / sizeof *spaces; i++)
        if (!strncmp(text, spaces[i], strlen(spaces[i]))) return strlen(spaces[i]);
    return 0;
}

static void skip_spaces(const char **text) {
    for (size_t bytes; (bytes = space_at(*text)) > 0;) *text += bytes;
}

/* Steps over one of these words. */
static bool skip_word(const char **text, const char *const *words) {
    skip_spaces(text);
    for (; *words; words++)
        if (!strncasecmp(*text, *words, strlen(*words))) {
            *text += strlen(*words);
            return true;
        }
    return false;
}

static bool three_digits(const char *text) {
    return isdigit((unsigned char)text[0]) && isdigit((unsigned char)text[1]) &&
           isdigit((unsigned char)text[2]) && !isdigit((unsigned char)text[3]);
}

/* Bytes of what parts thousands at `text`, three digits behind it; 0: there is none. */
static size_t thousands_at(const char *text) {
    size_t bytes = space_at(text);
    if (!bytes && (*text == ',' || *text == '\'' || *text == '_')) bytes = 1;
    return bytes && three_digits(text + bytes) ? bytes : 0;
}

/* Copies digits without what parts thousands, and with a point for a decimal comma. How many bytes of text it
 * took; 0: it does not begin with a number. */
static size_t copy_digits(char *plain, size_t room, const char *text, int *decimals) {
    size_t at = 0, length = 0, bytes;
    *decimals = -1; /* no point yet */
    bool leading_zero = text[0] == '0';
    while (length + 2 < room) {
        if (isdigit((unsigned char)text[at])) {
            plain[length++] = text[at++];
            if (*decimals >= 0) (*decimals)++;
        } else if (length && *decimals < 0 && !leading_zero && (bytes = thousands_at(text + at)) > 0) {
            at += bytes;
        } else if ((text[at] == '.' || text[at] == ',') && *decimals < 0 &&
                   isdigit((unsigned char)text[at + 1])) {
            plain[length++] = '.';
            at++;
            *decimals = 0;
        } else {
            break;
        }
    }
    if (text[at] == '.' && !isdigit((unsigned char)text[at + 1]) && text[at + 1] != '.' && length)
        at++; /* "12." */
    if (*decimals < 0) *decimals = 0;
    plain[length] = '\0';
    return length ? at : 0;
}

/* "e6", "·10^6", "x 10^-3"; 0 where there is none. */
static int read_exponent(const char **text) {
    static const char *const signs[] = {"·", "×", "*", "x", NULL};
    const char *at = *text;
    if (*at == 'e' || *at == 'E') {
        at++;
    } else {
        if (!skip_word(&at, signs)) return 0;
        skip_spaces(&at);
        if (strncmp(at, "10^", 3) != 0) return 0;
        at += 3;
    }
    if (!isdigit((unsigned char)at[*at == '-' || *at == '+'])) return 0;
    char *end;
    long exponent = strtol(at, &end, 10);
    *text = end;
    return exponent > 300 ? 300 : exponent < -300 ? -300 : (int)exponent;
}

/* One plain number with its unit, which stays as it is where none is written. */
static bool read_plain(const char **text, double *value, double *step, const struct unit **unit) {
    char plain[64];
    int decimals;
    static const char *const minuses[] = {"-", "−", NULL};
    skip_spaces(text);
    bool negative = skip_word(text, minuses);
    size_t bytes = copy_digits(plain, sizeof plain, *text, &decimals);
    if (!bytes) return false;
    *text += bytes;
    double power = pow(10, read_exponent(text));
    *value = (negative ? -1 : 1) * strtod(plain, NULL) * power;
    *step = pow(10, -decimals) * power;
    const char *at = *text;
    skip_spaces(&at);
    size_t length = 0;
    while (isalpha((unsigned char)at[length]) || at[length] == '%' || (at[length] & 0x80)) length++;
    const struct unit *found = length ? unit_find(at, length) : NULL;
    if (found) {
        *unit = found;
        *text = at + length;
    }
    return true;
}

/* A number or a sum of some. */
static bool read_sum(const char **text, struct written_number *number, double *value) {
    double next, step;
    const struct unit *unit = number->unit;
    if (!read_plain(text, value, &step, &unit)) return false;
    number->step = fmax(number->step, step);
    for (;;) {
        const char *at = *text;
        skip_spaces(&at);
        if (*at != '+') break;
        at++;
        if (!read_plain(&at, &next, &step, &unit)) break;
        *value += next;
        number->step = fmax(number->step, step);
        *text = at;
    }
    number->unit = unit;
    return true;
}

bool written_number_read(struct written_number *number, const char *text) {
    static const char *const abouts[] = {"~",      "≈",       "about", "approximately", "approx.", "around",
                                         "nearly", "roughly", "ca.",   "circa",         NULL};
    static const char *const marks[] = {"*", "`", "_", ">", "<", "between", "from", NULL};
    static const char *const tos[] = {"to", "…", "...", "..", "–", "—", "-", "and", NULL};
    *number = (struct written_number){.unit = unit_find("", 0)};
    const char *equals = strrchr(text, '=');
    if (equals) text = equals + 1;
    for (bool more = true; more;) {
        more = skip_word(&text, marks);
        if (skip_word(&text, abouts)) more = number->about = true;
    }
    if (!read_sum(&text, number, &number->low)) return false;
    number->high = number->low;
    const char *at = text;
    if (skip_word(&at, tos) && read_sum(&at, number, &number->high)) {
        text = at;
        if (number->high < number->low) {
            double low = number->high;
            number->high = number->low;
            number->low = low;
        }
    }
    skip_spaces(&text);
    if (*text == '?') number->about = true;
    return isfinite(number->low) && isfinite(number->high);
}

bool written_numbers_read(struct written_number *numbers, size_t count, const char *text) {
    if (count == 1) return written_number_read(numbers, text);
    char *copy = xstrdup(text), *rest = copy;
    size_t found = 0;
    bool read = true;
    while (read && rest) {
        char *end = rest;
        while (*end && *end != '/' && *end != ';' && !(*end == ',' && space_at(end + 1))) end++;
        char *next = *end ? end + 1 : NULL;
        *end = '\0';
        read = found < count && written_number_read(&numbers[found], rest);
        found++;
        rest = next;
    }
    free(copy);
    return read && found == count;
}

/* ---- comparing ---- */

bool written_number_convert(struct written_number *number, const struct unit *unit) {
    if (number->unit->kind == UNIT_NONE) {
        number->unit = unit;
        return true;
    }
    /* 70% of nothing in particular is 0.7. */
    bool to_plain = number->unit->kind == UNIT_PERCENT && unit->kind == UNIT_NONE;
    if (number->unit->kind != unit->kind && !to_plain) return false;
    double factor = number->unit->size / unit->size;
    number->low *= factor;
    number->high *= factor;
    number->step *= factor;
    number->unit = unit;
    return true;
}

bool written_number_agrees(const struct written_number *number, double value, double tolerance) {
    if (tolerance <= 0) return value == number->low && value == number->high;
    if (number->about) tolerance = fmax(tolerance, 0.1);
    /* Many digits may have been rounded or cut off. */
    double room = fmax(tolerance * fabs(value), number->step * (number->step < 0.005 ? 1.001 : 0.501));
    return value >= number->low - room && value <= number->high + room;
}
