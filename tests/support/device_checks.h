/*
 * Checks of device.h that every backend must pass with the same numbers: what is booked, and what is counted.
 */
#ifndef TESTS_SUPPORT_DEVICE_CHECKS_H
#define TESTS_SUPPORT_DEVICE_CHECKS_H

/* cmocka tests. */
void check_booking(void **state);          /* headings, peaks, blocks of no bytes, host memory beside it */
void check_workspace(void **state);        /* what a device books by itself, in each precision */
void check_memory_limit(void **state);     /* the error of a full device */
void check_unknown_pointers(void **state); /* freed twice; freed as the other kind of memory */
void check_copies_counted(void **state);
void check_kernels_counted(void **state); /* every kernel of kernels.h, on small operands */

#endif
