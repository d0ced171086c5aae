/* A cell of the discrete network while it trains, forward and backward: `network.NetworkCell` in C.

   Its parts are pictures (the two inputs, what convolutions give, the nodes), convolutions [ReLU, depthwise, 1×1, batch
   norm] and terms (what a node adds up). A batch norm waits for sums over the whole batch; everything else of an image
   needs that image only. So the work is a list of tasks in *waves*: within a wave a thread takes one image after the
   other through all its tasks, and what these share is still in its cache. Between waves the sums of the threads are
   added, in the order of the threads.

   What a batch norm gives is never stored: whoever reads it scales and shifts on the way, and so are outputs of
   depthwise convolutions, which cost less to compute again than to store and load. Any number of channels. */
#include "rows.h"

enum { PIXELS = 8, OUTER = 16 };    /* sums that stay in registers */
enum { CHUNK = 8192 };              /* numbers of a chunk of rows, which stay in the first caches */
enum { STREAMS = 24, LINE = 64 };   /* of a look ahead; bytes that come at once */

/* [batch, height, width, channels], `pixel` numbers from pixel to pixel. With `norm` ≥ 0 its value is that convolution's
   batch norm of `data`. */
struct picture {
    int height, width, channels, norm;
    const real *data;
    long pixel;
    real *gradient; /* of its value, or NULL where nothing reads it */
    long gradient_pixel;
    const real *start; /* what the gradient begins with, or NULL */
    long start_pixel;
};

/* 1×1 convolutions of the ReLU of `input`, of its depthwise convolution (kernel > 0), or (parts = 2) of its even and of
   its odd pixels, each for its own part of the outputs; then a batch norm. */
struct convolution {
    int input, output, target; /* pictures; `target` has the gradient of the output, times `factor` */
    int kernel, dilation, stride, parts, outputs[2];
    const real *deep, *point[2], *gamma, *beta; /* [inputs, k, k], [outputs, inputs] */
    real *running_mean, *running_variance;
    long long *batches;
    double momentum, epsilon;
    const real *factor; /* [batch] of drop-path, or NULL */
    real *z;            /* before the batch norm */
    double *norm;       /* [4, outputs]: scale, shift, mean, 1 / √(variance + ε) */
    real *deep_gradient, *point_gradient[2], *gamma_gradient, *beta_gradient;
};

struct term {
    int kind, node, source, stride; /* KIND_…; pictures */
    const real *factor;
};

struct cell {
    int batch, threads, pictures, convolutions, terms;
    struct picture *picture;
    struct convolution *convolution;
    struct term *term; /* in the order of their nodes */
};

STRUCTURES(sizeof(struct picture), sizeof(struct convolution), sizeof(struct term), sizeof(struct cell));

/* --- tasks --------------------------------------------------------------------------------------------------- */

struct run;
struct room;
struct task {
    void (*image)(const struct run *, const struct task *, struct room *, int b, real *sums, double *totals);
    void (*finish)(struct run *, const struct task *, const real *sums, const double *totals);
    int wave, item;
    long sums, totals; /* how many numbers it sums up */
    int first;         /* whether it writes its gradient where others add */
    int order;         /* within its wave */
};

/* Coefficients of a convolution, each as often as a row of its picture needs it. */
struct coefficients {
    real *scale, *shift;                 /* of its batch norm */
    real *pivot;                         /* forward: near the mean of each output */
    real *by_gradient, *by_z, *constant; /* backward: of the batch norm's gradient */
    real *deep, *point[2];               /* [k², inputs + V]; forward: [inputs, ≥ outputs] */
    const real *back[2];                 /* backward: [outputs, ≥ inputs] */
};

struct run {
    const struct cell *cell;
    struct coefficients *c;
    struct task *task;
    int *pad; /* of each picture: the widest that a convolution of it needs */
    int tasks, short_of_memory;
    size_t room;
    real *free; /* of the coefficients' block */
};

/* What the next task will read or write: `count` pieces of memory. */
struct stream {
    const char *at;
    long size, step; /* of a piece, and from piece to piece, in bytes */
    int count;
};
/* Asked for while there is something to compute, a few lines of the cache at a time. */
struct ahead {
    struct stream stream[STREAMS];
    int streams, now, piece, lines;
    long byte;
};

