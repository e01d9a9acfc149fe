/*
 * A page for a browser: one file, light and dark, readable on a projector, without scripts and without
 * anything from elsewhere.
 */
#ifndef COMMON_REPORT_PAGE_H
#define COMMON_REPORT_PAGE_H

#include <stdio.h>

#include "common/report/table.h"

/* Writes `text` without control characters, and with < > & " as HTML has them. */
void html_escape(FILE *out, const char *text);

/* The page up to its heading, with more style rules ("" or what charts need); its end. */
void page_begin(FILE *out, const char *title, const char *style);
void page_end(FILE *out);
/* A heading, and a sentence or two how to read what follows; both are HTML. */
void page_section(FILE *out, const char *title, const char *reader);
void page_table(FILE *out, const struct table *table);

#endif
