/* Backward tasks of a cell: gradients of one image, and of the weights.

   Layout: images are [batch, height, width, channels], rows of a buffer [height, pitch] with a whole number of vectors
   and zeros beyond the length. Threads: each `room` belongs to one thread. Alignment: buffers begin at a whole vector
   (rows.h), tensors anywhere.
   Numbers: sums over the batch are double, added in the order of the threads. Tested by tests/test_discrete.py and
   tests/test_sampled.py against the gradients of torch in float64. */
#ifndef DNAS_DISCRETE_BACKWARD_H
#define DNAS_DISCRETE_BACKWARD_H
#include "discrete_forward.h"

/* --- backward ---------------------------------------------------------------------------------------------------- */

/* factor · gradient, a row of it. */
INLINE void take_gradient(const struct picture *p, int b, int y, real factor, real *out) {
    const real *from = p->gradient + ((long)b * p->height + y) * p->width * p->gradient_pixel;
    PIECES(p->gradient_pixel, p)
    for (int n = 0; n < pieces; n++, from += p->gradient_pixel, out += length)
        EACH(i, length, store(out + i, factor * load(from + i)), out[i] = factor * from[i])
}

/* The same on its way through a batch norm, whose input is z. */
INLINE void take_through_norm(const struct picture *p, int b, int y, real factor, const struct coefficients *c,
                              const real *z, real *out) {
    const real *from = p->gradient + ((long)b * p->height + y) * p->width * p->gradient_pixel;
    const real *slope = c->by_gradient, *by_z = c->by_z, *constant = c->constant;
    PIECES(p->gradient_pixel, p)
    for (int n = 0; n < pieces; n++, from += p->gradient_pixel, z += length, out += length)
        EACH(i, length,
             store(out + i, factor * load(from + i) * load(slope + i) + (load(z + i) * load(by_z + i) + load(constant + i))),
             out[i] = factor * from[i] * slope[i] + (z[i] * by_z[i] + constant[i]))
}

/* The gradient of a node that others read starts with that of the cell's output. */
static void start_image(const struct run *r, const struct task *t, struct room *room, int b, real *sums,
                        double *totals) {
    const struct picture *p = r->cell->picture + t->item;
    (void)room, (void)sums, (void)totals;
    const long pixels = (long)p->height * p->width;
    for (long i = b * pixels; i < (b + 1) * pixels; i++)
        memcpy(p->gradient + i * p->gradient_pixel, p->start + i * p->start_pixel, p->channels * sizeof(real));
}

/* plain[i] += g[i] and product[i] += g[i] z[i] for a row of numbers, or of vectors of one phase. */
INLINE void add_norm_sums(const real *g, const real *z, long length, real *plain, real *product) {
    EACH(i, length,
         {
             const vec v = load(g + i);
             store(plain + i, load(plain + i) + v);
             store(product + i, load(product + i) + v * load(z + i));
         },
         (plain[i] += g[i], product[i] += g[i] * z[i]))
}

/* Σ g and Σ g z of every channel. */
static void norm_image(const struct run *r, const struct task *t, struct room *room, int b, real *sums,
                       double *totals) {
    const struct convolution *v = r->cell->convolution + t->item;
    const struct picture *out = r->cell->picture + v->output, *target = r->cell->picture + v->target;
    const long length = row_length(out);
    const double factor = factor_of(v->factor, b);
    real *plain = room->line[0], *product = room->line[1];
    (void)sums;
    if (factor == 0) return;
    memset(plain, 0, length * sizeof(real)), memset(product, 0, length * sizeof(real));
    const real *g = target->gradient + (long)b * out->height * out->width * target->gradient_pixel;
    const real *z = v->z + (long)b * out->height * length;
    for (int y = 0; y < out->height; y++, z += length, g += out->width * target->gradient_pixel) {
        const real *row = g;
        if (target->gradient_pixel != out->channels) take_gradient(target, b, y, 1, room->row), row = room->row;
        add_norm_sums(row, z, length, plain, product);
    }
    for (int x = 0; x < out->width; x++)
        for (int i = 0; i < out->channels; i++) {
            totals[i] += factor * plain[x * out->channels + i];
            totals[out->channels + i] += factor * product[x * out->channels + i];
        }
}

static void norm_finish(struct run *r, const struct task *t, const real *sums, const double *totals) {
    const struct convolution *v = r->cell->convolution + t->item;
    const struct picture *out = r->cell->picture + v->output;
    struct coefficients *c = r->c + t->item;
    const int n = out->channels;
    const double pixels = pixels_of(r, out);
    (void)sums;
    for (int i = 0; i < n; i++) {
        const double scale = v->norm[i], mean = v->norm[2 * n + i], inverse = v->norm[3 * n + i];
        const double centred = totals[n + i] - mean * totals[i];
        const double by_z = -inverse * inverse * scale * centred / pixels;
        if (v->gamma_gradient) v->gamma_gradient[i] = inverse * centred;
        if (v->beta_gradient) v->beta_gradient[i] = totals[i];
        c->by_gradient[i] = scale;
        c->by_z[i] = by_z;
        c->constant[i] = -scale * totals[i] / pixels - by_z * mean;
    }
    spread(out, c->by_gradient), spread(out, c->by_z), spread(out, c->constant);
}