/* What one thread works in. */
struct room {
    struct ahead ahead;
    real *frame, *back, *h, *g, *row, *other, *line[2];
    int framed, image; /* the picture and the image in `frame`, or -1 */
};

static int later(int a, int b) { return a > b ? a : b; }
static long row_length(const struct picture *p) { return (long)p->width * p->channels; }
static int channels_of(const struct convolution *v) { return v->outputs[0] + v->outputs[1]; }
static int chunk_rows(long a, long b) {
    const long rows = CHUNK / (a > b ? a : b);
    return rows < 1 ? 1 : (int)rows;
}

INLINE void look_ahead(struct ahead *a) {
    for (int left = a->lines; left > 0 && a->now < a->streams;) {
        const struct stream *s = a->stream + a->now;
        const char *at = s->at + a->piece * s->step + a->byte;
        const long lines = (s->size - a->byte + LINE - 1) / LINE;
        const int n = lines < left ? (int)lines : left;
        for (int i = 0; i < n; i++) __builtin_prefetch(at + i * LINE, 0, 2);
        left -= n;
        a->byte += (long)n * LINE;
        if (a->byte < s->size) continue;
        a->byte = 0;
        if (++a->piece == s->count) a->piece = 0, a->now++;
    }
}

/* An image of a picture, or of its gradient. */
static void add_stream(struct ahead *a, const struct picture *p, const real *data, long pixel, int b) {
    const int together = pixel == p->channels;
    const long pixels = (long)p->height * p->width;
    if (a->streams == STREAMS) return;
    a->stream[a->streams++] = (struct stream){
        .at = (const char *)(data + b * pixels * pixel),
        .size = (together ? pixels : 1) * p->channels * sizeof(real),
        .step = pixel * sizeof(real),
        .count = together ? 1 : (int)pixels,
    };
}

/* Memory that a thread uses from call to call; NULL when it is short. */
struct block {
    void *data;
    size_t size;
};
static void *grown(struct block *b, size_t size) {
    if (b->size < size || GAP) { /* under AddressSanitizer never larger than asked for */
        free(b->data);
        b->data = aligned_alloc(LINE, (size + LINE - 1) / LINE * LINE);
        b->size = b->data ? size : 0;
    }
    return b->data;
}
static __thread struct block coefficients_, sums_;

static real *take(struct run *r, long n) { return piece(&r->free, n); }

/* --- rows ---------------------------------------------------------------------------------------------------- */

/* Rows in memory are one piece where the pixels lie together, else a piece a pixel. */
#define PIECES(picture_pixel, p)                                                               \
    const int together = (picture_pixel) == (p)->channels, pieces = together ? 1 : (p)->width; \
    const long length = together ? row_length(p) : (p)->channels;

/* Vectors first, then the numbers that are left. */
#define EACH(i, length, by_vector, by_number)                        \
    {                                                                \
        long i = 0;                                                  \
        for (; i + V <= (length); i += V) by_vector;                 \
        for (; i < (length); i++) by_number;                         \
    }

/* A row of a picture's value [width · channels], or of its ReLU. A value that is not a number stays one. */
INLINE void take_row(const struct run *r, const struct picture *p, int b, int y, const int rectify, real *out) {
    const real *from = p->data + ((long)b * p->height + y) * p->width * p->pixel;
    PIECES(p->pixel, p)
    if (p->norm >= 0) { /* then its pixels lie together */
        const real *scale = r->c[p->norm].scale, *shift = r->c[p->norm].shift;
        EACH(i, length,
             {
                 const vec v = load(from + i) * load(scale + i) + load(shift + i);
                 store(out + i, rectify ? relu(v) : v);
             },
             {
                 const real v = from[i] * scale[i] + shift[i];
                 out[i] = rectify && v < 0 ? 0 : v;
             })
        return;
    }
    for (int n = 0; n < pieces; n++, from += p->pixel, out += length)
        EACH(i, length, store(out + i, rectify ? relu(load(from + i)) : load(from + i)),
             out[i] = rectify && from[i] < 0 ? 0 : from[i])
}

INLINE void give(const struct picture *p, int b, int y, const real *row, const real *on, const int masked,
                 const int first) {
    real *to = p->gradient + ((long)b * p->height + y) * p->width * p->gradient_pixel;
    PIECES(p->gradient_pixel, p)
    for (int n = 0; n < pieces; n++, to += p->gradient_pixel, row += length, on += masked ? length : 0)
        EACH(i, length,
             {
                 vec v = load(row + i);
                 if (masked) v = where(~(load(on + i) <= 0), v);
                 if (!first) v += load(to + i);
                 store(to + i, v);
             },
             to[i] = (first ? 0 : to[i]) + (masked && on[i] <= 0 ? 0 : row[i]))
}

