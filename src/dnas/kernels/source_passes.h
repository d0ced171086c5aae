/* Common to all passes over a source: structures, plan, inputs and moments.

   Layout: states are [B, H, W, channels], pictures [B, H', pitch] with M = targets · C channels side by side,
   target-major, rows of a whole number of vectors and zeros beyond the length. Threads: a `room` belongs to one thread,
   a `plan` is shared and read-only. Alignment: buffers begin at a whole vector (rows.h), tensors anywhere.
   Numbers: sums of a thread in its images' order, added in double in the order of the threads. Tested by
   tests/test_supernet.py against the plain network in float64. */
#ifndef DNAS_SOURCE_PASSES_H
#define DNAS_SOURCE_PASSES_H
#include "pools.h"

/* A separable or dilated convolution: [relu, depthwise, 1×1, batch norm], once or twice. */
struct separable {
    int kernel, dilation, stages, column; /* its column in the mixing weights */
    const real *deep[STAGES], *point[STAGES];           /* [M, k, k], [M, C] */
    real *kept[STAGES];                                 /* h [B, H', pitch], or NULL */
    double *moments[STAGES];                            /* [1 + C, M] */
    real *deep_gradient[STAGES], *point_gradient[STAGES]; /* or NULL */
    real *work;                                         /* backward, two stages: [B, H', pitch] */
};

struct source {
    int batch, height, width, targets, stride, threads, count, operations;
    int pools[2], identity; /* columns of maximum, average and identity, or -1 */
    int x_pixel, grad_pixel;                   /* numbers from pixel to pixel, in a gradient as in what it is of */
    const real *x;                             /* [B, H, W, ≥ C] */
    const real *weights;                       /* [targets, operations] */
    const unsigned char *alive;                /* where the identity is not dropped [B, H', W', M], or NULL */
    double alive_scale;                        /* factor of the values that are not dropped */
    double *pool_moments;                      /* [2, 2, C]: mean and variance of both pools */
    real *pooled;                              /* what pools.h makes of an image [B, POOLED, H', pitch], or NULL */
    real *out;                                 /* [B, H', W', M] */
    int add;                                   /* add to the content of `out` */
    const real *grad;                          /* [B, H', W', ≥ M] */
    real *x_gradient;                          /* added to, unless `fresh` */
    int fresh;
    real *weights_gradient;                    /* [targets, operations], added to */
    struct separable *separables;
};

STRUCTURES(sizeof(struct source), sizeof(struct separable));

/* --- common to all passes ---------------------------------------------------------------------------------- */

/* Coefficients of one separable convolution, repeated for every phase. */
struct coefficients {
    real *deep[STAGES];                 /* [k², M + V] */
    struct taps taps[STAGES];           /* of the depthwise convolutions */
    struct taps back[STAGES][4];        /* of their input gradients, by the parity of the input's row and column */
    real *inner, *inner_bias, *inner_t; /* the first of two stages folded: A [C, M + V], b [M + V], Aᵀ */
    real *last, *last_t;                /* the last stage folded and weighted, and transposed */
    real *mean_part[STAGES], *curve[STAGES]; /* backward: what h receives through the moments */
};

struct plan {
    const struct source *s;
    int m, out_height, out_width, most_pad;
    long length, pitch, sum;      /* a row of h; its distance; the length of a row of sums */
    struct frame in, inner, back; /* padded inputs of first and second stages, and gradients of a first stage's output */
    struct pools pools;
    struct coefficients c[SEPARABLES];
    real *pool_scale[2], *identity_scale, *bias, *shares;
    real *memory, *free;
};

static real *take(struct plan *p, long n) { return piece(&p->free, n); }

