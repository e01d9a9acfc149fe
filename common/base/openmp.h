/*
 * How OpenMP's threads wait.
 *
 * Between two pieces of work libgomp's threads spin, for milliseconds where nobody says otherwise. With cores
 * to themselves that costs nothing; where others want the cores too (a second rank, a busy node, a laptop) it
 * slows a program of many small kernels down several times. A short spin bridges the gaps inside an update,
 * and then the thread sleeps.
 */
#ifndef COMMON_BASE_OPENMP_H
#define COMMON_BASE_OPENMP_H

/* To be called first in main(), with its argv. libgomp reads its environment when it is loaded, so this sets
 * GOMP_SPINCOUNT and starts the program anew, once; returns where that or OMP_WAIT_POLICY is set already, or
 * where it cannot be done. */
void openmp_wait_briefly(char **arguments);

#endif
