/*
 * Collectives with known answers: each case makes its own data from a number and the rank, so that every rank
 * can work out what every other one had, and the sums in rank order, one element after the other with
 * dtype.h's roundings.
 */
#ifndef TESTS_SUPPORT_COMM_CASES_H
#define TESTS_SUPPORT_COMM_CASES_H

#include "common/comm/comm.h"

/* One collective on data of its own: started, later checked. */
struct comm_case {
    struct comm *comm;
    struct stream *stream;
    enum collective collective;
    enum dtype dtype;
    size_t count;
    unsigned salt; /* which data */
    int root;
    bool in_place;  /* reduce-scatter, all-gather: out is a slice of in, or the other way round */
    bool any_order; /* sums of more than two numbers may be rounded after each addition, in any order */
    void *in, *out;
    struct comm_request request;
};

/* Fills the buffers and starts; the case must outlive it. */
void case_start(struct comm_case *c);
/* Waits, compares every bit with the answer (but for any_order), frees; fail()s with what differs. */
void case_finish(struct comm_case *c);

/* Is the order of a sum visible in this data? Compares it with the reverse order. */
bool case_order_matters(enum dtype dtype, size_t count, int size, unsigned salt);

#endif
