/* A cell of fixed operations, forward and backward: `network.NetworkLayer` in training, and the executed operations of
   `supernet.SupernetCell`, in C.

   Its parts are pictures (feature maps: the two inputs, outputs of convolutions, nodes), convolutions [ReLU, depthwise,
   1×1, batch norm] and terms (the summands of nodes). A batch norm needs sums over the whole batch; everything else
   only needs one image. The work is therefore a list of tasks in *waves*: within a wave a thread takes one image after
   the other through all its tasks, whose common data is still in its cache. Between waves the sums of the threads are
   added, in the order of the threads.

   Outputs of a batch norm are never stored: readers scale and shift on the fly. Neither are outputs of depthwise
   convolutions, which are cheaper to compute again than to store and load. Any number of channels. */
#include "discrete_backward.h"

/* --- running ----------------------------------------------------------------------------------------------------- */

static int room_of(const struct run *r, struct room *m) {
    if (!scratch_reserve(r->room)) return 0;
    const size_t each = r->room / 8 / V * V;
    real **parts[] = {&m->frame, &m->back, &m->h, &m->g, &m->row, &m->other, &m->line[0], &m->line[1]};
    for (int i = 0; i < 8; i++) *parts[i] = scratch_take(each);
    m->framed = -1;
    return 1;
}

/* Allocate coefficients: of the forward pass, or also of the backward pass. Returns 0 if memory runs out. */
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
                const real mean = v->running_mean ? v->running_mean[i] : 0;
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

/* Memory of a task; `last` is the task before it. */
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

/* While a task computes, prefetch the memory of the next ones, up to one that recomputes: its blocks share the work.
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
    if (!short_of_memory) { /* in the order of thread numbers, so that the sum is deterministic */
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

/* Returns 0, or 1 if memory runs out. */
int cell_forward(const struct cell *c) {
    struct run run, *r = &run;
    int known[c->pictures], normed[c->pictures]; /* waves after which the data, and its batch norm, are available */
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
                task.order = 2 * conv->input + 1; /* after its input, together with all its readers */
            }
        if (!task.image && n >= 2) { /* a node; 0 and 1 are the inputs of the cell */
            for (int e = 0; e < c->terms; e++)
                if (c->term[e].node == n) wave = later(wave, later(known[c->term[e].source], normed[c->term[e].source]));
            task.image = node_image, task.wave = wave, task.order = 2 * n;
        }
        known[n] = wave;
        if (task.image) r->task[r->tasks++] = task;
    }
    return run_all(r);
}

/* Returns 0, or 1 if memory runs out. */
int cell_backward(const struct cell *c) {
    struct run run, *r = &run;
    int whole[c->pictures]; /* wave in which the last part of a gradient is added */
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
                r->task[r->tasks++] =
                    (struct task){term_image, term_finish, whole[n], e, 0, c->term[e].factor_gradient != NULL};
                whole[c->term[e].source] = later(whole[c->term[e].source], whole[n]);
            }
        for (int v = c->convolutions - 1; v >= 0; v--) {
            const struct convolution *conv = c->convolution + v;
            if (conv->target != n) continue;
            const struct picture *in = c->picture + conv->input;
            long sums = deep_sums(conv, in);
            for (int part = 0; part < conv->parts; part++) sums += in->channels * up(conv->outputs[part]);
            r->task[r->tasks++] = (struct task){norm_image, norm_finish, whole[n], v, 0, 2 * channels_of(conv)};
            /* These only need earlier waves, so they can be first, those of the same input next to each other. */
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