/* gradient (+)= row, where `on` (if given) is not ≤ 0. */
static void give_row(const struct picture *p, int b, int y, const real *row, const real *on, int first) {
    if (on)
        first ? give(p, b, y, row, on, 1, 1) : give(p, b, y, row, on, 1, 0);
    else
        first ? give(p, b, y, row, on, 0, 1) : give(p, b, y, row, on, 0, 0);
}

static real factor_of(const real *factor, int b) { return factor ? factor[b] : 1; }

/* The border of a frame whose pixels are filled next. */
INLINE void clear_border(real *frame, const struct frame *f, const real border) {
    const long size = frame_size(f), inside = f->pad * f->step, step = f->step, width = (long)f->width * f->channels;
    const long left = f->stride == 1 ? f->pad * f->channels : 0, right = f->stride == 1 ? left + width : 0;
    for (long i = 0; i < inside; i++) frame[i] = border;
    for (int y = 0; y < f->height; y++) {
        real *row = frame + inside + y * step;
        for (long i = 0; i < left; i++) row[i] = border;
        for (long i = right; i < step; i++) row[i] = border;
    }
    for (long i = inside + f->height * step; i < size; i++) frame[i] = border;
}

/* An image's value in a frame, bordered by `border`. */
INLINE void fill_frame(const struct run *r, const struct picture *p, const struct frame *f, int b, const int rectify,
                       const real border, real *frame, real *row) {
    clear_border(frame, f, border);
    for (int y = 0; y < p->height; y++) {
        real *to = f->stride == 1 ? frame + (y + f->pad) * f->step + f->pad * f->channels : row;
        take_row(r, p, b, y, rectify, to);
        if (f->stride != 1) frame_row(frame, f, y, row);
    }
}

/* --- products of matrices -------------------------------------------------------------------------------------- */

/* Sums over pixels of what a product gives, of its distance d from a pivot that lies near: Σ d and, `apart` numbers
   behind, Σ d². Without a pivot the variance of a channel with a large mean would be lost in rounding. */
struct moments {
    real *sums;
    const real *pivot;
    long apart;
};

INLINE void product_block(const int n, const int vectors, const real *in, long in_wide, int inner, const real *weights,
                          long apart, real *out, long wide, const struct moments *m, long o, mask fresh) {
    vec sum[PIXELS][2] = {};
    for (int k = 0; k < inner; k++, weights += apart) {
        vec w[2];
        for (int v = 0; v < vectors; v++) w[v] = load(weights + v * V);
#pragma GCC unroll 8
        for (int i = 0; i < n; i++)
            for (int v = 0; v < vectors; v++) sum[i][v] += w[v] * in[i * in_wide + k];
    }
    for (int i = 0; i < n; i++)
        for (int v = 0; v < vectors; v++) store(out + i * wide + v * V, sum[i][v]);
    if (!m) return;
    for (int v = 0; v < vectors; v++) {
        const vec pivot = load(m->pivot + o + v * V);
        vec plain = {}, squares = {};
        for (int i = 0; i < n; i++) {
            const vec d = sum[i][v] - pivot;
            plain += d, squares += d * d;
        }
        real *to = m->sums + o + v * V;
        store(to, load(to) + where(fresh, plain));
        store(to + m->apart, load(to + m->apart) + where(fresh, squares));
    }
}

INLINE void product_pixels(const int n, const real *in, long in_wide, int inner, const real *weights, int outputs,
                           real *out, long wide, const struct moments *m) {
    const mask whole = (mask){} == 0;
    const long apart = outputs < V ? V : outputs;
    if (outputs < V) {
        real part[PIXELS * V];
        mask some;
        for (int l = 0; l < V; l++) some[l] = l < outputs ? -1 : 0;
        product_block(n, 1, in, in_wide, inner, weights, apart, part, V, m, 0, some);
        for (int i = 0; i < n; i++) memcpy(out + i * wide, part + i * V, outputs * sizeof(real));
        return;
    }
    int o = 0;
    for (; o + 2 * V <= outputs; o += 2 * V)
        product_block(n, 2, in, in_wide, inner, weights + o, apart, out + o, wide, m, o, whole);
    for (; o < outputs; o += V) {
        /* The last vector may overlap the one before; what both have counts once. */
        const int over = o + V > outputs ? o + V - outputs : 0;
        mask fresh = whole;
        if (over)
            for (int l = 0; l < V; l++) fresh[l] = l < over ? 0 : -1;
        o -= over;
        product_block(n, 1, in, in_wide, inner, weights + o, apart, out + o, wide, m, o, fresh);
    }
}

