/* Preprocessing of an input to the width of a cell, BN(W relu(x)), forward and backward: `supernet.Preprocess` in C.

   After a reduction x is read on two grids, at even and at odd pixels; the channels of both grids are then the input of
   one 1×1 convolution (`grids` = 2), with a row and column of zeros for odd sizes. Any number of channels. */
#include "rows.h"

enum { TILE = 32, PIXELS = 8 }; /* pixels that fit into the first cache, and sums that fit into registers */

struct preprocess {
    int batch, height, width, grids, inputs, outputs, threads; /* of the output; inputs: channels of x */
    int x_height, x_width;
    const real *x, *weight;  /* [B, x_height, x_width, inputs], [outputs, grids · inputs] */
    real *y;                 /* [B, H, W, outputs]: normalized */
    double *inverse;         /* [outputs]: 1 / √(variance + ε) */
    const real *grad;        /* gradient of y */
    real *x_gradient;        /* or NULL */
    int add;                 /* add to x_gradient; always with two grids */
    real *weight_gradient;   /* or NULL; added to */
};

STRUCTURES(sizeof(struct preprocess));

/* Input pixel that grid g of output pixel n reads, or -1 outside of the image. */
INLINE long place(const struct preprocess *p, long n, int g) {
    if (p->grids == 1) return n * p->inputs;
    const long x = 2 * (n % p->width) + g, rest = n / p->width, y = 2 * (rest % p->height) + g;
    if (x >= p->x_width || y >= p->x_height) return -1;
    return ((rest / p->height * p->x_height + y) * p->x_width + x) * p->inputs;
}

/* relu(x) of `count` pixels as rows of `wide` numbers, padded with zeros on the right and below. */
static void fill(const struct preprocess *p, long first, int count, long wide, real *tile) {
    for (int n = 0; n < count; n++, tile += wide) {
        for (int g = 0; g < p->grids; g++) {
            const long at = place(p, first + n, g);
            real *to = tile + g * p->inputs;
            if (at < 0) {
                memset(to, 0, p->inputs * sizeof(real));
                continue;
            }
            const real *from = p->x + at;
            int i = 0;
            for (; i + V <= p->inputs; i += V) store(to + i, relu(load(from + i)));
            for (; i < p->inputs; i++) to[i] = from[i] < 0 ? 0 : from[i];
        }
        for (long i = (long)p->grids * p->inputs; i < wide; i++) tile[i] = 0;
    }
    memset(tile, 0, (TILE - count) * wide * sizeof(real));
}

/* out[n][o .. o + V · vectors) = Σ_k tile[n][k] · columns[k][o ..] for PIXELS pixels. */
INLINE void product_block(const int vectors, const real *tile, long wide, int inner, const real *columns, long apart,
                          real *out, long out_wide) {
    vec sum[PIXELS][2] = {};
    for (int k = 0; k < inner; k++) {
        vec w[2];
        for (int v = 0; v < vectors; v++) w[v] = load(columns + k * apart + v * V);
#pragma GCC unroll 8
        for (int n = 0; n < PIXELS; n++)
            for (int v = 0; v < vectors; v++) sum[n][v] += w[v] * tile[n * wide + k];
    }
    for (int n = 0; n < PIXELS; n++)
        for (int v = 0; v < vectors; v++) store(out + n * out_wide + v * V, sum[n][v]);
}

/* out [TILE, out_wide] = tile [TILE, inner] · columns [inner, out_wide]; widths are multiples of V. */
static void product(const real *tile, long wide, int inner, const real *columns, real *out, long out_wide) {
    for (int n = 0; n < TILE; n += PIXELS) {
        long o = 0;
        for (; o + 2 * V <= out_wide; o += 2 * V)
            product_block(2, tile + n * wide, wide, inner, columns + o, out_wide, out + n * out_wide + o, out_wide);
        if (o < out_wide)
            product_block(1, tile + n * wide, wide, inner, columns + o, out_wide, out + n * out_wide + o, out_wide);
    }
}

