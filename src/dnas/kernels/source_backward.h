/* The backward passes of one image: through stages, pools and identity to the state, and sums for the weights.

   Layout: states are [B, H, W, channels], pictures [B, H', pitch] with M = targets · C channels side by side,
   target-major, rows of a whole number of vectors and zeros beyond the length. Threads: a `room` belongs to one thread,
   a `plan` is shared and read-only. Alignment: buffers begin at a whole vector (rows.h), tensors anywhere.
   Numbers: as forward. Tested by tests/test_supernet.py against the gradients of the plain network in float64. */
#ifndef DNAS_SOURCE_BACKWARD_H
#define DNAS_SOURCE_BACKWARD_H
#include "source_forward.h"

/* --- backward ------------------------------------------------------------------------------------------------- */

/* The nodes' gradient of an image as a picture; where it lies as one already, that. */
static const real *node_gradient(const struct plan *p, int b, real *g) {
    const struct source *s = p->s;
    const real *from = s->grad + (long)b * p->out_height * p->out_width * s->grad_pixel, *picture = g;
    if (s->grad_pixel == p->m && p->pitch == p->length) return from;
    for (int y = 0; y < p->out_height; y++, g += p->pitch) {
        real *to = g;
        for (int x = 0; x < p->out_width; x++, from += s->grad_pixel)
            for (int t = 0; t < s->targets; t++, to += C) put(to, get(from + t * C));
        for (long f = p->length; f < p->pitch; f++) g[f] = 0;
    }
    return picture;
}

/* What a convolution's output receives: matrix · g, and through the moments mean_part + curve · h; in a picture with
   zeros beyond its rows. */
static void output_gradient(const struct plan *p, const real *g, const real *matrix, const real *h, const real *mean_part,
                            const real *curve, real *out) {
    mix_both(g, matrix, h, curve, mean_part, out, p->pitch, p->out_height, p->length, p->m);
    clear_beyond(p, out);
}

static void fill_frame(const struct plan *p, const struct frame *f, const real *from, real *frame) {
    for (int y = 0; y < p->out_height; y++) frame_row(frame, f, y, from + y * p->pitch);
}

static void through_second_stage(const struct plan *p, struct room *r, int j, int b, real *sums) {
    const struct separable *e = p->s->separables + j;
    const struct coefficients *c = p->c + j;
    const real *h = kept(p, j, 0, b);
    if (!h) h = first_h(p, j, b, input(p, r, b), r->h, 0);
    const real *h2 = kept(p, j, 1, b);
    fill_inner(p, j, h, r->inner, r->row);
    if (!h2) h2 = second_h(p, j, b, r->inner, r->h2, 0);
    output_gradient(p, r->g, c->last_t, h2, c->mean_part[1], c->curve[1], r->a);
    if (e->deep_gradient[1])
        correlate_gradient(r->inner, p->inner.step, c->taps + 1, p->m, r->a, p->pitch, p->out_height, p->length,
                           sums + (1 + C) * p->sum);
    fill_frame(p, &p->back, r->a, r->back);
    real *ga = e->work + (long)b * picture(p);
    correlate(r->back, p->back.step, c->back[1], p->m, ga, p->pitch, p->out_height, p->length, 0);
    for (int y = 0; y < p->out_height; y++) { /* where the ReLU passed its input */
        real *to = ga + y * p->pitch;
        const real *u = r->inner + (y + p->inner.pad) * p->inner.step + p->inner.pad * p->m;
        for (long f = 0; f < p->length; f += V) store(to + f, where(~(load(u + f) <= 0), load(to + f)));
        for (long f = p->length; f < p->pitch; f++) to[f] = 0;
    }
    outer(ga, h, p->pitch, p->out_height, p->length, p->m, sums + p->sum, sums);
}

/* Input pixels fall into stride² planes [H', pitch] by the parity of row and column. */
static void through_first_stages(const struct plan *p, struct room *r, int b, const long *where_sums, real *sums) {
    const struct source *s = p->s;
    for (int j = 0; j < s->count; j++) {
        const struct separable *e = s->separables + j;
        const struct coefficients *c = p->c + j;
        const real *h = kept(p, j, 0, b);
        if (!h) h = first_h(p, j, b, input(p, r, b), r->h, 0);
        if (e->stages == 2)
            output_gradient(p, e->work + (long)b * picture(p), c->inner_t, h, c->mean_part[0], c->curve[0], r->a);
        else
            output_gradient(p, r->g, c->last_t, h, c->mean_part[0], c->curve[0], r->a);
        if (e->deep_gradient[0])
            correlate_gradient(input(p, r, b), s->stride * p->in.step, c->taps, p->m, r->a, p->pitch, p->out_height,
                               p->length, sums + where_sums[j]);
        fill_frame(p, &p->back, r->a, r->back);
        for (int plane = 0; plane < s->stride * s->stride; plane++)
            correlate(r->back, p->back.step, c->back[0] + plane, p->m, r->acc + plane * picture(p), p->pitch,
                      p->out_height, p->length, j > 0);
    }
}

