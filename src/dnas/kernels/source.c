/* All operations on all edges that leave one state, forward and backward: `supernet.SourceBlock` in C.

   Every batch norm waits for sums over the whole batch, so the work falls into passes, each image by image in cache:

       forward    1  the first stages' depthwise convolutions h: their moments
                  2  of separable convolutions the second stages': their moments
                  3  the mixture of all operations
       backward   1  the mixture's gradients: of matrices, bias and pools
                  2  through the second stages to the first ones
                  3  through the first stages, pools and identity to the state

   What a later pass needs of an earlier one is kept, or computed again where `kept` is NULL: memory traffic is what
   costs most, and a 3×3 depthwise convolution is cheaper than to store its result and load it three times.

   M = targets · C channels lie side by side, target-major. Compiled for one C (channels of an edge) and REAL. */
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
    double alive_scale;                        /* and what it is multiplied by there */
    double *pool_moments;                      /* [2, 2, C]: mean and variance of both pools */
    real *pooled;                              /* what pools.h makes of an image [B, POOLED, H', pitch], or NULL */
    real *out;                                 /* [B, H', W', M] */
    int add;                                   /* to what `out` holds */
    const real *grad;                          /* [B, H', W', ≥ M] */
    real *x_gradient;                          /* added to, unless `fresh` */
    int fresh;
    real *weights_gradient;                    /* [targets, operations], added to */
    struct separable *separables;
};

STRUCTURES(sizeof(struct source), sizeof(struct separable));

/* --- what all passes share --------------------------------------------------------------------------------- */

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

/* h of a first stage from the frame of the input, or where it was kept (unless this is the pass that fills it). */
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

/* What one thread works in. */
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

/* Runs the body for every image, a contiguous share a thread; `sums` is the thread's own row of numbers. */
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

/* --- forward -------------------------------------------------------------------------------------------------- */

static void add_moments(const struct plan *p, const real *h, real *sums) {
    outer(h, h, p->pitch, p->out_height, p->length, p->m, sums + p->sum, sums);
}

/* The pools of an image, computed or from where they were kept (unless this is the pass that fills it). */
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

/* Returns 0, or 1 when memory is short. */
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
    for (int y = 0; y < p->out_height; y++) { /* where the ReLU let its input pass */
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

/* Everything that reaches the state's pixels, added to its gradient. */
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

/* Returns 0, or 1 when memory is short. */
int source_backward(const struct source *s) {
    struct plan plan, *p = &plan;
    real *totals;
    if (!plan_of(p, s)) return 1;
    fold_inner(p, 1);
    fold_mixture(p, 1);
    const double pixels = (double)s->batch * p->out_height * p->out_width;
    const long square = C * p->sum, wide = p->m + V;
    const int m = p->m;

    /* Pass 1: [bias, pools, identity][phases], then one [C][phases] a candidate. */
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
        if (!s->count) /* the sum of g alone */
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

    /* Pass 2: [bias, C][phases] of the inner matrix, then [k²][phases] of the depthwise kernel, a candidate. */
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
