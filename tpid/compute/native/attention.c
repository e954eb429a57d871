/* The attention half of a layer, for the units of a share. */
#include "backend.h"

#define RUN_BANDS 8 /* of q, k and v in a job: some 80 KB of w4 at 2048 inputs */

struct attention {
    struct backend *backend;
    const struct block *block;
    int unit_runs, width; /* jobs of a unit; rows of its q, k and v, each rounded up to whole bands */
    int row_blocks;       /* jobs of a unit in `attend_job` */
};

static int runs_of(const struct matrix *matrix)
{
    return ceil_div(bands_of(matrix), RUN_BANDS);
}

static void project_job(void *context, int job, int thread)
{
    const struct attention *a = context;
    const struct backend *backend = a->backend;
    const int units = a->block->n_units, per_chunk = units * a->unit_runs;
    const int token = job / per_chunk * CHUNK_TOKENS, unit = job % per_chunk / a->unit_runs;
    const int left = backend->n_tokens - token, n = left < CHUNK_TOKENS ? left : CHUNK_TOKENS;
    const struct matrix *matrix = a->block->matrices;
    int run = job % a->unit_runs, row = 0;
    (void)thread;
    for (; run >= runs_of(matrix); matrix++) {
        run -= runs_of(matrix);
        row += bands_of(matrix) * TILE_ROWS;
    }
    const int band = run * RUN_BANDS, bands_left = bands_of(matrix) - band;
    const uint8_t *input = is_int8(matrix) ? backend->input_int8 : backend->input_fp32;
    const ptrdiff_t stride = (ptrdiff_t)units * a->width;
    multiply(backend->cores, matrix, a->block->units + unit * a->block->stride, band,
             bands_left < RUN_BANDS ? bands_left : RUN_BANDS,
             input + (size_t)token * token_bytes(backend->cores, matrix), n,
             backend->qkv + token * stride + (ptrdiff_t)unit * a->width + row + band * TILE_ROWS, stride, 0, 1);
}

static void rotate(float *x, const float *cos, const float *sin, int half)
{
    for (int i = 0; i < half; i++) {
        float low = x[i], high = x[i + half];
        x[i] = low * cos[i] - high * sin[i];
        x[i + half] = high * cos[i] + low * sin[i];
    }
}

static const struct segment *segment_at(const struct backend *backend, int token, int *first)
{
    const struct segment *segment = backend->segments;
    for (*first = 0; token - *first >= segment->n_tokens; segment++)
        *first += segment->n_tokens;
    return segment;
}

static struct cache cache_at(const struct backend *backend, int layer, int slot, int unit)
{
    const struct shape *shape = &backend->shape;
    size_t index = ((size_t)layer * (size_t)shape->n_slots + (size_t)slot) * (size_t)shape->attn_units + (size_t)unit;
    const size_t at = index * backend->cache_bytes;
    return (struct cache){backend->keys + at, backend->values + at, shape->head_dim, shape->int8_cache};
}

/* The bias that the keys of a unit lie in the cache without; NULL if there is none. */
static const float *bias_left_out(const struct backend *backend, const struct block *block, int unit)
{
    return backend->turns_memory && block->biases[1] ? block->biases[1] + unit * backend->shape.head_dim : NULL;
}

static void one_head(const struct backend *backend, int rope, float *head, const float *bias, const float *norm,
                     int token)
{
    const int dim = backend->shape.head_dim, half = dim / 2;
    if (bias)
        for (int i = 0; i < dim; i++)
            head[i] += bias[i];
    if (norm)
        backend->cores->kernels->norm(head, norm, backend->shape.norm_eps, dim, head);
    if (rope < 0)
        return;
    const size_t at = ((size_t)rope * (size_t)backend->n_tokens + (size_t)token) * (size_t)half;
    rotate(head, backend->cos + at, backend->sin + at, half);
}

/* Biases, norms of Q and K, rotation; K and V go into the cache, V and perhaps K without their biases. */
static void prepare_token(const struct attention *a, int token)
{
    const struct backend *backend = a->backend;
    const struct block *block = a->block;
    const struct kernels *kernels = backend->cores->kernels;
    const int dim = backend->shape.head_dim, heads = backend->shape.heads;
    int first;
    const struct segment *segment = segment_at(backend, token, &first);
    const int position = segment->start + token - first;
    for (int unit = 0; unit < block->n_units; unit++) {
        float *q = backend->qkv + ((size_t)token * (size_t)block->n_units + (size_t)unit) * (size_t)a->width;
        float *k = q + bands_of(&block->matrices[0]) * TILE_ROWS, *v = k + bands_of(&block->matrices[1]) * TILE_ROWS;
        const float *const *biases = block->biases;
        for (int head = 0; head < heads; head++) {
            const float *bias = biases[0] ? biases[0] + (unit * heads + head) * dim : NULL;
            one_head(backend, block->rope, q + head * dim, bias, block->q_norm, token);
        }
        for (int i = 0; i < heads * dim; i++)
            q[i] *= block->scale;
        const float *key_bias = bias_left_out(backend, block, unit) || !biases[1] ? NULL : biases[1] + unit * dim;
        one_head(backend, block->rope, k, key_bias, block->k_norm, token);
        const struct cache cache = cache_at(backend, block->layer, segment->slot, unit);
        kernels->store(&cache, position, k, v);
    }
}