/* Gradients of pooled pictures: scale of each target's share, and what the statistics send back. */
struct pool_back {
    real mean[C], slope[C], centre[C];
};

static void through_pools(const struct plan *p, struct room *r, int b, const struct pool_back *back) {
    const struct source *s = p->s;
    const struct pools *q = &p->pools;
    if (!any_pool(s)) return;
    const real *pictures = pooled(p, r, b, 0);
    for (int k = 0; k < 2; k++) {
        if (s->pools[k] < 0) continue;
        const target mean = get(back[k].mean), slope = get(back[k].slope), centre = get(back[k].centre);
        for (int y = 0; y < p->out_height; y++) {
            const real *at = pictures + k * pooled_picture(q) + y * q->pitch, *g = r->g + y * p->pitch;
            real *to = r->pool_back[k] + (y + 1) * q->back.step + C;
            const real rows = (real)1 / inside(y, s->stride, s->height);
            for (int x = 0; x < p->out_width; x++, at += C, to += C) {
                target sum = mean + slope * (get(at) - centre);
                for (int t = 0; t < s->targets; t++, g += C) sum += get(p->pool_scale[k] + t * C) * get(g);
                if (k == POOL_AVERAGE) sum *= rows * p->shares[x * C];
                put(to, sum);
            }
        }
    }
    for (int y = 0; y < p->out_height; y++)
        frame_row(r->pool_back[POOL_PLACE], &q->back, y, pictures + POOL_PLACE * pooled_picture(q) + y * q->pitch);
    pool_gradient(q, s->pools[POOL_LARGEST] < 0 ? NULL : r->pool_back[POOL_LARGEST], r->pool_back[POOL_PLACE],
                  s->pools[POOL_AVERAGE] < 0 ? NULL : r->pool_back[POOL_AVERAGE], r->pool_planes);
}

/* Add all contributions to the gradient of the state. */
static void add_state_gradient(const struct plan *p, const struct room *r, int b) {
    const struct source *s = p->s;
    const int odd = s->stride - 1; /* stride 1 or 2 */
    for (int y = 0; y < s->height; y++) {
        const real *in = state_row(p, b, y);
        const long plane = (y & odd) * s->stride;
        const real *back = r->pool_planes + plane * pooled_picture(&p->pools) + (y >> odd) * p->pools.pitch;
        const real *acc = r->acc + plane * picture(p) + (y >> odd) * p->pitch;
        real *to = s->x_gradient + ((long)b * s->height + y) * s->width * s->x_pixel;
        for (int x = 0; x < s->width; x++, in += s->x_pixel, to += s->x_pixel) {
            target sum = {};
            if (s->count) {
                const real *from = acc + (x & odd) * picture(p) + (long)(x >> odd) * p->m;
                for (int t = 0; t < s->targets; t++) sum += get(from + t * C);
                sum = where_passed(get(in), sum);
            }
            if (any_pool(s)) sum += get(back + (x & odd) * pooled_picture(&p->pools) + (long)(x >> odd) * C);
            if (!s->fresh) sum += get(to);
            put(to, sum);
        }
        if (s->identity < 0) continue;
        const real *g = r->g + y * p->pitch;
        const unsigned char *alive = alive_row(p, b, y);
        to -= (long)s->width * s->x_pixel;
        for (int x = 0; x < s->width; x++, to += s->x_pixel) {
            target sum = get(to);
            for (int t = 0; t < s->targets; t++, g += C) {
                target w = get(p->identity_scale + t * C);
                if (alive) w *= alive_factors(p, alive), alive += C;
                sum += w * get(g);
            }
            put(to, sum);
        }
    }
}

/* Depthwise sums [k², phases] → the gradient [M, k²]. */
static void deep_gradient(const struct plan *p, const real *sums, int taps, real *to) {
    double by_tap[taps * p->m];
    memset(by_tap, 0, sizeof by_tap);
    fold_sums(sums, taps, p->m, by_tap);
    for (int i = 0; i < p->m; i++)
        for (int t = 0; t < taps; t++) to[(long)i * taps + t] += by_tap[(long)t * p->m + i];
}
#endif
