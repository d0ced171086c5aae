/* Products of rows with matrices, and the inputs of the 1×1 part of a convolution.

   Layout: images are [batch, height, width, channels], rows of a buffer [height, pitch] with a whole number of vectors
   and zeros beyond the length. Threads: each `room` belongs to one thread. Alignment: buffers begin at a whole vector
   (rows.h), tensors anywhere.
   Numbers: sums of an image in the order of its pixels, by vectors; bit-for-bit identical for any number of threads.
   Tested by tests/test_discrete.py against torch in float64. */
#ifndef DNAS_DISCRETE_PRODUCTS_H
#define DNAS_DISCRETE_PRODUCTS_H
#include "discrete_tasks.h"

/* --- products of matrices -------------------------------------------------------------------------------------- */

/* Sums over pixels of what a product gives, of its distance d from a pivot that lies near: Σ d and, `apart` numbers
   behind, Σ d². Without a pivot the variance of a channel with a large mean would be lost in rounding. */
struct moments {
    real *sums;
    const real *pivot;
    long apart;
};

INLINE void product_block(const int n, const int vectors, const real *in, long in_wide, int inner, const real *weights,
                          long apart, real *out, long wide, const struct moments *m, long o, mask fresh) {
    vec sum[PIXELS][2] = {};
    for (int k = 0; k < inner; k++, weights += apart) {
        vec w[2];
        for (int v = 0; v < vectors; v++) w[v] = load(weights + v * V);
#pragma GCC unroll 8
        for (int i = 0; i < n; i++)
            for (int v = 0; v < vectors; v++) sum[i][v] += w[v] * in[i * in_wide + k];
    }
    for (int i = 0; i < n; i++)
        for (int v = 0; v < vectors; v++) store(out + i * wide + v * V, sum[i][v]);
    if (!m) return;
    for (int v = 0; v < vectors; v++) {
        const vec pivot = load(m->pivot + o + v * V);
        vec plain = {}, squares = {};
        for (int i = 0; i < n; i++) {
            const vec d = sum[i][v] - pivot;
            plain += d, squares += d * d;
        }
        real *to = m->sums + o + v * V;
        store(to, load(to) + where(fresh, plain));
        store(to + m->apart, load(to + m->apart) + where(fresh, squares));
    }
}

INLINE void product_pixels(const int n, const real *in, long in_wide, int inner, const real *weights, int outputs,
                           real *out, long wide, const struct moments *m) {
    const mask whole = (mask){} == 0;
    const long apart = outputs < V ? V : outputs;
    if (outputs < V) {
        real part[PIXELS * V];
        mask some;
        for (int l = 0; l < V; l++) some[l] = l < outputs ? -1 : 0;
        product_block(n, 1, in, in_wide, inner, weights, apart, part, V, m, 0, some);
        for (int i = 0; i < n; i++) memcpy(out + i * wide, part + i * V, outputs * sizeof(real));
        return;
    }
    int o = 0;
    for (; o + 2 * V <= outputs; o += 2 * V)
        product_block(n, 2, in, in_wide, inner, weights + o, apart, out + o, wide, m, o, whole);
    for (; o < outputs; o += V) {
        /* The last vector may overlap the one before; what both have counts once. */
        const int over = o + V > outputs ? o + V - outputs : 0;
        mask fresh = whole;
        if (over)
            for (int l = 0; l < V; l++) fresh[l] = l < over ? 0 : -1;
        o -= over;
        product_block(n, 1, in, in_wide, inner, weights + o, apart, out + o, wide, m, o, fresh);
    }
}

/* out[p][o] = Σ_k in[p][k] · weights[k][o] for rows of pixels, which are `in_wide` and `wide` apart; nothing beyond the
   outputs is touched. Adds to the moments, if given. */
static void product(const real *in, long pitch, long in_wide, int inner, const real *weights, int outputs, real *out,
                    long wide, long out_pitch, int rows, int width, const struct moments *m, struct ahead *ahead) {
    long pixels = width;
    if (pitch == width * in_wide && out_pitch == wide * width) pixels *= rows, rows = 1;
    for (int y = 0; y < rows; y++) {
        const real *from = in + y * pitch;
        real *to = out + y * out_pitch;
        long p = 0;
        for (; p + PIXELS <= pixels; p += PIXELS, from += PIXELS * in_wide, to += PIXELS * wide) {
            look_ahead(ahead);
            product_pixels(PIXELS, from, in_wide, inner, weights, outputs, to, wide, m);
        }
        for (; p + 4 <= pixels; p += 4, from += 4 * in_wide, to += 4 * wide)
            product_pixels(4, from, in_wide, inner, weights, outputs, to, wide, m);
        for (; p < pixels; p++, from += in_wide, to += wide)
            product_pixels(1, from, in_wide, inner, weights, outputs, to, wide, m);
    }
}