/* The gradient of the input from that of the depthwise convolution's output, in the frame `back`. */
static void give_deep(const struct run *r, const struct task *t, const struct frame *f, const struct frame *back,
                      struct room *room, int b) {
    const struct convolution *v = r->cell->convolution + t->item;
    const struct picture *in = r->cell->picture + v->input;
    const long length = row_length(in), pitch = up(length);
    const int chunk = v->stride == 1 ? chunk_rows(pitch, pitch) : v->stride;
    for (int y = 0; y < in->height; y += chunk) {
        const int rows = in->height - y < chunk ? in->height - y : chunk;
        if (v->stride == 1) {
            const struct taps taps = taps_backward(back, v->kernel, 1, v->dilation, r->c[t->item].deep, 0, 0);
            correlate(room->back + y * back->step, back->step, &taps, in->channels, room->h, pitch, rows, length, 0);
        } else
            for (int row = 0; row < rows; row++)
                for (int column = 0; column < v->stride && column < in->width; column++) {
                    const struct taps taps =
                        taps_backward(back, v->kernel, v->stride, v->dilation, r->c[t->item].deep, row, column);
                    const int count = (in->width - column + v->stride - 1) / v->stride;
                    correlate(room->back + y / v->stride * back->step, back->step, &taps, in->channels, room->other,
                              up((long)count * in->channels), 1, (long)count * in->channels, 0);
                    for (int x = 0; x < count; x++)
                        memcpy(room->h + row * pitch + (long)(x * v->stride + column) * in->channels,
                               room->other + (long)x * in->channels, in->channels * sizeof(real));
                }
        for (int i = 0; i < rows; i++) {
            const real *on = room->frame + (y + i + f->pad) * f->step;
            if (f->stride == 1)
                on += f->pad * f->channels;
            else {
                for (int x = 0; x < in->width; x++)
                    memcpy(room->row + (long)x * in->channels, on + frame_column(f, x + f->pad),
                           in->channels * sizeof(real));
                on = room->row;
            }
            give_row(in, b, y + i, room->h + i * pitch, on, t->first);
        }
    }
}

/* One row of one grid's gradient to the rows of the input; the first grid of the first task writes whole rows. */
static void give_grid(const struct run *r, const struct task *t, int b, int y, int part, const real *row,
                      const real *on) {
    const struct convolution *v = r->cell->convolution + t->item;
    const struct picture *in = r->cell->picture + v->input;
    for (int from = 2 * y; t->first && part == 0 && from < 2 * y + 2 && from < in->height; from++)
        for (int x = 0; x < in->width; x++)
            memset(in->gradient + (((long)b * in->height + from) * in->width + x) * in->gradient_pixel, 0,
                   in->channels * sizeof(real));
    if (2 * y + part >= in->height) return;
    real *to = in->gradient + ((long)b * in->height + 2 * y + part) * in->width * in->gradient_pixel;
    for (int x = part; x < in->width; x += 2, row += in->channels, on += in->channels)
        for (int i = 0; i < in->channels; i++) to[x * in->gradient_pixel + i] += on[i] <= 0 ? 0 : row[i];
}

static long deep_sums(const struct convolution *v, const struct picture *in) {
    return (long)v->kernel * v->kernel * phases_of(in->channels).stride;
}

