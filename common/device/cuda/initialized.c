#include "common/device/cuda/initialized.h"

#include <stdlib.h>

#include "common/base/error.h"

#if defined(__has_include)
#if __has_include(<nvtx3/nvToolsExtMemCudaRt.h>)
#include <nvtx3/nvToolsExtMemCudaRt.h>
#endif
#endif

#ifdef NVTX3EXT_CBID_nvtxMemCudaMarkInitialized

struct marks {
    nvtxDomainHandle_t domain;
};

struct marks *marks_open(void) {
    if (!getenv("NVTX_INJECTION64_PATH")) return NULL; /* where NVTX finds the tool, too */
    struct marks *marks = xcalloc(1, sizeof *marks);
    marks->domain = nvtxDomainCreateA("workshop");
    return marks;
}

void marks_close(struct marks *marks) {
    if (!marks) return;
    nvtxDomainDestroy(marks->domain);
    free(marks);
}

static void mark_ranges(struct marks *marks, cudaStream_t stream, const nvtxMemVirtualRangeDesc_t *ranges,
                        size_t count) {
    const nvtxMemMarkInitializedBatch_t batch = {.extCompatID = NVTX_EXT_COMPATID_MEM,
                                                 .structSize = sizeof batch,
                                                 .regionType = NVTX_MEM_TYPE_VIRTUAL_ADDRESS,
                                                 .regionDescCount = count,
                                                 .regionDescElementSize = sizeof *ranges,
                                                 .regionDescElements = ranges};
    nvtxMemCudaMarkInitialized(marks->domain, stream, 0, &batch);
}

void mark_initialized(struct marks *marks, cudaStream_t stream, const void *first, size_t rows,
                      size_t row_bytes, size_t stride_bytes) {
    if (!marks || rows == 0 || row_bytes == 0) return;
    if (row_bytes == stride_bytes) row_bytes *= rows, rows = 1; /* nothing lies between */
    nvtxMemVirtualRangeDesc_t *ranges = xcalloc(rows, sizeof *ranges);
    for (size_t row = 0; row < rows; row++) {
        ranges[row].ptr = (const char *)first + row * stride_bytes;
        ranges[row].size = row_bytes;
    }
    mark_ranges(marks, stream, ranges, rows);
    free(ranges);
}

#else

struct marks *marks_open(void) {
    return NULL;
}

void marks_close(struct marks *marks) {
    (void)marks;
}

void mark_initialized(struct marks *marks, cudaStream_t stream, const void *first, size_t rows,
                      size_t row_bytes, size_t stride_bytes) {
    (void)marks, (void)stream, (void)first, (void)rows, (void)row_bytes, (void)stride_bytes;
}

#endif
