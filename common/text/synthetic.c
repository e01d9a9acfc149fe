#include "common/text/synthetic.h"

#include <string.h>

/* What a generator may ask for: a slip of the finger must not fill the memory. */
enum { MOST_EXAMPLES = 10000000, MOST_LENGTH = 1 << 20, SHORTEST = 16 };

/* Reads digits at *text and moves behind them; −1 where there are none or the number is above `most`. */
static int read_number(const char **text, int most) {
    int number = 0, digits = 0;
    for (; **text >= '0' && **text <= '9'; (*text)++, digits++) {
        number = 10 * number + (**text - '0');
        if (number > most) return -1;
    }
    return digits ? number : -1;
}

bool synthetic_parse(struct synthetic *synthetic, const char *source, struct error *error) {
    const char *at = source + strlen(SYNTHETIC_PREFIX);
    *synthetic = (struct synthetic){.equal = true};
    synthetic->count = read_number(&at, MOST_EXAMPLES);
    bool ok = synthetic->count > 0 && *at++ == 'x';
    if (ok) {
        synthetic->mean = synthetic->longest = read_number(&at, MOST_LENGTH);
        ok = synthetic->mean >= 2;
    }
    if (ok && *at == '-') {
        at++;
        synthetic->equal = false;
        synthetic->longest = read_number(&at, MOST_LENGTH);
        ok = synthetic->longest >= synthetic->mean;
    }
    if (!ok || *at)
        return error_set(
            error,
            "%s: expected synthetic:COUNTxLENGTH or synthetic:COUNTxMEAN-MAX, as synthetic:500x190-512, "
            "with at most %d examples of 2 to %d tokens and MEAN not above MAX",
            source, MOST_EXAMPLES, MOST_LENGTH);
    return true;
}

/* A 64-bit number that looks random, from three: the finaliser of SplitMix64 (Steele et al., OOPSLA 2014)
 * after each. */
static uint64_t random_number(uint64_t seed, uint64_t example, uint64_t position) {
    const uint64_t inputs[] = {seed, example, position};
    uint64_t value = 0;
    for (int i = 0; i < 3; i++) {
        value = (value ^ inputs[i]) + 0x9e3779b97f4a7c15u;
        value = (value ^ value >> 30) * 0xbf58476d1ce4e5b9u;
        value = (value ^ value >> 27) * 0x94d049bb133111ebu;
        value ^= value >> 31;
    }
    return value;
}

int synthetic_length(const struct synthetic *synthetic, uint64_t seed, int example) {
    if (synthetic->equal) return synthetic->mean;
    /* Twelve uniform numbers of [0, 2^16) sum up to a nearly normal one of mean 6 · 2^16 and standard
     * deviation 2^16. */
    int64_t sum = -6 * 65536;
    for (uint64_t i = 0; i < 12; i++) sum += (int64_t)(random_number(~seed, (uint64_t)example, i) >> 48);
    int64_t length = synthetic->mean + sum * synthetic->mean / (3 * 65536);
    int shortest = synthetic->mean < SHORTEST ? synthetic->mean : SHORTEST;
    if (length < shortest) length = shortest;
    return length > synthetic->longest ? synthetic->longest : (int)length;
}

void synthetic_tokens(uint64_t seed, int example, int vocabulary, int32_t *tokens, int length) {
    uint64_t choices = (uint64_t)(vocabulary - SYNTHETIC_FIRST_ID);
    for (int i = 0; i < length; i++) {
        uint64_t number = random_number(seed, (uint64_t)example, (uint64_t)i) >> 32;
        tokens[i] = SYNTHETIC_FIRST_ID + (int32_t)(number * choices >> 32);
    }
}
