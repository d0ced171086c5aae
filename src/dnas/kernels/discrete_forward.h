/* Forward tasks of a cell: convolutions, pools and nodes of one image.

   Layout: images are [batch, height, width, channels], rows of a buffer [height, pitch] with a whole number of vectors
   and zeros beyond the length. Threads: each `room` belongs to one thread. Alignment: buffers begin at a whole vector
   (rows.h), tensors anywhere.
   Numbers: sums over the batch are double, added in the order of the threads. Tested by tests/test_discrete.py and
   tests/test_sampled.py against torch in float64. */
#ifndef DNAS_DISCRETE_FORWARD_H
#define DNAS_DISCRETE_FORWARD_H
#include "discrete_products.h"

/* --- forward --------------------------------------------------------------------------------------------------- */

/* sums[i] += x[i] and squares[i] += x[i]² for every channel of a row of pixels. */
INLINE void add_moments(const real *x, int pixels, long wide, real *sums, real *squares) {
    for (int p = 0; p < pixels; p++, x += wide)
        EACH(i, wide,
             {
                 const vec v = load(x + i);
                 store(sums + i, load(sums + i) + v);
                 store(squares + i, load(squares + i) + v * v);
             },
             (sums[i] += x[i], squares[i] += x[i] * x[i]))
}

static void convolve_image(const struct run *r, const struct task *t, struct room *room, int b, real *sums,
                           double *totals) {
    const struct convolution *v = r->cell->convolution + t->item;
    const struct coefficients *c = r->c + t->item;
    const struct picture *in = r->cell->picture + v->input, *out = r->cell->picture + v->output;
    const long pitch = pitch_of(r, v), wide = out->channels;
    const int chunk = chunk_rows(pitch, wide * out->width);
    struct frame f = {0};
    struct taps taps;
    (void)sums;
    if (v->kernel) {
        f = frame_of_input(r, v, room, b);
        taps = taps_forward(&f, v->kernel, v->dilation, c->deep);
    }
    real *all = room->line[0];
    memset(all, 0, 2 * wide * sizeof(real));
    for (int y = 0; y < out->height; y += chunk) {
        const int rows = out->height - y < chunk ? out->height - y : chunk;
        real *z = v->z + ((long)b * out->height + y) * out->width * wide;
        for (int part = 0, o = 0; part < v->parts; o += v->outputs[part++]) {
            const struct moments moments = {all + o, c->pivot + o, wide};
            features(r, v, &f, &taps, b, y, rows, part, room, pitch);
            product(room->h, pitch, in->channels, in->channels, c->point[part], v->outputs[part], z + o, wide,
                    wide * out->width, rows, out->width, &moments, &room->ahead);
        }
    }
    if (!v->parts) /* pivots are 0 */
        for (int y = 0; y < out->height; y++)
            add_moments(v->z + ((long)b * out->height + y) * out->width * wide, out->width, wide, all, all + wide);
    const double pixels = (double)out->height * out->width;
    for (long i = 0; i < wide; i++) {
        const double pivot = c->pivot[i], sum = all[i];
        totals[i] += sum + pixels * pivot;
        totals[wide + i] += all[wide + i] + pivot * (2 * sum + pixels * pivot);
    }
}

/* Coefficients for every pixel of a row, which may be loaded a vector at a time. */
static void spread(const struct picture *p, real *to) {
    for (long i = p->channels; i < row_length(p); i++) to[i] = to[i - p->channels];
}

static void spread_norm(struct run *r, int item) {
    const struct convolution *v = r->cell->convolution + item;
    const struct picture *out = r->cell->picture + v->output;
    for (int i = 0; i < out->channels; i++) {
        r->c[item].scale[i] = v->norm[i];
        r->c[item].shift[i] = v->norm[out->channels + i];
    }
    spread(out, r->c[item].scale), spread(out, r->c[item].shift);
}

static double pixels_of(const struct run *r, const struct picture *p) {
    return (double)r->cell->batch * p->height * p->width;
}

static void convolve_finish(struct run *r, const struct task *t, const real *sums, const double *totals) {
    const struct convolution *v = r->cell->convolution + t->item;
    const struct picture *out = r->cell->picture + v->output;
    const int n = out->channels;
    const double pixels = pixels_of(r, out);
    (void)sums;
    for (int i = 0; i < n; i++) {
        const double mean = totals[i] / pixels, square = totals[n + i] / pixels - mean * mean;
        const double variance = square < 0 ? 0 : square, inverse = 1 / sqrt(variance + v->epsilon);
        v->norm[i] = v->gamma[i] * inverse;
        v->norm[n + i] = v->beta[i] - mean * v->norm[i];
        v->norm[2 * n + i] = mean;
        v->norm[3 * n + i] = inverse;
        if (!v->running_mean) continue;
        v->running_mean[i] += v->momentum * (mean - v->running_mean[i]);
        v->running_variance[i] += v->momentum * (variance * pixels / (pixels - 1) - v->running_variance[i]);
    }
    if (v->batches) *v->batches += 1;
    spread_norm(r, t->item);
}

/* --- pools: a frame bordered by -∞ --------------------------------------------------------------------------- */

static struct frame pool_frame(const struct picture *in, int stride) {
    return frame_of(in->height, in->width, in->channels, 1, stride);
}

