/* Weight gradient of a depthwise convolution, for cells that run as modules. */
#include "rows.h"

/* Compute out [channels, k, k] from the input x [batch, height, width, channels] and the gradient of the output, both
   contiguous and padded so that stride 1 keeps the size. Returns 0, or 1 if memory runs out. */
int depthwise_weight_gradient(const real *x, const real *grad, real *out, int batch, int height, int width, int channels,
                              int out_height, int out_width, int kernel, int stride, int dilation, int threads) {
    const struct frame frame = frame_of(height, width, channels, dilation * (kernel / 2), stride);
    const struct taps taps = taps_forward(&frame, kernel, dilation, NULL);
    const long length = (long)out_width * channels, pitch = up(length), sum = phases_of(channels).stride;
    const long numbers = taps.count * sum;
    if (threads > batch) threads = batch;
    real *sums = calloc((size_t)threads * numbers, sizeof(real));
    double *totals = calloc((size_t)taps.count * channels, sizeof(double));
    int short_of_memory = !sums || !totals;
    if (!short_of_memory) {
#pragma omp parallel for num_threads(threads) schedule(static, 1) reduction(| : short_of_memory)
        for (int t = 0; t < threads; t++) {
            if (!scratch_reserve(frame_size(&frame) + (size_t)out_height * pitch)) {
                short_of_memory = 1;
                continue;
            }
            real *in = scratch_take(frame_size(&frame)), *rows = scratch_take((size_t)out_height * pitch);
            frame_clear(in, &frame);
            memset(rows, 0, (size_t)out_height * pitch * sizeof(real));
            for (int b = (int)((long)batch * t / threads); b < (int)((long)batch * (t + 1) / threads); b++) {
                for (int y = 0; y < height; y++)
                    frame_row(in, &frame, y, x + ((long)b * height + y) * width * channels);
                for (int y = 0; y < out_height; y++)
                    memcpy(rows + y * pitch, grad + ((long)b * out_height + y) * length, length * sizeof(real));
                correlate_gradient(in, stride * frame.step, &taps, channels, rows, pitch, out_height, length,
                                   sums + t * numbers);
            }
        }
        /* In the order of thread numbers, so that the sum is deterministic. */
        for (int t = 0; t < threads; t++) fold_sums(sums + t * numbers, taps.count, channels, totals);
        for (int c = 0; c < channels; c++)
            for (int t = 0; t < taps.count; t++) out[(long)c * taps.count + t] = totals[(long)t * channels + c];
    }
    free(sums), free(totals);
    return short_of_memory;
}
