/*
 * A folder full of inputs that a run must refuse: each is a copy of a sound one with one thing wrong.
 */
#ifndef TESTS_SUPPORT_BAD_FILES_H
#define TESTS_SUPPORT_BAD_FILES_H

/* Fills `folder`: good/ (a model and its text), models/NAME, text/NAME.json, settings/NAME.json. */
void bad_files_make(const char *folder);
/* Makes saved/ and runs/NAME of `saved`, the output_dir of a whole run in `folder`, which has a
 * checkpoint-2: copies of it with damage. */
void bad_checkpoints_make(const char *folder);

#endif