/* sums[o][k] += Σ_n a[n][o] b[n][k] over a tile, `rows` of o at a time. */
INLINE void outer_block(const int rows, const real *a, long a_wide, const real *b, long b_wide, real *sums) {
    vec sum[4][2] = {};
    for (int n = 0; n < TILE; n++) {
        const vec v0 = load(b + n * b_wide), v1 = load(b + n * b_wide + V);
#pragma GCC unroll 4
        for (int o = 0; o < rows; o++) {
            const real g = a[n * a_wide + o];
            sum[o][0] += v0 * g, sum[o][1] += v1 * g;
        }
    }
    for (int o = 0; o < rows; o++)
        for (int v = 0; v < 2; v++) {
            real *to = sums + o * b_wide + v * V;
            store(to, load(to) + sum[o][v]);
        }
}

static int threads_of(const struct preprocess *p) { return p->threads < p->batch ? p->threads : p->batch; }
INLINE long share(const struct preprocess *p, int t, int threads) {
    return (long)p->batch * t / threads * p->height * p->width;
}
static void add_up(double *sums, int threads, long n) { /* in the order of thread numbers */
    for (int t = 1; t < threads; t++)
        for (long i = 0; i < n; i++) sums[i] += sums[t * n + i];
}

/* Returns 0, or 1 if memory runs out. */
int preprocess_forward(const struct preprocess *p) {
    const int threads = threads_of(p), inner = p->grids * p->inputs, outputs = p->outputs;
    const long wide = up(inner), out_wide = up(outputs);
    const double pixels = (double)p->batch * p->height * p->width;
    real *columns = calloc((size_t)inner * out_wide + V, sizeof(real));
    double *sums = calloc((size_t)threads * 2 * outputs, sizeof(double));
    int short_of_memory = !columns || !sums;
    if (!short_of_memory) {
        for (int k = 0; k < inner; k++)
            for (int o = 0; o < outputs; o++) columns[k * out_wide + o] = p->weight[(long)o * inner + k];
#pragma omp parallel for num_threads(threads) schedule(static, 1) reduction(| : short_of_memory)
        for (int t = 0; t < threads; t++) {
            if (!scratch_reserve(TILE * (wide + out_wide) + 2 * V)) {
                short_of_memory = 1;
                continue;
            }
            real *tile = scratch_take(TILE * wide), *out = scratch_take(TILE * out_wide);
            double *mine = sums + (size_t)t * 2 * outputs;
            const long end = share(p, t + 1, threads);
            for (long n = share(p, t, threads); n < end; n += TILE) {
                const int count = end - n < TILE ? (int)(end - n) : TILE;
                fill(p, n, count, wide, tile);
                product(tile, wide, inner, columns, out, out_wide);
                real sum[out_wide], squares[out_wide];
                memset(sum, 0, sizeof sum), memset(squares, 0, sizeof squares);
                for (int i = 0; i < count; i++) {
                    const real *z = out + i * out_wide;
                    for (long o = 0; o < out_wide; o++) sum[o] += z[o], squares[o] += z[o] * z[o];
                    memcpy(p->y + (n + i) * outputs, z, outputs * sizeof(real));
                }
                for (int o = 0; o < outputs; o++) mine[o] += sum[o], mine[outputs + o] += squares[o];
            }
        }
    }
    if (!short_of_memory) {
        add_up(sums, threads, 2 * outputs);
        real mean[outputs], inverse[outputs];
        for (int o = 0; o < outputs; o++) {
            const double m = sums[o] / pixels, rest = sums[outputs + o] / pixels - m * m;
            const double variance = rest < 0 ? 0 : rest; /* rounding; NaN stays */
            mean[o] = m, inverse[o] = p->inverse[o] = 1 / sqrt(variance + EPSILON);
        }
#pragma omp parallel for num_threads(threads) schedule(static, 1)
        for (int t = 0; t < threads; t++)
            for (long n = share(p, t, threads); n < share(p, t + 1, threads); n++)
                for (int o = 0; o < outputs; o++)
                    p->y[n * outputs + o] = (p->y[n * outputs + o] - mean[o]) * inverse[o];
    }
    free(columns), free(sums);
    return short_of_memory;
}

