/* Batch norm in training, with or without a ReLU after it, forward and backward. Any number of channels.

   y = f(slope · x + offset),   slope = scale / √(variance + ε),   offset = shift - mean · slope

   Forward and backward read the input twice: once for the sums over the batch, which are of differences from the first
   pixel and so hardly cancel, and once for the output. Where y is cut off is computed again backward, not stored. */
#include "rows.h"

enum { CHUNK = 4096 }; /* numbers that stay in the first cache while every phase is summed */

struct norm {
    long pixels;
    int channels, relu, threads;
    double momentum;             /* of the running statistics */
    const real *x, *scale, *shift;
    real *y;                     /* [pixels, channels] */
    double *mean, *inverse;      /* [channels]: of the batch, and 1 / √(variance + ε) */
    real *running_mean, *running_variance; /* or NULL */
    const real *grad;            /* gradient of y */
    real *x_gradient;
    double *scale_gradient, *shift_gradient; /* [channels] */
};

STRUCTURES(sizeof(struct norm));

/* What is the same for all pixels of a channel, repeated so that a vector can be loaded at every phase. */
struct coefficients {
    real *first, *mean, *slope, *offset, *sum, *product;
};

static long share(const struct norm *p, int t) { return p->pixels * t / p->threads * p->channels; }

/* Whole strides of phases within `length` numbers, at most about CHUNK of them. */
static long chunk_of(long length, long stride) {
    const long most = CHUNK / stride > 0 ? CHUNK / stride * stride : stride;
    return length < most ? length / stride * stride : most;
}

INLINE vec gradient_of(const int relu, const struct coefficients *c, int at, vec x, vec grad) {
    if (!relu) return grad;
    return where(~(x * load(c->slope + at) + load(c->offset + at) <= 0), grad);
}

/* The two terms of a vector of numbers in the sums of its channels. */
INLINE void terms(const int backward, const int relu, const struct norm *p, const struct coefficients *c, int at, long f,
                  vec *a, vec *b) {
    const vec x = load(p->x + f);
    const vec d = x - load((backward ? c->mean : c->first) + at);
    const vec g = backward ? gradient_of(relu, c, at, x, load(p->grad + f)) : d;
    *a += g, *b += g * d;
}

/* Sums over numbers `from` … `to` of a thread, which begin at channel 0: two for every lane of every phase. */
INLINE void sum_up(const int backward, const int relu, const struct norm *p, const struct coefficients *c, long from,
                   long to, double *sums) {
    const struct phases ph = phases_of(p->channels);
    while (to - from >= ph.stride) {
        const long length = chunk_of(to - from, ph.stride);
        for (int k = 0; k < ph.count; k++) {
            const int at = phase(k, p->channels);
            vec a = {}, b = {}, a2 = {}, b2 = {}; /* two of each, since an addition takes longer than a load */
            long f = from + k * V;
            for (; f + ph.stride < from + length; f += 2 * ph.stride) {
                terms(backward, relu, p, c, at, f, &a, &b);
                terms(backward, relu, p, c, at, f + ph.stride, &a2, &b2);
            }
            if (f < from + length) terms(backward, relu, p, c, at, f, &a, &b);
            a += a2, b += b2;
            for (int l = 0; l < V; l++) sums[k * V + l] += a[l], sums[ph.stride + k * V + l] += b[l];
        }
        from += length;
    }
    for (long f = 0; from + f < to; f++) {
        const int o = f % p->channels;
        const real x = p->x[from + f], d = x - (backward ? c->mean : c->first)[o];
        const int cut = relu && x * c->slope[o] + c->offset[o] <= 0;
        const real g = !backward ? d : cut ? 0 : p->grad[from + f];
        sums[f] += g, sums[ph.stride + f] += g * d;
    }
}

/* The two sums of each channel over the batch, [2, channels], in the order of the threads. */
static int total(const struct norm *p, const struct coefficients *c, double *out) {
    const long stride = phases_of(p->channels).stride;
    double *sums = calloc((size_t)p->threads * 2 * stride, sizeof(double));
    if (!sums) return 1;
#pragma omp parallel for num_threads(p->threads) schedule(static, 1)
    for (int t = 0; t < p->threads; t++) {
        const long from = share(p, t), to = share(p, t + 1);
        double *mine = sums + t * 2 * stride;
        if (!p->grad)
            sum_up(0, 0, p, c, from, to, mine);
        else if (p->relu)
            sum_up(1, 1, p, c, from, to, mine);
        else
            sum_up(1, 0, p, c, from, to, mine);
    }
    memset(out, 0, 2 * p->channels * sizeof(double));
    for (int t = 0; t < p->threads; t++)
        for (int half = 0; half < 2; half++)
            for (long f = 0; f < stride; f++)
                out[half * p->channels + f % p->channels] += sums[(t * 2 + half) * stride + f];
    free(sums);
    return 0;
}

