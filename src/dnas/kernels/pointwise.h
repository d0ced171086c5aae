/* 1×1 convolutions of C channels to C, for many targets side by side, and the batch norm that follows.

   Channels are target-major: channel t · C + j is channel j of target t, M = targets · C in all. A matrix is kept as C
   columns of M + V coefficients: columns[i][t · C + j] multiplies channel i of target t on its way to channel j. */
#ifndef DNAS_POINTWISE_H
#define DNAS_POINTWISE_H
#include "rows.h"

/* Channels of an edge. */
_Static_assert(C <= CHANNELS && (C & (C - 1)) == 0, "a power of two, so that vectors and targets nest");

/* The C channels of one target at one pixel. */
typedef real target __attribute__((vector_size(C * sizeof(real)), aligned(sizeof(real)), may_alias));
typedef integer target_mask __attribute__((vector_size(C * sizeof(real))));
INLINE target get(const real *p) { return *(const target *)p; }
INLINE void put(real *p, target v) { *(target *)p = v; }
/* v where the ReLU passes `by` or `by` is NaN, as in torch. */
INLINE target where_passed(target by, target v) { return (target)((target_mask)v & ~(by <= 0)); }

/* Lane (t, j) gets lane (t, i) of the vector at `at`; where a target is wider than a vector, all lanes the same. */
#if defined(__clang__)
INLINE vec spread(const real *at, vec v, long f, int i) {
    if (C >= V) return all(at[f / C * C + i]);
    vec out;
#pragma unroll
    for (int l = 0; l < V; l++) out[l] = v[l / C * C + i];
    return out;
}
#else
INLINE vec spread(const real *at, vec v, long f, int i) {
    if (C >= V) return all(at[f / C * C + i]);
    mask index;
    for (int l = 0; l < V; l++) index[l] = l / C * C + i;
    return __builtin_shuffle(v, index);
}
#endif

enum { BLOCK = C <= 8 ? 4 : 8 }; /* sums that stay in registers */

INLINE void mix_step(const int n, const real *row, long f, long stride, const vec *held, const real *columns, long apart,
                     vec *sum) {
    vec v[BLOCK];
    for (int k = 0; k < n; k++) v[k] = C >= V ? (vec){} : load(row + f + k * stride);
#pragma GCC unroll 16
    for (int i = 0; i < C; i++) {
        const vec w = C <= 8 ? held[i] : load(columns + i * apart);
#pragma GCC unroll 8
        for (int k = 0; k < n; k++) sum[k] += w * spread(row, v[k], f + k * stride, i);
    }
}

/* out (+)= first · one + second · two + bias for every pixel of pictures with M channels. `two` and `bias` [M + V] may
   be NULL; what lies beyond `length` is left undefined. */
INLINE void mix_pictures(const real *one, const real *first, const int both, const real *two, const real *second,
                         const real *bias, real *out, long pitch, int rows, long length, int channels, int add) {
    const struct phases ph = phases_of(channels);
    const long apart = channels + V;
    for (int p = 0; p < ph.count; p++) {
        const int shift = phase(p, channels);
        const vec start = bias ? load(bias + shift) : (vec){};
        const real *a = first + shift, *b = both ? second + shift : NULL;
        vec held[C <= 8 ? C : 1], held_too[C <= 8 ? C : 1]; /* where registers hold whole matrices */
        for (int i = 0; C <= 8 && i < C; i++) {
            held[i] = load(a + i * apart);
            if (both) held_too[i] = load(b + i * apart);
        }
        for (int y = 0; y < rows; y++) {
            const real *u = one + y * pitch, *v = both ? two + y * pitch : NULL;
            real *to = out + y * pitch;
            long f = p * V;
#define STEPS(n)                                                                            \
    for (; f + (n - 1) * ph.stride < length; f += n * ph.stride) {                          \
        vec sum[n];                                                                         \
        for (int k = 0; k < n; k++) {                                                       \
            sum[k] = start;                                                                 \
            if (add) sum[k] += load(to + f + k * ph.stride);                                \
        }                                                                                   \
        mix_step(n, u, f, ph.stride, held, a, apart, sum);                                  \
        if (both) mix_step(n, v, f, ph.stride, held_too, b, apart, sum);                    \
        for (int k = 0; k < n; k++) store(to + f + k * ph.stride, sum[k]);                  \
    }
            STEPS(BLOCK) STEPS(1)
#undef STEPS
        }
    }
}
static void mix(const real *in, const real *columns, const real *bias, real *out, long pitch, int rows, long length,
                int channels, int add) {
    mix_pictures(in, columns, 0, NULL, NULL, bias, out, pitch, rows, length, channels, add);
}
static void mix_both(const real *one, const real *first, const real *two, const real *second, const real *bias, real *out,
                     long pitch, int rows, long length, int channels) {
    mix_pictures(one, first, 1, two, second, bias, out, pitch, rows, length, channels, 0);
}

