/* 3×3 pools of C channels, with their gradients. Both read one frame, bordered by -∞. They make POOLED pictures of an
   image: POOL_LARGEST, POOL_AVERAGE, and POOL_PLACE, where each largest pixel was. */
#ifndef DNAS_POOLS_H
#define DNAS_POOLS_H
#include "pointwise.h"

struct pools {
    struct frame frame, back; /* of the input; of the output's gradient */
    struct taps taps, back_taps[4];
    int out_height, out_width;
    long pitch; /* of a pooled picture's rows */
};

static struct pools pools_of(int height, int width, int stride) {
    struct pools p = {.frame = frame_of(height, width, C, 1, stride)};
    p.out_height = (height + stride - 1) / stride, p.out_width = (width + stride - 1) / stride;
    p.pitch = up((long)p.out_width * C);
    p.back = frame_of(p.out_height, p.out_width, C, 1, 1);
    p.taps = taps_forward(&p.frame, 3, 1, NULL);
    for (int plane = 0; plane < stride * stride; plane++)
        p.back_taps[plane] = taps_backward(&p.back, 3, stride, 1, NULL, plane / stride, plane % stride);
    return p;
}
INLINE long pooled_picture(const struct pools *p) { return p->out_height * p->pitch; }

/* Number of a window's three rows (or columns) that lie inside the image. */
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

/* Of each window the largest pixel, its place (of equal ones the first in reading order; NaN counts as the largest, as
   in torch), and the average of its pixels without the border: POOLED pictures [out_height, pitch]. */
static void pool(const struct pools *p, const real *frame, const real *shares, real *pictures) {
    const long length = (long)p->out_width * C;
    for (int y = 0; y < p->out_height; y++) {
        const real *in = frame + y * p->frame.stride * p->frame.step;
        const vec rows = all((real)1 / inside(y, p->frame.stride, p->frame.height));
        real *row[POOLED];
        for (int k = 0; k < POOLED; k++) row[k] = pictures + k * pooled_picture(p) + y * p->pitch;
        for (long f = 0; f < length; f += V) {
            vec best = all(-INFINITY), sum = {};
            mask place = {};
            for (int t = 0; t < 9; t++) {
                const vec v = load(in + p->taps.at[t] + f);
                const mask larger = (v > best) | (v != v), here = (mask){} + t;
                best = (vec)(((mask)v & larger) | ((mask)best & ~larger));
                place = (here & larger) | (place & ~larger);
                sum += where(v != -INFINITY, v);
            }
            store(row[POOL_LARGEST] + f, best), store(row[POOL_PLACE] + f, (vec)place);
            store(row[POOL_AVERAGE] + f, sum * rows * load(shares + f));
        }
        for (int k = 0; k < POOLED; k++)
            for (long f = length; f < p->pitch; f++) row[k][f] = 0;
    }
}

/* Contribution of the gradients of pooled images to the pixels of the input, in stride² planes [out_height, pitch] by
   the parity of row and column: each pixel asks the windows that it lies in. (Sending from the windows instead stores
   where the next vector loads, which is four times as slow.) Frames `largest` and `place`, or `average`, may be NULL;
   the average's gradient is divided by the windows' sizes beforehand. */
static void pool_gradient(const struct pools *p, const real *largest, const real *place, const real *average,
                          real *planes) {
    const int stride = p->frame.stride;
    for (int plane = 0; plane < stride * stride; plane++) {
        const struct taps *taps = p->back_taps + plane;
        for (int y = 0; y < p->out_height; y++) {
            real *to = planes + plane * pooled_picture(p) + y * p->pitch;
            for (long f = 0; f < (long)p->out_width * C; f += V) {
                vec sum = {};
                for (int t = 0; t < taps->count; t++) {
                    const long at = y * p->back.step + taps->at[t] + f;
                    if (largest) sum += where((mask)load(place + at) == (mask){} + taps->number[t], load(largest + at));
                    if (average) sum += load(average + at);
                }
                store(to + f, sum);
            }
        }
    }
}
#endif
