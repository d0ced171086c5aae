/* A node from its edges, forward and backward: `supernet.SupernetCell._join` in C.

   node[j · K + g] = Σ_s { outs_s[j]                          g = 0   the mixtures of the edges, C channels
                         { bypass_s · state_s[g · C + j]       g > 0   the bypassed channels

   The permutation is PC-DARTS' channel shuffle. States before a reduction have twice the size; of their bypassed channels
   the largest of each 2×2 pixels is taken. Compiled for one C, one K and REAL. */
#include "rows.h"

_Static_assert(C <= CHANNELS && K <= GROUPS, "they lie on the stack");

/* Group g of channels at one pixel: the mixtures for g = 0, else bypassed channels. */
typedef real group __attribute__((vector_size(C * sizeof(real)), aligned(sizeof(real)), may_alias));
typedef integer group_mask __attribute__((vector_size(C * sizeof(real))));
INLINE group get(const real *p) { return *(const group *)p; }
INLINE void put(real *p, group v) { *(group *)p = v; }

/* If the compiler supports vector shuffles, groups are interleaved by halves if their number is a power of two: a
   perfect shuffle of the list of groups, log2 K times. Otherwise number by number. */
#if defined(__GNUC__) && !defined(__clang__)
#define SHUFFLES 1
INLINE group pick(group a, group b, int first, int step) { /* every step-th lane of both, or alternating lanes */
    group_mask at;
    for (int l = 0; l < C; l++) at[l] = step == 2 ? first + 2 * l : l / 2 + first + l % 2 * C;
    return __builtin_shuffle(a, b, at);
}
#else
#define SHUFFLES 0
#endif

INLINE void interleave(const group *from, real *to) {
#if SHUFFLES
    if ((K & (K - 1)) == 0) {
        group v[K], w[K];
        memcpy(v, from, sizeof v);
        for (int n = K; n > 1; n /= 2) {
            for (int i = 0; i < K / 2; i++)
                w[2 * i] = pick(v[i], v[i + K / 2], 0, 1), w[2 * i + 1] = pick(v[i], v[i + K / 2], C / 2, 1);
            memcpy(v, w, sizeof v);
        }
        for (int g = 0; g < K; g++) put(to + g * C, v[g]);
        return;
    }
#endif
    for (int i = 0; i < C; i++)
        for (int g = 0; g < K; g++) to[i * K + g] = from[g][i];
}

INLINE void separate(const real *from, group *to) {
#if SHUFFLES
    if ((K & (K - 1)) == 0) {
        group v[K], w[K];
        for (int g = 0; g < K; g++) v[g] = get(from + g * C);
        for (int n = K; n > 1; n /= 2) {
            for (int i = 0; i < K / 2; i++)
                w[i] = pick(v[2 * i], v[2 * i + 1], 0, 2), w[i + K / 2] = pick(v[2 * i], v[2 * i + 1], 1, 2);
            memcpy(v, w, sizeof v);
        }
        memcpy(to, v, sizeof v);
        return;
    }
#endif
    for (int i = 0; i < C; i++)
        for (int g = 0; g < K; g++) to[g][i] = from[i * K + g];
}

struct join {
    int batch, height, width, sources, reduced, threads; /* the first `reduced` states have twice the size */
    int state_height, state_width;                       /* of these states */
    int fresh;                                           /* gradients of the first states are not yet initialized */
    int node_pixel, grad_pixel;                          /* stride between pixels, in numbers */
    int out_pixel[STATES], state_pixel[STATES];
    const real *outs[STATES], *states[STATES];
    const real *bypass; /* [sources] */
    real *node;         /* forward: the node; backward: its gradient */
    real *grad;         /* backward: gradient of the mixtures, the same for all edges, [B, H, W, ≥ C] */
    real *states_gradient[STATES], *bypass_gradient; /* added to, except fresh ones */
};

STRUCTURES(sizeof(struct join));

/* Output pixel (b, y, x) of state s, at its own or at twice the resolution. */
INLINE long place(const struct join *j, int s, int b, int y, int x) {
    if (s >= j->reduced) return (((long)b * j->height + y) * j->width + x) * j->state_pixel[s];
    return (((long)b * j->state_height + 2 * y) * j->state_width + 2 * x) * j->state_pixel[s];
}

