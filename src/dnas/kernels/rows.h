/* Pictures as rows of numbers, and depthwise correlation over them: common to all native kernels.

   A picture of M channels is `rows` rows of width · M numbers, channels last, each row at a distance of `pitch`
   numbers (a multiple of V) from the one before. What lies between width · M and pitch is zero. A row is
   worked on as one flat vector, so every lane is in use whatever M is: lane f belongs to channel f % M, and
   vectors that begin at the same f % M (the same *phase*) share their coefficients. */
#ifndef DNAS_ROWS_H
#define DNAS_ROWS_H
#include <math.h>
#include <stdlib.h>
#include <string.h>

/* REAL (float or double), C and K of a file, and all bounds (TAPS, STATES, …) are macros: see limits.py. */
typedef REAL real;

#if defined(__AVX512F__)
#define BYTES 64
#elif defined(__AVX__)
#define BYTES 32
#else
#define BYTES 16
#endif
_Static_assert(BYTES <= VECTOR, "whoever makes room for whole vectors counts on it");
enum { V = BYTES / sizeof(real) }; /* lanes of a vector */
typedef real vec __attribute__((vector_size(BYTES), aligned(sizeof(real)), may_alias));
#define INLINE static inline __attribute__((always_inline))

INLINE vec load(const real *p) { return *(const vec *)p; }
INLINE void store(real *p, vec v) { *(vec *)p = v; }
INLINE vec all(real a) { return (vec){} + a; }
/* What a comparison of vectors gives: integers of the same width, -1 where it holds. */
typedef __typeof__(__builtin_choose_expr(sizeof(real) == 4, (int)0, (long long)0)) integer;
typedef integer mask __attribute__((vector_size(BYTES)));
INLINE vec where(mask m, vec v) { return (vec)((mask)v & m); } /* v, and zero where m is not set */
INLINE vec relu(vec v) { return where(~(v < 0), v); } /* NaN is kept, so that it is noticed */
INLINE long up(long n) { return (n + V - 1) / V * V; }

/* Vectors of one phase lie `stride` numbers apart; there are `count` phases. */
struct phases {
    int count;
    long stride;
};
INLINE struct phases phases_of(int channels) {
    int a = channels, b = V;
    while (b) {
        const int r = a % b;
        a = b, b = r;
    }
    return (struct phases){channels / a, (long)channels / a * V};
}
INLINE int phase(int p, int channels) { return p * V % channels; }

/* `n` coefficients repeated to n + V, so that a vector can be loaded at every phase. */
INLINE void repeat(real *to, const real *from, int n) {
    for (int i = 0; i < n + V; i++) to[i] = from[i % n];
}

/* Sizes of the structures of a file, which Python compares with its own. */
#define STRUCTURES(...) const size_t structures[] = {__VA_ARGS__, 0}

/* Under AddressSanitizer what lies between the pieces of a block must not be touched: GAP bytes at least. */
#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
enum { GAP = 64, GAPS = 64 * 1024 }; /* GAPS: for those of a whole block */
#else
#define ASAN_POISON_MEMORY_REGION(at, size) ((void)0)
#define ASAN_UNPOISON_MEMORY_REGION(at, size) ((void)0)
enum { GAP = 0, GAPS = 0 };
#endif

/* --- scratch memory: one growing block per thread, so that calls do not allocate new pages -------------- */

struct scratch {
    char *data;
    size_t size, used;
};
static __thread struct scratch scratch_;

/* Call with the sum of what will be taken; returns 0 if out of memory. */
static int scratch_reserve(size_t numbers) {
    const size_t bytes = numbers * sizeof(real) + 64 * 64 + GAPS;
    if (scratch_.size < bytes) {
        free(scratch_.data);
        scratch_.data = aligned_alloc(64, (bytes + 63) / 64 * 64);
        scratch_.size = scratch_.data ? bytes : 0;
    }
    ASAN_POISON_MEMORY_REGION(scratch_.data, scratch_.size);
    scratch_.used = 0;
    return scratch_.data != NULL;
}
static real *scratch_take(size_t numbers) {
    real *at = (real *)(scratch_.data + scratch_.used);
    scratch_.used += (numbers * sizeof(real) + 63) / 64 * 64 + GAP;
    ASAN_UNPOISON_MEMORY_REGION(at, numbers * sizeof(real));
    return at;
}

