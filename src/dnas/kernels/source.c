/* All operations on all edges that leave one state, forward and backward: `supernet.SourceBlock` in C.

   Every batch norm needs sums over the whole batch, so the work consists of passes, each image by image in cache:

       forward    1  the first stages' depthwise convolutions h: their moments
                  2  the second stages of separable convolutions: their moments
                  3  the mixture of all operations
       backward   1  the mixture's gradients: of matrices, bias and pools
                  2  through the second stages to the first ones
                  3  through the first stages, pools and identity to the state

   Results of earlier passes are kept, or computed again if `kept` is NULL: memory traffic is the largest cost, and a
   3×3 depthwise convolution is cheaper than storing its result and loading it three times.

   M = targets · C channels are adjacent, target-major. Compiled for one C (channels of an edge) and REAL. */
#include "source_backward.h"

/* Returns 0, or 1 if memory runs out. */
int source_forward(const struct source *s) {
    struct plan plan, *p = &plan;
    real *totals;
    if (!plan_of(p, s)) return 1;
    const long moments = (1 + C) * p->sum, apart = phases_of(C).stride, last = s->count * moments;
    PASS(p, last + 4 * apart, {
        const real *frame = input(p, &r, b);
        for (int j = 0; j < s->count; j++) add_moments(p, first_h(p, j, b, frame, r.h, 1), sums + j * moments);
        add_pool_moments(p, &r, b, apart, sums + last);
    })
    for (int j = 0; j < s->count; j++) moments_of(p, totals + j * moments, s->separables[j].moments[0]);
    double pools[4 * C] = {};
    fold_sums(totals + last, 4, C, pools);
    const double pixels = (double)s->batch * p->out_height * p->out_width;
    for (int k = 0; k < 2; k++)
        for (int i = 0; i < C; i++) {
            const double mean = pools[2 * k * C + i] / pixels, square = pools[(2 * k + 1) * C + i] / pixels;
            s->pool_moments[2 * k * C + i] = mean;
            s->pool_moments[(2 * k + 1) * C + i] = at_least_zero(square - mean * mean);
        }
    free(totals);

    fold_inner(p, 0);
    int second = 0;
    for (int j = 0; j < s->count; j++) second += s->separables[j].stages == 2;
    if (second) {
        PASS(p, last, {
            for (int j = 0; j < s->count; j++) {
                if (s->separables[j].stages == 1) continue;
                const real *h = kept(p, j, 0, b);
                if (!h) h = first_h(p, j, b, input(p, &r, b), r.h, 0);
                fill_inner(p, j, h, r.inner, r.row);
                add_moments(p, second_h(p, j, b, r.inner, r.h2, 1), sums + j * moments);
            }
        })
        for (int j = 0; j < s->count; j++)
            if (s->separables[j].stages == 2) moments_of(p, totals + j * moments, s->separables[j].moments[1]);
        free(totals);
    }

    fold_mixture(p, 0);
    PASS(p, 0, { mix_image(p, &r, b); })
    free(totals);
    free(p->memory);
    return 0;
}

