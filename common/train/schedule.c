#include "common/train/schedule.h"

#include <math.h>

double schedule_learning_rate(enum scheduler scheduler, double learning_rate, long long done,
                              long long warmup, long long total) {
    if (done < warmup) return learning_rate * ((double)done / (double)(warmup > 1 ? warmup : 1));
    double left = (double)(total - done), span = (double)(total - warmup > 1 ? total - warmup : 1);
    double progress = (double)(done - warmup) / span;
    double factor = 1;
    if (scheduler == SCHEDULER_LINEAR) factor = left > 0 ? left / span : 0;
    if (scheduler == SCHEDULER_COSINE) {
        factor = 0.5 * (1 + cos(3.141592653589793 * 0.5 * 2 * progress));
        if (factor < 0) factor = 0;
    }
    return learning_rate * factor;
}
