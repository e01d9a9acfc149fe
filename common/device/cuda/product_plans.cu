/*
 * Products by cuBLASLt.
 *
 * cuBLASLt's matrices are column-major. A row-major [m,n] is a column-major [n,m], so it is asked for
 * outᵀ [n,m] = bᵀ [n,k] · aᵀ [k,m], and all memory stays as it is: its bias, one a row, is then ours, one a
 * column.
 *
 * What it is told to do (types, shapes, epilogue) and which of its algorithms does it is a plan. The
 * algorithm is the first that its heuristic names, which depends on the plan, the device and the library
 * alone, never on a timing: the same run takes the same algorithms, hence has the same bits. Plans are kept,
 * as the heuristic takes longer than a small product. A pack may have any number of tokens: plans are made
 * for multiples of TOKENS, and do their work on as many as there are.
 */
#include <cstdlib>
#include <cstring>

#include <cublasLt.h>

#include "common/device/cuda/product.cuh"

extern "C" {
#include "common/device/cuda/initialized.h"
}

static void check(cublasStatus_t status, const char *what) {
    if (status == CUBLAS_STATUS_SUCCESS) return;
    fail("%s: cuBLASLt says: %s; run again with CUBLASLT_LOG_LEVEL=2, which shows why", what,
         cublasLtGetStatusString(status));
}

/* ---- plans ---- */

/* Where a sum that is in the output already is to be added in half precision, cuBLASLt takes kernels (on
 * compute capability 9.0) that round the product first and let the memory add it: rounded twice. It does so
 * where it sees that the factor is 1; so it is not shown the factor, which lies in device memory then. */
enum addition { ADD_NOTHING, ADD, ADD_IN_PLACE };

__device__ const float one_on_device = 1;

/* All that a plan depends on; no padding between members, as keys are compared as bytes. */
struct key {
    size_t m, n, k, lda, ldb, ldout, ldadd;
    int dtype, out_dtype, epilogue;
    int transposed; /* bit 0: a, bit 1: b */
    int add;        /* enum addition */
    int alignment;  /* the least of all pointers', in bytes, at most 256 */
};

struct plan {
    struct key key;
    bool known;   /* this place holds a plan … */
    bool offered; /* … that cuBLASLt has an algorithm for */
    cublasLtMatmulDescOpaque_t product;
    cublasLtMatrixLayoutOpaque_t a, b, add, out;
    cublasLtMatmulAlgo_t algorithm;
};

/* Packs of any length come, so shapes without number: a new plan takes the place of an old one with the same
 * hash. */
enum { PLANS = 1024 };

struct products {
    cublasLtHandle_t handle;
    const float *one;    /* on the device */
    struct marks *marks; /* NULL where none are wanted */
    struct plan plans[PLANS];
};

static void close_products(void *pointer) {
    struct products *products = (struct products *)pointer;
    if (!products) return;
    marks_close(products->marks);
    check(cublasLtDestroy(products->handle), "closing cuBLASLt");
    free(products);
}

static struct products *products_of(struct stream *stream) {
    struct products **products = (struct products **)cuda_products(stream, close_products);
    if (!*products) {
        *products = (struct products *)xcalloc(1, sizeof **products);
        check(cublasLtCreate(&(*products)->handle), "opening cuBLASLt");
        CUDA_CHECK(cudaGetSymbolAddress((void **)&(*products)->one, one_on_device), "opening cuBLASLt");
        if (cuda_capability(stream_device(stream)) >= 90) (*products)->marks = marks_open();
    }
    return *products;
}

static cudaDataType_t data_type(int dtype) {
    return dtype == FP32 ? CUDA_R_32F : dtype == BF16 ? CUDA_R_16BF : CUDA_R_16F;
}

/* FNV-1a (Fowler, Noll and Vo). */
static unsigned hash_of(const struct key *key) {
    const unsigned char *bytes = (const unsigned char *)key;
    uint64_t hash = UINT64_C(0xcbf29ce484222325);
    for (size_t i = 0; i < sizeof *key; i++) hash = (hash ^ bytes[i]) * UINT64_C(0x100000001b3);
    return (unsigned)(hash ^ hash >> 32) % PLANS;
}