/* The next piece of a block that is used once: n numbers at `*free`. */
static inline real *piece(real **free, long n) {
    real *at = *free;
    *free += up(n) + GAP / (long)sizeof(real);
    ASAN_UNPOISON_MEMORY_REGION(at, n * sizeof(real));
    return at;
}

/* --- padded pictures ---------------------------------------------------------------------------------- */

/* A picture with `pad` zero pixels around it. For stride 2 the even columns of a row lie before the odd ones,
   so that the pixels which a strided correlation reads are adjacent. */
struct frame {
    int pad, stride, width, height, channels;
    long half, step; /* numbers from the even columns to the odd ones, and from row to row */
};
static struct frame frame_of(int height, int width, int channels, int pad, int stride) {
    const long columns = width + 2 * pad;
    const long half = stride == 1 ? 0 : (columns + 1) / 2 * channels;
    return (struct frame){pad, stride, width, height, channels, half, up(stride == 1 ? columns * channels : 2 * half)};
}
INLINE size_t frame_size(const struct frame *f) { return (size_t)f->step * (f->height + 2 * f->pad) + 2 * V; }
INLINE long frame_column(const struct frame *f, long x) { /* x counts from the padding's edge */
    return f->stride == 1 ? x * f->channels : (x & 1) * f->half + (x >> 1) * f->channels;
}
INLINE void frame_clear(real *data, const struct frame *f) { memset(data, 0, frame_size(f) * sizeof(real)); }

/* One row into a cleared frame; `y` counts from the picture's edge. */
INLINE void frame_row(real *data, const struct frame *f, int y, const real *row) {
    real *to = data + (y + f->pad) * f->step;
    if (f->stride == 1) {
        memcpy(to + f->pad * f->channels, row, (size_t)f->width * f->channels * sizeof(real));
        return;
    }
    for (int x = 0; x < f->width; x++)
        memcpy(to + frame_column(f, x + f->pad), row + (long)x * f->channels, f->channels * sizeof(real));
}

/* --- depthwise correlation ------------------------------------------------------------------------------ */

/* Taps: where each reads relative to its output, its coefficients by channel (repeated to channels + V), and its number
   within the kernel. */
struct taps {
    int count, number[TAPS];
    long at[TAPS];
    const real *weight[TAPS];
};

/* The taps of a depthwise convolution over a frame; `weight` holds kernel² rows of channels + V. */
static struct taps taps_forward(const struct frame *f, int kernel, int dilation, const real *weight) {
    struct taps taps = {0};
    const int offset = f->pad - dilation * (kernel / 2);
    for (int i = 0; i < kernel; i++)
        for (int j = 0; j < kernel; j++) {
            taps.at[taps.count] = (offset + i * dilation) * f->step + frame_column(f, offset + j * dilation);
            taps.number[taps.count] = i * kernel + j;
            taps.weight[taps.count++] = weight ? weight + (long)(i * kernel + j) * (f->channels + V) : NULL;
        }
    return taps;
}

/* The taps of its input gradient, over the frame `f` (stride 1) of the output's gradient. With stride 2 the input's
   pixels fall into four classes by the parity of row and column, each of which meets its own part of the kernel. */
