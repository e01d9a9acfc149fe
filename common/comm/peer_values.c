#include "common/comm/peer_values.h"

#include <cuda.h>
#include <dlfcn.h>
#include <string.h>

#include "common/base/error.h"

typedef CUresult (*value_function)(CUstream stream, CUdeviceptr address, cuuint32_t value, unsigned flags);

/* NULL where the driver lacks it. The runtime has loaded the driver before. */
static value_function find(const char *name) {
    void *driver = dlopen("libcuda.so.1", RTLD_NOW | RTLD_LOCAL);
    void *symbol = driver ? dlsym(driver, name) : NULL;
    value_function function = NULL;
    memcpy(&function, &symbol, sizeof function); /* C has no cast for that */
    return function;
}

static value_function writing(void) {
    static value_function function;
    if (!function) function = find("cuStreamWriteValue32_v2");
    return function;
}

static value_function awaiting(void) {
    static value_function function;
    if (!function) function = find("cuStreamWaitValue32_v2");
    return function;
}

bool stream_values_work(void) {
    return writing() && awaiting();
}

static void call(value_function function, cudaStream_t stream, volatile uint32_t *number, uint32_t value,
                 unsigned flags) {
    CUresult code = function(stream, (CUdeviceptr)(uintptr_t)number, value, flags);
    if (code != CUDA_SUCCESS)
        fail("streams that wait for each other: the CUDA driver says error %d; run with --peer_copies false",
             (int)code);
}

void stream_write_value(cudaStream_t stream, volatile uint32_t *number, uint32_t value) {
    call(writing(), stream, number, value, CU_STREAM_WRITE_VALUE_DEFAULT);
}

void stream_await_value(cudaStream_t stream, volatile uint32_t *number, uint32_t value) {
    call(awaiting(), stream, number, value, CU_STREAM_WAIT_VALUE_GEQ);
}
