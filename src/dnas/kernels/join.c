/* A node from its edges, forward and backward: `supernet.SupernetCell._join` in C.

   node[j · K + g] = Σ_s { outs_s[j]                          g = 0   the mixtures of the edges, C channels
                         { bypass_s · state_s[g · C + j]       g > 0   the channels that passed by

   The permutation is PC-DARTS' channel shuffle. States before a reduction have twice the size; of their bypassed channels
   the largest of each 2×2 pixels is taken. Compiled for one C, one K and REAL. */
#include "rows.h"

#ifndef C
#define C 4
#endif
#ifndef K
#define K 4
#endif
enum { REST = C * (K - 1), MOST = 16 };

struct join {
    int batch, height, width, sources, reduced, threads; /* the first `reduced` states are at twice the size */
    int state_height, state_width;                       /* of those */
    int node_pixel, grad_pixel;                          /* numbers from pixel to pixel */
    int out_pixel[MOST], state_pixel[MOST];
    const real *outs[MOST], *states[MOST];
    const real *bypass; /* [sources] */
    real *node;         /* forward: the node; backward: its gradient */
    real *grad;         /* backward: of the mixtures, the same for all edges, [B, H, W, ≥ C] */
    real *states_gradient[MOST], *bypass_gradient; /* added to */
};

/* The bypassed channels of a state at output pixel (b, y, x), and for a reduction where the largest came from. */
INLINE const real *passed(const struct join *j, int s, int b, int y, int x, real *largest, int *from) {
    if (s >= j->reduced) return j->states[s] + (((long)b * j->height + y) * j->width + x) * j->state_pixel[s] + C;
    for (int t = 0; t < 4; t++) {
        const int r = 2 * y + t / 2, c = 2 * x + t % 2;
        if (r >= j->state_height || c >= j->state_width) continue;
        const real *v = j->states[s] + (((long)b * j->state_height + r) * j->state_width + c) * j->state_pixel[s] + C;
        for (int i = 0; i < REST; i++) {
            from[i] = t == 0 || v[i] > largest[i] ? t : from[i];
            largest[i] = t == 0 || v[i] > largest[i] ? v[i] : largest[i];
        }
    }
    return largest;
}

int join_forward(const struct join *j) {
#pragma omp parallel for num_threads(j->threads) schedule(static)
    for (int row = 0; row < j->batch * j->height; row++)
        for (int x = 0; x < j->width; x++) {
            const long pixel = (long)row * j->width + x;
            real sum[C * K] = {}, largest[REST + 1];
            int from[REST + 1];
            for (int s = 0; s < j->sources; s++) {
                const real *out = j->outs[s] + pixel * j->out_pixel[s], w = j->bypass[s];
                for (int i = 0; i < C; i++) sum[i] += out[i];
                if (K == 1) continue;
                const real *rest = passed(j, s, row / j->height, row % j->height, x, largest, from);
                for (int i = 0; i < REST; i++) sum[C + i] += w * rest[i];
            }
            real *node = j->node + pixel * j->node_pixel;
            for (int i = 0; i < C; i++)
                for (int g = 0; g < K; g++) node[i * K + g] = sum[g * C + i];
        }
    return 0;
}

/* Returns 0, or 1 when memory is short. */
int join_backward(const struct join *j) {
    const int threads = j->threads;
    double *totals = calloc((size_t)threads * MOST, sizeof(double));
    if (!totals) return 1;
#pragma omp parallel for num_threads(threads) schedule(static, 1)
    for (int t = 0; t < threads; t++) {
        const int rows = j->batch * j->height;
        for (int row = (int)((long)rows * t / threads); row < (int)((long)rows * (t + 1) / threads); row++) {
            real inner[MOST][REST + 1] = {};
            for (int x = 0; x < j->width; x++) {
                const long pixel = (long)row * j->width + x;
                const int b = row / j->height, y = row % j->height;
                const real *node = j->node + pixel * j->node_pixel;
                real back[C * K], largest[REST + 1];
                int from[REST + 1];
                for (int i = 0; i < C; i++)
                    for (int g = 0; g < K; g++) back[g * C + i] = node[i * K + g];
                memcpy(j->grad + pixel * j->grad_pixel, back, C * sizeof(real));
                for (int s = 0; K > 1 && s < j->sources; s++) {
                    const real w = j->bypass[s], *rest = passed(j, s, b, y, x, largest, from);
                    for (int i = 0; i < REST; i++) inner[s][i] += back[C + i] * rest[i];
                    if (s >= j->reduced) {
                        real *to = j->states_gradient[s] + pixel * j->state_pixel[s] + C;
                        for (int i = 0; i < REST; i++) to[i] += w * back[C + i];
                        continue;
                    }
                    for (int q = 0; q < 4; q++) {
                        const int r = 2 * y + q / 2, c = 2 * x + q % 2;
                        if (r >= j->state_height || c >= j->state_width) continue;
                        const long at = ((long)b * j->state_height + r) * j->state_width + c;
                        real *to = j->states_gradient[s] + at * j->state_pixel[s] + C;
                        for (int i = 0; i < REST; i++) to[i] += from[i] == q ? w * back[C + i] : 0;
                    }
                }
            }
            for (int s = 0; s < j->sources; s++)
                for (int i = 0; i < REST; i++) totals[t * MOST + s] += inner[s][i];
        }
    }
    for (int t = 0; t < threads; t++)
        for (int s = 0; s < j->sources; s++) j->bypass_gradient[s] += totals[t * MOST + s];
    free(totals);
    return 0;
}