static int plan_of(struct plan *p, const struct source *s) {
    *p = (struct plan){.s = s, .m = s->targets * C};
    p->out_height = (s->height + s->stride - 1) / s->stride, p->out_width = (s->width + s->stride - 1) / s->stride;
    p->length = (long)p->out_width * p->m, p->pitch = up(p->length), p->sum = phases_of(p->m).stride;
    int inner_pad = 0;
    const long wide = up(p->m + V), square = up((long)C * (p->m + V));
    size_t size = 4 * wide + up((long)p->out_width * C) + 8 * V;
    for (int j = 0; j < s->count; j++) {
        const struct separable *e = s->separables + j;
        const int pad = e->dilation * (e->kernel / 2);
        if (pad > p->most_pad) p->most_pad = pad;
        if (e->stages == 2 && pad > inner_pad) inner_pad = pad;
        size += 2 * up((long)e->kernel * e->kernel * (p->m + V)) + 6 * square + 3 * wide;
    }
    p->in = frame_of(s->height, s->width, p->m, p->most_pad, s->stride);
    p->inner = frame_of(p->out_height, p->out_width, p->m, inner_pad, 1);
    p->back = frame_of(p->out_height, p->out_width, p->m, p->most_pad, 1);
    p->pools = pools_of(s->height, s->width, s->stride);
    p->memory = p->free = calloc(size + GAPS / sizeof(real), sizeof(real));
    if (!p->memory) return 0;
    ASAN_POISON_MEMORY_REGION(p->memory, size * sizeof(real) + GAPS);
    for (int j = 0; j < s->count; j++) {
        const struct separable *e = s->separables + j;
        const int taps = e->kernel * e->kernel;
        for (int n = 0; n < e->stages; n++) {
            real *to = p->c[j].deep[n] = take(p, (long)taps * (p->m + V));
            for (int t = 0; t < taps; t++, to += p->m + V)
                for (int i = 0; i < p->m + V; i++) to[i] = e->deep[n][(long)(i % p->m) * taps + t];
            struct coefficients *c = p->c + j;
            const struct frame *in = n ? &p->inner : &p->in;
            const int stride = n ? 1 : s->stride;
            c->taps[n] = taps_forward(in, e->kernel, e->dilation, c->deep[n]);
            for (int plane = 0; plane < stride * stride; plane++)
                c->back[n][plane] =
                    taps_backward(&p->back, e->kernel, stride, e->dilation, c->deep[n], plane / stride, plane % stride);
        }
    }
    p->bias = take(p, p->m + V);
    p->shares = take(p, p->pools.pitch);
    pool_shares(&p->pools, p->shares);
    return 1;
}

/* The first of two stages as one matrix, once its moments are known. */
static void fold_inner(struct plan *p, int transposed) {
    const long square = (long)C * (p->m + V);
    for (int j = 0; j < p->s->count; j++) {
        const struct separable *e = p->s->separables + j;
        struct coefficients *c = p->c + j;
        if (e->stages == 1) continue;
        double bias[p->m];
        memset(bias, 0, sizeof bias);
        c->inner = take(p, square), c->inner_bias = take(p, p->m + V);
        if (transposed) c->inner_t = take(p, square);
        fold(e->point[0], e->moments[0], NULL, 0, p->s->targets, c->inner, c->inner_t, bias);
        for (int i = 0; i < p->m + V; i++) c->inner_bias[i] = bias[i % p->m];
    }
}

/* The mixture's matrices and bias: last stages, pools and identity with their batch norms and mixing weights. */
static void fold_mixture(struct plan *p, int transposed) {
    const struct source *s = p->s;
    double bias[p->m];
    memset(bias, 0, sizeof bias);
    for (int j = 0; j < s->count; j++) {
        const struct separable *e = s->separables + j;
        struct coefficients *c = p->c + j;
        real *matrix = take(p, (long)C * (p->m + V));
        *(transposed ? &c->last_t : &c->last) = matrix;
        fold(e->point[e->stages - 1], e->moments[e->stages - 1], s->weights + e->column, s->operations, s->targets,
             transposed ? NULL : matrix, transposed ? matrix : NULL, bias);
    }
    for (int k = 0; k < 2; k++) {
        if (s->pools[k] < 0) continue;
        const double *mean = s->pool_moments + k * 2 * C, *variance = mean + C;
        p->pool_scale[k] = take(p, p->m + V);
        for (int i = 0; i < p->m + V; i++) {
            const int t = i % p->m / C, j = i % C;
            const double scale = s->weights[t * s->operations + s->pools[k]] / sqrt(variance[j] + EPSILON);
            p->pool_scale[k][i] = scale;
            if (i < p->m) bias[i] -= scale * mean[j];
        }
    }
    if (s->identity >= 0) {
        p->identity_scale = take(p, p->m + V);
        for (int i = 0; i < p->m + V; i++)
            p->identity_scale[i] = s->weights[i % p->m / C * s->operations + s->identity];
    }
    for (int i = 0; i < p->m + V; i++) p->bias[i] = bias[i % p->m];
}

