#include "common/device/cuda/peak.h"

#include <stddef.h>
#include <string.h>

/* A name that contains a longer one's beginning comes after it: the first that is found counts. TFLOP/s. */
static const struct {
    const char *name;
    int capability;
    double half, single;
} peaks[] = {
    {"B200", 100, 2250, 75},
    {"B100", 100, 1750, 60},
    {"GH200", 90, 989.4, 66.9},
    {"H200 NVL", 90, 835.5, 60},
    {"H200", 90, 989.4, 66.9},
    {"H100 PCIe", 90, 756.4, 51.2},
    {"H100 NVL", 90, 835.5, 60},
    {"H100", 90, 989.4, 66.9},
    {"H800", 90, 989.4, 66.9},
    {"H20", 90, 148, 44},
    {"A100", 80, 312, 19.5},
    {"A800", 80, 312, 19.5},
    {"A30", 80, 165, 10.3},
    {"A40", 86, 149.7, 37.4},
    {"A10G", 86, 70, 35},
    {"A10", 86, 125, 31.2},
    {"RTX A6000", 86, 154.8, 38.7},
    {"RTX 3090", 86, 71.2, 35.6},
    {"RTX 3080", 86, 59.5, 29.8},
    {"L40S", 89, 362, 91.6},
    {"L40", 89, 181, 90.5},
    {"L4", 89, 121, 30.3},
    {"RTX 6000 Ada", 89, 364.2, 91.1},
    {"RTX 4090", 89, 165.2, 82.6},
    {"RTX 5090", 120, 209.5, 104.8},
    {"T4", 75, 65.1, 8.1},
    {"V100-PCIE", 70, 112, 14},
    {"V100", 70, 125, 15.7},
};

double peak_flops(const char *name, int capability, enum dtype dtype) {
    if (dtype == BF16 && capability < 80) return 0;
    for (size_t i = 0; i < sizeof peaks / sizeof *peaks; i++)
        if (peaks[i].capability == capability && strstr(name, peaks[i].name))
            return 1e12 * (dtype == FP32 ? peaks[i].single : peaks[i].half);
    return 0;
}
