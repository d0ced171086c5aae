/* Structures of a cell of the discrete network, and the rows that its tasks read and write.

   Layout: images are [batch, height, width, channels], rows of a buffer [height, pitch] with a whole number of vectors
   and zeros beyond the length. Threads: each `room` belongs to one thread. Alignment: buffers begin at a whole vector
   (rows.h), tensors anywhere.
   Numbers: moved and compared, never added up; bits stay. Tested by tests/test_discrete.py and, at the bounds,
   tests/test_kernel_bounds.py. */
#ifndef DNAS_DISCRETE_TASKS_H
#define DNAS_DISCRETE_TASKS_H
#include "rows.h"

enum { PIXELS = 8, OUTER = 16 };    /* sums that stay in registers */
enum { CHUNK = 8192 };              /* numbers per chunk of rows, which fit into the first-level caches */
enum { STREAMS = 24, LINE = 64 };   /* streams of prefetching; bytes per cache line */

/* [batch, height, width, channels], `pixel` numbers from pixel to pixel. With `norm` ≥ 0 its value is that
   convolution's batch norm of `data`. */
struct picture {
    int height, width, channels, norm;
    const real *data;
    long pixel;
    real *gradient; /* of its value, or NULL if nothing reads it */
    long gradient_pixel;
    const real *start; /* initial value of the gradient, or NULL */
    long start_pixel;
};

/* 1×1 convolutions of the ReLU of `input`, of its depthwise convolution (kernel > 0), or (parts = 2) of its even and of
   its odd pixels, each for its own part of the outputs; then a batch norm. With parts = 0 only a batch norm of `input`,
   outputs[0] channels: z is its data. */
struct convolution {
    int input, output, target; /* pictures; `target` has the gradient of the output, times `factor` */
    int kernel, dilation, stride, parts, outputs[2];
    const real *deep, *point[2], *gamma, *beta; /* [inputs, k, k], [outputs, inputs] */
    real *running_mean, *running_variance; /* or NULL */
    long long *batches;
    double momentum, epsilon;
    const real *factor; /* [batch] of drop-path, or NULL */
    real *z;            /* before the batch norm */
    double *norm;       /* [4, outputs]: scale, shift, mean, 1 / √(variance + ε) */
    real *deep_gradient, *point_gradient[2], *gamma_gradient, *beta_gradient; /* NULL if not wanted */
};

struct term {
    int kind, node, source, stride; /* KIND_…; pictures */
    const real *factor;
    real *factor_gradient; /* of an identity whose factor is the same for all images, or NULL */
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
    long sums, totals; /* numbers of its sums */
    int first;         /* 1 if it writes its gradient and others add to it */
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

/* Memory that the next task will read or write: `count` pieces. */
struct stream {
    const char *at;
    long size, step; /* of a piece, and from piece to piece, in bytes */
    int count;
};
/* Prefetched during computation, a few cache lines at a time. */
struct ahead {
    struct stream stream[STREAMS];
    int streams, now, piece, lines;
    long byte;
};

/* Working memory of one thread. */
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

/* Memory that a thread reuses between calls; NULL if out of memory. */
struct block {
    void *data;
    size_t size;
};
static void *grown(struct block *b, size_t size) {
    if (b->size < size || GAP) { /* under AddressSanitizer never larger than requested */
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

/* A row of a picture's value [width · channels], or of its ReLU. NaN is kept. */
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
#endif