/* out[p][o] = Σ_k in[p][k] · weights[k][o] for rows of pixels, which are `in_wide` and `wide` apart; nothing beyond the
   outputs is touched. Adds to the moments, if given. */
static void product(const real *in, long pitch, long in_wide, int inner, const real *weights, int outputs, real *out,
                    long wide, long out_pitch, int rows, int width, const struct moments *m, struct ahead *ahead) {
    long pixels = width;
    if (pitch == width * in_wide && out_pitch == wide * width) pixels *= rows, rows = 1;
    for (int y = 0; y < rows; y++) {
        const real *from = in + y * pitch;
        real *to = out + y * out_pitch;
        long p = 0;
        for (; p + PIXELS <= pixels; p += PIXELS, from += PIXELS * in_wide, to += PIXELS * wide) {
            look_ahead(ahead);
            product_pixels(PIXELS, from, in_wide, inner, weights, outputs, to, wide, m);
        }
        for (; p + 4 <= pixels; p += 4, from += 4 * in_wide, to += 4 * wide)
            product_pixels(4, from, in_wide, inner, weights, outputs, to, wide, m);
        for (; p < pixels; p++, from += in_wide, to += wide)
            product_pixels(1, from, in_wide, inner, weights, outputs, to, wide, m);
    }
}

INLINE void outer_block(const int n, const real *in, int inner, const real *g, long wide, long pixels, real *sums,
                        long apart) {
    vec sum[OUTER] = {};
    for (long p = 0; p < pixels; p++, in += inner, g += wide) {
        const vec v = load(g);
#pragma GCC unroll 16
        for (int i = 0; i < n; i++) sum[i] += v * in[i];
    }
    for (int i = 0; i < n; i++) store(sums + i * apart, load(sums + i * apart) + sum[i]);
}

/* sums[k][o] += Σ_p in[p][k] · g[p][o]; rows of `sums` are up(outputs) long, what lies beyond outputs is undefined. */
static void outer(const real *in, long pitch, int inner, const real *g, long wide, int outputs, int rows, int width,
                  real *sums) {
    long pixels = width;
    const long apart = up(outputs);
    if (pitch == (long)width * inner) pixels *= rows, rows = 1;
    for (int y = 0; y < rows; y++, in += pitch, g += wide * width)
        for (int o = 0; o < outputs; o += V)
            for (int k = 0; k < inner;) {
#define BLOCK(n)                                                                                             \
    if (inner - k >= n) {                                                                                    \
        outer_block(n, in + k, inner, g + o, wide, pixels, sums + k * apart + o, apart);                     \
        k += n;                                                                                              \
        continue;                                                                                            \
    }
                BLOCK(16) BLOCK(8) BLOCK(4) BLOCK(1)
#undef BLOCK
            }
}

/* --- what a convolution's 1×1 part reads --------------------------------------------------------------------- */

INLINE int padding(const struct convolution *v) { return v->dilation * (v->kernel / 2); }

/* The input's ReLU in a frame, for all convolutions that read it one after the other. */
static struct frame frame_of_input(const struct run *r, const struct convolution *v, struct room *room, int b) {
    const struct picture *in = r->cell->picture + v->input;
    const struct frame f = frame_of(in->height, in->width, in->channels, r->pad[v->input], v->stride);
    const int key = 2 * v->input + v->stride - 1;
    if (room->framed != key || room->image != b) fill_frame(r, in, &f, b, 1, 0, room->frame, room->row);
    room->framed = key, room->image = b;
    return f;
}

static long pitch_of(const struct run *r, const struct convolution *v) {
    return up((long)r->cell->picture[v->output].width * r->cell->picture[v->input].channels);
}

