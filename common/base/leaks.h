/*
 * Which programs LeakSanitizer judges: those that end normally. It looks, as a process ends, for memory that
 * nothing points to any more. Of what a program holds when it refuses to go on, a compiler may or may not
 * have kept a pointer by then: such reports would differ from build to build, and say nothing.
 */
#ifndef COMMON_BASE_LEAKS_H
#define COMMON_BASE_LEAKS_H

/* From here on, what this process leaves behind is not looked at. Does nothing where the build has no
 * sanitizers. */
void leaks_ignore(void);

#endif