static void prepare_job(void *context, int job, int thread)
{
    const struct attention *a = context;
    int g, token = group_start(a->backend->n_tokens, job, &g);
    (void)thread;
    for (int t = 0; t < g; t++)
        prepare_token(a, token + t);
}

static int row_blocks(const struct backend *backend, const struct segment *segment)
{
    return ceil_div(segment->n_tokens * backend->shape.heads, ATTEND_ROWS);
}

static void attend_job(void *context, int job, int thread)
{
    const struct attention *a = context;
    const struct backend *backend = a->backend;
    const struct shape *shape = &backend->shape;
    const struct segment *segment = backend->segments;
    const int unit = job / a->row_blocks, units = a->block->n_units, width = shape->heads * shape->head_dim;
    int block = job % a->row_blocks, first = 0;
    for (; block >= row_blocks(backend, segment); segment++) {
        block -= row_blocks(backend, segment);
        first += segment->n_tokens;
    }
    const int row = block * ATTEND_ROWS, left = segment->n_tokens * shape->heads - row;
    const struct attend_job attend = {
        .cache = cache_at(backend, a->block->layer, segment->slot, unit),
        .queries = backend->qkv + ((size_t)first * (size_t)units + (size_t)unit) * (size_t)a->width,
        .out = backend->mixed + ((size_t)first * (size_t)units + (size_t)unit) * (size_t)width,
        .query_stride = (ptrdiff_t)units * a->width,
        .out_stride = (ptrdiff_t)units * width,
        .heads = shape->heads,
        .first_row = row,
        .n_rows = left < ATTEND_ROWS ? left : ATTEND_ROWS,
        .start = segment->start,
        .window = a->block->window,
        .softcap = a->block->softcap,
        .key_bias = bias_left_out(backend, a->block, unit),
        .value_bias = a->block->biases[2] ? a->block->biases[2] + unit * shape->head_dim : NULL,
        .turns = &backend->turns,
    };
    backend->cores->kernels->attend(&attend, backend->scratch + (size_t)thread * backend->scratch_floats);
}

static void pack_job(void *context, int job, int thread)
{
    const struct attention *a = context;
    const struct backend *backend = a->backend;
    const struct matrix *o = &a->block->matrices[3];
    const int units = a->block->n_units;
    int g, token = group_start(backend->n_tokens, job, &g);
    (void)thread;
    for (int unit = 0; unit < units; unit++) {
        const float *x = backend->mixed + ((size_t)token * (size_t)units + (size_t)unit) * (size_t)o->columns;
        const size_t at = ((size_t)unit * (size_t)backend->n_tokens + (size_t)token) * token_bytes(backend->cores, o);
        pack_tokens(backend->cores, is_int8(o), x, (ptrdiff_t)units * o->columns, o->columns, g,
                    (is_int8(o) ? backend->inner_int8 : backend->inner_fp32) + at);
    }
}

API void tpid_attention(struct backend *backend, const struct block *block, const float *x, float *out)
{
    struct cores *cores = backend->cores;
    const struct matrix *q = &block->matrices[0], *v = q + 2, *o = q + 3;
    struct attention a = {backend, block, 0, 0, 0};
    block_input(backend, block, 3, x);
    for (const struct matrix *matrix = q; matrix <= v; matrix++) {
        a.unit_runs += runs_of(matrix);
        a.width += bands_of(matrix) * TILE_ROWS;
    }
    for (int s = 0; s < backend->n_segments; s++)
        a.row_blocks += row_blocks(backend, &backend->segments[s]);
    const int chunks = ceil_div(backend->n_tokens, CHUNK_TOKENS), groups = n_groups(backend->n_tokens);
    run_jobs(cores->pool, project_job, &a, chunks * block->n_units * a.unit_runs);
    run_jobs(cores->pool, prepare_job, &a, groups);
    run_jobs(cores->pool, attend_job, &a, block->n_units * a.row_blocks);
    run_jobs(cores->pool, pack_job, &a, groups);
    multiply_columns(cores, block, o, is_int8(o) ? backend->inner_int8 : backend->inner_fp32, backend->n_tokens, out);
}