/* Pixel t of the 2×2 whose first is at (y, x); 0, i.e. the first, outside of the image. */
INLINE long beside(const struct join *j, int s, int y, int x, int t) {
    if (2 * y + t / 2 >= j->state_height || 2 * x + t % 2 >= j->state_width) return 0;
    return ((long)(t / 2) * j->state_width + t % 2) * j->state_pixel[s];
}

/* Maximum of 2×2 pixels and its position: the first of equal ones. */
INLINE group largest(const real *at, const long *besides, group_mask *from) {
    group best = get(at);
    *from = (group_mask){};
    for (int t = 1; t < 4; t++) {
        const group v = get(at + besides[t]);
        const group_mask larger = (v > best) | (v != v), here = (group_mask){} + t;
        best = (group)(((group_mask)v & larger) | ((group_mask)best & ~larger));
        *from = (here & larger) | (*from & ~larger);
    }
    return best;
}

int join_forward(const struct join *j) {
#pragma omp parallel for num_threads(j->threads) schedule(static)
    for (int row = 0; row < j->batch * j->height; row++) {
        const int b = row / j->height, y = row % j->height;
        for (int x = 0; x < j->width; x++) {
            const long pixel = (long)row * j->width + x;
            group sum[K] = {};
            for (int s = 0; s < j->sources; s++) {
                sum[0] += get(j->outs[s] + pixel * j->out_pixel[s]);
                const real *rest = j->states[s] + place(j, s, b, y, x), w = j->bypass[s];
                if (s >= j->reduced) {
                    for (int g = 1; g < K; g++) sum[g] += w * get(rest + g * C);
                    continue;
                }
                const long besides[4] = {0, beside(j, s, y, x, 1), beside(j, s, y, x, 2), beside(j, s, y, x, 3)};
                group_mask from;
                for (int g = 1; g < K; g++) sum[g] += w * largest(rest + g * C, besides, &from);
            }
            interleave(sum, j->node + pixel * j->node_pixel);
        }
    }
    return 0;
}

/* Returns 0, or 1 if memory runs out. */
int join_backward(const struct join *j) {
    const int threads = j->threads;
    double *totals = calloc((size_t)threads * STATES, sizeof(double));
    if (!totals) return 1;
#pragma omp parallel for num_threads(threads) schedule(static, 1)
    for (int t = 0; t < threads; t++) {
        const int rows = j->batch * j->height;
        for (int row = (int)((long)rows * t / threads); row < (int)((long)rows * (t + 1) / threads); row++) {
            const int b = row / j->height, y = row % j->height;
            group inner[STATES] = {};
            for (int x = 0; x < j->width; x++) {
                const long pixel = (long)row * j->width + x;
                group back[K];
                separate(j->node + pixel * j->node_pixel, back);
                put(j->grad + pixel * j->grad_pixel, back[0]);
                for (int s = 0; K > 1 && s < j->sources; s++) {
                    const long at = place(j, s, b, y, x);
                    const real *rest = j->states[s] + at, w = j->bypass[s];
                    real *to = j->states_gradient[s] + at;
                    const int fresh = s < j->fresh;
                    if (s >= j->reduced) {
                        for (int g = 1; g < K; g++) {
                            group sent = w * back[g];
                            inner[s] += back[g] * get(rest + g * C);
                            if (!fresh) sent += get(to + g * C);
                            put(to + g * C, sent);
                        }
                        continue;
                    }
                    const long besides[4] = {0, beside(j, s, y, x, 1), beside(j, s, y, x, 2), beside(j, s, y, x, 3)};
                    for (int g = 1; g < K; g++) {
                        group_mask from;
                        inner[s] += back[g] * largest(rest + g * C, besides, &from);
                        const group sent = w * back[g];
                        for (int q = 0; q < 4; q++) {
                            real *here = to + g * C + besides[q];
                            if (q && !besides[q]) continue;
                            group part = (group)((group_mask)sent & (from == (group_mask){} + q));
                            if (!fresh) part += get(here);
                            put(here, part);
                        }
                    }
                }
            }
            for (int s = 0; s < j->sources; s++)
                for (int i = 0; i < C; i++) totals[t * STATES + s] += inner[s][i];
        }
    }
    for (int t = 0; t < threads; t++)
        for (int s = 0; s < j->sources; s++) j->bypass_gradient[s] += totals[t * STATES + s];
    free(totals);
    return 0;
}