/* Every other pixel of the input's ReLU, for the rows y … of the output; black beyond its edge. */
static void grid_rows(const struct run *r, const struct convolution *v, int b, int y, int rows, int part, real *row,
                      real *out, long pitch) {
    const struct picture *in = r->cell->picture + v->input;
    const int width = r->cell->picture[v->output].width;
    for (int i = 0; i < rows; i++, out += pitch) {
        const int from = 2 * (y + i) + part;
        memset(out, 0, pitch * sizeof(real));
        if (from >= in->height) continue;
        take_row(r, in, b, from, 1, row);
        for (int x = 0; x < width && 2 * x + part < in->width; x++)
            memcpy(out + (long)x * in->channels, row + (long)(2 * x + part) * in->channels,
                   in->channels * sizeof(real));
    }
}

/* Rows y … of the features [rows, pitch] that the 1×1 part reads; the frame is filled already. */
static void features(const struct run *r, const struct convolution *v, const struct frame *f, const struct taps *taps,
                     int b, int y, int rows, int part, struct room *room, long pitch) {
    const struct picture *in = r->cell->picture + v->input, *out = r->cell->picture + v->output;
    if (v->kernel)
        correlate(room->frame + y * v->stride * f->step, v->stride * f->step, taps, in->channels, room->h, pitch, rows,
                  (long)out->width * in->channels, 0);
    else if (v->parts == 2)
        grid_rows(r, v, b, y, rows, part, room->row, room->h, pitch);
    else
        for (int i = 0; i < rows; i++) take_row(r, in, b, y + i, 1, room->h + i * pitch);
}

/* --- forward --------------------------------------------------------------------------------------------------- */

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
        v->running_mean[i] += v->momentum * (mean - v->running_mean[i]);
        v->running_variance[i] += v->momentum * (variance * pixels / (pixels - 1) - v->running_variance[i]);
    }
    *v->batches += 1;
    spread_norm(r, t->item);
}

/* --- pools: a frame bordered by -∞ --------------------------------------------------------------------------- */

static struct frame pool_frame(const struct picture *in, int stride) {
    return frame_of(in->height, in->width, in->channels, 1, stride);
}

static void pool_taps(const struct frame *f, long *at) {
    for (int i = 0; i < 9; i++) at[i] = i / 3 * f->step + frame_column(f, i % 3);
}

/* How many of a window's three rows (or columns) are pixels. */
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
            best = either((v > best) | (v != v), v, best); /* what is no number wins, as in torch */
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

/* The gradient of a node that others read, begins with that of the cell's output. */
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
        v->gamma_gradient[i] = inverse * centred;
        v->beta_gradient[i] = totals[i];
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
        real *to = sums + deep_sums(v, in);
        for (int part = 0, o = 0; part < v->parts; o += v->outputs[part++]) {
            const int outputs = v->outputs[part];
            features(r, v, &f, &taps, b, y, rows, part, room, pitch);
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
    for (int k = 0; k < taps; k++)
        for (int i = 0; i < inputs; i++) {
            double sum = 0;
            for (long f = i; f < stride; f += inputs) sum += sums[k * stride + f];
            v->deep_gradient[(long)i * taps + k] = sum;
        }
    sums += deep_sums(v, in);
    for (int part = 0; part < v->parts; part++) {
        const int outputs = v->outputs[part];
        for (int o = 0; o < outputs; o++)
            for (int i = 0; i < inputs; i++) v->point_gradient[part][(long)o * inputs + i] = sums[i * up(outputs) + o];
        sums += inputs * up(outputs);
    }
}