template <typename Value>
static void set(cublasLtMatmulDescOpaque_t *product, cublasLtMatmulDescAttributes_t attribute, Value value) {
    check(cublasLtMatmulDescSetAttribute(product, attribute, &value, sizeof value), "describing a product");
}

static void describe_layout(cublasLtMatrixLayoutOpaque_t *layout, int dtype, size_t rows, size_t columns,
                            size_t ld) {
    check(cublasLtMatrixLayoutInit(layout, data_type(dtype), rows, columns, (int64_t)ld),
          "describing a matrix");
}

/* Our b is cuBLASLt's A, and the other way round. */
static void describe_layouts(struct plan *plan, size_t m, size_t k) {
    const struct key *key = &plan->key;
    if (key->transposed & 2)
        describe_layout(&plan->a, key->dtype, k, key->n, key->ldb);
    else
        describe_layout(&plan->a, key->dtype, key->n, k, key->ldb);
    if (key->transposed & 1)
        describe_layout(&plan->b, key->dtype, m, k, key->lda);
    else
        describe_layout(&plan->b, key->dtype, k, m, key->lda);
    describe_layout(&plan->add, key->out_dtype, key->n, m, key->ldadd);
    describe_layout(&plan->out, key->out_dtype, key->n, m, key->ldout);
}

static void describe(struct plan *plan) {
    const struct key *key = &plan->key;
    check(cublasLtMatmulDescInit(&plan->product, CUBLAS_COMPUTE_32F, CUDA_R_32F), "describing a product");
    set(&plan->product, CUBLASLT_MATMUL_DESC_TRANSA, key->transposed & 2 ? CUBLAS_OP_T : CUBLAS_OP_N);
    set(&plan->product, CUBLASLT_MATMUL_DESC_TRANSB, key->transposed & 1 ? CUBLAS_OP_T : CUBLAS_OP_N);
    set(&plan->product, CUBLASLT_MATMUL_DESC_EPILOGUE, (cublasLtEpilogue_t)key->epilogue);
    if (key->add == ADD_IN_PLACE)
        set(&plan->product, CUBLASLT_MATMUL_DESC_POINTER_MODE, CUBLASLT_POINTER_MODE_DEVICE);
    describe_layouts(plan, key->m, key->k);
}

/* Sums that are split among blocks are put together in fp32, never in the output's type. */
static void choose_algorithm(cublasLtHandle_t handle, struct plan *plan) {
    cublasLtMatmulPreferenceOpaque_t preference;
    check(cublasLtMatmulPreferenceInit(&preference), "choosing an algorithm");
    const size_t workspace = CUDA_WORKSPACE_BYTES;
    const uint32_t reductions = CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE,
                   alignment = (uint32_t)plan->key.alignment;
    const struct {
        cublasLtMatmulPreferenceAttributes_t attribute;
        const void *value;
        size_t bytes;
    } wishes[] = {{CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, &workspace, sizeof workspace},
                  {CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK, &reductions, sizeof reductions},
                  {CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, &alignment, sizeof alignment},
                  {CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, &alignment, sizeof alignment},
                  {CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, &alignment, sizeof alignment},
                  {CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, &alignment, sizeof alignment}};
    for (const auto &wish : wishes)
        check(cublasLtMatmulPreferenceSetAttribute(&preference, wish.attribute, wish.value, wish.bytes),
              "choosing an algorithm");
    cublasLtMatmulHeuristicResult_t result;
    int found = 0;
    cublasStatus_t status = cublasLtMatmulAlgoGetHeuristic(
        handle, &plan->product, &plan->a, &plan->b, &plan->add, &plan->out, &preference, 1, &result, &found);
    plan->offered = status == CUBLAS_STATUS_SUCCESS && found > 0 && result.state == CUBLAS_STATUS_SUCCESS;
    if (plan->offered) plan->algorithm = result.algo;
}

static struct plan *plan_of(struct products *products, const struct key *key) {
    struct plan *plan = &products->plans[hash_of(key)];
    if (plan->known && !memcmp(&plan->key, key, sizeof *key)) return plan;
    memset(plan, 0, sizeof *plan);
    plan->key = *key;
    plan->known = true;
    describe(plan);
    choose_algorithm(products->handle, plan);
    return plan;
}

/* ---- products ---- */

