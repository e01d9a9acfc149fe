/*
 * What comm.h offers beside plain collectives, checked against these: sums that are added on their way, and
 * collectives in memory that the ranks share. Each is called by all ranks and fail()s with what differs.
 */
#ifndef TESTS_SUPPORT_COMM_EXTRAS_H
#define TESTS_SUPPORT_COMM_EXTRAS_H

#include "common/comm/comm.h"

/* A rank of a test. */
struct rank {
    struct comm *comm;
    struct device *device;
    struct stream *stream;
};

/* comm_reduce_scatter_add_start() gives the bits of adding afterwards; where comm_adds(). */
void comm_check_adding(const struct rank *r, enum dtype dtype, size_t count);
/* New slices in a shared block, gathered in place or elsewhere, three at a time, again and again, between an
 * all-gather and an all-reduce of memory that is not shared. Only the stream orders all that. */
void comm_check_sharing(const struct rank *r, bool in_place);
/* The same of all-reduces in a shared block, of counts that do not divide by the ranks, too. */
void comm_check_shared_sums(const struct rank *r);

#endif
