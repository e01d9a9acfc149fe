/*
 * reference: results that were measured once, kept as JSON in exercises/reference/, and shown as tables. Its
 * pieces:
 *
 *   reference.c              what is asked for; reading and writing the file
 *   reference_run.c          one run of a stage program or one plan, and what is kept of it
 *   reference_quantities.c   what tables show: where it stands in what was kept, its unit, its digits
 *   reference_show.c         the tables, as Markdown
 *
 * The file is one JSON object. People write what is to be run and shown, the program what came out:
 *
 *   {"title", "text", "machine": {NAME: TEXT or number, …}, "runs": {ID: RUN, …}, "tables": [TABLE, …]}
 *
 * A RUN:
 *
 *   "backend"    how it is made: "cpu", "dry" or "cuda"; "plan" is no run, but the first row of a plan
 *   "stage", "ranks", "settings"
 *                likewise; settings are words of the command line
 *   "timed"      true: it needs the machine for itself
 *   "base"       ID of the run that its speed is divided by, and that its losses are compared with
 *   "command"    how people make it, where that is not ./workshop run STAGE …
 *   "source"     where its results are from, where it is no run of this kit: these are written by hand
 *   "results"    "date", "commit", "losses" and "norms" (of the first updates), "evals", and the events of
 *                metrics.jsonl of these names: "run", "memory", "memory_samples", "communication",
 *                "summary". Without what says nothing on another machine; of a dry run without what it did
 *                not compute
 *
 * A TABLE has "title", "sheet" (the question that it answers, FILE.md#HEADING), "text", "corner" (the first
 * cell), and one of three forms:
 *
 *   "columns": [[TITLE, ID], …], "quantities": [NAME, …]                a column a run, a line a quantity
 *   "rows": [[TITLE, ID], …], "quantities": [NAME, …]                   a line a run, a column a quantity
 *   "grid": NAME, "columns": [TITLE, …], "rows": [[TITLE, ID, …], …]    one quantity of many runs
 *
 * A cell without results is a dash. Below a table stand the commands of its runs, unless "commands" is false.
 */
#ifndef COMMON_TOOLS_REFERENCE_H
#define COMMON_TOOLS_REFERENCE_H

#include <jansson.h>
#include <stdbool.h>
#include <stdio.h>

#include "common/base/error.h"

/* How runs are made. */
struct reference_programs {
    const char *folder; /* BACKEND/STAGE/train lies in it */
    const char
        *launcher; /* words before the program where there are several ranks; @ stands for their number */
    const char *wrapper; /* words before all of it where the run is "timed" ("chrt -f 1"), or NULL */
    const char *commit;  /* of the programs, or NULL */
};

/* Makes a run of the file. Its results, a new reference; NULL with `error` set where the program fails. */
json_t *reference_make(const json_t *run, const struct reference_programs *programs, struct error *error);
/* The results of a run that was made elsewhere: `path` is its folder or its metrics.jsonl. Likewise. */
json_t *reference_take(const char *path, const char *commit, struct error *error);

/* A run's number of that name as text ("174.2 / 174.2 / 174"), in `text` of `size` bytes: "–" where the
 * results have none. `runs` are all, among them the run's base. False where there is no such quantity. */
bool quantity_text(const char *name, const json_t *runs, const json_t *run, char *text, size_t size);
/* What a quantity is called in a table; NULL where there is none of that name. */
const char *quantity_title(const char *name);

/* Writes the whole file as Markdown. False with `error` set where a table names what is not there. */
bool reference_show(FILE *out, const json_t *document, const char *path, struct error *error);

#endif
