/* Kernels for float32 tensors with channels last, [batch, height, width, channels] and contiguous.

   Plain C on pointers: compiled at first use in about a second (see native.py), called through ctypes.
   Sums over threads are added in the order of the threads, so a result depends on their number and not on
   which of them is first. */
#include <stdlib.h>
#include <string.h>

/* Vectors of n floats by the extension of gcc and clang; the compiler maps them to what the processor has. */
#define VECTOR(n) typedef float vec##n __attribute__((vector_size(4 * n), aligned(4)));
VECTOR(16) VECTOR(8) VECTOR(4)
typedef float vec1;

/* One row of output pixels against one row of kernel taps, for n channels from *x and *g on: the k sums stay in
   registers, and one load of g serves k taps. `first` … `last` are the pixels whose taps all lie inside. */
#define ROW(n, k)                                                                                             \
    static inline void row_##n##_##k(const float *x, const float *g, float *sums, int channels, int stride,   \
                                     int dilation, int padding, int width, int out_width, int first,          \
                                     int last) {                                                              \
        vec##n s[k];                                                                                          \
        for (int j = 0; j < k; j++) s[j] = *(vec##n *)(sums + j * channels);                                  \
        for (int o = 0; o < out_width; o++) {                                                                 \
            const vec##n d = *(const vec##n *)(g + o * channels);                                             \
            const int at = o * stride - padding;                                                              \
            if (o >= first && o < last) {                                                                     \
                for (int j = 0; j < k; j++) s[j] += d * *(const vec##n *)(x + (at + j * dilation) * channels); \
            } else {                                                                                          \
                for (int j = 0; j < k; j++) {                                                                 \
                    const int i = at + j * dilation;                                                          \
                    if (i >= 0 && i < width) s[j] += d * *(const vec##n *)(x + i * channels);                 \
                }                                                                                             \
            }                                                                                                 \
        }                                                                                                     \
        for (int j = 0; j < k; j++) *(vec##n *)(sums + j * channels) = s[j];                                  \
    }
ROW(16, 3) ROW(8, 3) ROW(4, 3) ROW(1, 3)
ROW(16, 5) ROW(8, 5) ROW(4, 5) ROW(1, 5)

#define STEP(n)                                                                                               \
    for (; c + n <= channels; c += n)                                                                         \
        (kernel == 3 ? row_##n##_3 : row_##n##_5)(x + c, g + c, sums + c, channels, stride, dilation, padding, \
                                                  width, out_width, first, last);

static void row(const float *x, const float *g, float *sums, int channels, int kernel, int stride, int dilation,
                int padding, int width, int out_width) {
    int first = (padding + stride - 1) / stride;
    int last = (width - 1 + padding - dilation * (kernel - 1)) / stride + 1;
    if (width - 1 + padding < dilation * (kernel - 1)) last = 0;
    if (last > out_width) last = out_width;
    int c = 0;
    STEP(16) STEP(8) STEP(4) STEP(1)
}

/* out [k, k, channels] = the gradient of a depthwise kernel (3 or 5 wide) from its input x and its output's
   gradient g. Returns 0, or 1 when memory is short. */
int depthwise_weight_gradient(const float *x, const float *g, float *out, int batch, int height, int width,
                              int channels, int out_height, int out_width, int kernel, int stride, int dilation,
                              int threads) {
    const int padding = dilation * (kernel / 2);
    const size_t size = (size_t)kernel * kernel * channels;
    if (threads > batch) threads = batch;
    float *sums = calloc((size_t)threads * size, sizeof(float));
    if (!sums) return 1;
#pragma omp parallel for num_threads(threads) schedule(static, 1)
    for (int t = 0; t < threads; t++) {
        float *mine = sums + (size_t)t * size;
        const int from = (int)((long)batch * t / threads), to = (int)((long)batch * (t + 1) / threads);
        for (int b = from; b < to; b++)
            for (int o = 0; o < out_height; o++) {
                const float *grad = g + ((size_t)b * out_height + o) * out_width * channels;
                for (int i = 0; i < kernel; i++) {
                    const int r = o * stride - padding + i * dilation;
                    if (r < 0 || r >= height) continue;
                    row(x + ((size_t)b * height + r) * width * channels, grad,
                        mine + (size_t)i * kernel * channels, channels, kernel, stride, dilation, padding, width,
                        out_width);
                }
            }
    }
    memcpy(out, sums, size * sizeof(float));
    for (int t = 1; t < threads; t++)
        for (size_t n = 0; n < size; n++) out[n] += sums[(size_t)t * size + n];
    free(sums);
    return 0;
}