INLINE void outer_block(const int n, const real *in, int inner, const real *g, long wide, long pixels, real *sums,
                        long apart) {
    vec sum[OUTER] = {};
    for (long p = 0; p < pixels; p++, in += inner, g += wide) {
        const vec v = load(g);
#pragma GCC unroll 16
        for (int i = 0; i < n; i++) sum[i] += v * in[i];
    }
    for (int i = 0; i < n; i++) store(sums + i * apart, load(sums + i * apart) + sum[i]);
}

/* sums[k][o] += Σ_p in[p][k] · g[p][o]; rows of `sums` are up(outputs) long, what lies beyond outputs is undefined. */
static void outer(const real *in, long pitch, int inner, const real *g, long wide, int outputs, int rows, int width,
                  real *sums) {
    long pixels = width;
    const long apart = up(outputs);
    if (pitch == (long)width * inner) pixels *= rows, rows = 1;
    for (int y = 0; y < rows; y++, in += pitch, g += wide * width)
        for (int o = 0; o < outputs; o += V)
            for (int k = 0; k < inner;) {
#define BLOCK(n)                                                                                             \
    if (inner - k >= n) {                                                                                    \
        outer_block(n, in + k, inner, g + o, wide, pixels, sums + k * apart + o, apart);                     \
        k += n;                                                                                              \
        continue;                                                                                            \
    }
                BLOCK(16) BLOCK(8) BLOCK(4) BLOCK(1)
#undef BLOCK
            }
}

/* --- inputs of the 1×1 part of a convolution ----------------------------------------------------------------- */

INLINE int padding(const struct convolution *v) { return v->dilation * (v->kernel / 2); }

/* The input's ReLU in a frame, for all convolutions that read it one after the other. */
static struct frame frame_of_input(const struct run *r, const struct convolution *v, struct room *room, int b) {
    const struct picture *in = r->cell->picture + v->input;
    const struct frame f = frame_of(in->height, in->width, in->channels, r->pad[v->input], v->stride);
    const int key = 2 * v->input + v->stride - 1;
    if (room->framed != key || room->image != b) fill_frame(r, in, &f, b, 1, 0, room->frame, room->row);
    room->framed = key, room->image = b;
    return f;
}

static long pitch_of(const struct run *r, const struct convolution *v) {
    return up((long)r->cell->picture[v->output].width * r->cell->picture[v->input].channels);
}

/* Every other pixel of the input's ReLU, for the rows y … of the output; zero beyond its edge. */
static void grid_rows(const struct run *r, const struct convolution *v, int b, int y, int rows, int part, real *row,
                      real *out, long pitch) {
    const struct picture *in = r->cell->picture + v->input;
    const int width = r->cell->picture[v->output].width;
    for (int i = 0; i < rows; i++, out += pitch) {
        const int from = 2 * (y + i) + part;
        memset(out, 0, pitch * sizeof(real));
        if (from >= in->height) continue;
        take_row(r, in, b, from, 1, row);
        for (int x = 0; x < width && 2 * x + part < in->width; x++)
            memcpy(out + (long)x * in->channels, row + (long)(2 * x + part) * in->channels,
                   in->channels * sizeof(real));
    }
}

/* Rows y … of the features [rows, pitch] that the 1×1 part reads; the frame is filled already. */
static void features(const struct run *r, const struct convolution *v, const struct frame *f, const struct taps *taps,
                     int b, int y, int rows, int part, struct room *room, long pitch) {
    const struct picture *in = r->cell->picture + v->input, *out = r->cell->picture + v->output;
    if (v->kernel)
        correlate(room->frame + y * v->stride * f->step, v->stride * f->step, taps, in->channels, room->h, pitch, rows,
                  (long)out->width * in->channels, 0);
    else if (v->parts == 2)
        grid_rows(r, v, b, y, rows, part, room->row, room->h, pitch);
    else
        for (int i = 0; i < rows; i++) take_row(r, in, b, y + i, 1, room->h + i * pitch);
}
#endif
