/* NAME: relu(x) times a weight of each channel, for pictures with channels last.

   Layout: x and out [pixels, channels], contiguous; weight [channels]. Threads: each has a range of pixels. Alignment: none
   is asked for. Numbers: no sums, so equal bits for any number of threads. Proved by tests/test_NAME.py against the torch
   form in float64. */
#include "rows.h"

/* Returns 0, or 1 when memory is short. What it takes for granted is checked in Python before the call. */
int name_forward(const real *x, const real *weight, real *out, long pixels, int channels, int threads) {
#pragma omp parallel for num_threads(threads) schedule(static)
    for (long p = 0; p < pixels; p++)
        for (int c = 0; c < channels; c++) {
            const real value = x[p * channels + c];
            out[p * channels + c] = value <= 0 ? 0 : value * weight[c]; /* what is not a number stays: as in torch */
        }
    return 0;
}