/* Returns 0, or 1 if memory runs out. */
int source_backward(const struct source *s) {
    struct plan plan, *p = &plan;
    real *totals;
    if (!plan_of(p, s)) return 1;
    fold_inner(p, 1);
    fold_mixture(p, 1);
    const double pixels = (double)s->batch * p->out_height * p->out_width;
    const long square = C * p->sum, wide = p->m + V;
    const int m = p->m;

    /* Pass 1: [bias, pools, identity][phases], then one [C][phases] per candidate. */
    const long first = 4 * p->sum;
    PASS(p, first + s->count * square, {
        r.g = node_gradient(p, b, r.gradient);
        for (int j = 0; j < s->count; j++)
            outer(r.g, last_h(p, &r, j, b), p->pitch, p->out_height, p->length, m, sums + first + j * square,
                  j ? NULL : sums);
        const real *pictures = any_pool(s) ? pooled(p, &r, b, 0) : NULL;
        for (int y = 0; y < p->out_height; y++) {
            const real *g = r.g + y * p->pitch;
            for (int k = 0; k < 2; k++)
                if (s->pools[k] >= 0)
                    add_inner_product(p, pictures + k * pooled_picture(&p->pools) + y * p->pools.pitch, C, NULL, g,
                                      sums + (1 + k) * p->sum);
            if (s->identity >= 0)
                add_inner_product(p, state_row(p, b, y), s->x_pixel, alive_row(p, b, y), g, sums + 3 * p->sum);
        }
        if (!s->count) /* the sum of g only */
            for (int y = 0; y < p->out_height; y++)
                for (long f = 0; f < p->length; f++) sums[f % p->sum] += r.g[y * p->pitch + f];
    })
    double shared[4 * m], matrix[C * m];
    memset(shared, 0, sizeof shared);
    fold_sums(totals, 4, m, shared);
    for (int j = 0; j < s->count; j++) {
        const struct separable *e = s->separables + j;
        struct coefficients *c = p->c + j;
        const int n = e->stages - 1;
        c->mean_part[n] = take(p, wide), c->curve[n] = take(p, C * wide);
        memset(matrix, 0, sizeof matrix);
        fold_sums(totals + first + j * square, C, m, matrix);
        fold_gradient(e->point[n], e->moments[n], s->weights + e->column, s->operations, s->targets, matrix, shared,
                      pixels, e->point_gradient[n], s->weights_gradient + e->column, c->mean_part[n], c->curve[n]);
    }
    free(totals);
    struct pool_back pool_back[2] = {};
    for (int k = 0; k < 2; k++) {
        if (s->pools[k] < 0) continue;
        const double *mean = s->pool_moments + 2 * k * C, *variance = mean + C;
        for (int i = 0; i < C; i++) {
            const double inverse = 1 / sqrt(variance[i] + EPSILON);
            double grad_inverse = 0, grad_mean = 0;
            for (int t = 0; t < s->targets; t++) {
                const double w = s->weights[t * s->operations + s->pools[k]], bias = shared[t * C + i];
                const double g = shared[(1 + k) * m + t * C + i] - bias * mean[i];
                s->weights_gradient[t * s->operations + s->pools[k]] += g * inverse;
                grad_inverse += w * g, grad_mean -= w * inverse * bias;
            }
            pool_back[k].mean[i] = grad_mean / pixels;
            pool_back[k].slope[i] = -grad_inverse * inverse * inverse * inverse / pixels;
            pool_back[k].centre[i] = mean[i];
        }
    }
    if (s->identity >= 0)
        for (int t = 0; t < s->targets; t++)
            for (int i = 0; i < C; i++) s->weights_gradient[t * s->operations + s->identity] += shared[3 * m + t * C + i];

    /* Pass 2: [bias, C][phases] of the inner matrix, then [k²][phases] of the depthwise kernel, per candidate. */
    long at[SEPARABLES], numbers = 0;
    for (int j = 0; j < s->count; j++) {
        const struct separable *e = s->separables + j;
        at[j] = numbers;
        if (e->stages == 2) numbers += (1 + C + e->kernel * e->kernel) * p->sum;
    }
    if (numbers) {
        PASS(p, numbers, {
            r.g = node_gradient(p, b, r.gradient);
            for (int j = 0; j < s->count; j++)
                if (s->separables[j].stages == 2) through_second_stage(p, &r, j, b, sums + at[j]);
        })
        for (int j = 0; j < s->count; j++) {
            const struct separable *e = s->separables + j;
            struct coefficients *c = p->c + j;
            if (e->stages == 1) continue;
            double bias[m];
            memset(bias, 0, sizeof bias), memset(matrix, 0, sizeof matrix);
            fold_sums(totals + at[j], 1, m, bias);
            fold_sums(totals + at[j] + p->sum, C, m, matrix);
            c->mean_part[0] = take(p, wide), c->curve[0] = take(p, C * wide);
            fold_gradient(e->point[0], e->moments[0], NULL, 0, s->targets, matrix, bias, pixels, e->point_gradient[0],
                          NULL, c->mean_part[0], c->curve[0]);
            if (e->deep_gradient[1])
                deep_gradient(p, totals + at[j] + (1 + C) * p->sum, e->kernel * e->kernel, e->deep_gradient[1]);
        }
        free(totals);
    }

    /* Pass 3: [k²][phases] of each first depthwise kernel. */
    numbers = 0;
    for (int j = 0; j < s->count; j++) at[j] = numbers, numbers += s->separables[j].kernel * s->separables[j].kernel * p->sum;
    PASS(p, numbers, {
        r.g = node_gradient(p, b, r.gradient);
        through_first_stages(p, &r, b, at, sums);
        through_pools(p, &r, b, pool_back);
        add_state_gradient(p, &r, b);
    })
    for (int j = 0; j < s->count; j++)
        if (s->separables[j].deep_gradient[0])
            deep_gradient(p, totals + at[j], s->separables[j].kernel * s->separables[j].kernel,
                          s->separables[j].deep_gradient[0]);
    free(totals);
    free(p->memory);
    return 0;
}