/* Rows of `b` are taken up to 16 at a time, as many sums as registers hold; where there are few, two vectors of
   pixels go at once, since a single sum would wait for its previous value. */
enum { OUTER = C < 16 ? C : 16, TWINS = C <= 8 ? 2 : 1 };

INLINE void outer_step(const real *a, const real *b, long f, int first, vec *sum, vec *plain) {
    const vec g = load(a + f), v = C >= V ? (vec){} : load(b + f);
    *plain += g;
#pragma GCC unroll 16
    for (int i = 0; i < OUTER; i++) sum[i] += g * spread(b, v, f, first + i);
}

/* sums[i][t, j] += Σ_pixels a[t, j] b[t, i] and total[t, j] += Σ a; rows of the phases' stride, as in rows.h. Zeros
   must lie beyond `length`. */
static void outer(const real *a, const real *b, long pitch, int rows, long length, int channels, real *sums,
                  real *total) {
    const struct phases ph = phases_of(channels);
    for (int p = 0; p < ph.count; p++)
        for (int first = 0; first < C; first += OUTER) {
            vec sum[OUTER] = {}, twin[OUTER] = {}, plain = {};
            for (int y = 0; y < rows; y++) {
                const real *u = a + y * pitch, *w = b + y * pitch;
                long f = p * V;
                for (; TWINS == 2 && f + ph.stride < length; f += 2 * ph.stride) {
                    outer_step(u, w, f, first, sum, &plain);
                    outer_step(u, w, f + ph.stride, first, twin, &plain);
                }
                for (; f < length; f += ph.stride) outer_step(u, w, f, first, sum, &plain);
            }
            for (int i = 0; i < OUTER; i++) {
                real *to = sums + (first + i) * ph.stride + p * V;
                store(to, load(to) + (sum[i] + twin[i]));
            }
            if (total && !first) store(total + p * V, load(total + p * V) + plain);
        }
}

/* --- the batch norm after a 1×1 convolution, folded into it -------------------------------------------------- */

/* Set a variance that is slightly negative by rounding to zero; NaN is kept. */
INLINE double at_least_zero(double variance) { return variance < 0 ? 0 : variance; }

/* BN(P h) = A h + b with A = P / √(P cov(h) Pᵀ + ε), from the moments [1 + C][M] of h: its mean, and Σ h_i h_j / N.
   Times `scale` of each target (a mixing weight), or 1 where that is NULL. `columns` and `transposed` [C][M + V] are
   A and Aᵀ; b is added to `bias` [M]. Any of the three may be NULL. */