static void pool_taps(const struct frame *f, long *at) {
    for (int i = 0; i < 9; i++) at[i] = i / 3 * f->step + frame_column(f, i % 3);
}

/* Number of a window's three rows (or columns) that lie inside the image. */
INLINE int inside(int at, int stride, int size) { return 3 - (at * stride == 0) - (at * stride + 1 >= size); }

/* 1 over the number of pixels of each window of output row y. */
static void pool_shares(const struct frame *f, const struct picture *out, int y, real *shares) {
    for (int x = 0; x < out->width; x++) {
        const int pixels = inside(y, f->stride, f->height) * inside(x, f->stride, f->width);
        for (int i = 0; i < out->channels; i++) *shares++ = (real)1 / pixels;
    }
    memset(shares, 0, V * sizeof(real));
}

INLINE vec either(mask m, vec a, vec b) { return (vec)(((mask)a & m) | ((mask)b & ~m)); }

/* A row of the maximum or average, [up(width · channels)]. */
static void pool_row(const real *frame, const long *at, int kind, long length, const real *shares,
                     real *out) {
    for (long i = 0; i < length; i += V) {
        vec best = load(frame + at[0] + i), sum = where(best != -INFINITY, best);
        for (int t = 1; t < 9; t++) {
            const vec v = load(frame + at[t] + i);
            best = either((v > best) | (v != v), v, best); /* NaN wins, as in torch */
            sum += where(v != -INFINITY, v);
        }
        if (kind == KIND_AVERAGE) best = sum * load(shares + i);
        store(out + i, best);
    }
}

/* What a row of the pool's gradient sends to each pixel; of equal ones to the first, as in torch. */
static void unpool_row(const real *frame, real *back, const long *at, int kind, long length, const real *shares,
                       const real *grad) {
    for (long i = 0; i < length; i += V) {
        vec g = load(grad + i);
        if (kind == KIND_AVERAGE) {
            g *= load(shares + i);
            for (int t = 0; t < 9; t++) store(back + at[t] + i, load(back + at[t] + i) + g);
            continue;
        }
        vec best = load(frame + at[0] + i);
        mask winner = {};
        for (int t = 1; t < 9; t++) {
            const vec v = load(frame + at[t] + i);
            const mask larger = (v > best) | (v != v);
            best = either(larger, v, best);
            winner = (((mask){} + t) & larger) | (winner & ~larger);
        }
        for (int t = 0; t < 9; t++)
            store(back + at[t] + i, load(back + at[t] + i) + where(winner == (mask){} + t, g));
    }
}

/* --- nodes ----------------------------------------------------------------------------------------------------- */

/* row (+)= factor · value */
INLINE void add_row(const real *value, long length, real factor, int first, real *row) {
    if (first)
        EACH(i, length, store(row + i, factor * load(value + i)), row[i] = factor * value[i])
    else
        EACH(i, length, store(row + i, load(row + i) + factor * load(value + i)), row[i] += factor * value[i])
}

/* image (+)= factor · a pool of the term's source. */
static void add_pool(const struct run *r, const struct term *e, int b, struct room *room, int first, real *image) {
    const struct picture *in = r->cell->picture + e->source, *out = r->cell->picture + e->node;
    const struct frame f = pool_frame(in, e->stride);
    long at[9];
    pool_taps(&f, at);
    room->framed = -1;
    fill_frame(r, in, &f, b, 0, -INFINITY, room->frame, room->row);
    for (int y = 0; y < out->height; y++, image += row_length(out)) {
        if (e->kind == KIND_AVERAGE) pool_shares(&f, out, y, room->other);
        pool_row(room->frame + y * e->stride * f.step, at, e->kind, row_length(out), room->other, room->row);
        add_row(room->row, row_length(out), factor_of(e->factor, b), first, image);
    }
}

static void node_image(const struct run *r, const struct task *t, struct room *room, int b, real *sums,
                       double *totals) {
    const struct cell *c = r->cell;
    const struct picture *out = c->picture + t->item;
    const long length = row_length(out);
    real *to = (real *)out->data + (long)b * out->height * out->width * out->pixel;
    int pools = 0;
    (void)sums, (void)totals;
    for (const struct term *e = c->term; e < c->term + c->terms; e++)
        if (e->node == t->item && (e->kind == KIND_MAXIMUM || e->kind == KIND_AVERAGE))
            add_pool(r, e, b, room, pools++ == 0, room->g);
    for (int y = 0; y < out->height; y++) {
        real *row = pools ? room->g + y * length : room->g;
        int first = !pools;
        for (const struct term *e = c->term; e < c->term + c->terms; e++) {
            if (e->node != t->item || (e->kind != KIND_IDENTITY && e->kind != KIND_CONVOLUTION)) continue;
            take_row(r, c->picture + e->source, b, y, 0, room->row);
            add_row(room->row, length, factor_of(e->factor, b), first, row);
            first = 0;
        }
        if (first) memset(row, 0, length * sizeof(real));
        for (int x = 0; x < out->width; x++, to += out->pixel, row += out->channels)
            EACH(i, out->channels, store(to + i, load(row + i)), to[i] = row[i])
    }
}
#endif