/* Returns 0, or 1 if memory runs out. */
int preprocess_backward(const struct preprocess *p) {
    const int threads = threads_of(p), inner = p->grids * p->inputs, outputs = p->outputs;
    const long wide = up(inner) + V, out_wide = up(outputs); /* V more, since two vectors at a time may reach past the end */
    const double pixels = (double)p->batch * p->height * p->width;
    const long numbers = (long)outputs * wide;
    real *columns = calloc((size_t)numbers + V, sizeof(real));
    double *sums = calloc((size_t)threads * 2 * outputs, sizeof(double));
    real *weight_sums = p->weight_gradient ? calloc((size_t)threads * numbers, sizeof(real)) : NULL;
    int short_of_memory = !columns || !sums || (p->weight_gradient && !weight_sums);
    if (!short_of_memory) {
        for (int o = 0; o < outputs; o++)
            for (int k = 0; k < inner; k++) columns[o * wide + k] = p->weight[(long)o * inner + k];
#pragma omp parallel for num_threads(threads) schedule(static, 1)
        for (int t = 0; t < threads; t++) {
            double *mine = sums + (size_t)t * 2 * outputs;
            const long end = share(p, t + 1, threads);
            for (long first = share(p, t, threads); first < end; first += 256) {
                real sum[outputs], product[outputs];
                memset(sum, 0, sizeof sum), memset(product, 0, sizeof product);
                for (long n = first; n < first + 256 && n < end; n++)
                    for (int o = 0; o < outputs; o++) {
                        const real g = p->grad[n * outputs + o];
                        sum[o] += g, product[o] += g * p->y[n * outputs + o];
                    }
                for (int o = 0; o < outputs; o++) mine[o] += sum[o], mine[outputs + o] += product[o];
            }
        }
        add_up(sums, threads, 2 * outputs);
        real mean[outputs], slope[outputs], inverse[outputs];
        for (int o = 0; o < outputs; o++)
            mean[o] = sums[o] / pixels, slope[o] = sums[outputs + o] / pixels, inverse[o] = p->inverse[o];
#pragma omp parallel for num_threads(threads) schedule(static, 1) reduction(| : short_of_memory)
        for (int t = 0; t < threads; t++) {
            if (!scratch_reserve(TILE * (2 * wide + out_wide) + 4 * V)) {
                short_of_memory = 1;
                continue;
            }
            real *tile = scratch_take(TILE * wide), *back = scratch_take(TILE * wide), *z = scratch_take(TILE * out_wide);
            const long end = share(p, t + 1, threads);
            for (long n = share(p, t, threads); n < end; n += TILE) {
                const int count = end - n < TILE ? (int)(end - n) : TILE;
                for (int i = 0; i < TILE; i++)
                    for (int o = 0; o < outputs; o++) {
                        const long at = (n + i) * outputs + o;
                        z[i * out_wide + o] =
                            i < count ? inverse[o] * (p->grad[at] - mean[o] - p->y[at] * slope[o]) : 0;
                    }
                fill(p, n, count, wide, tile);
                if (weight_sums)
                    for (int o = 0; o < outputs; o += 4)
                        for (long k = 0; k + 2 * V <= wide; k += 2 * V) {
                            real *to = weight_sums + t * numbers + o * wide + k;
                            if (outputs - o >= 4)
                                outer_block(4, z + o, out_wide, tile + k, wide, to);
                            else
                                for (int q = o; q < outputs; q++)
                                    outer_block(1, z + q, out_wide, tile + k, wide, to + (q - o) * wide);
                        }
                if (!p->x_gradient) continue;
                product(z, out_wide, outputs, columns, back, wide);
                for (int i = 0; i < count; i++)
                    for (int g = 0; g < p->grids; g++) {
                        const long at = place(p, n + i, g);
                        if (at < 0) continue;
                        const real *from = back + i * wide + g * p->inputs, *on = tile + i * wide + g * p->inputs;
                        real *to = p->x_gradient + at;
                        int k = 0;
                        for (; k + V <= p->inputs; k += V) {
                            vec v = where(~(load(on + k) <= 0), load(from + k));
                            if (p->add) v += load(to + k);
                            store(to + k, v);
                        }
                        for (; k < p->inputs; k++) to[k] = (p->add ? to[k] : 0) + (on[k] <= 0 ? 0 : from[k]);
                    }
            }
        }
    }
    if (!short_of_memory && weight_sums)
        for (int t = 0; t < threads; t++)
            for (int o = 0; o < outputs; o++)
                for (int k = 0; k < inner; k++)
                    p->weight_gradient[(long)o * inner + k] += weight_sums[t * numbers + o * wide + k];
    free(columns), free(sums), free(weight_sums);
    return short_of_memory;
}