static int alignment_of(const struct product *p) {
    const void *const pointers[] = {p->a.elements, p->b.elements, p->out, p->bias, p->add};
    uintptr_t bits = 256;
    for (const void *pointer : pointers) bits |= (uintptr_t)pointer;
    return (int)(bits & (~bits + 1)); /* the lowest bit that is set */
}

/* cuBLASLt takes whole vectors of 16 bytes along the rows of each matrix, as all of a model's are; how many
 * rows there are is free. */
static bool vectors_fit(const struct product *p) {
    const size_t in = 16 / dtype_size(p->dtype), out = 16 / dtype_size(p->out_dtype);
    return p->k > 0 && alignment_of(p) >= 16 && p->a.ld % in == 0 && p->b.ld % in == 0 &&
           p->ldout % out == 0 && (!p->add || p->ldadd % out == 0) && p->n % out == 0;
}

static enum addition addition_of(const struct product *p) {
    if (!p->add) return ADD_NOTHING;
    return p->add == p->out && p->out_dtype != FP32 ? ADD_IN_PLACE : ADD;
}

enum { TOKENS = 128 };

static size_t whole_tokens(size_t count) {
    return (count + TOKENS - 1) / TOKENS * TOKENS;
}

/* With `rounded`, the number of rows that are tokens is: of a and out, or in a weight's gradient of a and b
 * as stored. No leading dimension depends on it. */
static struct key key_of(const struct product *p, bool rounded) {
    struct key key;
    memset(&key, 0, sizeof key);
    key.m = rounded && !p->a.transposed ? whole_tokens(p->m) : p->m;
    key.n = p->n;
    key.k = rounded && p->a.transposed && !p->b.transposed ? whole_tokens(p->k) : p->k;
    key.lda = p->a.ld, key.ldb = p->b.ld, key.ldout = p->ldout, key.ldadd = p->add ? p->ldadd : p->ldout;
    key.dtype = p->dtype, key.out_dtype = p->out_dtype;
    key.epilogue = p->bias ? CUBLASLT_EPILOGUE_BIAS : CUBLASLT_EPILOGUE_DEFAULT;
    key.transposed = (p->a.transposed ? 1 : 0) | (p->b.transposed ? 2 : 0);
    key.add = addition_of(p);
    key.alignment = alignment_of(p);
    return key;
}

static cublasStatus_t run(struct stream *stream, struct products *products, struct plan *plan,
                          const struct product *p) {
    if (!plan->offered) return CUBLAS_STATUS_NOT_SUPPORTED;
    describe_layouts(plan, p->m, p->k);
    if (p->bias) set(&plan->product, CUBLASLT_MATMUL_DESC_BIAS_POINTER, p->bias);
    const float one = 1, none = 0;
    const bool on_device = plan->key.add == ADD_IN_PLACE;
    const void *const factor = on_device ? products->one : &one;
    const void *const add_factor = on_device ? products->one : p->add ? &one : &none;
    return cublasLtMatmul(products->handle, &plan->product, factor, p->b.elements, &plan->a, p->a.elements,
                          &plan->b, add_factor, p->add ? p->add : p->out, &plan->add, p->out, &plan->out,
                          &plan->algorithm, cuda_workspace(stream), CUDA_WORKSPACE_BYTES,
                          cuda_stream(stream));
}

/* See initialized.h: fp32's products store as other kernels do, and need no mark. */
static void mark_result(struct stream *stream, const struct product *p) {
    if (p->dtype == FP32) return;
    const size_t size = dtype_size(p->out_dtype);
    mark_initialized(products_of(stream)->marks, cuda_stream(stream), p->out, p->m, p->n * size,
                     p->ldout * size);
}

/* False where cuBLASLt has no algorithm for it. */
static bool multiply_planned(struct stream *stream, const struct product *p) {
    struct products *products = products_of(stream);
    struct key key = key_of(p, true);
    if (run(stream, products, plan_of(products, &key), p) == CUBLAS_STATUS_SUCCESS) return true;
    key = key_of(p, false); /* the algorithm does not do with fewer tokens */
    struct plan *plan = plan_of(products, &key);
    if (!plan->offered) return false;
    check(run(stream, products, plan, p), "a matrix product");
    return true;
}

void multiply(struct stream *stream, const struct product *product) {
    if (vectors_fit(product) && multiply_planned(stream, product))
        mark_result(stream, product);
    else
        multiply_general(stream, product);
}