static struct taps taps_backward(const struct frame *f, int kernel, int stride, int dilation, const real *weight,
                                 int row_parity, int column_parity) {
    struct taps taps = {0};
    for (int i = 0; i < kernel; i++)
        for (int j = 0; j < kernel; j++) {
            const int y = row_parity + dilation * (kernel / 2) - i * dilation;
            const int x = column_parity + dilation * (kernel / 2) - j * dilation;
            if (y % stride || x % stride) continue;
            taps.at[taps.count] = (f->pad + y / stride) * f->step + (f->pad + x / stride) * f->channels;
            taps.number[taps.count] = i * kernel + j;
            taps.weight[taps.count++] = weight ? weight + (long)(i * kernel + j) * (f->channels + V) : NULL;
        }
    return taps;
}

INLINE void correlate_block(const int n, const real *in, const struct taps *taps, int shift, long stride, real *out,
                            int add) {
    vec sum[8];
    for (int i = 0; i < n; i++) sum[i] = add ? load(out + i * stride) : (vec){};
    for (int t = 0; t < taps->count; t++) {
        const vec w = load(taps->weight[t] + shift);
        const real *from = in + taps->at[t];
#pragma GCC unroll 8
        for (int i = 0; i < n; i++) sum[i] += w * load(from + i * stride);
    }
    for (int i = 0; i < n; i++) store(out + i * stride, sum[i]);
}

/* out[y, f] (+)= Σ_t weight[t][f % channels] · in[y · step + at[t] + f] for f < length. */
static void correlate(const real *in, long step, const struct taps *taps, int channels, real *out, long pitch, int rows,
                      long length, int add) {
    const struct phases ph = phases_of(channels);
    for (int y = 0; y < rows; y++, in += step, out += pitch) {
        for (int p = 0; p < ph.count; p++) {
            const int shift = phase(p, channels);
            long f = p * V;
            for (; f + 7 * ph.stride < length; f += 8 * ph.stride)
                correlate_block(8, in + f, taps, shift, ph.stride, out + f, add);
            for (; f + 3 * ph.stride < length; f += 4 * ph.stride)
                correlate_block(4, in + f, taps, shift, ph.stride, out + f, add);
            for (; f < length; f += ph.stride) correlate_block(1, in + f, taps, shift, ph.stride, out + f, add);
        }
        for (long f = length; f < pitch; f++) out[f] = 0;
    }
}

INLINE void gradient_block(const int n, const real *in, long step, const long *at, const real *grad, long pitch,
                           int rows, long first, long length, long stride, real *sums, long apart) {
    vec sum[9] = {};
    for (int y = 0; y < rows; y++, in += step, grad += pitch)
        for (long f = first; f < length; f += stride) {
            const vec g = load(grad + f);
#pragma GCC unroll 9
            for (int t = 0; t < n; t++) sum[t] += g * load(in + at[t] + f);
        }
    for (int t = 0; t < n; t++) store(sums + t * apart, load(sums + t * apart) + sum[t]);
}

/* sums[t, f] += Σ_y grad[y, f] · in[y · step + at[t] + f], with f taken modulo the phases' stride: one row of `sums`
   is that long. `fold_sums` makes channels of it. */
static void correlate_gradient(const real *in, long step, const struct taps *taps, int channels, const real *grad,
                               long pitch, int rows, long length, real *sums) {
    const struct phases ph = phases_of(channels);
    for (int p = 0; p < ph.count; p++)
        for (int t = 0; t < taps->count; t += 9) {
            real *to = sums + t * ph.stride + p * V;
#define ROUND(n)                                                                                                 \
    case n:                                                                                                      \
        gradient_block(n, in, step, taps->at + t, grad, pitch, rows, p * V, length, ph.stride, to, ph.stride);   \
        break;
            switch (taps->count - t < 9 ? taps->count - t : 9) { ROUND(9) ROUND(7) ROUND(4) ROUND(1) }
#undef ROUND
        }
}

/* Sums over phases → sums by channel: to[n][channels] += from[n][stride]. */
static void fold_sums(const real *from, int n, int channels, double *to) {
    const long stride = phases_of(channels).stride;
    for (int t = 0; t < n; t++)
        for (long f = 0; f < stride; f++) to[(long)t * channels + f % channels] += from[t * stride + f];
}
#endif