/* Pixels of C numbers → each after the ReLU, repeated for every target. */
INLINE void for_all_targets(const real *from, long pixel, int width, int targets, real *to) {
    for (int x = 0; x < width; x++, from += pixel) {
        const target v = get(from), rectified = where_passed(v, v);
        for (int t = 0; t < targets; t++, to += C) put(to, rectified);
    }
}

/* The state's channels after the ReLU, for all targets, in a frame. */
static void fill_input(const struct plan *p, int b, real *frame, real *row) {
    const struct source *s = p->s;
    for (int y = 0; y < s->height; y++) {
        const real *from = s->x + ((long)b * s->height + y) * s->width * s->x_pixel;
        if (s->stride == 1)
            for_all_targets(from, s->x_pixel, s->width, s->targets,
                            frame + (y + p->in.pad) * p->in.step + p->in.pad * p->m);
        else {
            for_all_targets(from, s->x_pixel, s->width, s->targets, row);
            frame_row(frame, &p->in, y, row);
        }
    }
}

static void clear_beyond(const struct plan *p, real *picture) {
    if (p->pitch != p->length)
        for (int y = 0; y < p->out_height; y++)
            for (long f = p->length; f < p->pitch; f++) picture[y * p->pitch + f] = 0;
}

static long picture(const struct plan *p) { return p->out_height * p->pitch; }

static real *kept(const struct plan *p, int j, int n, int b) {
    real *all_images = p->s->separables[j].kept[n];
    return all_images ? all_images + (long)b * picture(p) : NULL;
}

/* h of a first stage from the frame of the input, or from the kept copy (unless this pass writes it). */
static real *first_h(const struct plan *p, int j, int b, const real *frame, real *buffer, int fresh) {
    real *stored = kept(p, j, 0, b);
    if (stored && !fresh) return stored;
    real *h = stored ? stored : buffer;
    correlate(frame, p->s->stride * p->in.step, p->c[j].taps, p->m, h, p->pitch, p->out_height, p->length, 0);
    return h;
}

/* u = relu(A h + b), the input of a second stage, in a cleared frame. */
static void fill_inner(const struct plan *p, int j, const real *h, real *frame, real *row) {
    for (int y = 0; y < p->out_height; y++, h += p->pitch) {
        mix(h, p->c[j].inner, p->c[j].inner_bias, row, p->pitch, 1, p->length, p->m, 0);
        for (long f = 0; f < p->length; f += V) store(row + f, relu(load(row + f)));
        frame_row(frame, &p->inner, y, row);
    }
}

static real *second_h(const struct plan *p, int j, int b, const real *frame, real *buffer, int fresh) {
    real *stored = kept(p, j, 1, b);
    if (stored && !fresh) return stored;
    real *h = stored ? stored : buffer;
    correlate(frame, p->inner.step, p->c[j].taps + 1, p->m, h, p->pitch, p->out_height, p->length, 0);
    return h;
}

/* Working memory of one thread. */
struct room {
    real *frame, *inner, *back, *h, *h2, *gradient, *a, *acc, *row, *pool_frame, *pooled, *pool_back[POOLED], *pool_planes;
    const real *g; /* the nodes' gradient of an image */
    int framed;    /* the image in `frame`, or -1 */
};