static void backward_image(const struct run *r, const struct task *t, struct room *room, int b, real *sums,
                           double *totals) {
    const struct convolution *v = r->cell->convolution + t->item;
    const struct coefficients *c = r->c + t->item;
    const struct picture *in = r->cell->picture + v->input, *out = r->cell->picture + v->output;
    const struct picture *target = r->cell->picture + v->target;
    const long pitch = pitch_of(r, v), wide = out->channels, length = row_length(out);
    const int chunk = chunk_rows(pitch, length);
    const real factor = factor_of(v->factor, b);
    struct frame f = {0}, back = {0};
    struct taps taps;
    (void)totals;
    if (v->kernel) {
        f = frame_of_input(r, v, room, b);
        taps = taps_forward(&f, v->kernel, v->dilation, c->deep);
        back = frame_of(out->height, out->width, in->channels, padding(v), 1);
        clear_border(room->back, &back, 0);
    }
    for (int y = 0; y < out->height; y += chunk) {
        const int rows = out->height - y < chunk ? out->height - y : chunk;
        for (int i = 0; i < rows; i++)
            take_through_norm(target, b, y + i, factor, c, v->z + ((long)b * out->height + y + i) * length,
                              room->g + i * length);
        if (!v->parts) { /* only a batch norm */
            for (int i = 0; i < rows; i++) give_row(in, b, y + i, room->g + i * length, NULL, t->first);
            continue;
        }
        real *to = sums + deep_sums(v, in);
        for (int part = 0, o = 0; part < v->parts; o += v->outputs[part++]) {
            const int outputs = v->outputs[part];
            if (v->point_gradient[part] || !v->kernel) features(r, v, &f, &taps, b, y, rows, part, room, pitch);
            if (v->point_gradient[part])
                outer(room->h, pitch, in->channels, room->g + o, wide, outputs, rows, out->width, to);
            to += in->channels * up(outputs);
            if (v->kernel) {
                product(room->g, length, wide, outputs, c->back[part], in->channels,
                        room->back + (y + back.pad) * back.step + back.pad * in->channels, in->channels, back.step,
                        rows, out->width, NULL, &room->ahead);
                continue;
            }
            if (!in->gradient) continue;
            product(room->g + o, length, wide, outputs, c->back[part], in->channels, room->other, in->channels, pitch,
                    rows, out->width, NULL, &room->ahead);
            for (int i = 0; i < rows; i++)
                if (v->parts == 2)
                    give_grid(r, t, b, y + i, part, room->other + i * pitch, room->h + i * pitch);
                else
                    give_row(in, b, y + i, room->other + i * pitch, room->h + i * pitch, t->first);
        }
    }
    if (!v->kernel) return;
    if (v->deep_gradient)
        correlate_gradient(room->frame, v->stride * f.step, &taps, in->channels,
                           room->back + back.pad * back.step + back.pad * in->channels, back.step, out->height,
                           (long)out->width * in->channels, sums);
    if (in->gradient) give_deep(r, t, &f, &back, room, b);
}

static void backward_finish(struct run *r, const struct task *t, const real *sums, const double *totals) {
    const struct convolution *v = r->cell->convolution + t->item;
    const struct picture *in = r->cell->picture + v->input;
    const int inputs = in->channels, taps = v->kernel * v->kernel;
    const long stride = phases_of(inputs).stride;
    (void)totals;
    for (int k = 0; k < taps && v->deep_gradient; k++)
        for (int i = 0; i < inputs; i++) {
            double sum = 0;
            for (long f = i; f < stride; f += inputs) sum += sums[k * stride + f];
            v->deep_gradient[(long)i * taps + k] = sum;
        }
    sums += deep_sums(v, in);
    for (int part = 0; part < v->parts; part++) {
        const int outputs = v->outputs[part];
        for (int o = 0; o < outputs && v->point_gradient[part]; o++)
            for (int i = 0; i < inputs; i++) v->point_gradient[part][(long)o * inputs + i] = sums[i * up(outputs) + o];
        sums += inputs * up(outputs);
    }
}

static void term_finish(struct run *r, const struct task *t, const real *sums, const double *totals) {
    const struct term *e = r->cell->term + t->item;
    (void)sums;
    if (e->factor_gradient) *e->factor_gradient = totals[0];
}

/* The gradient of a term without weights, and of its factor. */
static void term_image(const struct run *r, const struct task *t, struct room *room, int b, real *sums,
                       double *totals) {
    const struct term *e = r->cell->term + t->item;
    const struct picture *in = r->cell->picture + e->source, *out = r->cell->picture + e->node;
    const long length = row_length(out);
    const real factor = factor_of(e->factor, b);
    (void)sums;
    if (e->kind == KIND_IDENTITY) {
        for (int y = 0; y < out->height; y++) {
            if (e->factor_gradient) {
                take_gradient(out, b, y, 1, room->row);
                take_row(r, in, b, y, 0, room->other);
                for (long i = 0; i < length; i++) totals[0] += room->row[i] * room->other[i];
            }
            take_gradient(out, b, y, factor, room->row);
            give_row(in, b, y, room->row, NULL, t->first);
        }
        return;
    }
    const struct frame f = pool_frame(in, e->stride);
    long at[9];
    pool_taps(&f, at);
    room->framed = -1;
    fill_frame(r, in, &f, b, 0, -INFINITY, room->frame, room->row);
    frame_clear(room->back, &f);
    for (int y = 0; y < out->height; y++) {
        const long row = y * e->stride * f.step;
        take_gradient(out, b, y, factor, room->row);
        memset(room->row + length, 0, V * sizeof(real));
        if (e->kind == KIND_AVERAGE) pool_shares(&f, out, y, room->other);
        unpool_row(room->frame + row, room->back + row, at, e->kind, length, room->other, room->row);
    }
    for (int y = 0; y < in->height; y++) {
        const real *from = room->back + (y + 1) * f.step;
        if (f.stride == 1)
            from += f.channels;
        else {
            for (int x = 0; x < in->width; x++)
                memcpy(room->row + (long)x * f.channels, from + frame_column(&f, x + 1), f.channels * sizeof(real));
            from = room->row;
        }
        give_row(in, b, y, from, NULL, t->first);
    }
}
#endif
