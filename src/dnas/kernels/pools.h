/* 3×3 pools of C channels, with their statistics and gradients. Both read one frame, bordered by -∞. */
#ifndef DNAS_POOLS_H
#define DNAS_POOLS_H
#include "pointwise.h"

struct pools {
    struct frame frame;
    struct taps taps;
    int out_height, out_width;
    long pitch; /* of a pooled picture's rows */
};

static struct pools pools_of(int height, int width, int stride) {
    struct pools p = {.frame = frame_of(height, width, C, 1, stride)};
    p.taps.count = 9;
    for (int i = 0; i < 3; i++)
        for (int j = 0; j < 3; j++) p.taps.at[3 * i + j] = i * p.frame.step + frame_column(&p.frame, j);
    p.out_height = (height + stride - 1) / stride, p.out_width = (width + stride - 1) / stride;
    p.pitch = up((long)p.out_width * C);
    return p;
}

/* How many of a window's three rows (or columns) are pixels. */
INLINE int inside(int at, int stride, int size) {
    return 3 - (at * stride == 0) - (at * stride + 1 >= size);
}

/* shares[x, j]: 1 over the number of pixel columns in the window of output column x. */
static void pool_shares(const struct pools *p, real *shares) {
    for (int x = 0; x < p->out_width; x++)
        for (int j = 0; j < C; j++) shares[x * C + j] = (real)1 / inside(x, p->frame.stride, p->frame.width);
}

static void pool_clear(const struct pools *p, real *frame) {
    const size_t size = frame_size(&p->frame);
    for (size_t i = 0; i < size; i++) frame[i] = -INFINITY;
}

/* An image into a frame that was cleared once. */
static void pool_fill(const struct pools *p, const real *x, long pixel, real *frame) {
    const struct frame *f = &p->frame;
    for (int y = 0; y < f->height; y++) {
        real *row = frame + (y + 1) * f->step;
        for (int i = 0; i < f->width; i++, x += pixel) put(row + frame_column(f, i + 1), get(x));
    }
}

/* Of each window the largest pixel and the average of its pixels without the border, both [out_height, pitch]. */
static void pool(const struct pools *p, const real *frame, const real *shares, real *largest, real *average) {
    const long length = (long)p->out_width * C;
    for (int y = 0; y < p->out_height; y++, largest += p->pitch, average += p->pitch) {
        const real *in = frame + y * p->frame.stride * p->frame.step;
        const vec rows = all((real)1 / inside(y, p->frame.stride, p->frame.height));
        for (long f = 0; f < length; f += V) {
            vec best = all(-INFINITY), sum = {};
            for (int t = 0; t < 9; t++) {
                const vec v = load(in + p->taps.at[t] + f);
                const mask larger = v > best;
                best = (vec)(((mask)v & larger) | ((mask)best & ~larger));
                sum += where(v > -INFINITY, v);
            }
            store(largest + f, best);
            store(average + f, sum * rows * load(shares + f));
        }
        for (long f = length; f < p->pitch; f++) largest[f] = average[f] = 0;
    }
}

/* Adds to `back`, a frame without pixels of its own, what the gradient of a pooled picture sends to each pixel. Of equal
   pixels the first in reading order is the largest, as in torch. `grad` is zero beyond a row's end. */
static void pool_gradient(const struct pools *p, const real *frame, const real *shares, int maximum, const real *grad,
                          real *back) {
    const long length = (long)p->out_width * C;
    for (int y = 0; y < p->out_height; y++, grad += p->pitch) {
        const long row = y * p->frame.stride * p->frame.step;
        const vec rows = all((real)1 / inside(y, p->frame.stride, p->frame.height));
        for (long f = 0; f < length; f += V) {
            const real *in = frame + row + f;
            real *to = back + row + f;
            vec g = load(grad + f);
            if (!maximum) {
                g *= rows * load(shares + f);
                for (int t = 0; t < 9; t++) store(to + p->taps.at[t], load(to + p->taps.at[t]) + g);
                continue;
            }
            vec best = all(-INFINITY);
            mask at = {};
            for (int t = 0; t < 9; t++) {
                const vec v = load(in + p->taps.at[t]);
                const mask larger = v > best, here = (mask){} + t;
                best = (vec)(((mask)v & larger) | ((mask)best & ~larger));
                at = (here & larger) | (at & ~larger);
            }
            for (int t = 0; t < 9; t++)
                store(to + p->taps.at[t], load(to + p->taps.at[t]) + where(at == (mask){} + t, g));
        }
    }
}
#endif