static int room_of(struct plan *p, struct room *r) {
    const long rows = up((long)p->s->width * p->m) + V, pictures = picture(p) + V;
    const struct frame *f = &p->in, *i = &p->inner, *back = &p->back;
    const long pool = frame_size(&p->pools.frame), pool_back = frame_size(&p->pools.back);
    const long pooled = pooled_picture(&p->pools) + V;
    const long planes = 4 * pictures;
    if (!scratch_reserve(frame_size(f) + frame_size(i) + frame_size(back) + rows + 4 * pictures + planes + pool +
                         POOLED * (pooled + pool_back) + 4 * pooled + 16 * V))
        return 0;
    r->frame = scratch_take(frame_size(f)), r->inner = scratch_take(frame_size(i));
    r->back = scratch_take(frame_size(back));
    r->h = scratch_take(pictures), r->h2 = scratch_take(pictures), r->gradient = scratch_take(pictures);
    r->a = scratch_take(pictures), r->acc = scratch_take(planes), r->row = scratch_take(rows);
    r->pool_frame = scratch_take(pool), r->pooled = scratch_take(POOLED * pooled);
    r->pool_planes = scratch_take(4 * pooled);
    for (int k = 0; k < POOLED; k++) {
        r->pool_back[k] = scratch_take(pool_back);
        frame_clear(r->pool_back[k], &p->pools.back);
    }
    frame_clear(r->frame, f), frame_clear(r->inner, i), frame_clear(r->back, back);
    pool_clear(&p->pools, r->pool_frame);
    r->framed = -1;
    return 1;
}

static const real *input(const struct plan *p, struct room *r, int b) {
    if (r->framed != b) fill_input(p, b, r->frame, r->row), r->framed = b;
    return r->frame;
}

/* The last stage's h of a candidate. */
static const real *last_h(const struct plan *p, struct room *r, int j, int b) {
    const struct separable *e = p->s->separables + j;
    const real *stored = kept(p, j, e->stages - 1, b);
    if (stored) return stored;
    const real *h = kept(p, j, 0, b);
    if (!h) h = first_h(p, j, b, input(p, r, b), r->h, 0);
    if (e->stages == 1) return h;
    fill_inner(p, j, h, r->inner, r->row);
    return second_h(p, j, b, r->inner, r->h2, 0);
}

/* Runs the body for every image, a contiguous share per thread; `sums` is the row of this thread. */
#define PASS(p, numbers, body)                                                                                     \
    {                                                                                                              \
        const int threads_ = (p)->s->threads < (p)->s->batch ? (p)->s->threads : (p)->s->batch;                    \
        const long apart_ = up(numbers) + V;                                                                       \
        real *all_sums_ = calloc((size_t)threads_ * apart_, sizeof(real));                                         \
        int short_ = !all_sums_;                                                                                   \
        if (!short_) {                                                                                             \
            _Pragma("omp parallel for num_threads(threads_) schedule(static, 1) reduction(| : short_)")            \
            for (int thread_ = 0; thread_ < threads_; thread_++) {                                                 \
                struct room r;                                                                                     \
                real *sums = all_sums_ + thread_ * apart_;                                                         \
                (void)sums;                                                                                        \
                if (!room_of(p, &r)) {                                                                             \
                    short_ = 1;                                                                                    \
                    continue;                                                                                      \
                }                                                                                                  \
                const int from_ = (int)((long)(p)->s->batch * thread_ / threads_);                                 \
                const int to_ = (int)((long)(p)->s->batch * (thread_ + 1) / threads_);                             \
                for (int b = from_; b < to_; b++) body                                                             \
            }                                                                                                      \
            /* In the order of the threads, whichever was first. */                                               \
            for (int t_ = 1; t_ < threads_; t_++)                                                                  \
                for (long n_ = 0; n_ < apart_; n_++) all_sums_[n_] += all_sums_[t_ * apart_ + n_];                 \
        }                                                                                                          \
        if (short_) {                                                                                              \
            free(all_sums_);                                                                                       \
            free((p)->memory);                                                                                     \
            return 1;                                                                                              \
        }                                                                                                          \
        totals = all_sums_;                                                                                        \
    }

/* Sums [1 + C][phases] over a batch → moments [1 + C][M]. */
static void moments_of(const struct plan *p, const real *sums, double *moments) {
    memset(moments, 0, (1 + C) * p->m * sizeof(double));
    fold_sums(sums, 1 + C, p->m, moments);
    const double pixels = (double)p->s->batch * p->out_height * p->out_width;
    for (long i = 0; i < (1 + C) * (long)p->m; i++) moments[i] /= pixels;
}
#endif
