/*
 * Folders that a test makes and removes again, and small files in them.
 */
#ifndef TESTS_SUPPORT_TEMPORARY_H
#define TESTS_SUPPORT_TEMPORARY_H

#include <stddef.h>

/* A new empty folder under TMPDIR (or /tmp). The caller gives it to temporary_remove(). */
char *temporary_folder(void);
/* Removes the folder with all in it, and frees its name. */
void temporary_remove(char *folder);

/* Writes a file FOLDER/NAME (folders in between are made); fails the test where that does not work. */
void temporary_write(const char *folder, const char *name, const void *data, size_t size);
void temporary_write_text(const char *folder, const char *name, const char *text);

#endif