static void fold(const real *point, const double *moments, const real *scale, int scale_apart, int targets,
                 real *columns, real *transposed, double *bias) {
    const int m = targets * C, apart = m + V;
    for (int t = 0; t < targets; t++) {
        const real *p = point + (long)t * C * C;
        const double *mean = moments + t * C, *gram = moments + m + t * C;
        for (int o = 0; o < C; o++) {
            double variance = 0, along = 0;
            for (int i = 0; i < C; i++) {
                double u = 0;
                for (int k = 0; k < C; k++) u += (gram[(long)i * m + k] - mean[i] * mean[k]) * p[o * C + k];
                variance += u * p[o * C + i];
                along += p[o * C + i] * mean[i];
            }
            const double inverse = (scale ? scale[t * scale_apart] : 1) / sqrt(at_least_zero(variance) + EPSILON);
            for (int i = 0; i < C; i++) {
                if (columns) columns[(long)i * apart + t * C + o] = p[o * C + i] * inverse;
                if (transposed) transposed[(long)o * apart + t * C + i] = p[o * C + i] * inverse;
            }
            if (bias) bias[t * C + o] -= along * inverse;
        }
    }
    for (int i = 0; i < C; i++)
        for (int l = 0; l < V; l++) {
            if (columns) columns[(long)i * apart + m + l] = columns[(long)i * apart + l % m];
            if (transposed) transposed[(long)i * apart + m + l] = transposed[(long)i * apart + l % m];
        }
}

/* The gradients of `fold`: from those of A, grad_matrix [C][M] as `outer` lays them out, and of b, grad_bias [M], to
   those of P (added, may be NULL), of the scales (added, may be NULL), and of h itself: each pixel of h receives
   mean_part [M + V] + curve [C][M + V] · h, both already divided by the number of pixels. */
static void fold_gradient(const real *point, const double *moments, const real *scale, int scale_apart, int targets,
                          const double *grad_matrix, const double *grad_bias, double pixels, real *grad_point,
                          real *grad_scale, real *mean_part, real *curve) {
    const int m = targets * C, apart = m + V;
    for (int t = 0; t < targets; t++) {
        const real *p = point + (long)t * C * C;
        const double *mean = moments + t * C, *gram = moments + m + t * C, w = scale ? scale[t * scale_apart] : 1;
        double grad_covariance[C][C] = {}, grad_mean[C] = {}, grad_w = 0;
        for (int o = 0; o < C; o++) {
            double u[C], variance = 0, grad_inverse = 0;
            for (int i = 0; i < C; i++) {
                u[i] = 0;
                for (int k = 0; k < C; k++) u[i] += (gram[(long)i * m + k] - mean[i] * mean[k]) * p[o * C + k];
                variance += u[i] * p[o * C + i];
            }
            const double inverse = 1 / sqrt(at_least_zero(variance) + EPSILON), back = grad_bias[t * C + o];
            double direct[C];
            for (int i = 0; i < C; i++) {
                direct[i] = grad_matrix[(long)i * m + t * C + o] - back * mean[i];
                grad_inverse += direct[i] * p[o * C + i];
                grad_mean[i] -= p[o * C + i] * inverse * w * back;
            }
            grad_w += grad_inverse * inverse;
            const double grad_variance = variance < 0 ? 0 : -0.5 * grad_inverse * w * inverse * inverse * inverse;
            for (int i = 0; i < C; i++) {
                if (grad_point) grad_point[((long)t * C + o) * C + i] += direct[i] * inverse * w + 2 * grad_variance * u[i];
                for (int k = 0; k < C; k++) grad_covariance[i][k] += grad_variance * p[o * C + i] * p[o * C + k];
            }
        }
        for (int i = 0; i < C; i++) {
            double g = grad_mean[i];
            for (int k = 0; k < C; k++) {
                g -= 2 * grad_covariance[i][k] * mean[k];
                curve[(long)i * apart + t * C + k] = 2 * grad_covariance[i][k] / pixels;
            }
            mean_part[t * C + i] = g / pixels;
        }
        if (grad_scale) grad_scale[t * scale_apart] += grad_w;
    }
    for (int l = 0; l < V; l++) {
        mean_part[m + l] = mean_part[l % m];
        for (int i = 0; i < C; i++) curve[(long)i * apart + m + l] = curve[(long)i * apart + l % m];
    }
}
#endif
