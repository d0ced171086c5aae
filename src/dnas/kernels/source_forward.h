/* The forward passes of one image: moments, and the mixture of all operations.

   Layout: states are [B, H, W, channels], pictures [B, H', pitch] with M = targets · C channels side by side,
   target-major, rows of a whole number of vectors and zeros beyond the length. Threads: a `room` belongs to one thread,
   a `plan` is shared and read-only. Alignment: buffers begin at a whole vector (rows.h), tensors anywhere.
   Numbers: a batch norm is folded into the matrix behind it (fold of pointwise.h), exact but for the order of sums.
   Tested by tests/test_supernet.py against the plain network in float64. */
#ifndef DNAS_SOURCE_FORWARD_H
#define DNAS_SOURCE_FORWARD_H
#include "source_passes.h"

/* --- forward -------------------------------------------------------------------------------------------------- */

static void add_moments(const struct plan *p, const real *h, real *sums) {
    outer(h, h, p->pitch, p->out_height, p->length, p->m, sums + p->sum, sums);
}

/* The pools of an image, computed or from the kept copy (unless this pass writes it). */
static const real *pooled(const struct plan *p, struct room *r, int b, int fresh) {
    const struct source *s = p->s;
    real *to = s->pooled ? s->pooled + (long)b * POOLED * pooled_picture(&p->pools) : r->pooled;
    if (s->pooled && !fresh) return to;
    pool_fill(&p->pools, s->x + (long)b * s->height * s->width * s->x_pixel, s->x_pixel, r->pool_frame);
    pool(&p->pools, r->pool_frame, p->shares, to);
    return to;
}

static int any_pool(const struct source *s) { return s->pools[POOL_LARGEST] >= 0 || s->pools[POOL_AVERAGE] >= 0; }

/* Both pools of an image with their sums and sums of squares, [2, 2, pool phases]. */
static void add_pool_moments(const struct plan *p, struct room *r, int b, long apart, real *sums) {
    const struct source *s = p->s;
    if (!any_pool(s)) return;
    const real *pictures = pooled(p, r, b, 1);
    const struct phases ph = phases_of(C);
    for (int k = 0; k < 2; k++) {
        if (s->pools[k] < 0) continue;
        real *to = sums + k * 2 * apart;
        for (int n = 0; n < ph.count; n++) {
            vec sum = {}, squares = {};
            for (int y = 0; y < p->out_height; y++)
                for (long f = n * V; f < (long)p->out_width * C; f += ph.stride) {
                    const vec v = load(pictures + k * pooled_picture(&p->pools) + y * p->pools.pitch + f);
                    sum += v, squares += v * v;
                }
            store(to + n * V, load(to + n * V) + sum), store(to + apart + n * V, load(to + apart + n * V) + squares);
        }
    }
}

/* Factors of the identity for one target at one pixel: 0 where it is dropped. */
INLINE target alive_factors(const struct plan *p, const unsigned char *alive) {
    target factors;
    for (int i = 0; i < C; i++) factors[i] = alive[i];
    return factors * (real)p->s->alive_scale;
}

/* out += scale · feature for a row of features [W', C] of all targets, unless dropped. */
static void add_shared(const struct plan *p, const real *feature, long pixel, const real *scale,
                       const unsigned char *alive, real *out) {
    for (int x = 0; x < p->out_width; x++, feature += pixel) {
        const target v = get(feature);
        for (int t = 0; t < p->s->targets; t++, out += C) {
            target w = get(scale + t * C);
            if (alive) w *= alive_factors(p, alive), alive += C;
            put(out, get(out) + w * v);
        }
    }
}

/* to [M] += Σ g · feature over a row of features of all targets, unless dropped. */
static void add_inner_product(const struct plan *p, const real *feature, long pixel, const unsigned char *alive,
                              const real *g, real *to) {
    for (int t = 0; t < p->s->targets; t++, to += C, g += C) {
        target sum = get(to);
        for (int x = 0; x < p->out_width; x++) {
            target v = get(feature + x * pixel);
            if (alive) v *= alive_factors(p, alive + (long)x * p->m + t * C);
            sum += v * get(g + (long)x * p->m);
        }
        put(to, sum);
    }
}

static const real *state_row(const struct plan *p, int b, int y) {
    return p->s->x + ((long)b * p->s->height + y) * p->s->width * p->s->x_pixel;
}

static const unsigned char *alive_row(const struct plan *p, int b, int y) {
    return p->s->alive ? p->s->alive + ((long)b * p->out_height + y) * p->length : NULL;
}

static void mix_image(const struct plan *p, struct room *r, int b) {
    const struct source *s = p->s;
    real *out = s->out + (long)b * p->out_height * p->length, *all = r->a;
    if (p->pitch == p->length) all = out; /* it lies as a picture */
    const int begun = s->add && all == out;
    for (int j = 0; j < s->count; j++)
        mix(last_h(p, r, j, b), p->c[j].last, j ? NULL : p->bias, all, p->pitch, p->out_height, p->length, p->m,
            j > 0 || begun);
    if (!s->count)
        for (int y = 0; y < p->out_height; y++)
            for (long f = 0; f < p->length; f++)
                all[y * p->pitch + f] = p->bias[f % p->m] + (begun ? all[y * p->pitch + f] : 0);
    const real *pictures = any_pool(s) ? pooled(p, r, b, 0) : NULL;
    for (int y = 0; y < p->out_height; y++) {
        real *row = all + y * p->pitch;
        for (int k = 0; k < 2; k++)
            if (s->pools[k] >= 0)
                add_shared(p, pictures + k * pooled_picture(&p->pools) + y * p->pools.pitch, C, p->pool_scale[k], NULL, row);
        if (s->identity >= 0)
            add_shared(p, state_row(p, b, y), s->x_pixel, p->identity_scale, alive_row(p, b, y), row);
        if (all != out)
            for (long f = 0; f < p->length; f++) out[y * p->length + f] = row[f] + (s->add ? out[y * p->length + f] : 0);
    }
}
#endif
