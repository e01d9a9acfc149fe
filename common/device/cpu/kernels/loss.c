/*
 * Cross entropy with its gradient in place of the logits, and sums.
 */
#include <math.h>

#include "common/device/cpu/cpu.h"
#include "common/device/cpu/kernels/vector.h"

/* ---- cross entropy ---- */

#define COLUMNS ((size_t)4096) /* read twice from cache before the next ones are read from memory */

#define LANES ((size_t)64)

/* The largest of `floor` and x [count]; NaNs are passed over. Lanes of its own, as compilers do not split
 * what might be a NaN's or a signed zero's maximum. */
INLINE float largest_of(enum dtype dtype, float floor, const void *x, size_t count) {
    float lanes[LANES];
    for (size_t lane = 0; lane < LANES; lane++) lanes[lane] = floor;
    size_t whole = count - count % LANES;
    for (size_t first = 0; first < whole; first += LANES) {
#pragma omp simd
        for (size_t lane = 0; lane < LANES; lane++) {
            float value = load(dtype, x, first + lane);
            lanes[lane] = value > lanes[lane] ? value : lanes[lane];
        }
    }
    float largest = floor;
    for (size_t i = whole; i < count; i++) {
        float value = load(dtype, x, i);
        largest = value > largest ? value : largest;
    }
    for (size_t lane = 0; lane < LANES; lane++) largest = lanes[lane] > largest ? lanes[lane] : largest;
    return largest;
}

/* The row's largest logit, and Σ exp(logit − largest). Columns are taken a block at a time: its largest, then
 * its sum; where a block holds a new largest, the sum so far is scaled down to it. */
INLINE void row_sum(enum dtype dtype, float *largest, double *sum, const void *row, size_t vocabulary) {
    float top = -INFINITY;
    double total = 0.0;
    for (size_t first = 0; first < vocabulary; first += COLUMNS) {
        const void *block = const_element(dtype, row, first);
        size_t columns = smaller(COLUMNS, vocabulary - first);
        float block_top = largest_of(dtype, top, block, columns), block_sum = 0.0f;
        /* All −∞ so far: nothing to scale, and nothing to subtract. */
        float shift = block_top == -INFINITY ? 0.0f : block_top;
        if (block_top > top) total *= exp((double)top - block_top);
        top = block_top;
#pragma omp simd reduction(+ : block_sum)
        for (size_t c = 0; c < columns; c++) block_sum += vector_exp(load(dtype, block, c) - shift);
        total += block_sum;
    }
    *largest = top;
    *sum = total;
}

/* logits = exp(logit − largest) · factor. */
INLINE void row_gradient(enum dtype dtype, void *row, float largest, float factor, size_t vocabulary) {
#pragma omp simd
    for (size_t c = 0; c < vocabulary; c++)
        store(dtype, row, c, vector_exp(load(dtype, row, c) - largest) * factor);
}

struct row {
    void *logits;
    size_t vocabulary, label;
    float weight;
    bool gradient;
    float gradient_factor; /* of softmax − onehot */
};

INLINE void row_loss(enum dtype dtype, float *loss, const struct row *row) {
    float largest, label = load(dtype, row->logits, row->label);
    double sum;
    row_sum(dtype, &largest, &sum, row->logits, row->vocabulary);
    *loss = row->weight * (float)(log(sum) + ((double)largest - label));
    if (!row->gradient) return;
    row_gradient(dtype, row->logits, largest, (float)(row->gradient_factor / sum), row->vocabulary);
    double probability = exp((double)label - largest) / sum;
    store(dtype, row->logits, row->label, (float)(row->gradient_factor * (probability - 1.0)));
}

HOT static void cross_entropy_row(enum dtype dtype, float *loss, const struct row *row) {
    FOR_DTYPE(dtype, row_loss, loss, row);
}

void cross_entropy(struct stream *stream, enum dtype dtype, void *logits, float *losses,
                   const int32_t *labels, const float *weights, size_t rows, size_t vocabulary, size_t ld,
                   bool gradient, const float *loss_scale, float inverse_positions) {
    work_cross_entropy(stream, dtype, rows, vocabulary, ld, gradient);
#pragma omp parallel for schedule(static) if (rows * vocabulary > PIECE)
    for (size_t r = 0; r < rows; r++) {
        void *row_logits = element(dtype, logits, r * ld);
        size_t zeros_from = vocabulary;
        if (weights[r] == 0.0f) {
            losses[r] = 0.0f;
            zeros_from = 0;
        } else {
            struct row row = {row_logits, vocabulary, (size_t)labels[r], weights[r], gradient, 0.0f};
            if (gradient) row.gradient_factor = weights[r] * *loss_scale * inverse_positions;
            cross_entropy_row(dtype, &losses[r], &row);
        }
        if (gradient)
            memset(element(dtype, row_logits, zeros_from), 0, (ld - zeros_from) * dtype_size(dtype));
    }
}

/* ---- sums ----
 *
 * An array is cut into at most PARTS parts, as a function of its length alone; parts are summed on their own,
 * and then in order. */

#define PARTS ((size_t)256)

struct parts {
    size_t count, length; /* the last one may be shorter */
};

static struct parts cut(size_t count) {
    size_t length = (count + PARTS - 1) / PARTS;
    if (length < PIECE) length = PIECE;
    return (struct parts){(count + length - 1) / length, length};
}

static double sum_of_parts(const double *sums, size_t count) {
    double sum = 0.0;
    for (size_t i = 0; i < count; i++) sum += sums[i];
    return sum;
}

HOT static double sum_part(const float *values, size_t count) {
    double sum = 0.0;
#pragma omp simd reduction(+ : sum)
    for (size_t i = 0; i < count; i++) sum += values[i];
    return sum;
}

void sum_values(struct stream *stream, double *total, const float *values, size_t count) {
    work_sum_values(stream, count);
    struct parts parts = cut(count);
    double sums[PARTS];
#pragma omp parallel for schedule(static) if (parts.count > 1)
    for (size_t i = 0; i < parts.count; i++)
        sums[i] = sum_part(values + i * parts.length, smaller(parts.length, count - i * parts.length));
    *total += sum_of_parts(sums, parts.count);
}

/* In fp64, where the square of no fp32 number overflows. */
INLINE void add_squares(enum dtype dtype, double *total, const void *x, size_t first, size_t end) {
    double sum = 0.0;
#pragma omp simd reduction(+ : sum)
    for (size_t i = first; i < end; i++) {
        double value = load(dtype, x, i);
        sum += value * value;
    }
    *total = sum;
}

HOT static void square_part(enum dtype dtype, double *sum, const void *x, size_t first, size_t end) {
    FOR_DTYPE(dtype, add_squares, sum, x, first, end);
}

void sum_of_squares(struct stream *stream, enum dtype dtype, double *total, const void *x, size_t count) {
    work_sum_of_squares(stream, dtype, count);
    struct parts parts = cut(count);
    double sums[PARTS];
#pragma omp parallel for schedule(static) if (parts.count > 1)
    for (size_t i = 0; i < parts.count; i++)
        square_part(dtype, &sums[i], x, i * parts.length, smaller((i + 1) * parts.length, count));
    *total += sum_of_parts(sums, parts.count);
}