INLINE vec output_of(const int backward, const int relu_after, const struct coefficients *c, int at, const real *x,
                     const real *grad) {
    const vec v = load(x), slope = load(c->slope + at);
    if (backward) {
        const vec g = gradient_of(relu_after, c, at, v, load(grad)), d = v - load(c->mean + at);
        return slope * (g - load(c->sum + at) - d * load(c->product + at));
    }
    const vec y = v * slope + load(c->offset + at);
    return relu_after ? relu(y) : y;
}

INLINE void write_share(const int backward, const int relu, const struct norm *p, const struct coefficients *c, long f,
                        long end) {
    const int channels = p->channels, further = V % channels;
    real *out = backward ? p->x_gradient : p->y;
    int at = 0;
    for (; f + V <= end; f += V) {
        store(out + f, output_of(backward, relu, c, at, p->x + f, p->grad + f));
        at += further;
        if (at >= channels) at -= channels;
    }
    if (f < end) { /* a part of a vector */
        const size_t rest = (end - f) * sizeof(real);
        real x[V] = {}, grad[V] = {}, y[V];
        memcpy(x, p->x + f, rest);
        if (backward) memcpy(grad, p->grad + f, rest);
        store(y, output_of(backward, relu, c, at, x, grad));
        memcpy(out + f, y, rest);
    }
}

static void write_out(const struct norm *p, const struct coefficients *c) {
#pragma omp parallel for num_threads(p->threads) schedule(static, 1)
    for (int t = 0; t < p->threads; t++) {
        const long from = share(p, t), to = share(p, t + 1);
        if (p->grad && p->relu)
            write_share(1, 1, p, c, from, to);
        else if (p->grad)
            write_share(1, 0, p, c, from, to);
        else if (p->relu)
            write_share(0, 1, p, c, from, to);
        else
            write_share(0, 0, p, c, from, to);
    }
}

static struct coefficients room(int channels) {
    const long n = channels + V;
    real *at = scratch_take(6 * n);
    return (struct coefficients){at, at + n, at + 2 * n, at + 3 * n, at + 4 * n, at + 5 * n};
}

static void set_slope(const struct norm *p, const struct coefficients *c) {
    for (int o = 0; o < p->channels; o++) {
        const double slope = p->inverse[o] * (p->scale ? p->scale[o] : 1);
        c->slope[o] = slope, c->mean[o] = p->mean[o];
        c->offset[o] = (p->shift ? p->shift[o] : 0) - p->mean[o] * slope;
    }
}

static void repeat_all(const struct coefficients *c, int channels) {
    real *const each[] = {c->first, c->mean, c->slope, c->offset, c->sum, c->product};
    for (int k = 0; k < 6; k++) repeat(each[k], each[k], channels);
}

/* Returns 0, or 1 if memory runs out. */
int norm_forward(const struct norm *p) {
    const int channels = p->channels;
    const double pixels = p->pixels;
    double *sums = malloc(2 * channels * sizeof(double));
    if (!sums || !scratch_reserve(6 * (channels + V))) {
        free(sums);
        return 1;
    }
    const struct coefficients c = room(channels);
    memset(c.first, 0, 6 * (channels + V) * sizeof(real));
    memcpy(c.first, p->x, channels * sizeof(real));
    repeat_all(&c, channels);
    const int short_of_memory = total(p, &c, sums);
    if (!short_of_memory) {
        for (int o = 0; o < channels; o++) {
            const double m = sums[o] / pixels, rest = sums[channels + o] / pixels - m * m;
            const double variance = rest < 0 ? 0 : rest; /* rounding; NaN stays */
            p->mean[o] = c.first[o] + m, p->inverse[o] = 1 / sqrt(variance + EPSILON);
            if (p->running_mean) {
                p->running_mean[o] += p->momentum * (p->mean[o] - p->running_mean[o]);
                p->running_variance[o] += p->momentum * (variance * pixels / (pixels - 1) - p->running_variance[o]);
            }
        }
        set_slope(p, &c);
        repeat_all(&c, channels);
        write_out(p, &c);
    }
    free(sums);
    return short_of_memory;
}

/* Returns 0, or 1 if memory runs out. */
int norm_backward(const struct norm *p) {
    const int channels = p->channels;
    double *sums = malloc(2 * channels * sizeof(double));
    if (!sums || !scratch_reserve(6 * (channels + V))) {
        free(sums);
        return 1;
    }
    const struct coefficients c = room(channels);
    memset(c.first, 0, 6 * (channels + V) * sizeof(real));
    set_slope(p, &c);
    repeat_all(&c, channels);
    const int short_of_memory = total(p, &c, sums);
    if (!short_of_memory) {
        for (int o = 0; o < channels; o++) {
            const double inverse = p->inverse[o];
            p->shift_gradient[o] = sums[o], p->scale_gradient[o] = sums[channels + o] * inverse;
            c.sum[o] = sums[o] / p->pixels, c.product[o] = sums[channels + o] * inverse * inverse / p->pixels;
        }
        repeat_all(&c, channels);
        write_out(p, &c);
    }
    free(sums);
    return short_of_memory;
}
