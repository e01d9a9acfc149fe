/*
 * Generated examples (examples.h, "synthetic:…"): random token ids in random or equal lengths, a function of
 * seed, example and position alone, in integer arithmetic: the same on every machine.
 */
#ifndef COMMON_TEXT_SYNTHETIC_H
#define COMMON_TEXT_SYNTHETIC_H

#include <stdbool.h>
#include <stdint.h>

#include "common/base/error.h"

#define SYNTHETIC_PREFIX "synthetic:"

/* Ids below this are BLOOM's special tokens (<unk> <s> </s> <pad>), which are not generated. */
enum { SYNTHETIC_FIRST_ID = 4 };

struct synthetic {
    int count;
    int mean;    /* tokens, at least 2 */
    int longest; /* tokens; equal to mean where all lengths are */
    bool equal;  /* all lengths are `mean` */
};

/* Reads "synthetic:COUNTxLENGTH" or "synthetic:COUNTxMEAN-MAX"; false with what is wrong in `error`. */
bool synthetic_parse(struct synthetic *synthetic, const char *source, struct error *error);

/* The length of one example. */
int synthetic_length(const struct synthetic *synthetic, uint64_t seed, int example);
/* Fills tokens[length] with ids from SYNTHETIC_FIRST_ID to vocabulary − 1. */
void synthetic_tokens(uint64_t seed, int example, int vocabulary, int32_t *tokens, int length);

#endif