/* The gradient of a term without weights. */
static void term_image(const struct run *r, const struct task *t, struct room *room, int b, real *sums,
                       double *totals) {
    const struct term *e = r->cell->term + t->item;
    const struct picture *in = r->cell->picture + e->source, *out = r->cell->picture + e->node;
    const long length = row_length(out);
    const real factor = factor_of(e->factor, b);
    (void)sums, (void)totals;
    if (e->kind == KIND_IDENTITY) {
        for (int y = 0; y < out->height; y++) {
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

/* --- running ----------------------------------------------------------------------------------------------------- */

static int room_of(const struct run *r, struct room *m) {
    if (!scratch_reserve(r->room)) return 0;
    const size_t each = r->room / 8 / V * V;
    real **parts[] = {&m->frame, &m->back, &m->h, &m->g, &m->row, &m->other, &m->line[0], &m->line[1]};
    for (int i = 0; i < 8; i++) *parts[i] = scratch_take(each);
    m->framed = -1;
    return 1;
}

/* Memory for coefficients; forward ones, or also those of the backward pass. Returns 0 when memory is short. */
static int prepare(struct run *r, const struct cell *cell, int backward) {
    *r = (struct run){.cell = cell};
    size_t size = 0, room = 0;
    for (const struct picture *p = cell->picture; p < cell->picture + cell->pictures; p++) {
        const size_t framed = (size_t)(p->height + 2 * PAD) * up((p->width + 2 * PAD + 2) * (long)p->channels);
        room = framed > room ? framed : room;
    }
    for (const struct convolution *v = cell->convolution; v < cell->convolution + cell->convolutions; v++) {
        const struct picture *in = cell->picture + v->input, *out = cell->picture + v->output;
        size += 5 * (up(row_length(out)) + V) + up((long)v->kernel * v->kernel * (in->channels + V));
        size += 2 * up((long)(in->channels + V) * (out->channels + V));
        const size_t deep = (size_t)(out->height + 2 * PAD) * up((out->width + 2 * PAD + 2) * (long)in->channels);
        room = deep > room ? deep : room;
    }
    r->room = 8 * up(room + CHUNK + 8 * V);
    r->free = grown(&coefficients_, (size + V) * sizeof(real) + GAPS);
    r->pad = calloc(cell->pictures, sizeof *r->pad);
    r->c = calloc(cell->convolutions, sizeof *r->c);
    r->task = calloc(cell->pictures + cell->terms + 2 * cell->convolutions, sizeof *r->task);
    if (!r->free || !r->pad || !r->c || !r->task) return 0;
    ASAN_POISON_MEMORY_REGION(r->free, coefficients_.size);
    for (int n = 0; n < cell->convolutions; n++) {
        const struct convolution *v = cell->convolution + n;
        const struct picture *in = cell->picture + v->input, *out = cell->picture + v->output;
        struct coefficients *c = r->c + n;
        r->pad[v->input] = later(r->pad[v->input], padding(v));
        c->scale = take(r, row_length(out)), c->shift = take(r, row_length(out));
        if (backward) {
            c->by_gradient = take(r, row_length(out)), c->by_z = take(r, row_length(out));
            c->constant = take(r, row_length(out));
            spread_norm(r, n);
        } else {
            c->pivot = take(r, out->channels + V);
            for (int i = 0; i < out->channels; i++) {
                const real mean = v->running_mean[i];
                c->pivot[i] = mean - mean == 0 ? mean : 0;
            }
        }
        const int taps = v->kernel * v->kernel, inputs = in->channels;
        c->deep = take(r, (long)taps * (inputs + V));
        for (int k = 0; k < taps; k++)
            for (int i = 0; i < inputs + V; i++)
                c->deep[(long)k * (inputs + V) + i] = v->deep[(long)(i % inputs) * taps + k];
        for (int part = 0; part < v->parts; part++) {
            const int outputs = v->outputs[part], apart = outputs < V ? V : outputs;
            if (!backward) {
                real *to = c->point[part] = take(r, (long)inputs * apart);
                for (int i = 0; i < inputs; i++, to += apart)
                    for (int o = 0; o < outputs; o++) to[o] = v->point[part][(long)o * inputs + i];
            } else if (inputs >= V)
                c->back[part] = v->point[part];
            else {
                real *to = take(r, (long)outputs * V);
                c->back[part] = to;
                for (int o = 0; o < outputs; o++, to += V)
                    memcpy(to, v->point[part] + (long)o * inputs, inputs * sizeof(real));
            }
        }
    }
    return 1;
}

static int release(struct run *r) {
    free(r->pad), free(r->c), free(r->task);
    return r->short_of_memory;
}

static int computes(const struct task *t) { return t->image == convolve_image || t->image == backward_image; }

/* The memory of a task; `last` is the one before it. */
static void add_streams(const struct run *r, const struct task *last, const struct task *t, int b, struct ahead *a) {
    const struct cell *cell = r->cell;
    if (computes(t) || t->image == norm_image) {
        const struct convolution *v = cell->convolution + t->item;
        const struct picture *in = cell->picture + v->input, *out = cell->picture + v->output;
        const struct picture *target = cell->picture + v->target;
        if (t->image != convolve_image) add_stream(a, target, target->gradient, target->gradient_pixel, b);
        add_stream(a, out, v->z, out->channels, b);
        if (t->image == norm_image) return;
        if (last->image != t->image || cell->convolution[last->item].input != v->input)
            add_stream(a, in, in->data, in->pixel, b);
        if (t->image == backward_image && in->gradient) add_stream(a, in, in->gradient, in->gradient_pixel, b);
    } else if (t->image == node_image) {
        for (const struct term *e = cell->term; e < cell->term + cell->terms; e++)
            if (e->node == t->item) {
                const struct picture *in = cell->picture + e->source;
                add_stream(a, in, in->data, in->pixel, b);
            }
        const struct picture *out = cell->picture + t->item;
        add_stream(a, out, out->data, out->pixel, b);
    } else if (t->image == term_image) {
        const struct term *e = cell->term + t->item;
        const struct picture *in = cell->picture + e->source, *out = cell->picture + e->node;
        add_stream(a, out, out->gradient, out->gradient_pixel, b);
        if (e->kind != KIND_IDENTITY) add_stream(a, in, in->data, in->pixel, b);
        add_stream(a, in, in->gradient, in->gradient_pixel, b);
    }
}

/* While a task computes, the memory of the next ones comes, up to one that computes again: its blocks share the work.
   begin … end are the tasks of an image. */
static void plan_ahead(const struct run *r, const struct task *t, const struct task *begin, const struct task *end, int b,
                       int more, struct ahead *a) {
    *a = (struct ahead){0};
    if (!computes(t)) return;
    for (const struct task *last = t, *next = t + 1;; last = next++) {
        if (next == end) {
            if (!more) break;
            next = begin, more = 0, b++;
        }
        add_streams(r, last, next, b, a);
        if (computes(next)) break;
    }
    const struct convolution *v = r->cell->convolution + t->item;
    const struct picture *out = r->cell->picture + v->output;
    const long blocks = (long)out->height * out->width * v->parts / PIXELS;
    long lines = 0;
    for (int n = 0; n < a->streams; n++) lines += a->stream[n].count * ((a->stream[n].size + LINE - 1) / LINE);
    a->lines = blocks ? (int)(lines / blocks) + 1 : 0;
}

static void run_wave(struct run *r, int wave) {
    const int batch = r->cell->batch, threads = r->cell->threads < batch ? r->cell->threads : batch;
    long n_sums = 0, n_totals = 0;
    const struct task *begin = r->task, *end;
    while (begin->wave != wave) begin++;
    for (end = begin; end < r->task + r->tasks && end->wave == wave; end++)
        n_sums += up(end->sums), n_totals += up(end->totals);
    n_sums += V, n_totals += V;
    const size_t size = threads * (n_totals * sizeof(double) + n_sums * sizeof(real));
    double *totals = grown(&sums_, size);
    real *sums = (real *)(totals + threads * n_totals);
    int short_of_memory = !totals;
    if (!short_of_memory) {
        memset(totals, 0, size);
#pragma omp parallel for num_threads(threads) schedule(static, 1) reduction(| : short_of_memory)
        for (int n = 0; n < threads; n++) {
            struct room room;
            if (!room_of(r, &room)) {
                short_of_memory = 1;
                continue;
            }
            const int from = (int)((long)batch * n / threads), to = (int)((long)batch * (n + 1) / threads);
            for (int b = from; b < to; b++) {
                real *s = sums + n * n_sums;
                double *d = totals + n * n_totals;
                for (const struct task *t = begin; t < end; t++) {
                    plan_ahead(r, t, begin, end, b, b + 1 < to, &room.ahead);
                    t->image(r, t, &room, b, s, d);
                    s += up(t->sums), d += up(t->totals);
                }
            }
        }
    }
    if (!short_of_memory) { /* in the order of the threads, whichever was first */
        for (int n = 1; n < threads; n++) {
            for (long i = 0; i < n_sums; i++) sums[i] += sums[n * n_sums + i];
            for (long i = 0; i < n_totals; i++) totals[i] += totals[n * n_totals + i];
        }
        const real *s = sums;
        const double *d = totals;
        for (const struct task *t = begin; t < end; t++) {
            if (t->finish) t->finish(r, t, s, d);
            s += up(t->sums), d += up(t->totals);
        }
    }
    r->short_of_memory |= short_of_memory;
}

/* By wave, and within a wave by `order`. */
static void sort_tasks(struct run *r) {
    for (int n = 1; n < r->tasks; n++) {
        const struct task task = r->task[n];
        int at = n;
        for (; at > 0; at--) {
            const struct task *before = r->task + at - 1;
            if (before->wave < task.wave || (before->wave == task.wave && before->order <= task.order)) break;
            r->task[at] = *before;
        }
        r->task[at] = task;
    }
}

static int run_all(struct run *r) {
    sort_tasks(r);
    for (int n = 0; n < r->tasks && !r->short_of_memory; n++)
        if (!n || r->task[n].wave != r->task[n - 1].wave) run_wave(r, r->task[n].wave);
    return release(r);
}

/* Returns 0, or 1 when memory is short. */
int cell_forward(const struct cell *c) {
    struct run run, *r = &run;
    int known[c->pictures], normed[c->pictures]; /* waves in which data is there, and its batch norm */
    if (!prepare(r, c, 0)) r->short_of_memory = 1;
    if (r->short_of_memory) return release(r);
    memset(known, 0, sizeof known), memset(normed, 0, sizeof normed);
    for (int n = 0; n < c->pictures; n++) {
        int wave = 0;
        struct task task = {.item = n};
        for (int v = 0; v < c->convolutions; v++)
            if (c->convolution[v].output == n) {
                const struct convolution *conv = c->convolution + v;
                wave = later(known[conv->input], normed[conv->input]);
                normed[n] = wave + 1;
                task = (struct task){convolve_image, convolve_finish, wave, v, 0, 2 * channels_of(conv)};
                task.order = 2 * conv->input + 1; /* after its input, beside all that read it */
            }
        if (!task.image && n >= 2) { /* a node; 0 and 1 are the cell's inputs */
            for (int e = 0; e < c->terms; e++)
                if (c->term[e].node == n) wave = later(wave, later(known[c->term[e].source], normed[c->term[e].source]));
            task.image = node_image, task.wave = wave, task.order = 2 * n;
        }
        known[n] = wave;
        if (task.image) r->task[r->tasks++] = task;
    }
    return run_all(r);
}

/* Returns 0, or 1 when memory is short. */
int cell_backward(const struct cell *c) {
    struct run run, *r = &run;
    int whole[c->pictures]; /* the wave in which the last part of a gradient is added */
    char written[c->pictures];
    if (!prepare(r, c, 1)) r->short_of_memory = 1;
    if (r->short_of_memory) return release(r);
    memset(whole, 0, sizeof whole), memset(written, 0, sizeof written);
    for (int n = 0; n < c->pictures; n++)
        if (c->picture[n].start) {
            r->task[r->tasks++] = (struct task){.image = start_image, .item = n, .order = -c->pictures};
            written[n] = 1;
        }
    for (int n = c->pictures - 1; n >= 0; n--) {
        if (!c->picture[n].gradient) continue;
        for (int e = c->terms - 1; e >= 0; e--)
            if (c->term[e].node == n && c->term[e].kind < KIND_CONVOLUTION && c->picture[c->term[e].source].gradient) {
                r->task[r->tasks++] = (struct task){.image = term_image, .wave = whole[n], .item = e};
                whole[c->term[e].source] = later(whole[c->term[e].source], whole[n]);
            }
        for (int v = c->convolutions - 1; v >= 0; v--) {
            const struct convolution *conv = c->convolution + v;
            if (conv->target != n) continue;
            const struct picture *in = c->picture + conv->input;
            long sums = deep_sums(conv, in);
            for (int part = 0; part < conv->parts; part++) sums += in->channels * up(conv->outputs[part]);
            r->task[r->tasks++] = (struct task){norm_image, norm_finish, whole[n], v, 0, 2 * channels_of(conv)};
            /* These need earlier waves only, so they may come first, those of the same input side by side. */
            r->task[r->tasks++] =
                (struct task){backward_image, backward_finish, whole[n] + 1, v, sums, 0, 0, -conv->input - 1};
            whole[conv->input] = later(whole[conv->input], whole[n] + 1);
        }
    }
    sort_tasks(r);
    for (struct task *t = r->task; t < r->task + r->tasks; t++) {
        const int source = t->image == term_image       ? c->term[t->item].source
                           : t->image == backward_image ? c->convolution[t->item].input
                                                        : -1;
        if (source >= 0) t->first = !written[source], written[source] = 1;
    }
    return run_all(r);
}
